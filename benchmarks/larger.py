"""That what is larger than memory trains: 50 million rows of Parquet, a corpus of 5 GB. How much memory it takes, and how long.

```
python benchmarks/larger.py                       # an hour or two on two cores, and 15 GB of disk
python benchmarks/larger.py --quick               # a hundredth of it, minutes
python benchmarks/larger.py --only rows --rows 50 # 50 million rows; --steps trains so many steps instead of an epoch
```

Both are generated from a seed, and deleted afterwards. What they learn is checked; a process that held more than `MOST` beyond
what importing takes fails.

- "rows": 8 files of four columns of categories, six of numbers and a class; an epoch of `tabular_learner(dls, layers=[32])` in
  batches of 16,384 rows, which come from row groups all over the files in a random order.
- "corpus": texts of about 4,000 characters in Parquet files; a tokenizer of some of them, all tokens in an Arrow file that is
  mapped, and 200 steps of a small language model, in batches of 16: the logits of 64 by 72 tokens alone would take a gigabyte.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from harness import Report, Result, versions
from pyarrow import parquet

MOST = 1.5e9
"""Bytes."""
FILES, GROUP = 8, 100_000
CATS, CONTS = [f"c{i}" for i in range(4)], [f"x{i}" for i in range(6)]


def write_rows(folder: Path, num: int) -> None:
    """Writes about so many rows; of the class a model can tell 84 %."""
    random = np.random.default_rng(0)
    schema = pa.schema(
        [*((name, pa.int16()) for name in CATS), *((name, pa.float32()) for name in CONTS), ("y", pa.int8())]
    )
    for file in range(FILES):
        with parquet.ParquetWriter(folder / f"{file}.parquet", schema, compression="NONE") as writer:
            for _ in range(-(-num // (FILES * GROUP))):
                cats = [random.integers(0, 10 * 4**i, GROUP).astype(np.int16) for i in range(len(CATS))]
                conts = [random.standard_normal(GROUP, np.float32) for _ in CONTS]
                y = (conts[0] + (cats[0] > 4) - 0.5 + 0.5 * conts[1] * conts[2] > 0).astype(np.int8)
                writer.write_table(pa.table([*cats, *conts, y], schema=schema), row_group_size=GROUP)


def train_rows(folder: Path, steps: int | None) -> dict[str, Any]:
    """Returns what training on the rows came to."""
    from dist_ai.data import CategoryBlock
    from dist_ai.tabular import TabularDataLoaders, tabular_learner

    before = most_held()
    dls = TabularDataLoaders.from_parquet_stream(
        folder, cat_names=CATS, cont_names=CONTS, y_names="y", y_block=CategoryBlock, fit_rows=200_000, bs=16_384
    )
    learn = tabular_learner(dls, [32], run_dir=None, progress=False)
    learn.fit(None if steps else 1, 1e-2, steps=steps)
    losses = [float(loss) for loss in learn.recorder.losses]
    if not losses[-1] < 0.5 < 0.6 < losses[0]:
        raise SystemExit(f"the rows were not learned: the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")
    return {"memory": most_held() - before, "of": dls.train.num_samples, "did": len(losses), "loss": losses[-1]}


def write_corpus(folder: Path, num_bytes: int) -> None:
    """Writes about so many bytes of texts."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = np.array(["".join(random.choice(letters, size)) for size in random.integers(2, 9, 30_000)])
    share = 1 / np.arange(10, len(words) + 10)
    share /= share.sum()
    for file in range(FILES):
        with parquet.ParquetWriter(folder / f"{file}.parquet", pa.schema([("text", pa.string())])) as writer:
            for _ in range(max(1, num_bytes // FILES // 4_000_000)):
                drawn = words[random.choice(len(words), (1000, 700), p=share)]
                writer.write_table(pa.table({"text": [" ".join(text) for text in drawn]}))


def train_corpus(folder: Path, steps: int | None) -> dict[str, Any]:
    """Returns what training on the corpus came to."""
    from dist_ai.text import TextDataLoaders, Tokenize, language_model_learner

    before = most_held()
    tokenize = Tokenize(max_vocab=10_000)
    tokenize.setup(some_texts(folder))
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        dls = TextDataLoaders.from_parquet(
            folder, text_col="text", is_lm=True, tok_tfm=tokenize, cache=cache, valid_pct=0.01, bs=16, num_workers=0
        )
        size = {"emb_sz": 64, "n_hid": 64, "n_layers": 1}
        learn = language_model_learner(dls, "awd_lstm", config=size, run_dir=None, progress=False)
        learn.fit(None, 1e-2, steps=steps or 200, valid_every=10**9)
    losses = [float(loss) for loss in learn.recorder.losses]
    if not losses[-1] < losses[0] - 0.5:
        raise SystemExit(f"the texts were not learned: the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")
    return {"memory": most_held() - before, "of": dls.train.num_samples, "did": len(losses), "loss": losses[-1]}


def some_texts(folder: Path, num: int = 2_000) -> list[str]:
    """Returns texts from all over the files, and lets go of what was read for them."""
    from dist_ai.data import ParquetData

    data = ParquetData(folder)
    return list(data.take(data.rows_all_over(num))["text"])


def most_held() -> int:
    """Returns the most bytes that this process, or one that it started and that has ended, held."""
    of = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(of) * 1024


WORKS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, int | None], dict[str, Any]], str]] = {
    "rows": (write_rows, train_rows, "rows"),
    "corpus": (write_corpus, train_corpus, "windows of 72 tokens"),
}


def measured(what: str, size: int, steps: int | None, folder: Path) -> list[Result]:
    """Returns the lines of one of them, done in a process of its own."""
    write, train, unit = WORKS[what]
    source = folder / what
    source.mkdir()
    write(source, size)
    num_bytes = sum(file.stat().st_size for file in source.iterdir())
    began = time.perf_counter()
    # No `multiprocessing.Pool`: its processes may start none themselves, and the tokens of a large corpus are made by several.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(train, source, steps).result()
    seconds = time.perf_counter() - began
    if found["memory"] > MOST:
        raise SystemExit(f"{what}: {found['memory'] / 1e9:.2f} GB were held beside imports; expected {MOST / 1e9:g}")
    note = f"{found['of']:,} {unit}, {num_bytes / 1e9:.1f} GB; {found['did']:,} steps, loss {found['loss']:.3f}"
    return [
        Result(
            what=f"{what}, memory", value=found["memory"] / 1e9, unit="GB", against=f"{MOST / 1e9:g} GB",
            ratio=found["memory"] / MOST, goal=1.0, note=note,
        ),
        Result(what=f"{what}, time", value=seconds, unit="s", note="from the files to the trained model"),
    ]  # fmt: skip


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of both")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--only", choices=WORKS, help="do one of them")
    parser.add_argument("--rows", type=float, default=50, help="millions of rows")
    parser.add_argument("--gb", type=float, default=5, help="size of the corpus")
    parser.add_argument("--steps", type=int, help="train so many, instead of an epoch of rows and 200 of the corpus")
    args = parser.parse_args()
    share = 0.01 if args.quick else 1.0
    sizes = {"rows": int(args.rows * 1e6 * share), "corpus": int(args.gb * 1e9 * share)}
    with tempfile.TemporaryDirectory() as folder:
        results = [
            line
            for what in ([args.only] if args.only else WORKS)
            for line in measured(what, sizes[what], args.steps, Path(folder))
        ]
    Report(
        name="larger",
        only=args.only,
        about="What is held beyond what importing takes; one process trains.",
        versions=versions("dist_ai", "torch", "pandas", "pyarrow", "tokenizers"),
        results=results,
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
