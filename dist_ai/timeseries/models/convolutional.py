"""Convolutional bodies: FCN, ResNet and InceptionTime.

Where there is padding, it is zero again after each block, as the border of a series is to a convolution: what a trained body says
of a series does not depend on how far it was padded.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.errors import ConfigError
from dist_ai.layers.mlp import require_sizes
from dist_ai.timeseries.models.model import architectures, masked_mean, require_as_many, require_counts

__all__ = ["FCN", "InceptionTime", "ResNet"]

Mask = torch.Tensor | None


class _Conv(nn.Module):
    """A convolution that keeps the length, normalisation, and a ReLU or none."""

    def __init__(self, n_in: int, n_out: int, width: int, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_in, n_out, width, padding="same", bias=False)
        self.norm = nn.BatchNorm1d(n_out)
        self.relu = relu

    def forward(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return _masked(F.relu(x) if self.relu else x, mask)


@architectures.register("FCN")
class FCN(nn.Module):
    """Three convolutions and the mean over time (Wang et al., https://arxiv.org/abs/1611.06455).

    Args:
        channels, length: of the series; any length will do.
        filters, widths: of the convolutions. The paper's first one is 8 wide; ours is 7, which has a middle.
    """

    def __init__(
        self, channels: int, length: int, filters: Sequence[int] = (128, 256, 128), widths: Sequence[int] = (7, 5, 3)
    ) -> None:
        super().__init__()
        require_as_many(filters=filters, widths=widths)
        sizes = [channels, *filters]
        pairs = zip(sizes[:-1], sizes[1:], widths, strict=True)
        self.blocks = nn.ModuleList(_Conv(n_in, n_out, width) for n_in, n_out, width in pairs)
        self.num_features = filters[-1]

    def forward(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Returns (batch, features)."""
        for block in self.blocks:
            x = block(x, mask)
        return masked_mean(x, mask)


class _Residual(nn.Module):
    def __init__(self, n_in: int, n_out: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [n_in, *[n_out] * len(widths)]
        last = len(widths) - 1
        self.convs = nn.ModuleList(_Conv(sizes[i], n_out, width, relu=i < last) for i, width in enumerate(widths))
        self.shortcut = nn.BatchNorm1d(n_in) if n_in == n_out else _Conv(n_in, n_out, 1, relu=False)

    def forward(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        short = self.shortcut(x, mask) if isinstance(self.shortcut, _Conv) else self.shortcut(x)
        for conv in self.convs:
            x = conv(x, mask)
        return _masked(F.relu(x + short), mask)


@architectures.register("ResNet")
class ResNet(nn.Module):
    """Three residual blocks of three convolutions, and the mean over time (Wang et al., https://arxiv.org/abs/1611.06455).

    Args:
        channels, length: of the series; any length will do.
        filters: of the blocks.
        widths: of the convolutions in a block; the paper's first one is 8 wide.
    """

    def __init__(
        self, channels: int, length: int, filters: Sequence[int] = (64, 128, 128), widths: Sequence[int] = (7, 5, 3)
    ) -> None:
        super().__init__()
        require_sizes("filters", filters)
        require_sizes("widths", widths)
        sizes = [channels, *filters]
        pairs = itertools.pairwise(sizes)
        self.blocks = nn.ModuleList(_Residual(n_in, n_out, widths) for n_in, n_out in pairs)
        self.num_features = filters[-1]

    def forward(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Returns (batch, features)."""
        for block in self.blocks:
            x = block(x, mask)
        return masked_mean(x, mask)


class _Inception(nn.Module):
    def __init__(self, n_in: int, filters: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(n_in, filters, 1, bias=False) if n_in > 1 else nn.Identity()
        inner = filters if n_in > 1 else n_in
        self.convs = nn.ModuleList(nn.Conv1d(inner, filters, width, padding="same", bias=False) for width in widths)
        self.after_pool = nn.Conv1d(n_in, filters, 1, bias=False)
        self.norm = nn.BatchNorm1d(filters * (len(widths) + 1))

    def forward(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        narrow = self.bottleneck(x)
        highest = F.max_pool1d(x if mask is None else x.masked_fill(~mask, float("-inf")), 3, 1, 1)
        parts = [conv(narrow) for conv in self.convs] + [self.after_pool(_masked(highest, mask))]
        return _masked(F.relu(self.norm(torch.cat(parts, 1))), mask)


@architectures.register("InceptionTime")
class InceptionTime(nn.Module):
    """Blocks of convolutions of several widths side by side, residual every third (Fawaz et al., https://arxiv.org/abs/1909.04939).

    Args:
        channels, length: of the series; any length will do.
        filters: of each convolution; a block gives four times as many channels.
        depth: how many blocks.
        widths: of the convolutions.

    One network, where the paper averages five; see `benchmarks/timeseries.py` for what each gives.
    """

    def __init__(
        self, channels: int, length: int, filters: int = 32, depth: int = 6, widths: Sequence[int] = (39, 19, 9)
    ) -> None:
        super().__init__()
        require_counts(filters=filters, depth=depth)
        require_sizes("widths", widths)
        if any(width % 2 == 0 for width in widths):
            raise ConfigError(f"InceptionTime(widths={list(widths)}): expected odd widths")
        self.num_features = filters * (len(widths) + 1)
        sizes = [channels, *[self.num_features] * (depth - 1)]
        self.blocks = nn.ModuleList(_Inception(size, filters, widths) for size in sizes)
        begins = sizes[::3][: depth // 3]
        self.shortcuts = nn.ModuleList(_Conv(size, self.num_features, 1, relu=False) for size in begins)

    def forward(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Returns (batch, features)."""
        before = x
        for i, block in enumerate(self.blocks):
            x = block(x, mask)
            if i % 3 == 2:
                x = _masked(F.relu(x + self.shortcuts[i // 3](before, mask)), mask)
                before = x
        return masked_mean(x, mask)


def _masked(x: torch.Tensor, mask: Mask) -> torch.Tensor:
    return x if mask is None else torch.where(mask, x, 0)
