"""Asked to leave, a run writes a checkpoint first, and goes on from that very step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from lab import wait_until

from dist_ai.distributed.mailbox import mailbox_at

PROGRAM = Path(__file__).parent / "leaving_program.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(folder: Path, when: str = "never", number: int = 15, rank: int = 0, workers: int = 1) -> tuple[int, str, str]:
    folder.mkdir(exist_ok=True)
    launch = [sys.executable, "-m", "dist_ai.cli.main", "launch", str(PROGRAM), "--workers", str(workers)]
    done = subprocess.run(
        [*launch, "--run-dir", str(folder / "run"), str(folder / "weights"), when, str(int(number)), str(rank)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def logged(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "samples_per_s")} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folders = {workers: tmp_path_factory.mktemp(f"undisturbed-{workers}") for workers in (1, 2)}
    for workers, folder in folders.items():
        assert run(folder, workers=workers)[0] == 0
    return folders


@pytest.mark.parametrize(
    ("when", "number", "rank", "workers"),
    [
        ("train", signal.SIGTERM, 0, 1),
        ("train", signal.SIGINT, 0, 1),
        ("valid", signal.SIGTERM, 0, 1),
        ("train", signal.SIGTERM, 1, 2),  # all leave, whichever was asked
    ],
    ids=["SIGTERM", "Ctrl-C", "in validation", "one of two ranks"],
)
def test_a_run_that_is_asked_to_leave_saves_and_goes_on_bit_for_bit(
    undisturbed: dict[int, Path], tmp_path: Path, when: str, number: signal.Signals, rank: int, workers: int
) -> None:
    code, output, _ = run(tmp_path, when, number, rank, workers)
    assert code == 128 + number
    assert f"{tmp_path / 'run'}: {number.name} came; a checkpoint is written, to go on from" in output
    [saved] = [path.name for path in (tmp_path / "run" / "checkpoints").glob("fit-*")]
    epoch, step = int(saved.split("-")[3]), int(saved.split("-")[5])
    if workers == 1:
        assert (epoch, step) == ((1, 2) if when == "train" else (1, 10))
    else:
        assert (epoch, step) >= ((1, 2) if when == "train" else (1, 10))  # as soon as the ranks exchange
    code, output, errors = run(tmp_path, workers=workers)
    assert code == 0, errors
    assert f"fit 1 goes on at epoch {epoch}, step {step}" in output
    assert (tmp_path / "weights").read_bytes() == (undisturbed[workers] / "weights").read_bytes()
    assert logged(tmp_path) == logged(undisturbed[workers])


def ask_all_to_leave(folder: Path) -> str:
    """Sends SIGTERM to every process of a launch, and to its launcher twice, as a scheduler or `timeout` does."""
    command = [sys.executable, "-m", "dist_ai.cli.main", "launch", str(PROGRAM.with_name("resume_program.py"))]
    options = ["--workers", "2", "--run-dir", str(folder / "run"), str(folder / "weights"), "1000000"]
    process = subprocess.Popen(
        [*command, *options], cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    mailbox = mailbox_at(folder / "run")
    assert wait_until(lambda: [each.step > 1 for each in mailbox.statuses()] == [True] * 2, within_s=90)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    return output


def test_all_processes_are_asked_to_leave_at_once_and_a_checkpoint_is_written(tmp_path: Path) -> None:
    assert "SIGTERM came; a checkpoint is written, to go on from" in ask_all_to_leave(tmp_path)
    assert len(list((tmp_path / "run" / "checkpoints").glob("fit-*/manifest.json"))) == 1


@pytest.mark.slow
def test_twenty_times_of_twenty_a_checkpoint_is_written(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / str(i)).mkdir()
        assert "a checkpoint is written" in ask_all_to_leave(tmp_path / str(i)), i
