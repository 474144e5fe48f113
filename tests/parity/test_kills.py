"""Ranks are killed at random moments, in the middle of checkpoints too; the run ends bit-identical to an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from dist_ai.checkpoint import Run

PROGRAM = Path(__file__).parent / "resume_program.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE_S = 120.0


def start(workers: int, folder: Path) -> subprocess.Popen[str]:
    """Starts the program on so many workers, with a checkpoint after every step."""
    folder.mkdir(exist_ok=True)
    launch = [sys.executable, "-m", "dist_ai.cli.main", "launch", str(PROGRAM), "--workers", str(workers)]
    return subprocess.Popen(
        [*launch, "--run-dir", str(folder / "run"), str(folder / "weights"), "1"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(workers: int, folder: Path) -> str:
    output, _ = (process := start(workers, folder)).communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output


def written(folder: Path) -> set[str]:
    return {str(path) for path in (folder / "run" / "checkpoints").rglob("rank-*")}


def kill_once(workers: int, folder: Path, chance: random.Random) -> tuple[str, bool]:
    """Starts the program, kills a rank at a random moment once it writes checkpoints; returns what it said, and whether
    a checkpoint was half-written then.
    """
    before = written(folder)
    process = start(workers, folder)
    deadline = time.monotonic() + PATIENCE_S
    while written(folder) <= before and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.4))
    family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else [process]
    ranks = [child for child in family[1:] if "launchers.worker" in " ".join(child.cmdline())]
    if ranks:
        chance.choice(ranks).send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs([psutil.Process(p.pid) for p in family if psutil.pid_exists(p.pid)], timeout=20)
    assert not alive, f"still running: {alive}"
    run = Run(folder / "run")
    return output, len(run.names(complete=False)) > len(run.names())


def check_kills(folder: Path, workers: int, num_kills: int, seed: int) -> int:
    """Kills the program so often, lets it end, and compares; returns how many kills left a half-written checkpoint."""
    chance, half_written = random.Random(seed), 0
    finish(workers, folder / "undisturbed")
    (folder / "killed").mkdir(parents=True)
    for _ in range(num_kills):
        output, half = kill_once(workers, folder / "killed", chance)
        assert "is damaged" not in output, output
        half_written += half
        if (folder / "killed" / "weights").exists():
            break
    output = finish(workers, folder / "killed")
    assert "is damaged" not in output
    expected, got = (load_file(folder / each / "weights") for each in ("undisturbed", "killed"))
    assert {name: tensor.tolist() for name, tensor in got.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }
    for each in ("undisturbed", "killed"):
        for name in (run := Run(folder / each / "run")).names(complete=False):
            run.checkpoint(name).verify()
    return half_written


def test_killed_in_the_middle_of_checkpoints_a_run_ends_bit_identical(tmp_path: Path) -> None:
    check_kills(tmp_path, workers=2, num_kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_killed_again_and_again_runs_end_bit_identical(tmp_path: Path, workers: int) -> None:
    half_written = 0
    for seed in range(4):
        (tmp_path / str(seed)).mkdir(parents=True)
        half_written += check_kills(tmp_path / str(seed), workers, num_kills=10, seed=seed)
    assert half_written > 0, "no kill came while a checkpoint was being written: this test shows nothing"
