"""Loaders of windows of long series and what follows them, made in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import numpy as np

from dist_ai.core.transform import Transform
from dist_ai.data import DataBlock, DataLoaders, LoaderOptions
from dist_ai.data.loaders import check_options
from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries.blocks import TSForecastBlock, TSKnownBlock, TSPastBlock
from dist_ai.timeseries.data import Tfms, listed
from dist_ai.timeseries.frames import long_series, read_frame
from dist_ai.timeseries.items import check_fill
from dist_ai.timeseries.transforms import Standardize
from dist_ai.timeseries.windows import LongSeries, WalkForwardSplitter, WindowPart, Windows, tells_the_answer

__all__ = ["Columns", "ForecastOptions", "TSForecastDataLoaders"]

CAUSAL_FILLS = ("raise", "previous", "zero")


class ForecastOptions(LoaderOptions, total=False):
    """What all ways to make `TSForecastDataLoaders` take, besides the data.

    Attributes:
        context: steps that a forecast is made from.
        horizon: steps that are forecast.
        splitter: which windows train and which validate; by default `WalkForwardSplitter()`, the last 20 % of the time.
        missing: what to do about missing values: ``"raise"`` (the default), ``"previous"`` or ``"zero"``; what comes later is
            never used.
        scale: ``"standard"`` (the default): each channel to mean 0 and deviation 1 over what lies before the validation; None
            leaves values as they are.
        seed, item_tfms, batch_tfms: as of `TSDataLoaders`.
    """

    context: int
    horizon: int
    splitter: WalkForwardSplitter
    missing: str
    scale: Literal["standard"] | None
    seed: int | None
    item_tfms: Tfms
    batch_tfms: Tfms


@dataclass(frozen=True)
class Columns:
    """Which columns of a frame a forecast is made from.

    Attributes:
        time, id: of the time and of the series' names; None where there is none.
        channels: all columns that are read, in their order.
        targets: those that are forecast.
        known: those whose future is known.
        missing: how gaps are filled.
    """

    time: str | None
    id: str | None
    channels: list[str]
    targets: list[str]
    known: list[str]
    missing: str = "raise"


class TSForecastDataLoaders(DataLoaders):
    """Loaders of windows and what follows them.

    ```python
    dls = TSForecastDataLoaders.from_long_df(df, time="ts", targets="load", context=336, horizon=24)
    ```

    What all ways take is in `ForecastOptions`. An input is (channels, context), beside it what is known of the future,
    and a target (targets, horizon). Validation is what comes last in time, and training sees nothing of it.

    Attributes:
        windows: all windows of the series.
        columns: the columns that they are from; None if they were arrays.
    """

    windows: Windows
    columns: Columns | None

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        *,
        targets: Sequence[int] | None = None,
        known: Sequence[int] = (),
        **options: Unpack[ForecastOptions],
    ) -> Self:
        """Returns loaders of arrays of long series.

        Args:
            X: one series (channels, length) or (length,); or a list of several, which may differ in length.
            targets: the channels to forecast; all by default, but the known ones.
            known: the channels whose future is known when a forecast is made.
            options: see `ForecastOptions`; `context` and `horizon` are needed.

        >>> dls = TSForecastDataLoaders.from_arrays(np.arange(100.0), context=10, horizon=5, bs=8, num_workers=0)
        >>> [tuple(each.shape) for each in dls.one_batch()]
        [(8, 1, 10), (8, 1, 5)]
        """
        several = X if isinstance(X, list) and len(X) and np.ndim(X[0]) else [X]
        try:
            found = [np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in several]
        except (TypeError, ValueError) as error:
            raise DataError(f"the series are no arrays of numbers: {error}") from error
        if len({each.shape[0] for each in found}) != 1 or any(each.ndim != 2 for each in found):
            shapes = ", ".join(str(each.shape) for each in found[:4])
            raise DataError(f"series of shapes {shapes}; expected (channels, length), and as many channels in each")
        names = [str(i) for i in range(found[0].shape[0])]
        import pandas as pd

        missing = _checked_fill(options.get("missing", "raise"))
        series = [
            each
            for number, values in enumerate(found)
            for each in long_series(
                pd.DataFrame(values.T, columns=names), time=None, channels=names, id=None, missing=missing
            )
        ]
        chosen = [i for i in range(len(names)) if i not in known] if targets is None else list(targets)
        return cls._from_series(series, chosen, list(known), None, options)

    @classmethod
    def from_long_df(
        cls,
        df: Any,
        *,
        time: str | None,
        targets: str | Sequence[str],
        id: str | None = None,
        inputs: Sequence[str] = (),
        known: Sequence[str] = (),
        **options: Unpack[ForecastOptions],
    ) -> Self:
        """Returns loaders of a frame with a row for each step, of each series if there are several.

        Args:
            df: the frame, of pandas, in the order of time.
            time: the column of time: dates or whole numbers, in equal steps. None counts the rows.
            targets: the columns to forecast.
            id: the column that says which series a row is of.
            inputs: further columns to forecast from.
            known: columns to forecast from whose future is known, such as the hour of the day; numbers.
            options: see `ForecastOptions`; `context` and `horizon` are needed.

        Raises:
            ConfigError: a target is said to be known of the future.
            DataError: no such column; times that are doubled, unsorted or have gaps; missing values, or series too short.
        """
        chosen = [targets] if isinstance(targets, str) else list(targets)
        if both := [name for name in chosen if name in known]:
            raise ConfigError(tells_the_answer(f"column {both[0]!r}"))
        channels = list(dict.fromkeys([*chosen, *inputs, *known]))
        missing = _checked_fill(options.get("missing", "raise"))
        series = long_series(df, time=time, channels=channels, id=id, missing=missing)
        columns = Columns(time, id, channels, chosen, list(known), missing)
        places = {name: place for place, name in enumerate(channels)}
        return cls._from_series(series, [places[c] for c in chosen], [places[c] for c in known], columns, options)

    @classmethod
    def from_wide_df(
        cls, df: Any, *, time: str | None = None, known: Sequence[str] = (), **options: Unpack[ForecastOptions]
    ) -> Self:
        """Returns loaders of a frame with a column for each channel, all of which are forecast but those that are `known`."""
        targets = [name for name in df.columns if name != time and name not in known]
        return cls.from_long_df(df, time=time, targets=targets, known=known, **options)

    @classmethod
    def from_parquet(cls, file: str | Path, **options: Any) -> Self:
        """Returns loaders of a Parquet (or CSV) file, read into memory.

        Args:
            file: the file.
            options: those of `from_long_df`, or, without `targets`, of `from_wide_df`.
        """
        frame = read_frame(file)
        return (cls.from_long_df if "targets" in options else cls.from_wide_df)(frame, **options)

    @classmethod
    def _from_series(
        cls,
        series: list[LongSeries],
        targets: list[int],
        known: list[int],
        columns: Columns | None,
        options: ForecastOptions,
    ) -> Self:
        _check(options)
        windows = Windows(series, context=options["context"], horizon=options["horizon"], targets=targets, known=known)
        splitter = options.get("splitter") or WalkForwardSplitter()
        own = [_scale(windows, splitter)] if options.get("scale", "standard") else []
        block = DataBlock(
            (TSPastBlock(windows.context), *([TSKnownBlock()] if known else []), TSForecastBlock()),
            splitter=splitter,
            getters=[None] * (2 + bool(known)),
            item_tfms=listed(options.get("item_tfms")),
            batch_tfms=[*own, *listed(options.get("batch_tfms"))],
        )
        rest: Any = {name: value for name, value in options.items() if name in LoaderOptions.__annotations__}
        datasets = block.datasets(windows)
        datasets.subsets = [
            WindowPart(part.source, part.indices, part.pipelines, part.split_idx) for part in datasets.subsets
        ]
        dls = cls.from_datasets(
            datasets,
            item_tfms=block.all_item_tfms,
            batch_tfms=block.all_batch_tfms,
            n_inp=block.num_inputs,
            seed=options.get("seed", 0),
            **rest,
        )
        dls.windows, dls.columns = windows, columns
        return dls


def _scale(windows: Windows, splitter: WalkForwardSplitter) -> Transform:
    """Returns the standardisation by what lies before the validation."""
    begin, _ = splitter.borders(windows)
    seen = np.concatenate([each.values[:, each.times < begin] for each in windows.series], axis=1)
    if not seen.shape[1]:
        raise DataError("no step lies before the validation; make valid_pct smaller")
    std = seen.std(1)
    return Standardize(seen.mean(1), np.where(std > 1e-8, std, 1.0), targets=windows.targets, known=windows.known)


def _checked_fill(missing: str) -> str:
    check_fill(missing, CAUSAL_FILLS)
    return missing


def _check(options: Any) -> None:
    """Raises `ConfigError` or `TypeError` for options that are missing, that cannot work, or that there are not."""
    if "context" not in options or "horizon" not in options:
        raise ConfigError("say how many steps a forecast is made from and how many it has: context=168, horizon=24")
    if "valid_pct" in options:
        raise ConfigError(
            "windows are split in time; give splitter=WalkForwardSplitter(valid_pct) instead of valid_pct="
        )
    if (scale := options.get("scale", "standard")) not in ("standard", None):
        raise ConfigError(
            f"scale={scale!r}: expected 'standard' or None; forecasts must be brought back into their units"
        )
    check_options(options, ForecastOptions)
