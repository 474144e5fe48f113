"""Safe to kill at any moment: a run that is killed and started again ends bit-identical to an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

PROGRAM = Path(__file__).parent / "resume_program.py"
LAUNCH = [sys.executable, "-m", "dist_ai.cli.main", "launch"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE_S = 90.0


def command(workers: int, folder: Path) -> list[str]:
    return [*LAUNCH, str(PROGRAM), "--workers", str(workers), "--run-dir", str(folder / "run"), str(folder / "weights")]


def run(workers: int, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command(workers, folder),
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_and_kill(workers: int, folder: Path, after_step: int, kill: Callable[[subprocess.Popen[str]], None]) -> None:
    """Starts a run, kills it once there is a checkpoint of `after_step` or later, and waits until all of it is gone."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        command(workers, folder),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE_S
    complete = "fit-*/manifest.json"
    while not any(reached(p.parent.name) >= after_step for p in (folder / "run" / "checkpoints").glob(complete)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    time.sleep(0.05)  # the kill comes between two checkpoints, in the middle of an epoch
    kill(process)
    process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs([psutil.Process(p.pid) for p in family if psutil.pid_exists(p.pid)], timeout=20)
    assert not alive, f"still running: {alive}"


def reached(checkpoint: str) -> int:
    """Returns the training step, over both fits, that a checkpoint's name tells: fit-0002-epoch-0001-step-00000003."""
    parts = checkpoint.split("-")
    return int(parts[1]) * 20 if parts[2] == "done" else (int(parts[1]) - 1) * 20 + int(parts[3]) * 10 + int(parts[5])


def kill_the_launcher(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)


def kill_a_rank(process: subprocess.Popen[str]) -> None:
    ranks = [child for child in psutil.Process(process.pid).children() if "worker" in " ".join(child.cmdline())]
    ranks[-1].send_signal(signal.SIGKILL)


def logged(folder: Path) -> list[dict[str, object]]:
    """Returns the run's log without what a clock decides."""
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "samples_per_s")} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Returns the folder of an undisturbed run on so many workers, which is made once."""
    folders: dict[int, Path] = {}

    def folder(workers: int) -> Path:
        if workers not in folders:
            folders[workers] = tmp_path_factory.mktemp(f"undisturbed-{workers}")
            run(workers, folders[workers])
        return folders[workers]

    return folder


@pytest.mark.parametrize("after_step", [3, pytest.param(23, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("workers", "kill"),
    [(1, kill_a_rank), (2, kill_a_rank), (2, kill_the_launcher)],
    ids=["alone", "a rank of 2", "launcher of 2"],
)
def test_a_killed_run_goes_on_and_ends_bit_identical(
    undisturbed: Callable[[int], Path],
    tmp_path: Path,
    workers: int,
    kill: Callable[[subprocess.Popen[str]], None],
    after_step: int,
) -> None:
    expected = undisturbed(workers)
    run_and_kill(workers, tmp_path, after_step, kill)
    output = run(workers, tmp_path)
    assert "goes on at epoch" in output
    assert (tmp_path / "weights").read_bytes() == (expected / "weights").read_bytes()
    assert logged(tmp_path) == logged(expected)


def test_a_finished_run_is_not_trained_again(undisturbed: Callable[[int], Path]) -> None:
    folder = undisturbed(1)
    before, weights = logged(folder), (folder / "weights").read_bytes()
    output = run(1, folder)
    assert "fit 2 is done already" in output
    assert logged(folder) == before
    assert (folder / "weights").read_bytes() == weights


def test_a_run_killed_on_two_workers_goes_on_on_one_without_losing_a_sample(tmp_path: Path) -> None:
    run_and_kill(2, tmp_path, 23, kill_the_launcher)
    assert "fit 2 goes on" in run(1, tmp_path)
    steps = [line for line in logged(tmp_path) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(40))
