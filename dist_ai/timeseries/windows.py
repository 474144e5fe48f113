"""Windows of long series, to learn forecasting from: what came before, what is known of what comes, and what came.

A window is cut when it is asked for; the series are held once. A split of windows is one of time: what training sees ends before
the first value that validation is judged by.

What is missing is filled where it is looked at, and stays missing (NaN) where it would be a target: nothing that was made up is
learned or judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch

from dist_ai.core.series_types import TensorForecast, TensorKnown
from dist_ai.core.transform import ItemTransform, Transform
from dist_ai.core.types import TensorSeries, plain
from dist_ai.data.datasets import Subset
from dist_ai.data.splitters import Split
from dist_ai.errors import ConfigError, DataError

__all__ = [
    "FutureOf",
    "LastSteps",
    "LongSeries",
    "PastOf",
    "TargetOf",
    "WalkForwardSplitter",
    "Window",
    "WindowPart",
    "Windows",
    "require_channels",
    "require_steps",
    "tells_the_answer",
]


class Window(NamedTuple):
    """A place in a series from which it is forecast.

    Attributes:
        past: what came before it, (channels, context).
        future: what is known of the steps to come, (known channels, horizon); None where nothing is.
        target: what came, (targets, horizon), with NaN for what is missing; None where nobody knows.
    """

    past: Any
    future: Any = None
    target: Any = None


@dataclass(frozen=True)
class LongSeries:
    """One series from start to end.

    Attributes:
        values: (channels, length), float.
        times: when each step was, ascending: (length,) of int64, counted, or nanoseconds since 1970.
        name: of the series, where there are several.
        gaps: where `values` has what was filled in, (channels, length) of bool; None for nowhere.
    """

    values: np.ndarray
    times: np.ndarray
    name: Any = None
    gaps: np.ndarray | None = None

    def came(self, channels: Sequence[int], begin: int = 0, end: int | None = None) -> np.ndarray:
        """Returns the values of some channels and steps, with NaN for those that were filled in."""
        values = self.values[channels, begin:end]
        return values if self.gaps is None else np.where(self.gaps[channels, begin:end], np.nan, values)

    def filled(self, how: str, start: Sequence[float]) -> LongSeries:
        """Returns the series without missing values (NaN), by what came before and never by what comes later.

        Args:
            how: ``"previous"``, the value before; or ``"zero"``.
            start: for each channel, what stands before its first value, with ``"previous"``.

        >>> LongSeries(np.array([[np.nan, 1.0, np.nan]]), np.arange(3)).filled("previous", [5.0]).values.tolist()
        [[5.0, 1.0, 1.0]]
        """
        gaps = np.isnan(self.values)
        if not gaps.any():
            return self
        if how == "zero":
            return replace(self, values=np.where(gaps, 0.0, self.values), gaps=gaps)
        last = np.maximum.accumulate(np.where(gaps, -1, np.arange(gaps.shape[1])), axis=1)
        before = np.take_along_axis(self.values, last.clip(0), axis=1)
        return replace(self, values=np.where(last < 0, np.array(start)[:, None], before), gaps=gaps)


class Windows(Sequence[Window]):
    """All windows of some series, at every step.

    Args:
        series: the series.
        context: steps that a forecast is made from.
        horizon: steps that are forecast.
        targets: the channels that are forecast; all by default.
        known: the channels whose future is known.
        scale: a transform that the values of a batch (`fetch`) go through, in float64, before they become float32; or None.

    Attributes:
        first, last: the time of the first and of the last step that each window forecasts, (windows,).
        number: the number of the series that each window is of, (windows,).
        judged: whether any value of each window's target is there, (windows,) of bool; what is split are such windows.

    Series that are too short for one window have none.

    Raises:
        ConfigError: `context` or `horizon` is below 1, or there is no such channel.
        DataError: no series is as long as a window.

    >>> windows = Windows([LongSeries(np.arange(6.0)[None], np.arange(6))], context=3, horizon=2)
    >>> len(windows), windows[1].past.tolist(), windows[1].target.tolist()
    (2, [[1.0, 2.0, 3.0]], [[4.0, 5.0]])
    """

    def __init__(
        self,
        series: Sequence[LongSeries],
        *,
        context: int,
        horizon: int,
        targets: Sequence[int] | None = None,
        known: Sequence[int] = (),
        scale: Transform | None = None,
    ) -> None:
        require_steps(context=context, horizon=horizon)
        if not len(series):
            raise DataError("no series to cut windows from")
        channels = series[0].values.shape[0]
        require_channels(targets=targets, known=known)
        self.series, self.context, self.horizon = list(series), context, horizon
        self.targets = list(range(channels)) if targets is None else list(targets)
        self.known = list(known)
        if wrong := [each for each in (*self.targets, *self.known) if not 0 <= each < channels]:
            raise ConfigError(f"channel {wrong[0]}, and there are {channels}, 0 to {channels - 1}")
        if not self.targets:
            raise ConfigError("targets is empty: say which channels are forecast")
        if both := sorted({*self.targets} & {*self.known}):
            raise ConfigError(tells_the_answer(f"channel {both[0]}"))
        counts = [max(0, each.values.shape[1] - context - horizon + 1) for each in self.series]
        if not sum(counts):
            longest = max(each.values.shape[1] for each in self.series)
            hint = "; or is it (length, channels)? Then transpose it" if channels >= context + horizon else ""
            raise DataError(
                f"a window needs {context} + {horizon} steps (context + horizon), and the longest series has {longest}; make "
                f"context or horizon shorter{hint}"
            )
        self._begins = np.concatenate([[0], np.cumsum(counts)])
        pairs = list(zip(self.series, counts, strict=True))
        offsets = np.cumsum([0, *(each.values.shape[1] for each in self.series)])[:-1] + context
        self._at = np.concatenate([np.arange(count) + at for at, count in zip(offsets, counts, strict=True)])
        self.scale = scale
        self._flat: tuple[torch.Tensor, torch.Tensor] | None = None
        self.number = np.repeat(np.arange(len(self.series)), counts)
        self.judged = np.concatenate([self._judged(each, count) for each, count in pairs])
        self.first = np.concatenate([each.times[context : context + count] for each, count in pairs])
        ends = [each.times[context + horizon - 1 : context + horizon - 1 + count] for each, count in pairs]
        self.last = np.concatenate(ends)

    def __len__(self) -> int:
        return int(self._begins[-1])

    def place(self, index: int) -> tuple[LongSeries, int]:
        """Returns the series of a window, and the step at which its forecast begins."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        number = int(np.searchsorted(self._begins, index, side="right")) - 1
        return self.series[number], int(index - self._begins[number]) + self.context

    def __getitem__(self, index: Any) -> Window:
        series, step = self.place(int(index))
        past, end = series.values[:, step - self.context : step], step + self.horizon
        known = series.values[self.known, step:end] if self.known else None
        return Window(past, known, series.came(self.targets, step, end))

    @cached_property
    def steps(self) -> np.ndarray:
        """How far apart the steps of the series are, in the unit of their times: each length once, ascending."""
        return np.unique([np.median(np.diff(each.times)) for each in self.series if len(each.times) > 1])

    def fetch(self, indices: np.ndarray) -> tuple[TensorSeries, TensorKnown, TensorForecast]:
        """Returns the past, the known future and the target of several windows at once, (windows, channels, steps) each."""
        if self._flat is None:
            self._flat = self._all_values()
        values, came = self._flat
        steps = torch.from_numpy(self._at[indices])[:, None] + torch.arange(-self.context, self.horizon)
        past, coming = steps[:, : self.context], steps[:, self.context :]

        def cut(source: torch.Tensor, channels: list[int]) -> torch.Tensor:
            return source[torch.tensor(channels, dtype=torch.int64)[:, None, None], coming].transpose(0, 1)

        return (
            TensorSeries(values[:, past].transpose(0, 1)),
            TensorKnown(cut(values, self.known)),
            TensorForecast(cut(came, self.targets)),
        )

    def _all_values(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the values of all series one behind the other, scaled; and the same without what was filled in."""
        values = torch.from_numpy(np.concatenate([each.values for each in self.series], axis=1)).double()
        scaled = values if self.scale is None else plain(self.scale(TensorSeries(values)))
        scaled = scaled.to(torch.get_default_dtype())
        if all(each.gaps is None for each in self.series):
            return scaled, scaled
        gaps = [np.isnan(each.came(range(len(scaled)))) for each in self.series]
        return scaled, scaled.masked_fill(torch.from_numpy(np.concatenate(gaps, axis=1)), float("nan"))

    def _judged(self, series: LongSeries, count: int) -> np.ndarray:
        there = ~np.isnan(series.came(self.targets)).all(0)
        before = np.concatenate([[0], np.cumsum(there)])[self.context :]
        return before[self.horizon : self.horizon + count] > before[:count]

    @property
    def has_gaps(self) -> bool:
        """Whether any value of a target is missing."""
        return any(each.gaps is not None and bool(each.gaps[self.targets].any()) for each in self.series)

    def strides(self) -> np.ndarray:
        """Returns how many steps after its series' first window each window begins."""
        return np.arange(len(self)) - np.repeat(self._begins[:-1], np.diff(self._begins))

    def times(self) -> np.ndarray:
        """Returns all times at which any series has a step, once each, ascending."""
        return np.unique(np.concatenate([each.times for each in self.series]))

    def __repr__(self) -> str:
        return f"Windows({len(self)} of {len(self.series)} series, {self.context} steps to forecast {self.horizon})"


class WindowPart(Subset):
    """The windows of one part, which are cut a batch at a time: what the transforms make of each, in a hundredth of the time."""

    def fetch(self, indices: torch.Tensor) -> tuple[Any, ...]:
        """Returns the batch of these windows."""
        windows = cast(Windows, self.source)
        past, known, target = windows.fetch(np.asarray(self.indices)[indices.numpy()])
        return (past, known, target) if windows.known else (past, target)


@dataclass
class WalkForwardSplitter:
    """Splits `Windows` in time: validation is judged by the last steps, and training sees nothing of them.

    Args:
        valid_pct: share of the times, the last ones, above 0 and below 1.
        n_folds: that share is parted in so many folds of equal time; fold k validates on the k-th part and trains on all that
            comes before it.
        fold: which of them, from 0.
        stride: training takes every such window, from a series' last one backwards.
        valid_stride: validation takes every such window; ``horizon`` for forecasts that do not overlap.

    A window that forecasts steps on both sides of the border is in neither part, nor is one whose target is missing altogether.
    What validation looks back on may lie before the border: that is known when the forecast is made.

    >>> windows = Windows([LongSeries(np.arange(10.0)[None], np.arange(10))], context=2, horizon=2)
    >>> WalkForwardSplitter(0.4)(windows)
    ([0, 1, 2], [4, 5, 6])
    >>> WalkForwardSplitter(0.4, n_folds=2, fold=1)(windows)
    ([0, 1, 2, 3, 4], [6])
    """

    valid_pct: float = 0.2
    n_folds: int = 1
    fold: int = 0
    stride: int = 1
    valid_stride: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.valid_pct, Real) or not 0 < self.valid_pct < 1:
            raise ConfigError(f"valid_pct={self.valid_pct!r}: expected a share above 0 and below 1")
        whole = isinstance(self.fold, Integral) and isinstance(self.n_folds, Integral)
        if not whole or not 0 <= self.fold < self.n_folds:
            raise ConfigError(
                f"fold={self.fold!r} of n_folds={self.n_folds!r}: expected 0 <= fold < n_folds, whole numbers"
            )
        require_steps(stride=self.stride, valid_stride=self.valid_stride)

    def borders(self, windows: Windows) -> tuple[int, int | None]:
        """Returns the time at which validation begins, and that before which it ends; None for the end of the data."""
        times = windows.times()
        width = int(self.valid_pct * len(times) + 1e-9) // self.n_folds
        if width < windows.horizon:
            raise DataError(
                f"valid_pct={self.valid_pct} of {len(times)} steps in {self.n_folds} fold(s) leaves {width} to validate on, and "
                f"horizon is {windows.horizon}; give more of them, or fewer folds"
            )
        begin = len(times) - width * (self.n_folds - self.fold)
        return int(times[begin]), int(times[begin + width]) if begin + width < len(times) else None

    def __call__(self, windows: Windows) -> Split:
        """Returns the split."""
        begin, end = self.borders(windows)
        before = windows.last < begin
        within = windows.first >= begin
        if end is not None:
            within &= windows.last < end
        train = _every(windows, np.flatnonzero(before), self.stride, from_end=True)
        valid = _every(windows, np.flatnonzero(within), self.valid_stride, from_end=False)
        if not len(train) or not len(valid):
            missing = "" if windows.judged.all() else f", of {np.sum(~windows.judged)} windows all targets are missing"
            raise DataError(
                f"{len(train)} window(s) to train on and {len(valid)} to validate{missing}: the series are too short for "
                f"context={windows.context} and horizon={windows.horizon} on both sides of the border; make them shorter, or "
                "valid_pct smaller"
            )
        return train, valid


def _every(windows: Windows, chosen: np.ndarray, stride: int, *, from_end: bool) -> list[int]:
    """Returns every `stride`-th of the chosen windows of each series, less those without a value to be judged by."""
    if not len(chosen):
        return []
    number, strides = windows.number[chosen], windows.strides()[chosen]
    # The chosen windows of a series follow one another; it is counted from the first of them, or from the last.
    begins = np.flatnonzero(np.diff(number, prepend=-1))
    ends = np.append(begins[1:], len(chosen)) - 1
    anchors = np.repeat(strides[ends if from_end else begins], ends - begins + 1)
    return chosen[((strides - anchors) % stride == 0) & windows.judged[chosen]].tolist()


@dataclass
class PastOf(ItemTransform):
    """What came before, of a `Window`; a series itself passes."""

    order: ClassVar[int] = -10

    def encodes(self, x: Window) -> Any:
        """Returns the past."""
        return x.past


@dataclass
class LastSteps(ItemTransform):
    """The last `context` steps of a series.

    Raises:
        DataError: it has fewer.
    """

    context: int

    order: ClassVar[int] = 2

    def encodes(self, x: TensorSeries) -> Any:
        """Returns them."""
        if x.shape[-1] < self.context:
            raise DataError(
                f"a history of {x.shape[-1]} step(s), and the model forecasts from the last {self.context}; give it more"
            )
        return x[..., -self.context :].clone()  # not a view, which would drag its whole series to the batch


@dataclass
class FutureOf(ItemTransform):
    """What is known of the steps to come, of a `Window`, as a `TensorKnown`, float64.

    Args:
        channels, horizon: its shape; learned at set-up.

    Raises:
        DataError: it is not there, or of another shape.
    """

    channels: int | None = None
    horizon: int | None = None

    order: ClassVar[int] = -10

    def setups(self, items: Sequence) -> None:
        """Learns the shape."""
        self.channels, self.horizon = self.encodes(items[0]).shape

    def encodes(self, x: object) -> Any:
        """Returns the known values."""
        future = getattr(x, "future", None)
        if future is None:
            raise DataError(
                f"nothing is known of the future of this {type(x).__name__}, and the model was trained with "
                f"{self.channels or 'some'} known channel(s); give a Window(past, future)"
            )
        known = _numbers(future)
        if self.channels is not None and known.shape != (self.channels, self.horizon):
            raise DataError(f"a known future of shape {tuple(known.shape)}; expected ({self.channels}, {self.horizon})")
        if not known.isfinite().all():
            raise DataError("the known future has missing or infinite values; fill them")
        return TensorKnown(known)


@dataclass
class TargetOf(ItemTransform):
    """What came, of a `Window`, as a `TensorForecast`, float64; NaN is what is missing.

    Args:
        targets, horizon: its shape; learned at set-up.
    """

    targets: int | None = None
    horizon: int | None = None

    order: ClassVar[int] = 1

    def setups(self, items: Sequence) -> None:
        """Learns the shape."""
        self.targets, self.horizon = self.encodes(items[0]).shape

    def encodes(self, x: Window) -> Any:
        """Returns the target."""
        target = _numbers(x.target)
        if target.isinf().any():
            raise DataError("a target with infinite values; make them NaN, which is what is missing")
        return TensorForecast(target)

    def decodes(self, x: TensorForecast) -> Any:
        """Returns the forecast as it is: (targets, horizon)."""
        return x


def tells_the_answer(channel: str) -> str:
    """Returns the message for a channel that is a target and known of the future."""
    return (
        f"{channel} is in targets and in known: the model would be told the answer; leave it out of known, and its past is "
        "looked at all the same"
    )


def require_channels(**given: Any) -> None:
    """Raises `ConfigError` for numbers of channels that are none; None is nothing said."""
    for name, chosen in given.items():
        several = chosen is None or isinstance(chosen, list | tuple | range | np.ndarray)
        if not several or any(not isinstance(each, Integral) for each in (() if chosen is None else chosen)):
            raise ConfigError(f"{name}={chosen!r}: expected the numbers of channels, such as {name}=[0]")


def require_steps(**given: Any) -> None:
    """Raises `ConfigError` for a number of steps that is none.

    >>> require_steps(context=24, horizon=0)
    Traceback (most recent call last):
    dist_ai.errors.ConfigError: horizon=0: expected a number of steps, at least 1
    """
    for name, value in given.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            hint = f"; did you mean {int(value)}?" if isinstance(value, float) and value >= 1 and value % 1 == 0 else ""
            raise ConfigError(f"{name}={value!r}: expected a number of steps, at least 1{hint}")


def _numbers(values: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(np.array(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"{values!r:.100} are no numbers: {error}") from error
