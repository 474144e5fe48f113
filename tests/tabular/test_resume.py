"""A program that is killed in the middle of a fit and started again ends bit-identical to an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = Path(__file__).with_name("resume_program.py")
LAUNCH = [sys.executable, "-m", "dist_ai.cli.main", "launch", str(PROGRAM), "--workers", "1", "--run-dir"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE_S = 120.0


def start(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [*LAUNCH, str(folder / "run"), str(folder / "weights")]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_and_started_again_a_program_ends_as_if_undisturbed(tmp_path: Path) -> None:
    alone = start(tmp_path / "alone")
    said, _ = alone.communicate(timeout=PATIENCE_S)
    assert alone.returncode == 0, said
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + PATIENCE_S
    while len(list((tmp_path / "killed" / "run" / "checkpoints").glob("fit-*/manifest.json"))) < 2:
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "weights").exists()
    again = start(tmp_path / "killed")
    said, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, said
    expected, found = load_file(tmp_path / "alone" / "weights"), load_file(tmp_path / "killed" / "weights")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
