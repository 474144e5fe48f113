"""Transforms of one series in a loader worker: from what an item is to a tensor without gaps, of a known length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from dist_ai.core.transform import ItemTransform
from dist_ai.core.types import TensorSeries, plain
from dist_ai.errors import BadSampleError, ConfigError, DataError, did_you_mean
from dist_ai.timeseries.files import LabelledSeries, read_series

__all__ = [
    "CutEnd",
    "FillGaps",
    "LabelOf",
    "PadTo",
    "SeriesOf",
    "ToSeries",
    "check_fill",
    "filled",
    "missing_values",
    "padding",
]

FILLS = ("raise", "previous", "linear", "mean", "zero")


@dataclass
class SeriesOf(ItemTransform):
    """The series of a `LabelledSeries`; what is a series itself passes."""

    order: ClassVar[int] = -10

    def encodes(self, x: LabelledSeries) -> Any:
        """Returns the series."""
        return x.series


@dataclass
class LabelOf(ItemTransform):
    """The label of a `LabelledSeries`."""

    order: ClassVar[int] = -10

    def encodes(self, x: LabelledSeries) -> Any:
        """Returns the label."""
        return x.label


@dataclass
class ToSeries(ItemTransform):
    """Numbers to a `TensorSeries` (channels, length), float64: `SeriesToFloat` makes of it what models take, once it is scaled.

    Args:
        channels: how many channels a series has; None to learn it at set-up from the first training item.

    Takes an array, a tensor or nested lists, (channels, length) or (length,) of one channel, or the path of a file of one
    series: `.npy`, `.ts`, or CSV with a line for each step. What is missing is NaN.

    Raises:
        DataError: it has another shape or other channels, no steps, or an infinite value.
        BadSampleError: the same of a file, which is named.
    """

    channels: int | None = None

    reads_series: ClassVar[bool] = True
    order: ClassVar[int] = 0

    def setups(self, items: Sequence) -> None:
        """Learns how many channels there are, unless that was given."""
        if self.channels is None:
            self.channels = self.encodes(items[0]).shape[0]

    def encodes(self, x: object) -> Any:
        """Returns the series."""
        if isinstance(x, str | Path):
            try:
                return self._checked(read_series(x))
            except DataError as error:
                raise BadSampleError(f"{x}: {error}") from error
        return self._checked(x)

    def _checked(self, x: Any) -> torch.Tensor:
        expected = f"expected ({self.channels or 'channels'}, length), or (length,) of one channel"
        if hasattr(x, "columns") or isinstance(x, Mapping):
            raise DataError(
                f"a {type(x).__name__} is no series, as far as the model knows; {expected}: of a frame of one series that is "
                "frame[columns].to_numpy().T"
            )
        try:
            values = plain(x if isinstance(x, torch.Tensor) else torch.as_tensor(_numbers(x)))
            if values.is_complex():
                raise TypeError("it is complex; give real and imaginary parts as channels")
            values = values.double()
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{x!r:.100} is no series: {error}; {expected}") from error
        values = values[None] if values.dim() == 1 else values
        if values.dim() != 2 or not values.numel():
            raise DataError(f"a series of shape {tuple(values.shape)}; {expected}, and at least one step")
        if self.channels is not None and values.shape[0] != self.channels:
            turned = "; is it (length, channels)? Then transpose it" if values.shape[1] == self.channels else ""
            raise DataError(f"a series with {values.shape[0]} channel(s), and others have {self.channels}{turned}")
        if values.isinf().any():
            raise DataError(
                "a series with infinite values, which a model cannot learn from; make them NaN and fill them"
            )
        return TensorSeries(values)


def _numbers(x: Any) -> np.ndarray:
    array = np.array(x)
    return array.astype(np.float64) if array.dtype.kind == "O" else array  # what a frame's mixed columns give


@dataclass
class CutEnd(ItemTransform):
    """Cuts off steps at the end that have no value in any channel (NaN): so tables and arrays write series of other lengths.

    A series without any value stays as it is.

    >>> CutEnd()(TensorSeries([[1.0, float("nan"), 3.0, float("nan")]]))
    TensorSeries([[1., nan, 3.]])
    """

    order: ClassVar[int] = 1

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the series as far as it goes."""
        there = plain(~x.isnan()).any(0).nonzero()
        return x[..., : int(there[-1]) + 1] if len(there) else x


@dataclass
class FillGaps(ItemTransform):
    """Fills what is missing (NaN) in a series.

    Args:
        how: ``"previous"`` (the value before it, and at the start the first one), ``"linear"`` (on the line between its
            neighbours), ``"mean"`` (of its channel in this series), ``"zero"``; or ``"raise"``, which only looks.

    A channel without any value becomes zeros.

    >>> FillGaps("previous")(TensorSeries([[float("nan"), 1.0, float("nan"), 3.0]]))
    TensorSeries([[1., 1., 1., 3.]])

    Raises:
        DataError: a value is missing and `how` is ``"raise"``.
    """

    how: str = "raise"

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_fill(self.how)

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the series without gaps."""
        holes = x.isnan()
        if not holes.any():
            return x
        if self.how == "raise":
            raise DataError(missing_values(plain(holes).numpy()))
        return x.give_type_to(torch.from_numpy(filled(plain(x).numpy(), self.how)))


def missing_values(holes: np.ndarray) -> str:
    """Returns the message for a series with holes, (channels, length) of bool."""
    channel, step = np.argwhere(holes)[0]
    return (
        f"{holes.sum()} of {holes.size} values are missing (NaN), the first at step {step} of channel {channel}; say how to fill "
        "them: missing='previous', 'linear', 'mean' or 'zero'"
    )


def check_fill(how: str, fills: Sequence[str] = FILLS) -> None:
    """Raises `ConfigError` if there is no such way to fill what is missing."""
    if how not in fills:
        expected = ", ".join(map(repr, fills))
        raise ConfigError(f"missing={how!r}: expected one of {expected}{did_you_mean(str(how), fills)}")


def filled(values: np.ndarray, how: str) -> np.ndarray:
    """Returns values (channels, length) with NaN filled, a copy; see `FillGaps`."""
    result = values.copy()
    for row in result:
        there = np.flatnonzero(~np.isnan(row))
        if not len(there) or how == "zero":
            row[np.isnan(row)] = 0
        elif how == "mean":
            row[np.isnan(row)] = row[there].mean()
        elif how == "linear":
            row[:] = np.interp(np.arange(len(row)), there, row[there])
        else:
            before = np.searchsorted(there, np.arange(len(row)), side="right") - 1
            row[:] = row[there[before.clip(0)]]
    return result


@dataclass
class PadTo(ItemTransform):
    """Fills up shorter series behind, with NaN, which our models take for "no step": the mask travels in the series itself.

    Args:
        length: of all series; None to learn the longest of the training items at set-up.

    All series get the one length whatever batch they come into, so no number depends on the batch or on how many ranks share it.

    Raises:
        DataError: a series is longer.
    """

    length: int | None = None

    order: ClassVar[int] = 90

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ConfigError(f"PadTo(length={self.length}): expected a number of steps, at least 1")

    def setups(self, items: Sequence) -> None:
        """Learns the longest length, unless it was given."""
        if self.length is None:
            self.length = max(items[i].shape[-1] for i in range(len(items)))

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the series with its padding."""
        length = self.length or x.shape[-1]
        if x.shape[-1] > length:
            raise DataError(
                f"a series of {x.shape[-1]} steps, and {length} is the longest that was said or seen in training; cut it, or "
                f"train with pad={x.shape[-1]}"
            )
        return torch.nn.functional.pad(x, (0, length - x.shape[-1]), value=float("nan"))


def padding(pad: Any) -> PadTo | None:
    """Returns what `pad=` says: True, a length, or a `PadTo`; None for False.

    >>> padding(True), padding(80), padding(False)
    (PadTo(length=None), PadTo(length=80), None)

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(pad, bool):
        return PadTo() if pad else None
    if isinstance(pad, Integral):
        return PadTo(int(pad))
    if isinstance(pad, PadTo) or pad is PadTo:
        return PadTo(getattr(pad, "length", None))
    raise ConfigError(
        f"pad={pad!r:.100}: expected True, a number of steps such as 80, or PadTo(80); False leaves series as they are"
    )
