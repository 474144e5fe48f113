"""A run on streamed data that is killed in the middle of an epoch goes on, on other ranks, without losing or repeating a row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

PROGRAM = Path(__file__).parent / "streaming_program.py"
NUM_ROWS, STEPS = 500, 32  # steps in an epoch; the last is not full
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 rows in 3 files of row groups of 16."""
    folder = tmp_path_factory.mktemp("rows")
    random = np.random.default_rng(0)
    for number, chosen in enumerate(np.array_split(np.arange(NUM_ROWS), 3)):
        x = random.normal(size=(len(chosen), 8)).astype(np.float32)
        table = pa.table(
            {
                "number": chosen,
                "x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8),
                "label": x[:, :3].argmax(1),
            }
        )
        parquet.write_table(table, folder / f"{number}.parquet", row_group_size=16, use_dictionary=False)
    return folder


def start(workers: int, rows: Path, folder: Path, attempt: int) -> subprocess.Popen[str]:
    options = ["--workers", str(workers), "--run-dir", str(folder / "run")]
    return subprocess.Popen(
        [sys.executable, "-m", "dist_ai.cli.main", "launch", str(PROGRAM), *options, str(rows), str(folder / "seen")],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TRY": str(attempt)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_after(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Kills the launcher and all its ranks once there is a checkpoint of this step of epoch 0 or a later one."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(checkpointed(path.name) >= step for path in (folder / "run" / "checkpoints").glob("fit-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    time.sleep(0.07)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in family if psutil.pid_exists(pid)], timeout=20)
    assert not alive, f"still running: {alive}"


def checkpointed(name: str) -> int:
    """Returns the step over both epochs that a checkpoint's name tells: fit-0001-epoch-0001-step-00000003."""
    parts = name.split("-")
    return int(parts[3]) * STEPS + int(parts[5]) if "step" in parts else 2 * STEPS


def seen(folder: Path) -> dict[tuple[int, int], list[int]]:
    """Returns the rows of each (epoch, step) over all ranks; of a step that was done again, the last time."""
    last: dict[tuple[int, int], dict[int, list[int]]] = {}
    attempts: dict[tuple[int, int], int] = {}
    for file in (folder / "seen").iterdir():
        epoch, step, rank, attempt = map(int, file.name.split("-"))
        if attempt > attempts.get((epoch, step), -1):
            attempts[epoch, step], last[epoch, step] = attempt, {}
        if attempt == attempts[epoch, step]:
            last[epoch, step][rank] = json.loads(file.read_text())
    return {at: [row for rank in sorted(ranks) for row in ranks[rank]] for at, ranks in last.items()}


def test_a_killed_run_sees_each_row_of_the_epoch_once_on_another_number_of_ranks(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    kill_after(start(2, rows, tmp_path, 0), tmp_path, 8)
    kill_after(start(1, rows, tmp_path, 1), tmp_path, STEPS + 8)
    process = start(3, rows, tmp_path, 2)
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, output
    assert "goes on at epoch 1" in output
    steps = seen(tmp_path)
    assert sorted(steps) == [(epoch, step) for epoch in range(2) for step in range(STEPS)]
    for epoch in range(2):
        counts = Counter(row for step in range(STEPS) for row in steps[epoch, step])
        assert counts == Counter(range(NUM_ROWS)), epoch
    assert steps[0, 0] != steps[1, 0]
    tries = {int(file.name.split("-")[-1]) for file in (tmp_path / "seen").iterdir()}
    assert tries == {0, 1, 2}
