"""Augmentations of a batch of training series, on its device; what is drawn for a sample depends on (seed, epoch, sample) only.

Padding (NaN) stays where it is, and a forecast's target stays what it is. `p` is how often a series is changed.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dist_ai.core.randomness import Draw
from dist_ai.core.series_types import TensorForecast, TensorKnown
from dist_ai.core.transform import Transform
from dist_ai.core.types import TensorSeries, plain
from dist_ai.errors import ConfigError, DataError

__all__ = [
    "ChannelDrop",
    "CutOut",
    "Jitter",
    "MagnitudeWarp",
    "RandomWindow",
    "Scaling",
    "SeriesEffect",
    "TimeWarp",
    "ts_tfms",
]


class SeriesEffect(Transform):
    """A change of the training series that `p` draws. To write one, say what becomes of all of them in `changed`."""

    order: ClassVar[int] = 35
    split_idx: ClassVar[int | None] = 0
    p: float

    @abstractmethod
    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns plain series (samples, channels, length), changed in all samples."""

    def encodes(self, x: TensorSeries, draw: Draw | None) -> Any:
        """Returns the batch with some of its series changed."""
        if draw is None or isinstance(x, TensorForecast | TensorKnown):
            return x
        if x.dim() != 3 or draw.single:
            raise DataError(
                f"{type(self).__name__} changes a batch (samples, channels, length) and got {tuple(x.shape)}; put it in "
                "batch_tfms"
            )
        series = plain(x)
        chosen = _like(draw.bernoulli(self.p), series)
        return torch.where(chosen, self.changed(series, draw), series)


@dataclass
class Jitter(SeriesEffect):
    """Adds normal noise to each value.

    Args:
        std: its deviation, in the units of the series as they are here (standardised: of their deviation).
        p: how often.
    """

    std: float = 0.1
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self, std=self.std)

    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the series with noise."""
        return series + self.std * draw.normal_tensor(tuple(series.shape[1:]), device=series.device).to(series.dtype)


@dataclass
class Scaling(SeriesEffect):
    """Multiplies each channel by a number drawn about 1.

    Args:
        std: of the number's logarithm.
        p: how often.
    """

    std: float = 0.2
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self, std=self.std)

    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the series scaled."""
        return series * _like(np.exp(draw.normal(0, self.std, size=(series.shape[1],))), series)


@dataclass
class MagnitudeWarp(SeriesEffect):
    """Multiplies each channel by a smooth curve about 1.

    Args:
        std: deviation of the curve at its knots.
        knots: how many there are, evenly spaced from start to end.
        p: how often.

    (Um et al., "Data augmentation of wearable sensor data for Parkinson's disease monitoring using convolutional neural
    networks", https://arxiv.org/abs/1706.00527.) The curve is cubic between the knots, as Catmull and Rom draw one.
    """

    std: float = 0.2
    knots: int = 4
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self, std=self.std)
        _check_knots(self, self.knots)

    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the series warped."""
        heights = draw.normal(1, self.std, size=(series.shape[1], self.knots))
        return series * _like(_smooth(heights, series.shape[-1]), series)


@dataclass
class TimeWarp(SeriesEffect):
    """Lets time run faster here and slower there; start and end stay.

    Args:
        std: deviation of the logarithm of the speed at the knots.
        knots: how many there are, evenly spaced.
        p: how often.

    All channels of a series are warped alike, and read on the line between neighbouring steps. (Um et al., as above.)
    """

    std: float = 0.3
    knots: int = 4
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self, std=self.std)
        _check_knots(self, self.knots)

    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the series warped."""
        length = _lengths(series)
        speed = np.exp(_smooth(draw.normal(0, self.std, size=(self.knots,)), 65))
        gone = np.concatenate([np.zeros((len(speed), 1)), ((speed[:, 1:] + speed[:, :-1]) / 2).cumsum(1)], 1)
        passed = _like(gone / gone[:, -1:], series)[..., 0]  # 0 to 1, a share of the length
        share = _shares(series, length)
        place = _read(passed[:, None], share.clamp(max=1) * 64)[:, 0]
        return _read_within(series, place * (length - 1), length)


@dataclass
class RandomWindow(SeriesEffect):
    """A slice of the series at a place that is drawn, stretched to the whole length.

    Args:
        min_share, max_share: from what to what share of the length the slice has.
        p: how often.

    (Le Guennec et al., "Data augmentation for time series classification using convolutional neural networks", 2016.)
    """

    min_share: float = 0.8
    max_share: float = 1.0
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self)
        if not 0 < self.min_share <= self.max_share <= 1:
            raise ConfigError(
                f"RandomWindow(min_share={self.min_share}, max_share={self.max_share}): expected 0 < min_share <= max_share <= 1"
            )

    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the slices."""
        length = _lengths(series)
        share = np.asarray(draw.uniform(self.min_share, self.max_share))
        start = np.asarray(draw.uniform()) * (1 - share)
        begin, width = _like(np.stack([start, share], 1), series).unbind(1)
        place = begin + _shares(series, length).clamp(max=1) * width
        return _read_within(series, place * (length - 1), length)


@dataclass
class CutOut(SeriesEffect):
    """Sets a part of the series, at a place that is drawn, to zero in all channels.

    Args:
        max_share: up to what share of the length.
        p: how often.

    (DeVries and Taylor, https://arxiv.org/abs/1708.04552, in one dimension.)
    """

    max_share: float = 0.2
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self, max_share=self.max_share)

    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the series with a part cut out."""
        share = np.asarray(draw.uniform(0, self.max_share))
        start = np.asarray(draw.uniform()) * (1 - share)
        begin, width = _like(np.stack([start, share], 1), series).unbind(1)
        place = _shares(series, _lengths(series))
        cut = ((place >= begin) & (place < begin + width))[:, None] & ~series.isnan()
        return series.masked_fill(cut, 0)


@dataclass
class ChannelDrop(SeriesEffect):
    """Sets some channels of a series to zero, but never all.

    Args:
        share: how likely each is dropped.
        p: how often.
    """

    share: float = 0.2
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(self, share=self.share)

    def changed(self, series: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the series with fewer channels."""
        numbers = np.asarray(draw.uniform(size=(series.shape[1],)))
        dropped = (numbers < self.share) & (numbers < numbers.max(1, keepdims=True))
        return torch.where(_like(dropped, series) & ~series.isnan(), series.new_zeros(()), series)


def ts_tfms(*, magnitude: float = 1.0, p: float = 0.5) -> list[SeriesEffect]:
    """Returns augmentations that do little harm to most series: noise, scale, warped magnitude and time, a cut.

    Args:
        magnitude: how strong, 1 for their defaults.
        p: how often each.

    >>> [type(tfm).__name__ for tfm in ts_tfms()]
    ['Jitter', 'Scaling', 'MagnitudeWarp', 'TimeWarp', 'CutOut']
    """
    return [
        Jitter(0.1 * magnitude, p),
        Scaling(0.1 * magnitude, p),
        MagnitudeWarp(0.1 * magnitude, p=p),
        TimeWarp(0.1 * magnitude, p=p),
        CutOut(min(1.0, 0.1 * magnitude), p),
    ]


# ------------------------------------------------------------------------------------------------ their pieces


def _like(numbers: Any, series: torch.Tensor) -> torch.Tensor:
    """Returns drawn numbers (samples, ...) as a tensor on the device of series, with as many dimensions."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers))
    tensor = tensor if tensor.dtype == torch.bool else tensor.to(series.dtype)
    return tensor.to(series.device, non_blocking=True).reshape(*tensor.shape, *[1] * (series.dim() - tensor.dim()))


def _lengths(series: torch.Tensor) -> torch.Tensor:
    """Returns how many steps of each sample are no padding, (samples, 1), at least 1, as floats."""
    return (~series.isnan()).any(1).sum(-1, keepdim=True).clamp(min=1).to(series.dtype)


def _shares(series: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Returns where each step lies, 0 at the start and 1 at the end of its series: (samples, length)."""
    steps = torch.arange(series.shape[-1], device=series.device, dtype=series.dtype)
    return steps / (length - 1).clamp(min=1)


def _read_within(series: torch.Tensor, place: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Returns series read at places (samples, length) on the line between steps; what was padding stays that."""
    return torch.where(series.isnan(), series, _read(series, torch.minimum(place.clamp(min=0), length - 1)))


def _read(values: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Returns values (samples, channels, n) at places (samples, m) from 0 to n - 1, between steps on a line."""
    low = place.floor().clamp(0, values.shape[-1] - 1)
    high = (low + 1).clamp(max=values.shape[-1] - 1)
    weight = (place - low)[:, None]
    first, second = (values.gather(2, each.long()[:, None].expand(-1, values.shape[1], -1)) for each in (low, high))
    # The step after the last one that counts may be padding: with no weight it must not count.
    return torch.where(weight > 0, first + (second - first) * weight, first)


def _smooth(heights: np.ndarray, length: int) -> np.ndarray:
    """Returns a smooth curve of `length` steps through evenly spaced heights (..., knots), by Catmull and Rom."""
    knots = heights.shape[-1]
    place = np.linspace(0, knots - 1, length)
    at = np.minimum(place.astype(np.int64), knots - 2)
    t = place - at
    a, b, c, d = (heights[..., (at + k).clip(0, knots - 1)] for k in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _check(tfm: Any, **sizes: float) -> None:
    for name, value in {"p": tfm.p, **sizes}.items():
        most = "" if name == "std" else " and at most 1"
        if value < 0 or (most and value > 1):
            raise ConfigError(f"{type(tfm).__name__}({name}={value}): expected at least 0{most}")


def _check_knots(tfm: Any, knots: int) -> None:
    if knots < 2:
        raise ConfigError(f"{type(tfm).__name__}(knots={knots}): expected 2 or more, at the start and at the end")
