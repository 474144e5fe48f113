"""Metrics of forecasts in the units of the data, whatever scale the model works in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dist_ai.core.series_types import TensorForecast
from dist_ai.metrics import MeanOf

__all__ = ["in_units"]


def in_units(scale: Any, name: str = "mae") -> MeanOf:
    """Returns the mean absolute (``"mae"``) or root mean squared error (``"rmse"``) of forecasts, in the units of the data.

    Args:
        scale: the transforms of a batch of the loaders, whose decoding brings forecasts back to their units.
        name: which of the two.
    """

    def error(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        pred, target = (_decoded(each, scale) for each in (pred, target))
        return (pred - target).abs() if name == "mae" else (pred - target).square()

    return MeanOf(error, name, then=torch.sqrt if name == "rmse" else None)


def _decoded(x: torch.Tensor, tfms: Sequence[Any]) -> torch.Tensor:
    forecast: Any = TensorForecast(x.double())
    for tfm in reversed(tfms):
        forecast = tfm.decode(forecast)
    return forecast.as_subclass(torch.Tensor)
