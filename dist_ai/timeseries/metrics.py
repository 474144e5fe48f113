"""Metrics of forecasts in the units of the data, whatever scale the model works in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dist_ai.core.series_types import TensorForecast
from dist_ai.core.transform import Transform
from dist_ai.distributed.collectives import Collectives
from dist_ai.metrics import GatheredMetric, MeanOf, Metric

__all__ = ["GatheredInUnits", "MetricInUnits", "OfEach", "in_units", "to_units"]

Scale = Callable[[], Sequence[Any]]


def in_units(metric: Metric | GatheredMetric, scale: Scale) -> Metric | GatheredMetric:
    """Returns a metric that is given forecasts and targets in the units of the data, float64.

    Args:
        metric: any; one that is in units already is put into those of `scale`.
        scale: gives, at each batch, the transforms whose decoding brings forecasts back to their units.

    A `MeanOf` with a value for each number, such as `mae` or `rmse`, leaves out those whose target is missing (NaN); other
    metrics see NaN there.
    """
    if isinstance(metric, MeanOf):
        return MeanOf(_OfThoseThere(metric.function, scale), metric.name, then=metric.then)
    return GatheredInUnits(metric, scale) if isinstance(metric, GatheredMetric) else MetricInUnits(metric, scale)


class _InUnits:
    def __init__(self, metric: Any, scale: Scale) -> None:
        self.metric: Any = metric.metric if isinstance(metric, _InUnits) else metric
        self.scale, self.name = scale, metric.name

    def reset(self) -> None:
        """Forgets everything."""
        self.metric.reset()

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch, in the scale of the model."""
        scale = self.scale()
        self.metric.update(to_units(pred, scale), to_units(target, scale), num_local)


class MetricInUnits(_InUnits):
    """A `Metric` of forecasts in units; see `in_units`."""

    def statistics(self) -> torch.Tensor:
        """Returns those of the metric."""
        return self.metric.statistics()

    def value(self, statistics: torch.Tensor) -> float:
        """Returns what the metric makes of them."""
        return self.metric.value(statistics)


class GatheredInUnits(_InUnits):
    """A `GatheredMetric` of forecasts in units; see `in_units`."""

    def reduced(self, collectives: Collectives) -> float:
        """Returns the metric over all ranks."""
        return self.metric.reduced(collectives)


class _OfThoseThere:
    """The function of a `MeanOf` of forecasts in units, where a target is there."""

    def __init__(self, function: Any, scale: Scale) -> None:
        self.function: Any = function.function if isinstance(function, _OfThoseThere) else function
        self.scale = scale

    def __call__(self, pred: torch.Tensor, target: torch.Tensor) -> Any:
        scale = self.scale()
        pred, target = to_units(pred, scale), to_units(target, scale)
        found = self.function(pred, target)
        values, weights = found if isinstance(found, tuple) else (found, torch.ones_like(found, dtype=torch.float64))
        if values.numel() != target.numel():
            return found
        there = (~target.isnan() | pred.isnan()).reshape(values.shape)  # a forecast that is NaN itself is an error
        return values.where(there, 0), weights.where(there, 0)


@dataclass(frozen=True)
class OfEach:
    """Undoes a transform of single forecasts, on the CPU as loading did it, in each of a batch."""

    tfm: Transform

    def decode(self, forecasts: torch.Tensor) -> torch.Tensor:
        """Returns the batch; as it is if nothing can be undone, which costs nothing."""
        if not self.tfm.can_undo or not len(forecasts):
            return forecasts
        undone = [self.tfm.decode(each) for each in forecasts.cpu()]
        return torch.stack(undone).to(forecasts.device)


def to_units(x: torch.Tensor, scale: Sequence[Any]) -> torch.Tensor:
    """Returns forecasts (windows, targets, horizon) in the units of the data, float64; NaN stays."""
    forecast: Any = TensorForecast(x.double())
    for tfm in reversed(scale):
        forecast = tfm.decode(forecast)
    return forecast.as_subclass(torch.Tensor)
