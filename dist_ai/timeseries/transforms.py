"""Scalings of series, for one series (in a loader worker) or a batch (on the device); NaN, which is padding, stays NaN.

Series are scaled in float64 and only then become what a model takes (`SeriesToFloat`): of a billion and a little more, float32
keeps the billion.
"""

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

__all__ = ["LinearScale", "ScaleRange", "SeriesToFloat", "Standardize", "StandardizeEach", "changing"]

_ROUNDING = 8 * torch.finfo(torch.float64).eps


class LinearScale(Transform):
    """Base of the transforms of each channel along a line: (x - zero) / unit; `zero` and `unit` are their state.

    They compute in float64, and give the dtype that they got.
    """

    order: ClassVar[int] = 20
    zero: list[float]
    unit: list[float]
    targets: list[int] | None
    known: list[int] | None

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the series scaled."""
        zero, unit = self._like(x)
        return ((x.double() - zero) / unit).to(x.dtype)

    def decodes(self, x: TensorSeries) -> Any:
        """Returns the series in its own units."""
        zero, unit = self._like(x)
        return (x.double() * unit + zero).to(x.dtype)

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
        zero, unit = to_device(torch.tensor(numbers, dtype=torch.float64), x.device)[..., None]
        return zero, unit


@dataclass
class Standardize(LinearScale):
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
        low, high = _no_range(items[0])
        for i in range(len(items)):
            values = plain(items[i]).double()
            there = ~values.isnan()
            low, high = _wider(low, high, values)
            total += values.nansum(-1)
            count += there.sum(-1)
        counted = self._shared(count).clamp(min=1)
        mean = self._shared(total) / counted
        for i in range(
            len(items)
        ):  # again, for the sum of squares about zero loses digits where the mean is far from it
            squares += (plain(items[i]).double() - mean[:, None]).square().nansum(-1)
        std = (self._shared(squares) / counted).sqrt()
        if not self.by_channel:
            low, high = low.min().expand(len(low)), high.max().expand(len(high))
        self.zero, self.unit = mean.tolist(), std.where(changing(low, high) & (std > 0), 1.0).tolist()

    def _shared(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers if self.by_channel else numbers.sum().expand(len(numbers))


@dataclass
class ScaleRange(LinearScale):
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
        low, high = _no_range(items[0])
        for i in range(len(items)):
            low, high = _wider(low, high, plain(items[i]).double())
        self.zero = low.where(low.isfinite(), 0.0).tolist()
        self.unit = (high - low).where(changing(low, high), 1.0).tolist()


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
        values = plain(x).double()
        centred = values - values.nanmean(dims, keepdim=True)
        deviation = centred.square().nanmean(dims, keepdim=True).sqrt()
        low = values.nan_to_num(float("inf")).amin(dims, keepdim=True)
        high = values.nan_to_num(float("-inf")).amax(dims, keepdim=True)
        return (centred / deviation.where(changing(low, high) & (deviation > 0), 1.0)).to(x.dtype)


@dataclass
class SeriesToFloat(Transform):
    """Series of float64 to float32, which models take, once they are scaled; float64 only if torch's default dtype is that.

    Undone, a series is float64 again, so that what was scaled goes back to its units as exactly.

    >>> SeriesToFloat()(TensorSeries(torch.zeros(1, 2, dtype=torch.float64))).dtype
    torch.float32
    """

    order: ClassVar[int] = 80

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the series in the dtype of models."""
        return x.to(torch.get_default_dtype())

    def decodes(self, x: TensorSeries) -> Any:
        """Returns the series as float64."""
        return x.double()


def changing(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Returns whether numbers from `low` to `high`, float64, differ by more than rounding; else there is nothing to scale by.

    >>> changing(torch.tensor([5.0, 1e-12]).double(), torch.tensor([5.0, 2e-12]).double())
    tensor([False,  True])
    """
    return high - low > _ROUNDING * torch.maximum(low.abs(), high.abs())


def _no_range(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low = torch.full((like.shape[-2],), float("inf"), dtype=torch.float64)
    return low, -low


def _wider(low: torch.Tensor, high: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the range of each channel so far, and of values (channels, length), of which NaN is left out."""
    return (
        torch.minimum(low, values.nan_to_num(float("inf")).amin(-1)),
        torch.maximum(high, values.nan_to_num(float("-inf")).amax(-1)),
    )


def _checked(tfm: Any, zero: Sequence[float], unit: Sequence[float]) -> tuple[list[float], list[float]]:
    zero, unit = [float(each) for each in zero], [float(each) for each in unit]
    if len(zero) != len(unit) or not all(each > 0 for each in unit):
        raise ConfigError(f"{type(tfm).__name__}(zero={zero}, unit={unit}): expected as many positive units as zeros")
    return zero, unit
