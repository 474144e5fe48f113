"""What streaming holds, measured in a process of its own: makes 200 MB of rows, and prints bytes.

    python streaming_memory.py FOLDER

Prints the size of the data, the most memory held in the first epoch beyond what was held before, and in the sixth.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from dist_ai.data import DataLoader, ParquetData


def held(what: str) -> int:
    """Returns bytes: VmRSS is what this process holds, VmHWM the most since it was last forgotten."""
    return next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(what)
    )


def make(folder: Path) -> int:
    """Writes 4 files with row groups of 0.5 MB; returns their size."""
    random = np.random.default_rng(0)
    for number in range(4):
        with parquet.ParquetWriter(folder / f"{number}.parquet", SCHEMA) as writer:
            for _ in range(100):
                images = [random.bytes(20_000) for _ in range(25)]
                table = {"image": images, "text": ["what is to be seen"] * 25, "number": range(25)}
                writer.write_table(pa.table(table, SCHEMA))
    return sum(file.stat().st_size for file in folder.iterdir())


SCHEMA = pa.schema({"image": pa.binary(), "text": pa.string(), "number": pa.int64()})


def main() -> None:
    """Measures."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    size = make(folder)
    parquet.read_metadata(folder / "0.parquet")
    pa.default_memory_pool().release_unused()
    before = held("VmRSS")
    loader = DataLoader(ParquetData(folder, buffer_bytes=20_000_000), 64, shuffle=True, num_workers=0)
    most = []
    for _ in range(6):
        Path("/proc/self/clear_refs").write_text("5")
        num = sum(len(batch["image"]) for batch in loader)
        assert num == 10_000
        most.append(held("VmHWM") - before)
    print(size, most[0], most[-1])


if __name__ == "__main__":
    main()
