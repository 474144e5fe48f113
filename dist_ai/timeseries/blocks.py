"""Blocks of series, for `DataBlock`."""

from __future__ import annotations

from typing import Any

from dist_ai.core.transform import Transform
from dist_ai.data import TransformBlock
from dist_ai.timeseries.items import CutEnd, FillGaps, PadTo, ToSeries, padding
from dist_ai.timeseries.transforms import SeriesToFloat
from dist_ai.timeseries.windows import FutureOf, LastSteps, PastOf, TargetOf

__all__ = ["TSBlock", "TSForecastBlock", "TSKnownBlock", "TSPastBlock"]


def TSBlock(
    channels: int | None = None,
    *,
    missing: str = "raise",
    scale: Transform | None = None,
    pad: bool | int | PadTo = False,
) -> TransformBlock:
    """Returns the block of a series: an array (channels, length), nested lists, or the path of a CSV file of one.

    Args:
        channels: how many there are; by default as many as the first training item has.
        missing: what to do where values are missing; see `FillGaps`.
        scale: a transform that learns from all training series, such as `Standardize()`; it sees them as float64.
        pad: fill up shorter series to one length, and take steps at the end without any value (NaN) for none; that of the
            longest training series (True), or one that is given (80, or `PadTo(80)`). False: all series must have one length.

    Raises:
        ConfigError: no such way to fill, or to pad.
    """
    padded = padding(pad)
    tfms: list[Any] = [ToSeries(channels), *([CutEnd()] if padded else []), FillGaps(missing), *_scaled(scale)]
    return TransformBlock(type_tfms=[*tfms, padded] if padded else tfms)


def TSPastBlock(context: int, *, missing: str = "raise", scale: Transform | None = None) -> TransformBlock:
    """Returns the block of what a forecast is made from: of a `Window` its past, of a longer series its last `context` steps.

    Args:
        context: how many.
        missing: what to do where values are missing; see `FillGaps`.
        scale: a `Standardize` or `ScaleRange` with numbers for each channel, the same for all three blocks; it sees float64.
    """
    return TransformBlock(type_tfms=[PastOf(), ToSeries(), FillGaps(missing), LastSteps(context), *_scaled(scale)])


def TSKnownBlock(*, scale: Transform | None = None) -> TransformBlock:
    """Returns the block of what is known of the steps that are forecast; of a `Window` its future."""
    return TransformBlock(type_tfms=[FutureOf(), *_scaled(scale)])


def TSForecastBlock(*, scale: Transform | None = None) -> TransformBlock:
    """Returns the block of the values that follow, the target of a `Window`: (targets, horizon)."""
    return TransformBlock(type_tfms=[TargetOf(), *_scaled(scale)])


def _scaled(scale: Transform | None) -> list[Any]:
    return [*([scale] if scale is not None else []), SeriesToFloat()]
