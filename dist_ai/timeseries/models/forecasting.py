"""Forecasters: linear ones, a perceptron, an LSTM and PatchTST; from a window's past, and what is known of its future.

Each works in the scale that `ForecastModel` gives it, and says by `normalize` which one is its own, and by `targets_only` that it
looks at the past of no channel but those that it forecasts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.errors import ConfigError
from dist_ai.layers import SeededDropout
from dist_ai.timeseries.models.model import Channels, Normalize, forecasters, require_counts
from dist_ai.timeseries.models.recurrent import RNN
from dist_ai.timeseries.models.transformer import PatchTST

__all__ = ["DLinear", "MLPForecaster", "NLinear", "PatchForecaster", "RNNForecaster"]

Future = torch.Tensor | None


class _Known(nn.Module):
    """What is known of a step adds to its forecast: a small perceptron, the same for all; nothing where nothing is known."""

    def __init__(self, known: int, targets: int, hidden: int = 32) -> None:
        super().__init__()
        layers = [nn.Linear(known, hidden), nn.ReLU(), nn.Linear(hidden, targets)] if known else []
        self.layers = nn.Sequential(*layers)

    def forward(self, forecast: torch.Tensor, future: Future) -> torch.Tensor:
        if not len(self.layers) or future is None:
            return forecast
        return forecast + self.layers(future.transpose(1, 2)).transpose(1, 2)


@forecasters.register("NLinear")
class NLinear(nn.Module):
    """One linear layer from the past of a channel to its future, the same for all (Zeng et al., https://arxiv.org/abs/2205.13504).

    Args:
        channels, context, horizon, targets, known: see `forecast_model`; channels that are not forecast are not looked at.
    """

    normalize: ClassVar[Normalize | None] = "last"
    targets_only: ClassVar[bool] = True

    def __init__(self, channels: int, context: int, horizon: int, targets: Sequence[int], known: int) -> None:
        super().__init__()
        self.chosen = Channels(targets)
        self.linear = nn.Linear(context, horizon)
        self.known = _Known(known, len(targets))

    def forward(self, past: torch.Tensor, future: Future) -> torch.Tensor:
        """Returns (batch, targets, horizon)."""
        return self.known(self.linear(self.chosen(past)), future)


@forecasters.register("DLinear")
class DLinear(nn.Module):
    """A linear layer for the trend of a channel and one for the rest, the same for all (Zeng et al., as above).

    Args:
        channels, context, horizon, targets, known: as of `NLinear`.
        width: steps of the moving average that is the trend; odd.
    """

    normalize: ClassVar[Normalize | None] = None
    targets_only: ClassVar[bool] = True

    def __init__(
        self, channels: int, context: int, horizon: int, targets: Sequence[int], known: int, width: int = 25
    ) -> None:
        super().__init__()
        require_counts(width=width)
        if width % 2 == 0:
            raise ConfigError(f"DLinear(width={width}): expected an odd number of steps")
        self.chosen, self.width = Channels(targets), width
        self.trend, self.rest = nn.Linear(context, horizon), nn.Linear(context, horizon)
        self.known = _Known(known, len(targets))

    def forward(self, past: torch.Tensor, future: Future) -> torch.Tensor:
        """Returns (batch, targets, horizon)."""
        past = self.chosen(past)
        reach = self.width // 2
        trend = F.avg_pool1d(F.pad(past, (reach, reach), mode="replicate"), self.width, 1)
        return self.known(self.trend(trend) + self.rest(past - trend), future)


@forecasters.register("MLP")
class MLPForecaster(nn.Module):
    """A perceptron over all that is known, beside a linear layer from the past of each target.

    Args:
        channels, context, horizon, targets, known: see `forecast_model`.
        hidden, layers: width and number of the hidden layers.
        dropout: after each.
    """

    normalize: ClassVar[Normalize | None] = "window"

    def __init__(
        self,
        channels: int,
        context: int,
        horizon: int,
        targets: Sequence[int],
        known: int,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_counts(hidden=hidden)
        require_counts(least=0, layers=layers)
        self.chosen, self.num_targets, self.horizon = Channels(targets), len(targets), horizon
        self.linear = nn.Linear(context, horizon)
        sizes = [channels * context + known * horizon, *[hidden] * layers]
        body: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            body += [nn.Linear(n_in, n_out), nn.ReLU(), SeededDropout(dropout)]
        self.layers = nn.Sequential(*body, nn.Linear(sizes[-1], len(targets) * horizon))

    def forward(self, past: torch.Tensor, future: Future) -> torch.Tensor:
        """Returns (batch, targets, horizon)."""
        seen = past.flatten(1) if future is None else torch.cat([past.flatten(1), future.flatten(1)], 1)
        return self.linear(self.chosen(past)) + self.layers(seen).view(-1, self.num_targets, self.horizon)


class RNNForecaster(nn.Module):
    """A recurrent network reads the past of all channels, and a linear layer says what follows, all steps at once.

    Args:
        channels, context, horizon, targets, known: see `forecast_model`.
        cell, hidden, layers, dropout: see `RNN`.
    """

    normalize: ClassVar[Normalize | None] = "window"

    def __init__(
        self,
        channels: int,
        context: int,
        horizon: int,
        targets: Sequence[int],
        known: int,
        cell: str = "LSTM",
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_targets, self.horizon = len(targets), horizon
        self.rnn = RNN(channels, context, cell, hidden, layers, dropout)
        self.out = nn.Linear(hidden, len(targets) * horizon)
        self.known = _Known(known, len(targets))

    def forward(self, past: torch.Tensor, future: Future) -> torch.Tensor:
        """Returns (batch, targets, horizon)."""
        forecast = self.out(self.rnn(past, None)).view(-1, self.num_targets, self.horizon)
        return self.known(forecast, future)


@forecasters.register("PatchTST")
class PatchForecaster(nn.Module):
    """PatchTST (Nie et al., https://arxiv.org/abs/2211.14730): each target by itself, from the patches of its past.

    Args:
        channels, context, horizon, targets, known: as of `NLinear`.
        patch, stride, width, heads, hidden, layers, dropout: see `PatchTST`.
    """

    normalize: ClassVar[Normalize | None] = "window"
    targets_only: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        context: int,
        horizon: int,
        targets: Sequence[int],
        known: int,
        patch: int = 16,
        stride: int = 8,
        width: int = 64,
        heads: int = 4,
        hidden: int = 128,
        layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.chosen = Channels(targets)
        self.body = PatchTST(len(targets), context, patch, stride, width, heads, hidden, layers, dropout)
        self.out = nn.Linear(len(self.body.encoder.places) * width, horizon)
        self.known = _Known(known, len(targets))

    def forward(self, past: torch.Tensor, future: Future) -> torch.Tensor:
        """Returns (batch, targets, horizon)."""
        tokens, _ = self.body.tokens(self.chosen(past), None)
        return self.known(self.out(tokens.flatten(2)), future)


for _cell in ("LSTM", "GRU"):
    forecasters.add(_cell, partial(RNNForecaster, cell=_cell))
