"""Time series: loaders, transforms, models and learners that tell what a series is, and what follows it."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.core.series_types import TensorForecast, TensorKnown
from dist_ai.core.types import TensorSeries
from dist_ai.timeseries.augment import (
    ChannelDrop,
    CutOut,
    Jitter,
    MagnitudeWarp,
    RandomWindow,
    Scaling,
    TimeWarp,
    ts_tfms,
)
from dist_ai.timeseries.blocks import TSBlock, TSForecastBlock, TSKnownBlock, TSPastBlock
from dist_ai.timeseries.data import TSDataLoaders
from dist_ai.timeseries.files import LabelledSeries, get_series_files, read_csv, read_series, read_ts, read_tsv
from dist_ai.timeseries.forecast_data import TSForecastDataLoaders
from dist_ai.timeseries.items import CutEnd, FillGaps, PadTo, ToSeries
from dist_ai.timeseries.learner import ForecastLearner, forecast_learner, ts_learner
from dist_ai.timeseries.losses import ForecastLoss
from dist_ai.timeseries.models import architectures, forecasters
from dist_ai.timeseries.show import plot_forecast
from dist_ai.timeseries.transforms import ScaleRange, SeriesToFloat, Standardize, StandardizeEach
from dist_ai.timeseries.windows import LongSeries, WalkForwardSplitter, Window, Windows

__all__ = [
    "ChannelDrop",
    "CutEnd",
    "CutOut",
    "FillGaps",
    "ForecastLearner",
    "ForecastLoss",
    "Jitter",
    "LabelledSeries",
    "LongSeries",
    "MagnitudeWarp",
    "PadTo",
    "RandomWindow",
    "ScaleRange",
    "Scaling",
    "SeriesToFloat",
    "Standardize",
    "StandardizeEach",
    "TSBlock",
    "TSDataLoaders",
    "TSForecastBlock",
    "TSForecastDataLoaders",
    "TSKnownBlock",
    "TSPastBlock",
    "TensorForecast",
    "TensorKnown",
    "TensorSeries",
    "TimeWarp",
    "ToSeries",
    "WalkForwardSplitter",
    "Window",
    "Windows",
    "architectures",
    "forecast_learner",
    "forecasters",
    "get_series_files",
    "plot_forecast",
    "read_csv",
    "read_series",
    "read_ts",
    "read_tsv",
    "ts_learner",
    "ts_tfms",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
