"""Loaders of windows of long series and what follows them, made in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import numpy as np
import torch

from dist_ai.core.types import TensorSeries
from dist_ai.data import DataBlock, DataLoader, DataLoaders, LoaderOptions
from dist_ai.data.loaders import check_options
from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries.blocks import TSForecastBlock, TSKnownBlock, TSPastBlock
from dist_ai.timeseries.data import Tfms, listed
from dist_ai.timeseries.frames import as_pandas, is_frame, long_series, read_frame
from dist_ai.timeseries.items import check_fill
from dist_ai.timeseries.transforms import LinearScale, ScaleRange, Standardize
from dist_ai.timeseries.windows import (
    LongSeries,
    WalkForwardSplitter,
    WindowPart,
    Windows,
    require_channels,
    tells_the_answer,
)

__all__ = ["Columns", "ForecastOptions", "TSForecastDataLoaders"]

CAUSAL_FILLS = ("raise", "previous", "zero")


class ForecastOptions(LoaderOptions, total=False):
    """What all ways to make `TSForecastDataLoaders` take, besides the data.

    Attributes:
        context: steps that a forecast is made from.
        horizon: steps that are forecast.
        splitter: which windows train and which validate; by default `WalkForwardSplitter()`, the last 20 % of the time.
        missing: what to do about missing values in what is looked at: ``"raise"`` (the default), ``"previous"`` or ``"zero"``.
            What comes later is never used: before its first value a channel has its mean over what lies before the validation.
            A target that is missing stays so (NaN): it is neither learned nor judged, and a window without any other is left
            out. Where missing means 0, fill it yourself.
        scale: ``"standard"`` (the default), or ``Standardize()``: each channel to mean 0 and deviation 1 over what lies before
            the validation and is there; ``ScaleRange()``: to the range 0 to 1 over the same; None leaves values as they are.
        seed, item_tfms, batch_tfms: as of `TSDataLoaders`.
    """

    context: int
    horizon: int
    splitter: WalkForwardSplitter
    missing: str
    scale: Standardize | ScaleRange | Literal["standard"] | None
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
        start: what stands before the first value of each channel.
    """

    time: str | None
    id: str | None
    channels: list[str]
    targets: list[str]
    known: list[str]
    missing: str = "raise"
    start: Sequence[float] = ()


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

    def test_dl(self, items: Any, **options: Any) -> DataLoader:
        """Returns a loader of new histories, arrays or `Window`s; see `DataLoaders.test_dl`.

        Raises:
            DataError: a frame, from which `ForecastLearner.forecast` forecasts.
        """
        if any(map(is_frame, [items, *(items[:1] if isinstance(items, list | tuple) else [])])):
            raise DataError("a frame is no window: learn.forecast(frame) tells what follows it, for each of its series")
        return super().test_dl(items, **options)

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
        require_channels(targets=targets, known=known)
        several = X if isinstance(X, list | tuple) and len(X) and np.ndim(X[0]) else [X]
        try:
            found = [np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in several]
        except (TypeError, ValueError) as error:
            raise DataError(f"the series are no arrays of numbers: {error}") from error
        if not found or not all(each.size for each in found):
            raise DataError("no series, or one without any step; expected (channels, length)")
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
        inputs: str | Sequence[str] = (),
        known: str | Sequence[str] = (),
        **options: Unpack[ForecastOptions],
    ) -> Self:
        """Returns loaders of a frame with a row for each step, of each series if there are several.

        Args:
            df: the frame, in the order of time: of pandas, or any table that becomes one.
            time: the column of time: dates or whole numbers, in equal steps. None counts the rows.
            targets: the columns to forecast.
            id: the column that says which series a row is of.
            inputs: further columns to forecast from, or one.
            known: columns to forecast from, or one, whose future is known, such as the hour of the day; numbers.
            options: see `ForecastOptions`; `context` and `horizon` are needed.

        Raises:
            ConfigError: a target is said to be known of the future.
            DataError: no such column; times that are doubled, unsorted or have gaps; missing values, or series too short.
        """
        df = as_pandas(df)
        chosen, further, told = _names(targets), _names(inputs), _names(known)
        if both := [name for name in chosen if name in told]:
            raise ConfigError(tells_the_answer(f"column {both[0]!r}"))
        if not chosen:
            raise ConfigError("targets is empty: say which columns are forecast")
        channels = list(dict.fromkeys([*chosen, *further, *told]))
        missing = _checked_fill(options.get("missing", "raise"))
        series = long_series(df, time=time, channels=channels, id=id, missing=missing)
        columns = Columns(time, id, channels, chosen, told, missing)
        places = {name: place for place, name in enumerate(channels)}
        return cls._from_series(series, [places[c] for c in chosen], [places[c] for c in told], columns, options)

    @classmethod
    def from_wide_df(
        cls, df: Any, *, time: str | None = None, known: str | Sequence[str] = (), **options: Unpack[ForecastOptions]
    ) -> Self:
        """Returns loaders of a frame with a column for each channel, all of which are forecast but those that are `known`.

        The channels are one series. Series by themselves, which may begin and end apart, are a long frame:
        ``from_long_df(df.melt("time", var_name="series").dropna(), time="time", id="series", targets="value", ...)``.
        """
        df, known = as_pandas(df), _names(known)
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
        splitter = _in_time(options.get("splitter"))
        cut: Any = {"context": options["context"], "horizon": options["horizon"], "targets": targets, "known": known}
        bare = Windows(series, **cut)
        seen = _seen(bare, splitter, Standardize())
        given = options.get("scale", "standard")
        scale = given if given is None else seen if isinstance(given, str) else _seen(bare, splitter, given)
        whole = [each.filled(options.get("missing", "raise"), seen.zero) for each in series]
        windows = Windows(whole, scale=scale, **cut)
        past = TSPastBlock(windows.context, scale=scale)
        block = DataBlock(
            (past, *([TSKnownBlock(scale=scale)] if known else []), TSForecastBlock(scale=scale)),
            splitter=splitter,
            getters=[None] * (2 + bool(known)),
            item_tfms=listed(options.get("item_tfms")),
            batch_tfms=listed(options.get("batch_tfms")),
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
        dls.windows = windows
        dls.columns = None if columns is None else replace(columns, start=seen.zero)
        return dls


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _in_time(splitter: Any) -> WalkForwardSplitter:
    """Returns the splitter that was given, or the usual one."""
    if splitter is None:
        return WalkForwardSplitter()
    if isinstance(splitter, type) or not hasattr(splitter, "borders"):
        raise ConfigError(
            f"splitter={splitter!r:.100}: windows are split in time, so that training sees nothing of what validation is judged "
            "by; give splitter=WalkForwardSplitter(valid_pct)"
        )
    return splitter


def _seen(windows: Windows, splitter: WalkForwardSplitter, scale: Any) -> Any:
    """Returns a scale that learned, unless it has numbers, from what lies before the validation and is there."""
    begin, _ = splitter.borders(windows)
    before = np.concatenate([each.values[:, each.times < begin] for each in windows.series], axis=1)
    if not before.shape[1]:
        raise DataError("no step lies before the validation; make valid_pct smaller")
    learned = replace(scale, targets=windows.targets, known=windows.known)
    learned.setup([TensorSeries(torch.from_numpy(before))])
    return learned


def _checked_fill(missing: str) -> str:
    if missing in ("linear", "mean"):
        raise ConfigError(
            f"missing={missing!r} fills by what comes later, which no forecast knows; expected 'raise', 'previous' or 'zero'"
        )
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
    scale = options.get("scale", "standard")
    if scale not in ("standard", None) and not isinstance(scale, Standardize | ScaleRange):
        raise ConfigError(
            f"scale={scale!r}: expected 'standard', Standardize(), ScaleRange() or None; forecasts must be brought back into "
            "their units"
        )
    check_options(options, ForecastOptions)
    for tfm in listed(options.get("batch_tfms")):
        if tfm in (Standardize, ScaleRange) or (isinstance(tfm, LinearScale) and not tfm.zero):
            raise ConfigError(
                f"{tfm.__name__ if isinstance(tfm, type) else type(tfm).__name__} in batch_tfms has nothing to learn from there; "
                "leave it out: scale='standard', the default, standardises by what lies before the validation"
            )
