"""Activations beyond torch's."""

from __future__ import annotations

import torch
from torch import nn

from dist_ai.errors import ConfigError

__all__ = ["SigmoidRange"]


class SigmoidRange(nn.Module):
    """Numbers to between `low` and `high`, by a sigmoid; both are reached only at infinity.

    Args:
        low, high: the range.

    Raises:
        ConfigError: the range is empty.

    >>> SigmoidRange(0, 5)(torch.tensor([0.0, 100.0]))
    tensor([2.5000, 5.0000])
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise ConfigError(f"y_range=({low}, {high}): expected the lower end first")
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the numbers in the range."""
        return torch.sigmoid(x) * (self.high - self.low) + self.low

    def extra_repr(self) -> str:
        """Returns the range."""
        return f"{self.low}, {self.high}"
