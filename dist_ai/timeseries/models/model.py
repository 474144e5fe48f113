"""What all models of series share: where padding ends, the head, the scale of a forecast, and the builders that exports name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn

from dist_ai.core.registry import Registry
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.export import register_builder
from dist_ai.layers import SeededDropout
from dist_ai.layers.mlp import require_sizes

__all__ = [
    "Channels",
    "ForecastModel",
    "SeriesModel",
    "architectures",
    "forecast_model",
    "forecasters",
    "masked_mean",
    "require_as_many",
    "require_counts",
    "series_model",
    "series_splitter",
    "split_padding",
]

architectures: Registry[Callable[..., nn.Module]] = Registry(
    "architecture", "decorate what makes it with @architectures.register(name), from dist_ai.timeseries.models"
)
"""Bodies by name: of (channels, length, **options), a module from (series, mask) to features, with `num_features`."""

forecasters: Registry[Callable[..., nn.Module]] = Registry(
    "forecaster", "decorate what makes it with @forecasters.register(name), from dist_ai.timeseries.models"
)
"""Forecasters by name: of (channels, context, horizon, targets, known, **options), a module from past and future."""

Normalize = Literal["window", "last"]
"""The scale in which a forecaster works; see `ForecastModel`."""


class SeriesModel(nn.Module):
    """A body that makes features of a series, and a head that makes the prediction of them.

    Args:
        body: (batch, channels, length) and a mask (batch, 1, length), or None, to (batch, features).
        n_out: outputs.
        dropout: before the last layer.
        padded: whether series may end in NaN, which is no step of theirs.
    """

    def __init__(self, body: nn.Module, n_out: int, *, dropout: float = 0.0, padded: bool = False) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(SeededDropout(dropout), nn.Linear(body.num_features, n_out))  # type: ignore[arg-type]
        self.padded = padded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the predictions (batch, outputs) for series (batch, channels, length)."""
        x, mask = split_padding(x) if self.padded else (x, None)
        return self.head(self.body(x, mask))


class Channels(nn.Module):
    """Takes some channels of series; their numbers are on the device, so that no batch waits until they have come there.

    Args:
        numbers: which.

    >>> Channels([2, 0])(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten().tolist()
    [3.0, 1.0]
    """

    numbers: torch.Tensor

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor(list(numbers), dtype=torch.int64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns those of series (batch, channels, steps)."""
        return x.index_select(1, self.numbers)


class ForecastModel(nn.Module):
    """A forecaster, and the scale of each window that it works in.

    Args:
        forecaster: (batch, channels, context) and what is known of the future, or None, to (batch, targets, horizon).
        targets: the channels that it forecasts.
        normalize: ``"window"`` works in each window's own mean and deviation (RevIN without weights: Kim et al., "Reversible
            instance normalization for accurate time-series forecasting against distribution shift", 2022), ``"last"`` in the
            difference from the last value (as NLinear does), None in the values as they are.
    """

    def __init__(
        self, forecaster: nn.Module, targets: Sequence[int], *, normalize: Normalize | None = "window"
    ) -> None:
        super().__init__()
        if normalize not in ("window", "last", None):
            raise ConfigError(f"normalize={normalize!r}: expected 'window', 'last' or None")
        self.forecaster = forecaster
        self.chosen = Channels(targets)
        self.normalize = normalize

    def forward(self, past: torch.Tensor, future: torch.Tensor | None = None) -> torch.Tensor:
        """Returns what follows, (batch, targets, horizon)."""
        if self.normalize is None:
            return self.forecaster(past, future)
        if self.normalize == "last":
            zero, unit = past[..., -1:], torch.ones_like(past[..., -1:])
        else:
            zero = past.mean(-1, keepdim=True)
            unit = (past.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        forecast = self.forecaster((past - zero) / unit, future)
        return forecast * self.chosen(unit) + self.chosen(zero)


@register_builder("series_model")
def series_model(
    arch: str, channels: int, length: int, n_out: int, dropout: float = 0.0, padded: bool = False, **options: Any
) -> SeriesModel:
    """Returns an untrained model for `n_out` outputs.

    Args:
        arch: the name of a body in `architectures`.
        channels, length: of the series; most bodies take other lengths too.
        n_out: outputs.
        dropout: before the last layer.
        padded: whether series may end in NaN.
        options: of the body.

    Raises:
        ConfigError: no such architecture or option.

    >>> series_model("FCN", channels=2, length=30, n_out=3)(torch.zeros(4, 2, 30)).shape
    torch.Size([4, 3])
    """
    require_counts(channels=channels, length=length, n_out=n_out)
    return SeriesModel(_made(architectures, arch, options, channels, length), n_out, dropout=dropout, padded=padded)


@register_builder("forecast_model")
def forecast_model(
    arch: str,
    channels: int,
    context: int,
    horizon: int,
    targets: Sequence[int],
    known: int = 0,
    normalize: Normalize | Literal["auto"] | None = "auto",
    **options: Any,
) -> ForecastModel:
    """Returns an untrained forecaster.

    Args:
        arch: a name in `forecasters`.
        channels, context: of the past, (channels, context).
        horizon: steps to forecast.
        targets: the channels to forecast.
        known: how many channels are known of the future.
        normalize: see `ForecastModel`; by default what is the forecaster's own.
        options: of the forecaster.

    >>> forecast_model("DLinear", channels=2, context=48, horizon=12, targets=[0])(torch.zeros(4, 2, 48)).shape
    torch.Size([4, 1, 12])
    """
    made = _made(forecasters, arch, options, channels, context, horizon, list(targets), known)
    own: Any = getattr(made, "normalize", "window")
    return ForecastModel(made, targets, normalize=own if normalize == "auto" else normalize)


def series_splitter(model: SeriesModel) -> list[list[nn.Parameter]]:
    """Returns the parameter groups: body and head."""
    return [group for group in (list(model.body.parameters()), list(model.head.parameters())) if group]


def split_padding(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns series with zeros for their padding (NaN), and a mask (batch, 1, length) that is True where there is a step.

    >>> split_padding(torch.tensor([[[1.0, float("nan")]]]))
    (tensor([[[1., 0.]]]), tensor([[[ True, False]]]))
    """
    mask = ~x.isnan().any(1, keepdim=True)
    return torch.where(mask, x, 0), mask


def masked_mean(features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Returns the mean of features (batch, features, length) over the steps that there are, (batch, features)."""
    if mask is None:
        return features.mean(-1)
    return (features * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def require_counts(*, least: int = 1, **given: Any) -> None:
    """Raises `ConfigError` for options of a model that are no whole numbers, or too small.

    >>> require_counts(width=64, heads=0)
    Traceback (most recent call last):
    dist_ai.errors.ConfigError: heads=0: expected a whole number of at least 1
    """
    for name, value in given.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name}={value!r}: expected a whole number of at least {least}")


def require_as_many(**given: Any) -> None:
    """Raises `ConfigError` for options of a model that are no sizes, or not as many of each.

    >>> require_as_many(filters=[8, 8], widths=(7, 5, 3))
    Traceback (most recent call last):
    dist_ai.errors.ConfigError: filters=[8, 8] and widths=(7, 5, 3): expected as many of each
    """
    for name, sizes in given.items():
        require_sizes(name, sizes)
    if len({len(sizes) for sizes in given.values()}) > 1:
        raise ConfigError(f"{' and '.join(f'{k}={v!r}' for k, v in given.items())}: expected as many of each")


def _made(
    registry: Registry[Callable[..., nn.Module]], arch: str, options: dict[str, Any], *arguments: Any
) -> nn.Module:
    if arch not in registry:
        raise ConfigError(
            f"no {registry.kind} named {arch!r}{did_you_mean(str(arch), registry)}; there are {', '.join(registry)}"
        )
    try:
        return registry.find(arch)(*arguments, **options)
    except TypeError as error:
        raise ConfigError(f"{arch} cannot be made: {error}") from error
