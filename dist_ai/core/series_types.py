"""Semantic types of forecasting: what follows a series, and what of the future is known beforehand."""

from __future__ import annotations

from dist_ai.core.types import TensorSeries

__all__ = ["TensorForecast", "TensorKnown"]


class TensorForecast(TensorSeries):
    """The values that follow a series, as a target or as a prediction: (..., targets, horizon)."""


class TensorKnown(TensorSeries):
    """What is known of the steps that are forecast, such as the hour of the day: (..., known channels, horizon)."""
