"""Recurrent bodies: LSTM and GRU, alone and beside an FCN."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from dist_ai.errors import ConfigError
from dist_ai.layers import SeededDropout
from dist_ai.timeseries.models.convolutional import FCN
from dist_ai.timeseries.models.model import architectures, require_counts

__all__ = ["RNN", "RNNFCN"]

_CELLS = {"LSTM": nn.LSTM, "GRU": nn.GRU}


class RNN(nn.Module):
    """A recurrent network that reads a series, and says what it holds after the last step.

    Args:
        channels, length: of the series; any length will do.
        cell: ``"LSTM"`` or ``"GRU"``.
        hidden: width of each layer.
        layers: how many.
        dropout: between the layers.
    """

    def __init__(
        self, channels: int, length: int, cell: str = "LSTM", hidden: int = 128, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if cell not in _CELLS:
            raise ConfigError(f"cell={cell!r}: expected 'LSTM' or 'GRU'")
        require_counts(hidden=hidden, layers=layers)
        sizes = [channels, *[hidden] * (layers - 1)]
        self.layers = nn.ModuleList(_CELLS[cell](size, hidden, batch_first=True) for size in sizes)
        self.dropout = nn.ModuleList(SeededDropout(dropout) for _ in sizes[1:])
        self.num_features = hidden

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Returns (batch, hidden)."""
        steps = x.transpose(1, 2)
        for i, layer in enumerate(self.layers):
            steps = _read(layer, self.dropout[i - 1](steps) if i else steps)
        if mask is None:
            return steps[:, -1]
        # It reads from left to right, so what comes after the last step has not touched that.
        last = (mask.sum(-1) - 1).clamp(min=0)
        return steps.gather(1, last[..., None].expand(-1, 1, steps.shape[-1]))[:, 0]


class RNNFCN(nn.Module):
    """A recurrent network and an FCN side by side (Karim et al., https://arxiv.org/abs/1709.05206).

    Args:
        channels, length: of the series; any length will do.
        cell, hidden: of the recurrent network.
        dropout: of what it says.

    The recurrent network reads step by step; the paper's reads the whole series as one step (its dimension shuffle), which
    ties it to one length.
    """

    def __init__(self, channels: int, length: int, cell: str = "LSTM", hidden: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.rnn = RNN(channels, length, cell, hidden)
        self.dropout = SeededDropout(dropout)
        self.fcn = FCN(channels, length)
        self.num_features = hidden + self.fcn.num_features

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Returns (batch, features)."""
        return torch.cat([self.dropout(self.rnn(x, mask)), self.fcn(x, mask)], 1)


def _read(layer: nn.Module, steps: torch.Tensor) -> torch.Tensor:
    """Returns what a recurrent layer says after each step."""
    if steps.device.type != "cpu":
        return layer(steps)[0]
    # Where a CPU has no bf16 instructions, oneDNN has no LSTM in that type and raises.
    with torch.autocast("cpu", enabled=False):
        return layer(steps.to(next(layer.parameters()).dtype))[0]


for _cell in _CELLS:
    architectures.add(_cell, partial(RNN, cell=_cell))
    architectures.add(f"{_cell}_FCN", partial(RNNFCN, cell=_cell))
