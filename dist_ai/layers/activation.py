"""Activations beyond torch's."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from numbers import Real
from typing import Any

import torch
from torch import nn

from dist_ai.errors import ConfigError

__all__ = ["SigmoidRange", "bounds_of"]


class SigmoidRange(nn.Module):
    """Numbers to between `low` and `high`, by a sigmoid; both are reached only at infinity.

    Args:
        low, high: the range.

    Raises:
        ConfigError: the range is empty, or endless.

    >>> SigmoidRange(0, 5)(torch.tensor([0.0, 100.0]))
    tensor([2.5000, 5.0000])
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise ConfigError(f"y_range=({low}, {high}): expected the lower end first")
        if high - low == inf:
            raise ConfigError(f"y_range=({low}, {high}) has no end; expected two numbers, or no y_range")
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the numbers in the range."""
        return torch.sigmoid(x) * (self.high - self.low) + self.low

    def extra_repr(self) -> str:
        """Returns the range."""
        return f"{self.low}, {self.high}"


def bounds_of(y_range: Any) -> list[float] | None:
    """Returns a range as what a file can hold: [low, high], or None.

    Raises:
        ConfigError: it is no two numbers, empty, or endless.

    >>> bounds_of((0, 5.5))
    [0.0, 5.5]
    """
    if y_range is None:
        return None
    bounds = list(y_range) if isinstance(y_range, Iterable) else []
    if len(bounds) != 2 or not all(isinstance(bound, Real) for bound in bounds):
        raise ConfigError(f"y_range={y_range!r}: expected two numbers, (low, high)")
    SigmoidRange(*bounds)  # looks at their order
    return [*map(float, bounds)]  # NumPy's too, as the least and the most of a column are
