"""`launch/quickstart`, with stand-ins for what it installs: what it says after the demo, and how it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A copy of what the script reads, in a folder with a space; its .venv holds a Python that agrees to everything."""
    repo = tmp_path / "my repo"
    shutil.copytree(ROOT / "launch", repo / "launch")
    shutil.copy(ROOT / "pyproject.toml", repo)
    programs = repo / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("python", "exit 0"), ("dist-ai", 'echo "dist-ai $*"; exit "${DEMO_ENDS_WITH:-0}"')):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text("echo activated\n")
    return repo


def quickstart(repo: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHON")}
    return subprocess.run(
        [repo / "launch" / "quickstart", *arguments],
        cwd=repo.parent,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_ends_with_the_command_that_makes_the_next_ones_work(repo: Path) -> None:
    done = quickstart(repo, "--epochs", "1")
    assert (done.returncode, done.stderr) == (0, "")
    demo, *after = done.stdout.splitlines()[-4:]
    assert demo == "dist-ai demo --epochs 1"
    assert after[:2] == ["", "the commands above need this first, once in each terminal:"]
    pasted = subprocess.run(["bash", "-c", after[2]], capture_output=True, text=True, check=True)
    assert pasted.stdout == "activated\n"


def test_it_says_nothing_of_it_where_it_is_done_or_nothing_was_run(repo: Path) -> None:
    assert quickstart(repo, VIRTUAL_ENV=str(repo / ".venv")).stdout.splitlines()[-1] == "dist-ai demo"
    assert quickstart(repo, "--help").stdout.splitlines()[-1] == "dist-ai demo --help"


def test_it_ends_as_the_demo_does(repo: Path) -> None:
    done = quickstart(repo, DEMO_ENDS_WITH="130")
    assert done.returncode == 130
    assert done.stdout.splitlines()[-1] == "dist-ai demo"
