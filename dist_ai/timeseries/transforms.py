"""Scalings of series, for one series (in a loader worker) or a batch (on the device); NaN, which is padding, stays NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dist_ai.core.series_types import TensorForecast, TensorKnown
from dist_ai.core.transform import Transform
from dist_ai.core.types import TensorSeries, plain
from dist_ai.data.device import to_device
from dist_ai.errors import ConfigError, DataError

__all__ = ["ScaleRange", "Standardize", "StandardizeEach", "forecast_channels"]

_LEAST = 1e-8  # a channel that never changes has no deviation to divide by


class _Linear(Transform):
    """A transform of each channel along a line: (x - zero) / unit; `zero` and `unit` are its state."""

    order: ClassVar[int] = 20
    zero: list[float]
    unit: list[float]
    targets: list[int] | None
    known: list[int] | None

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the series scaled."""
        zero, unit = self._like(x)
        return (x - zero) / unit

    def decodes(self, x: TensorSeries) -> Any:
        """Returns the series in its own units."""
        zero, unit = self._like(x)
        return x * unit + zero

    def _like(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        name = type(self).__name__
        if not self.zero:
            raise DataError(
                f"{name} has not seen the training series; give it as scale={name}(), where it learns from them, or with "
                "numbers for each channel"
            )
        chosen = self.targets if isinstance(x, TensorForecast) else self.known if isinstance(x, TensorKnown) else None
        picked = range(len(self.zero)) if chosen is None else chosen
        numbers = [[self.zero[i] for i in picked], [self.unit[i] for i in picked]]
        if x.shape[-2] != len(numbers[0]):
            raise DataError(
                f"series with {x.shape[-2]} channel(s), and {name} has numbers for {len(numbers[0])} channel(s)"
            )
        zero, unit = to_device(torch.tensor(numbers, dtype=x.dtype), x.device)[..., None]
        return zero, unit


@dataclass
class Standardize(_Linear):
    """Series to mean 0 and deviation 1 over the training set, by channel.

    Args:
        zero, unit: mean and deviation of each channel; empty to learn them at set-up from all training items.
        by_channel: otherwise all channels share one mean and one deviation.
        targets, known: the channels that a `TensorForecast`, a `TensorKnown` has; None for all.

    >>> Standardize([1.0], [2.0])(TensorSeries([[1.0, 3.0]]))
    TensorSeries([[0., 1.]])
    """

    zero: Any = ()
    unit: Any = ()
    by_channel: bool = True
    targets: Any = None
    known: Any = None

    def __post_init__(self) -> None:
        self.zero, self.unit = _checked(self, self.zero, self.unit)

    def setups(self, items: Sequence) -> None:
        """Learns the mean and the deviation, unless they were given."""
        if self.zero:
            return
        total, squares, count = torch.zeros(3, items[0].shape[-2], dtype=torch.float64)
        for i in range(len(items)):
            values = plain(items[i]).double()
            there = ~values.isnan()
            total += values.nansum(-1)
            count += there.sum(-1)
        mean = self._shared(total) / self._shared(count)
        for i in range(
            len(items)
        ):  # again, for the sum of squares about zero loses digits where the mean is far from it
            squares += (plain(items[i]).double() - mean[:, None]).square().nansum(-1)
        std = (self._shared(squares) / self._shared(count)).sqrt()
        self.zero, self.unit = mean.tolist(), std.where(std > _LEAST, 1.0).tolist()

    def _shared(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers if self.by_channel else numbers.sum().expand(len(numbers))


@dataclass
class ScaleRange(_Linear):
    """Series from the range that they have in the training set to 0 to 1, by channel.

    Args:
        zero, unit: the least value of each channel, and the greatest less that; empty to learn them from the training items.
        targets, known: as of `Standardize`.

    >>> ScaleRange([1.0], [2.0])(TensorSeries([[1.0, 3.0]]))
    TensorSeries([[0., 1.]])
    """

    zero: Any = ()
    unit: Any = ()
    targets: Any = None
    known: Any = None

    def __post_init__(self) -> None:
        self.zero, self.unit = _checked(self, self.zero, self.unit)

    def setups(self, items: Sequence) -> None:
        """Learns the range, unless it was given."""
        if self.zero:
            return
        low = torch.full((items[0].shape[-2],), float("inf"), dtype=torch.float64)
        high = -low
        for i in range(len(items)):
            values = plain(items[i]).double()
            low = torch.minimum(low, values.nan_to_num(float("inf")).amin(-1))
            high = torch.maximum(high, values.nan_to_num(float("-inf")).amax(-1))
        span = high - low
        self.zero, self.unit = low.tolist(), span.where(span > _LEAST, 1.0).tolist()


@dataclass
class StandardizeEach(Transform):
    """Each series to mean 0 and deviation 1 over itself; what it was is lost, so this cannot be undone.

    Args:
        by_channel: each channel for itself; otherwise all channels of a series together, which keeps their proportions.

    >>> StandardizeEach()(TensorSeries([[1.0, 3.0]]))
    TensorSeries([[-1.,  1.]])
    """

    by_channel: bool = True

    order: ClassVar[int] = 20

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the series standardised, whatever its length without padding."""
        if isinstance(x, TensorForecast | TensorKnown):
            raise ConfigError(
                "StandardizeEach cannot be undone, so forecasts would have no units; use Standardize, or normalize='window' of "
                "the model"
            )
        dims = -1 if self.by_channel else (-2, -1)
        values = plain(x)
        centred = values - values.nanmean(dims, keepdim=True)
        deviation = centred.square().nanmean(dims, keepdim=True).sqrt()
        return centred / deviation.where(deviation > _LEAST, 1.0)


def forecast_channels(tfms: Sequence[Any]) -> _Linear | None:
    """Returns the transform that scales forecasts among `tfms`, if there is one."""
    return next((tfm for tfm in tfms if isinstance(tfm, _Linear)), None)


def _checked(tfm: Any, zero: Sequence[float], unit: Sequence[float]) -> tuple[list[float], list[float]]:
    zero, unit = [float(each) for each in zero], [float(each) for each in unit]
    if len(zero) != len(unit) or not all(each > 0 for each in unit):
        raise ConfigError(f"{type(tfm).__name__}(zero={zero}, unit={unit}): expected as many positive units as zeros")
    return zero, unit
