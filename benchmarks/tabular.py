"""What tables and ratings cost: our loader and an epoch's training, beside fastai's, on one machine.

```
python benchmarks/tabular.py            # about four minutes
python benchmarks/tabular.py --quick    # about a minute
```

Both have the same generated rows, batch 64, and take turns, each in a process of its own.

- "rows": an epoch of the loader alone, eight columns of categories and six of numbers; and in batches of 1024.
- "tabular": an epoch of `tabular_learner(dls, layers=[200, 100])` on them, with its validation.
- "ratings": an epoch of `collab_learner(dls, 50, y_range=(0, 5.5))` on the ratings of 943 users of 1,682 films.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from harness import INSTALL, Contender, Report, Result, interleave, median_ratio, versions

BS = 64
CATS, CONTS = [f"c{i}" for i in range(8)], [f"x{i}" for i in range(6)]
GOALS = {"rows": 0.5, "rows by 1024": 0.5, "tabular": 0.7, "ratings": 0.5}
UNITS = {
    "rows": (1e6, "us a row"),
    "rows by 1024": (1e6, "us a row"),
    "tabular": (1.0, "s an epoch"),
    "ratings": (1.0, "s an epoch"),
}

Works = dict[str, Callable[[], Any]]


def people(num: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({name: random.normal(size=num) for name in CONTS})
    for i, name in enumerate(CATS):
        frame[name] = [f"v{v}" for v in random.integers(0, 2 + 5 * i, num)]
    frame["y"] = np.where(frame["x0"] + (frame["c3"] > "v5") > 0.5, "yes", "no")
    return frame


def ratings(num: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    user, film = random.integers(0, 943, num), random.integers(0, 1682, num)
    stars = np.clip(3 + np.sin(user) * np.cos(film) + random.normal(0, 0.5, num), 1, 5).round()
    return pd.DataFrame({"user": user, "film": film, "stars": stars})


def ours(num: int) -> Works:
    from dist_ai.collab import CollabDataLoaders, collab_learner
    from dist_ai.tabular import TabularDataLoaders, tabular_learner

    dls = TabularDataLoaders.from_df(people(num), cat_names=CATS, cont_names=CONTS, y_names="y", bs=BS)
    large = TabularDataLoaders.from_df(people(num), cat_names=CATS, cont_names=CONTS, y_names="y", bs=1024)
    learn = tabular_learner(dls, [200, 100], run_dir=None)
    of_ratings = CollabDataLoaders.from_df(ratings(2 * num), bs=BS)
    collab = collab_learner(of_ratings, 50, y_range=(0, 5.5), run_dir=None)
    return {
        "rows": lambda: sum(1 for _ in dls.train),
        "rows by 1024": lambda: sum(1 for _ in large.train),
        "tabular": lambda: learn.fit(1, 1e-3),
        "ratings": lambda: collab.fit(1, 1e-3),
    }


def fastai(num: int) -> Works:
    from fastai.collab import CollabDataLoaders, collab_learner
    from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularDataLoaders, tabular_learner

    procs = [Categorify, FillMissing, Normalize]
    dls = TabularDataLoaders.from_df(
        people(num), procs=procs, cat_names=CATS, cont_names=CONTS, y_names="y", bs=BS, num_workers=0
    )
    large = TabularDataLoaders.from_df(
        people(num), procs=procs, cat_names=CATS, cont_names=CONTS, y_names="y", bs=1024, num_workers=0
    )
    learn = tabular_learner(dls, layers=[200, 100])
    of_ratings = CollabDataLoaders.from_df(ratings(2 * num), bs=BS, num_workers=0)
    collab = collab_learner(of_ratings, n_factors=50, y_range=(0, 5.5))
    return {
        "rows": lambda: sum(1 for _ in dls.train),
        "rows by 1024": lambda: sum(1 for _ in large.train),
        "tabular": lambda: learn.fit(1, 1e-3),
        "ratings": lambda: collab.fit(1, 1e-3),
    }


CONTENDERS: dict[str, Callable[[int], Works]] = {"dist_ai": ours, "fastai": fastai}


def timed(name: str, num: int) -> Contender:
    works = CONTENDERS[name](num)

    def run() -> dict[str, float]:
        times = {}
        for what, work in works.items():
            begin = time.perf_counter()
            work()
            times[what] = (time.perf_counter() - begin) / (0.8 * num if what.startswith("rows") else 1)
        return times

    return run


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer rows")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    num, rounds = (8_000, 3) if args.quick else (40_000, 5)
    times = interleave(partial(timed, num=num), list(CONTENDERS), rounds=rounds)
    results = []
    for what, goal in GOALS.items():
        scale, unit = UNITS[what]
        for name in CONTENDERS:
            if name not in times:
                results.append(Result(what=f"{what}: {name}", value=None, unit=unit, note=INSTALL))
                continue
            value = statistics.median(times[name][what]) * scale
            compared = {}
            if name == "dist_ai" and "fastai" in times:
                ratio = median_ratio(times["dist_ai"][what], times["fastai"][what])
                compared = {"against": "fastai", "ratio": ratio, "goal": goal}
            results.append(Result(what=f"{what}: {name}", value=value, unit=unit, **compared))
    Report(
        name="tabular",
        about=f"{num:,} rows and {2 * num:,} ratings, medians of {rounds} interleaved rounds; one thread.",
        versions=versions("dist_ai", "torch", "pandas", "fastai"),
        results=results,
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
