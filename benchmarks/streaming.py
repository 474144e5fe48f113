"""What streaming costs: epochs of a Parquet data set larger than its buffer, beside reading the same columns with pyarrow.

```
python benchmarks/streaming.py            # 2 GB, about five minutes
python benchmarks/streaming.py --quick    # 300 MB, about one
```

The data set (pictures' bytes of 20 to 100 kB, text, a label, a vector, a number) is made here, in 8 files with row groups of 64
rows, and deleted afterwards. "dist_ai" gives shuffled batches of 64 rows: a dict of Python bytes, strings and tensors. "pyarrow"
reads every row group once, in order, and drops it; "pyarrow, to Python" makes Python values of each. They take turns, each in
processes of its own.

- "from disk": time per row of an epoch of a data set that does not fit into memory: the system is told to forget the files first.
- "from memory": the same with all files in the system's memory, where reading is hardly more than copying.
- "2 processes": two ranks; each gives, or reads, its half.
- "memory": the most that the process held in an epoch beyond what it held with dist_ai and pyarrow imported. Goal: 300 MB.
- "growth": what it held after the last epoch beyond what it held after the fifth.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from harness import Contender, Report, Result, interleave, median_ratio, versions
from pyarrow import parquet

NUM_FILES, ROWS_PER_GROUP, BS = 8, 64, 64
MAX_BYTES = 300e6
SPEED = 0.8

Epoch = Callable[[], int]
"""Goes once through a rank's part of the data; returns how many rows it had."""


def make_data(folder: Path, num_bytes: int) -> None:
    """Writes about `num_bytes` of rows."""
    random = np.random.default_rng(0)
    per_file = num_bytes // NUM_FILES // 60_000 // ROWS_PER_GROUP * ROWS_PER_GROUP
    for number in range(NUM_FILES):
        writer = None
        for begin in range(0, per_file, ROWS_PER_GROUP):
            num = ROWS_PER_GROUP
            vectors = pa.array(random.normal(size=num * 64).astype(np.float32))
            rows = pa.table(
                {
                    "image": [random.bytes(int(size)) for size in random.integers(20_000, 100_000, num)],
                    "text": [
                        f"row {begin + i} of file {number}, and what is to be seen in its picture" for i in range(num)
                    ],
                    "label": random.integers(0, 1000, num),
                    "vector": pa.FixedSizeListArray.from_arrays(vectors, 64),
                    "weight": random.normal(size=num),
                }
            )
            writer = writer or parquet.ParquetWriter(folder / f"part-{number}.parquet", rows.schema)
            writer.write_table(rows)
        assert writer is not None
        writer.close()


def pyarrow_epoch(folder: Path, rank: int, world_size: int, *, to_python: bool = False) -> Epoch:
    def run() -> int:
        num = 0
        for path in sorted(folder.glob("*.parquet")):
            with parquet.ParquetFile(path) as file:
                for group in range(rank, file.num_row_groups, world_size):
                    table = file.read_row_group(group)
                    num += len(table.to_pydict()["label"] if to_python else table)
        return num

    return run


def our_epoch(folder: Path, rank: int, world_size: int) -> Epoch:
    from dist_ai.data import DataLoader, ParquetData
    from dist_ai.distributed.environment import World

    world = World(rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size)
    loader = DataLoader(ParquetData(folder), BS, shuffle=True, num_workers=0, world=world)

    def run() -> int:
        return sum(len(batch["image"]) for batch in loader)

    return run


EPOCHS: dict[str, Callable[[Path, int, int], Epoch]] = {
    "pyarrow": pyarrow_epoch,
    "pyarrow, to Python": partial(pyarrow_epoch, to_python=True),
    "dist_ai": our_epoch,
}


def alone(name: str, folder: Path) -> Contender:
    """Returns what one process runs: two epochs, with their times and the most memory that it held meanwhile."""
    import dist_ai.learner  # noqa: F401 - all that a training program has loaded before it reads

    torch.set_num_threads(1)
    idle = resident("VmRSS")
    epoch = EPOCHS[name](folder, 0, 1)

    def run() -> dict[str, float]:
        forget_peak()
        times = both_ways(folder, epoch)
        return {**times, "memory": float(resident("VmHWM") - idle), "held": float(resident("VmRSS"))}

    return run


def together(name: str, folder: Path, world_size: int) -> Contender:
    """Returns what ranks run: each its part of two epochs; timed until the last is done."""
    torch.set_num_threads(1)
    pipes = []
    for rank in range(world_size):
        pipe, far_end = multiprocessing.Pipe()
        given = (EPOCHS[name], folder, rank, world_size, far_end)
        multiprocessing.Process(target=_serve_epochs, args=given, daemon=True).start()
        pipes.append(pipe)
        assert pipe.recv() == "ready"

    def epoch() -> int:
        for pipe in pipes:
            pipe.send("run")
        return sum(pipe.recv() for pipe in pipes)

    return partial(both_ways, folder, epoch)


def both_ways(folder: Path, epoch: Epoch) -> dict[str, float]:
    """Returns the time per row of an epoch from disk, and of one from the system's memory."""
    times = {}
    forget_files(folder)
    for way in ("disk", "memory_of_system"):
        begin = time.perf_counter()
        num = epoch()
        times[way] = (time.perf_counter() - begin) / num
    return times


def _serve_epochs(make: Any, folder: Path, rank: int, world_size: int, pipe: Connection) -> None:
    epoch = make(folder, rank, world_size)
    pipe.send("ready")
    while pipe.recv() == "run":
        pipe.send(epoch())


def resident(what: str) -> int:
    """Returns the bytes that this process holds (VmRSS), or the most that it held (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def forget_files(folder: Path) -> None:
    """Makes the system forget what it holds of the files, so that the next who reads them waits for the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def forget_peak() -> None:
    """Sets the most that this process held to what it holds."""
    Path("/proc/self/clear_refs").write_text("5")


def rows(what: str, times: dict[str, dict[str, list[float]]]) -> list[Result]:
    """Returns a line for each contender; of dist_ai one against each of the others."""
    results = []
    for way, named, goal_against in (("disk", "from disk", "pyarrow"), ("memory_of_system", "from memory", "")):
        ours = times["dist_ai"][way]
        for name in ("pyarrow", "pyarrow, to Python"):
            theirs = times[name][way]
            value = statistics.median(theirs) * 1e6
            results.append(Result(what=f"{what}, {named}: {name}", value=value, unit="us/row"))
            results.append(
                Result(
                    what=f"{what}, {named}: dist_ai",
                    value=statistics.median(ours) * 1e6,
                    unit="us/row",
                    against=name,
                    ratio=median_ratio(ours, theirs),
                    goal=1 / SPEED if name == goal_against else None,
                    note=f"at least {SPEED:.0%} of its speed" if name == goal_against else "",
                )
            )
    return results


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of less data")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    num_bytes, rounds = (300_000_000, 6) if args.quick else (2_000_000_000, 10)
    with tempfile.TemporaryDirectory(prefix="streaming-") as temporary:
        folder = Path(temporary)
        make_data(folder, num_bytes)
        size = sum(file.stat().st_size for file in folder.iterdir())
        single = interleave(partial(alone, folder=folder), list(EPOCHS), rounds=rounds)
        pair = interleave(partial(together, folder=folder, world_size=2), list(EPOCHS), rounds=rounds)
    held, most = single["dist_ai"]["held"], max(single["dist_ai"]["memory"])
    results = [
        *rows("1 process", single),
        *rows("2 processes", pair),
        Result(what="memory: pyarrow", value=max(single["pyarrow"]["memory"]) / 1e6, unit="MB"),
        Result(what="memory: dist_ai", value=most / 1e6, unit="MB", against="300 MB", ratio=most / MAX_BYTES, goal=1.0),
        Result(what=f"growth over {rounds} epochs: dist_ai", value=(held[-1] - held[4]) / 1e6, unit="MB"),
    ]
    Report(
        name="streaming",
        about=f"Epochs of {size / 1e9:.2f} GB in {NUM_FILES} Parquet files, medians of {rounds} interleaved rounds; one thread.",
        versions=versions("dist_ai", "torch", "pyarrow"),
        results=results,
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
