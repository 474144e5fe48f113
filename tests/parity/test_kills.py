"""Ranks are killed at random moments, in the middle of checkpoints too; the run ends bit-identical to an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from dist_ai.checkpoint import Run

PROGRAM = Path(__file__).parent / "resume_program.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE_S = 120.0


def start(workers: int, folder: Path, *options: str, engine: str = "local") -> subprocess.Popen[str]:
    """Starts the program on so many workers, with a checkpoint after every step."""
    folder.mkdir(exist_ok=True)
    run = str(folder / "run")
    # On Ray a cluster of its own, and not one that somebody else has here.
    of_engine = {"ray": {"RAY_ADDRESS": "local"}, "torchrun": {"DIST_AI_RUN_DIR": run}}
    if engine == "torchrun":
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(workers),
            *options,
            str(PROGRAM),
        ]
    else:
        launch = ["-m", "dist_ai.cli.main", "launch", str(PROGRAM), "--engine", engine, "--workers", str(workers)]
        launch += [*options, "--run-dir", run]
    return subprocess.Popen(
        [sys.executable, *launch, str(folder / "weights"), "1"],
        cwd=folder,
        env={**ENVIRONMENT, **of_engine.get(engine, {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_rank(process: psutil.Process) -> bool:
    """Whether it is a rank or one of its loader workers, of whichever engine."""
    words = process.cmdline()
    if any("torch.distributed.run" in word or "dist_ai.cli" in word for word in words):
        return False
    return any("launchers.worker" in word or "RayTrainWorker" in word or word == str(PROGRAM) for word in words)


def finish(workers: int, folder: Path) -> str:
    output, _ = (process := start(workers, folder)).communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    return output


def written(folder: Path) -> set[str]:
    """Returns the files of checkpoints that there are, which the program writes and removes meanwhile."""
    checkpoints = folder / "run" / "checkpoints"
    # `Path.rglob` fails at a folder that is removed while it looks; `os.walk` passes over it.
    return {os.path.join(place, name) for place, _, names in os.walk(checkpoints) for name in names if "rank-" in name}


def kill_once(workers: int, folder: Path, chance: random.Random) -> tuple[str, bool]:
    """Starts the program, kills a rank at a random moment once it writes checkpoints; returns what it said, and whether
    a checkpoint was half-written then.
    """
    before = written(folder)
    process = start(workers, folder)
    family = kill_a_rank(process, folder, before, chance)
    output, _ = process.communicate(timeout=PATIENCE_S)
    all_end(family)
    run = Run(folder / "run")
    return output, len(run.names(complete=False)) > len(run.names())


def kill_a_rank(
    process: subprocess.Popen[str], folder: Path, before: set[str], chance: random.Random
) -> list[psutil.Process]:
    """Kills one of a launch's ranks at a random moment after it has begun to write another checkpoint than those `before`;
    returns the processes that there were. Kills none if the launch ends earlier.
    """
    deadline = time.monotonic() + PATIENCE_S
    while written(folder) <= before and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.4))
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        ranks = [child for child in family if is_rank(child)]
    except psutil.NoSuchProcess:  # one ended while we looked
        return []
    if ranks:
        chance.choice(ranks).send_signal(signal.SIGKILL)
    return family


def all_end(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, f"still running: {alive}"


def same_weights(one: Path, other: Path) -> bool:
    tensors = [{name: tensor.tolist() for name, tensor in load_file(each / "weights").items()} for each in (one, other)]
    return tensors[0] == tensors[1]


def logged(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "samples_per_s")} for line in lines]


def kill_and_be_restarted(
    workers: int, folder: Path, num_kills: int, chance: random.Random, engine: str = "local"
) -> int:
    """Kills ranks of one launch so often, which starts them again each time; returns how many it has killed."""
    process = start(workers, folder, "--max-restarts", str(num_kills), engine=engine)
    killed, family, output = 0, [], []
    patience = PATIENCE_S * (1 + num_kills)
    reading = threading.Thread(target=lambda: output.append(process.communicate(timeout=patience)[0]))
    reading.start()
    while killed < num_kills and process.poll() is None:
        # What stood half-written when a rank was killed is removed by the next attempt: its own is what counts.
        found = kill_a_rank(process, folder, written(folder), chance)
        family += found
        killed += bool(found)
    reading.join()
    assert process.returncode == 0, output
    assert "is damaged" not in output[0]
    all_end(family)
    return killed


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
    assert same_weights(folder / "undisturbed", folder / "killed")
    for each in ("undisturbed", "killed"):
        for name in (run := Run(folder / each / "run")).names(complete=False):
            run.checkpoint(name).verify()
    return half_written


def test_killed_in_the_middle_of_checkpoints_a_run_is_restarted_and_ends_bit_identical(tmp_path: Path) -> None:
    finish(2, tmp_path / "undisturbed")
    assert kill_and_be_restarted(2, tmp_path / "killed", num_kills=2, chance=random.Random(0)) > 0
    assert same_weights(tmp_path / "undisturbed", tmp_path / "killed")
    assert logged(tmp_path / "killed") == logged(tmp_path / "undisturbed")  # no step is lost or stands there twice


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "num_kills"), [("local", 100), ("torchrun", 30), ("ray", 10)])
def test_a_hundred_kills_at_random_moments_are_survived(tmp_path: Path, engine: str, num_kills: int) -> None:
    finish(2, tmp_path / "undisturbed")
    killed = run = 0
    while killed < num_kills:
        run += 1
        killed += kill_and_be_restarted(2, tmp_path / str(run), min(10, num_kills), random.Random(run), engine)
        assert same_weights(tmp_path / "undisturbed", tmp_path / str(run))
        assert logged(tmp_path / str(run)) == logged(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_killed_again_and_again_runs_end_bit_identical(tmp_path: Path, workers: int) -> None:
    half_written = 0
    for seed in range(4):
        (tmp_path / str(seed)).mkdir(parents=True)
        half_written += check_kills(tmp_path / str(seed), workers, num_kills=10, seed=seed)
    assert half_written > 0, "no kill came while a checkpoint was being written: this test shows nothing"
