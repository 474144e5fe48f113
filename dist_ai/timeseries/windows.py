"""Windows of long series, to learn forecasting from: what came before, what is known of what comes, and what came.

A window is cut when it is asked for; the series are held once. A split of windows is one of time: what training sees ends before
the first value that validation is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch

from dist_ai.core.series_types import TensorForecast, TensorKnown
from dist_ai.core.transform import ItemTransform
from dist_ai.core.types import TensorSeries
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
    "tells_the_answer",
]


class Window(NamedTuple):
    """A place in a series from which it is forecast.

    Attributes:
        past: what came before it, (channels, context).
        future: what is known of the steps to come, (known channels, horizon); None where nothing is.
        target: what came, (targets, horizon); None where nobody knows.
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
    """

    values: np.ndarray
    times: np.ndarray
    name: Any = None


class Windows(Sequence[Window]):
    """All windows of some series, at every step.

    Args:
        series: the series.
        context: steps that a forecast is made from.
        horizon: steps that are forecast.
        targets: the channels that are forecast; all by default.
        known: the channels whose future is known.

    Attributes:
        first, last: the time of the first and of the last step that each window forecasts, (windows,).

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
    ) -> None:
        for name, value in (("context", context), ("horizon", horizon)):
            if not isinstance(value, Real) or value != int(value) or value < 1:
                raise ConfigError(f"{name}={value!r}: expected a number of steps, at least 1")
        if not len(series):
            raise DataError("no series to cut windows from")
        channels = series[0].values.shape[0]
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
            raise DataError(
                f"a window needs {context} + {horizon} steps (context + horizon), and the longest series has {longest}; make "
                "context or horizon shorter"
            )
        self._begins = np.concatenate([[0], np.cumsum(counts)])
        pairs = list(zip(self.series, counts, strict=True))
        offsets = np.cumsum([0, *(each.values.shape[1] for each in self.series)])[:-1] + context
        self._at = np.concatenate([np.arange(count) + at for at, count in zip(offsets, counts, strict=True)])
        self._flat: torch.Tensor | None = None
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
        coming = series.values[:, step : step + self.horizon]
        past = series.values[:, step - self.context : step]
        return Window(past, coming[self.known] if self.known else None, coming[self.targets])

    def fetch(self, indices: np.ndarray) -> tuple[TensorSeries, TensorKnown, TensorForecast]:
        """Returns the past, the known future and the target of several windows at once, (windows, channels, steps) each."""
        if self._flat is None:
            values = np.concatenate([each.values for each in self.series], axis=1)
            self._flat = torch.from_numpy(values).to(torch.get_default_dtype())
        steps = torch.arange(-self.context, self.horizon)
        cut = self._flat[:, torch.from_numpy(self._at[indices])[:, None] + steps].transpose(0, 1)
        past, coming = cut[..., : self.context], cut[..., self.context :]
        return TensorSeries(past), TensorKnown(coming[:, self.known]), TensorForecast(coming[:, self.targets])

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

    A window that forecasts steps on both sides of the border is in neither part. What validation looks back on may lie before
    the border: that is known when the forecast is made.

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
        if not 0 < self.valid_pct < 1:
            raise ConfigError(f"valid_pct={self.valid_pct}: expected a share above 0 and below 1")
        if not 0 <= self.fold < self.n_folds:
            raise ConfigError(f"fold={self.fold} of n_folds={self.n_folds}: expected 0 <= fold < n_folds")
        for name in ("stride", "valid_stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a number of steps, at least 1")

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
        strides = windows.strides()
        before = windows.last < begin
        within = windows.first >= begin
        if end is not None:
            within &= windows.last < end
        train = self._each(np.flatnonzero(before), strides, self.stride, from_end=True)
        valid = self._each(np.flatnonzero(within), strides, self.valid_stride, from_end=False)
        if not len(train) or not len(valid):
            raise DataError(
                f"{len(train)} window(s) to train on and {len(valid)} to validate: the series are too short for "
                f"context={windows.context} and horizon={windows.horizon} on both sides of the border; make them shorter, or "
                "valid_pct smaller"
            )
        return train, valid

    @staticmethod
    def _each(chosen: np.ndarray, strides: np.ndarray, stride: int, *, from_end: bool) -> list[int]:
        """Returns every `stride`-th of the chosen windows of each series."""
        if stride == 1 or not len(chosen):
            return chosen.tolist()
        steps = strides[chosen]
        # A series ends where the next one's windows begin to count anew.
        borders = np.flatnonzero(np.diff(steps) <= 0) + 1
        parts = np.split(chosen, borders)
        return np.concatenate([part[::-stride][::-1] if from_end else part[::stride] for part in parts]).tolist()


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
    """What is known of the steps to come, of a `Window`, as a `TensorKnown`.

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
    """What came, of a `Window`, as a `TensorForecast`.

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
        if not target.isfinite().all():
            raise DataError("a target with missing or infinite values; say how to fill them: missing='previous'")
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


def _numbers(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.array(values)).to(torch.get_default_dtype())
