"""Models of series, by name: those that tell something of a series, and those that forecast it.

`architectures` and `forecasters` hold the functions that make them; add yours with ``@architectures.register(name)``.
"""

from dist_ai.timeseries.models.convolutional import FCN, InceptionTime, ResNet
from dist_ai.timeseries.models.forecasting import DLinear, MLPForecaster, NLinear, PatchForecaster, RNNForecaster
from dist_ai.timeseries.models.model import (
    ForecastModel,
    SeriesModel,
    architectures,
    forecast_model,
    forecasters,
    series_model,
    series_splitter,
)
from dist_ai.timeseries.models.recurrent import RNN, RNNFCN
from dist_ai.timeseries.models.rocket import MiniRocket
from dist_ai.timeseries.models.transformer import TST, PatchTST

__all__ = [
    "FCN",
    "RNN",
    "RNNFCN",
    "TST",
    "DLinear",
    "ForecastModel",
    "InceptionTime",
    "MLPForecaster",
    "MiniRocket",
    "NLinear",
    "PatchForecaster",
    "PatchTST",
    "RNNForecaster",
    "ResNet",
    "SeriesModel",
    "architectures",
    "forecast_model",
    "forecasters",
    "series_model",
    "series_splitter",
]
