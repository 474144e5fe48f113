"""Pooling layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["ConcatPool2d"]


class ConcatPool2d(nn.Module):
    """Maximum and mean over each channel's pixels, side by side.

    Input: (batch, channels, height, width). Output: (batch, 2*channels), the maxima first.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns both poolings."""
        return torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], dim=1).flatten(1)
