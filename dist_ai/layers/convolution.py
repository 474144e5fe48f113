"""Convolutional building blocks: of residual networks, of upsampling, of attention over pixels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["PixelShuffleICNR", "ResBlock", "SelfAttention", "conv_layer"]


def conv_layer(
    n_in: int,
    n_out: int,
    kernel_size: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    norm: bool = True,
    act: nn.Module | None = None,
    zero_norm: bool = False,
) -> nn.Sequential:
    """Returns a convolution that keeps the size, BatchNorm and an activation; Kaiming initialised.

    Args:
        n_in, n_out: channels.
        kernel_size, stride, groups: of the convolution; without `norm` it has a bias.
        norm: whether there is a BatchNorm.
        act: the activation; none if None.
        zero_norm: the BatchNorm begins as zero, so that a residual branch begins as nothing (arXiv:1812.01187).
    """
    padding = (kernel_size - 1) // 2
    conv = nn.Conv2d(n_in, n_out, kernel_size, stride, padding, groups=groups, bias=not norm)
    nn.init.kaiming_normal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    layers: list[nn.Module] = [conv]
    if norm:
        batch_norm = nn.BatchNorm2d(n_out)
        nn.init.constant_(batch_norm.weight, 0.0 if zero_norm else 1.0)
        layers.append(batch_norm)
    return nn.Sequential(*layers, *([act] if act is not None else []))


class SelfAttention(nn.Module):
    """Attention of each pixel to all others, added to the input (SAGAN, arXiv:1805.08318); begins as the identity.

    Args:
        channels: of the input.

    Input and output: (batch, channels, height, width). Memory grows with the square of the number of pixels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query, self.key, self.value = (
            nn.utils.parametrizations.spectral_norm(nn.Conv1d(channels, n, 1, bias=False))
            for n in (inner, inner, channels)
        )
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the input with what each pixel attends to."""
        flat = x.flatten(2)
        weights = (self.query(flat).transpose(1, 2) @ self.key(flat)).softmax(1)
        return (self.gamma * (self.value(flat) @ weights) + flat).view_as(x)


class PixelShuffleICNR(nn.Module):
    """Upsampling by a convolution to more channels, which become pixels (arXiv:1609.05158), without a checkerboard.

    Args:
        n_in, n_out: channels.
        scale: how many times as many pixels a side.
        blur: average neighbours afterwards (arXiv:1806.02658).

    The weights begin so that all pixels of a square are equal (ICNR, arXiv:1707.02937).
    """

    def __init__(self, n_in: int, n_out: int, scale: int = 2, *, blur: bool = False) -> None:
        super().__init__()
        self.conv = conv_layer(n_in, n_out * scale**2, 1, norm=False, act=nn.ReLU(inplace=True))
        self.scale, self.blur = scale, blur
        first = self.conv[0]
        assert isinstance(first, nn.Conv2d)
        with torch.no_grad():
            first.weight.copy_(first.weight[:: scale**2].repeat_interleave(scale**2, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (batch, n_out, scale*height, scale*width)."""
        x = F.pixel_shuffle(self.conv(x), self.scale)
        if self.blur:
            # Not torch's replicate padding: the compiler (2.14) takes its gradient to lie in another order than it does.
            x = torch.cat([x[..., :1], x], -1)
            x = F.avg_pool2d(torch.cat([x[..., :1, :], x], -2), 2, stride=1)
        return x


class ResBlock(nn.Module):
    """Two or three convolutions beside a shortcut, as in "Bag of Tricks" (arXiv:1812.01187).

    Args:
        n_in, n_out: channels.
        stride: of the block.
        bottleneck: three convolutions, the middle one with `n_out` / 4 channels; else two.
        act: makes the activations.
        self_attention: attend over pixels at the end of the branch.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        stride: int = 1,
        *,
        bottleneck: bool = False,
        act: type[nn.Module] = nn.ReLU,
        self_attention: bool = False,
    ) -> None:
        super().__init__()
        hidden = n_out // 4 if bottleneck else n_out
        if bottleneck:
            branch = [
                conv_layer(n_in, hidden, 1, act=act()),
                conv_layer(hidden, hidden, 3, stride, act=act()),
                conv_layer(hidden, n_out, 1, zero_norm=True),
            ]
        else:
            branch = [conv_layer(n_in, hidden, 3, stride, act=act()), conv_layer(hidden, n_out, 3, zero_norm=True)]
        self.branch = nn.Sequential(*branch, *([SelfAttention(n_out)] if self_attention else []))
        shortcut: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
        shortcut += [conv_layer(n_in, n_out, 1)] if n_in != n_out else []
        self.shortcut = nn.Sequential(*shortcut)
        self.act = act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the activation of the sum."""
        return self.act(self.branch(x) + self.shortcut(x))
