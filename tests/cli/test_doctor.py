"""`dist-ai doctor` on this machine, and on machines that lack something."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from lab import Lab

from dist_ai.cli import doctor as module
from dist_ai.cli.doctor import Finding, doctor


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        yield it


def finding(what: str, capsys: pytest.CaptureFixture[str]) -> Finding:
    (found,) = (item for item in json.loads(capsys.readouterr().out) if item["what"] == what)
    return Finding(**found)


def test_a_machine_that_runs_these_tests_is_well(lab: Lab) -> None:
    done = lab.python("-m", "dist_ai.cli.main", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "->" not in line]
    assert {line.split()[0] for line in lines} <= {"ok", "warning", "missing"}
    for what in ("Python", "torch", "torchvision", "accelerate", "ray", "tensorboard", "gloo", "CPU cores", "memory"):
        assert sum(line[9:].startswith(f"{what} ") for line in lines) == 1, what
    assert f"ok       torch            {importlib.metadata.version('torch')} (needs >=2.11)" in lines
    assert "two processes    met and exchanged in " in lines[-1]
    assert not (lab.folder / "runs").exists()


def test_a_library_that_is_missing_or_old_comes_with_its_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = {"torch": "2.4.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(module, "CHECKS", (module._libraries,))
    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(typer.Exit) as end:
        doctor(as_json=True)
    assert end.value.exit_code == 1
    out = capsys.readouterr().out
    found = {item["what"]: Finding(**item) for item in json.loads(out)}
    assert found["torch"] == Finding(
        what="torch",
        status="missing",
        found="2.4.0 (needs >=2.11)",
        fix="pip install 'torch>=2.11' --upgrade",
        required=True,
    )
    assert found["ray"].found == "not installed (needs >=2.54)"
    assert found["ray"].fix == "pip install 'ray[train]>=2.54'"
    assert found["pandas"].status == "missing"


def test_small_shared_memory_and_a_small_disk_are_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**26, 0, 2**26))
    monkeypatch.setattr(module, "CHECKS", (module._shared_memory, module._disk))
    doctor(as_json=True)
    shared, disk = (Finding(**item) for item in json.loads(capsys.readouterr().out))
    assert (shared.status, shared.found) == ("warning", "0.06 of 0.06 GiB free")
    assert shared.fix == "loader workers pass batches there: docker run --shm-size=8g (or --ipc=host)"
    assert (disk.status, disk.fix) == ("warning", "checkpoints need room: choose another --run-dir")


@pytest.mark.parametrize(("value", "status"), [("1", "ok"), ("9999", "warning"), ("many", "warning")])
def test_threads_beyond_the_cores_are_a_warning(
    value: str, status: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(module, "CHECKS", (module._threads,))
    doctor(as_json=True)
    assert finding("OMP_NUM_THREADS", capsys).status == status


def test_processes_that_cannot_exchange_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CHECKS", (module._two_processes,))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nonsense0")
    with pytest.raises(typer.Exit):
        doctor(as_json=True)
    found = finding("two processes", capsys)
    assert (found.status, found.required) == ("missing", True)
    assert re.match("their all_reduce failed: rank [01] of 2 raised RendezvousError: ", found.found)
    assert "the exchange of addresses failed after 0." in found.found
    assert "selftest.py --workers 2" in found.fix


def test_a_check_that_fails_itself_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _shaky() -> Iterator[Finding]:
        raise OSError("no permission")

    monkeypatch.setattr(module, "CHECKS", (_shaky, module._python))
    doctor(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "warning  shaky   OSError: no permission"
    assert lines[1].startswith("ok       Python  3.")
