"""Metrics of forecasts in the units of the data, whatever scale the model works in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dist_ai.core.series_types import TensorForecast
from dist_ai.metrics import MeanOf

__all__ = ["errors_in_units", "in_units"]


def in_units(scale: Any, name: str = "mae") -> MeanOf:
    """Returns the mean absolute (``"mae"``) or root mean squared error (``"rmse"``) of forecasts, in the units of the data.

    Args:
        scale: the transforms of a batch of the loaders, whose decoding brings forecasts back to their units.
        name: which of the two.

    Where the target is missing (NaN) nothing is counted.
    """

    def error(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        errors = errors_in_units(pred, target, scale)
        there = ~errors.isnan() | pred.isnan()  # a forecast that is NaN itself is an error
        errors = errors.where(there, 0.0)
        return errors.abs() if name == "mae" else errors.square(), there.double()

    return MeanOf(error, name, then=torch.sqrt if name == "rmse" else None)


def errors_in_units(pred: torch.Tensor, target: torch.Tensor, scale: Sequence[Any]) -> torch.Tensor:
    """Returns forecasts less what came, in the units of the data, float64; NaN where the target is missing."""
    return _decoded(pred, scale) - _decoded(target, scale)


def _decoded(x: torch.Tensor, tfms: Sequence[Any]) -> torch.Tensor:
    forecast: Any = TensorForecast(x.double())
    for tfm in reversed(tfms):
        forecast = tfm.decode(forecast)
    return forecast.as_subclass(torch.Tensor)
