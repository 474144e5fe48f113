"""Transformer bodies: TST, with a token for each step, and PatchTST, with one for each patch of each channel."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.errors import ConfigError, DataError
from dist_ai.layers import SeededDropout
from dist_ai.timeseries.models.model import architectures, masked_mean, require_counts

__all__ = ["TST", "Encoder", "PatchTST", "patches"]


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop_attention, self.drop_mlp = SeededDropout(dropout), SeededDropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, samples: int) -> torch.Tensor:
        """Returns tokens (batch, tokens, width); of each sample may come several rows, one after the other."""
        batch, tokens, width = x.shape
        qkv = self.to_qkv(self.before_attention(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        heard = self.out(heard.transpose(1, 2).reshape(batch, tokens, width))
        x = x + self.drop_attention(heard.view(samples, -1, tokens, width)).view_as(x)
        said = self.mlp(self.before_mlp(x))
        return x + self.drop_mlp(said.view(samples, -1, tokens, width)).view_as(x)


class Encoder(nn.Module):
    """A transformer encoder over tokens with learned places: normalised before each step, as is usual today.

    Args:
        tokens: at most so many.
        width, heads, hidden, layers, dropout: of its layers.
    """

    def __init__(self, tokens: int, width: int, heads: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        require_counts(width=width, heads=heads, hidden=hidden)
        require_counts(least=0, layers=layers)
        if width % heads:
            raise ConfigError(f"width={width} cannot be dealt out to heads={heads}; expected a multiple")
        self.places = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.drop = SeededDropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, samples: int) -> torch.Tensor:
        """Returns tokens (rows, tokens, width); `mask` (rows, tokens) is True where there is one."""
        if x.shape[1] > len(self.places):
            raise DataError(f"a series of {x.shape[1]} tokens, and the model was made for {len(self.places)} at most")
        x = x + self.places[: x.shape[1]]
        x = self.drop(x.view(samples, -1, *x.shape[1:])).view_as(x)
        attended = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, attended, samples)
        return self.norm(x)


@architectures.register("TST")
class TST(nn.Module):
    """A transformer encoder with a token for each step, and the mean over them (Zerveas et al., https://arxiv.org/abs/2010.02803).

    Args:
        channels, length: of the series; shorter ones will do.
        width, heads, hidden, layers, dropout: of the encoder.

    Layers are normalised by LayerNorm and not by the paper's BatchNorm; attention costs the square of the length.
    """

    def __init__(
        self,
        channels: int,
        length: int,
        width: int = 128,
        heads: int = 8,
        hidden: int = 256,
        layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_counts(width=width)
        self.embed = nn.Linear(channels, width)
        self.encoder = Encoder(length, width, heads, hidden, layers, dropout)
        self.num_features = width

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Returns (batch, width)."""
        tokens = self.encoder(self.embed(x.transpose(1, 2)), None if mask is None else mask[:, 0], len(x))
        return masked_mean(tokens.transpose(1, 2), mask)


@architectures.register("PatchTST")
class PatchTST(nn.Module):
    """A transformer encoder with a token for each patch of a channel (Nie et al., https://arxiv.org/abs/2211.14730).

    Args:
        channels, length: of the series; shorter ones will do.
        patch, stride: steps of a patch, and from one to the next; shorter for short series.
        width, heads, hidden, layers, dropout: of the encoder, which all channels share.

    A series is told by the mean over the patches of each channel.
    """

    def __init__(
        self,
        channels: int,
        length: int,
        patch: int = 16,
        stride: int = 8,
        width: int = 128,
        heads: int = 8,
        hidden: int = 256,
        layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_counts(patch=patch, stride=stride, width=width)
        self.patch, self.stride = min(patch, length), min(stride, patch, length)
        self.embed = nn.Linear(self.patch, width)
        num = patches(torch.zeros(1, 1, length), self.patch, self.stride).shape[2]
        self.encoder = Encoder(num, width, heads, hidden, layers, dropout)
        self.num_features = channels * width

    def tokens(self, x: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns tokens (batch, channels, patches, width), and which there are, (batch, patches)."""
        cut = patches(x, self.patch, self.stride)
        there = None if mask is None else patches(mask.to(x.dtype), self.patch, self.stride)[:, 0].amax(-1) > 0
        rows = self.embed(cut.flatten(0, 1))
        by_channel = None if there is None else there.repeat_interleave(x.shape[1], 0)
        return self.encoder(rows, by_channel, len(x)).view(*cut.shape[:3], -1), there

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Returns (batch, channels * width)."""
        tokens, there = self.tokens(x, mask)
        found = masked_mean(tokens.transpose(2, 3), None if there is None else there[:, None, None])
        return found.flatten(1)


def patches(x: torch.Tensor, patch: int, stride: int) -> torch.Tensor:
    """Returns the patches of series (batch, channels, length), each `stride` after the one before: (batch, channels, n, patch).

    What is left at the end is filled up with zeros.

    >>> patches(torch.arange(5.0)[None, None], 2, 2)
    tensor([[[[0., 1.],
              [2., 3.],
              [4., 0.]]]])
    """
    over = (x.shape[-1] - patch) % stride if x.shape[-1] >= patch else x.shape[-1] - patch
    return F.pad(x, (0, (stride - over) % stride if over >= 0 else -over)).unfold(-1, patch, stride)
