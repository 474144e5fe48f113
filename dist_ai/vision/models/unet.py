"""A U-Net over any body that gives maps of several resolutions (arXiv:1505.04597, and fastai's DynamicUnet).

The shapes are found when it is built, with an image that is not computed; nothing is hooked at run time, so it exports
and compiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.export import register_builder
from dist_ai.layers import PixelShuffleICNR, ResBlock, SelfAttention, SigmoidRange, conv_layer
from dist_ai.vision.models.backbones import backbone
from dist_ai.vision.models.bodies import Cut, Pyramid, adapt_first_convolution, create_body

__all__ = ["UNet", "unet", "unet_on_backbone"]


class _Up(nn.Module):
    """One step up: what comes from below, upsampled, beside the body's map of that resolution; then two convolutions."""

    def __init__(self, below: int, beside: int, *, scale: int, blur: bool, self_attention: bool, halve: bool) -> None:
        super().__init__()
        self.shuffle = PixelShuffleICNR(below, below // 2, scale, blur=blur)
        self.norm = nn.BatchNorm2d(beside)
        n_in = below // 2 + beside
        self.n_out = n_in // 2 if halve else n_in
        self.conv = nn.Sequential(
            conv_layer(n_in, self.n_out, act=nn.ReLU(inplace=True)),
            conv_layer(self.n_out, self.n_out, act=nn.ReLU(inplace=True)),
            *([SelfAttention(self.n_out)] if self_attention else []),
        )

    def forward(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        up = _fitted(self.shuffle(x), beside)
        return self.conv(F.relu(torch.cat([up, self.norm(beside)], 1)))


class UNet(nn.Module):
    """An image to a map of outputs of its size.

    Args:
        pyramid: the body; see `Pyramid`.
        n_out: outputs a pixel.
        n_in: channels of the images.
        blur: average neighbours after upsampling; with `blur_final` after the last one too.
        self_attention: attend over pixels at a coarse resolution on the way up.
        last_cross: put the image itself beside the last map.
        bottle: the last block has half the channels inside.
        y_range: the outputs lie between these two.
        first_late: see `Body`.

    Input: (batch, n_in, height, width) of any size that the body takes. Output: (batch, n_out, height, width).
    """

    def __init__(
        self,
        pyramid: Pyramid,
        n_out: int,
        n_in: int = 3,
        *,
        blur: bool = False,
        blur_final: bool = True,
        self_attention: bool = False,
        last_cross: bool = True,
        bottle: bool = False,
        y_range: Sequence[float] | None = None,
        first_late: str = "",
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.first_late = first_late
        width = pyramid.channels[-1]
        self.middle = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            conv_layer(width, 2 * width, act=nn.ReLU(inplace=True)),
            conv_layer(2 * width, width, act=nn.ReLU(inplace=True)),
        )
        ups = []
        coarser = list(zip(pyramid.channels, pyramid.reductions, pyramid.reductions[1:], strict=False))[::-1]
        for i, (channels, fine, coarse) in enumerate(coarser):
            last = i == len(coarser) - 1
            up = _Up(
                width,
                channels,
                scale=max(1, round(coarse / fine)),
                blur=blur and (blur_final or not last),
                self_attention=self_attention and i == max(0, len(coarser) - 3),
                halve=last,
            )
            ups.append(up)
            width = up.n_out
        self.ups = nn.ModuleList(ups)
        scale = pyramid.reductions[0]
        self.to_image = PixelShuffleICNR(width, width, scale, blur=blur and blur_final) if scale > 1 else nn.Identity()
        self.last_cross = last_cross
        width += n_in if last_cross else 0
        self.final = nn.Sequential(
            *([ResBlock(width, width, bottleneck=bottle)] if last_cross else []),
            conv_layer(width, n_out, 1, norm=False),
            *([SigmoidRange(*y_range)] if y_range is not None else []),
        )

    @property
    def body(self) -> nn.Module:
        """The body, which fine-tuning freezes."""
        return self.pyramid.body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the outputs of each pixel."""
        *beside, below = self.pyramid(x)
        below = self.middle(below)
        for up, each in zip(self.ups, reversed(beside), strict=True):
            below = up(below, each)
        below = _fitted(self.to_image(below), x)
        return self.final(torch.cat([below, x], 1) if self.last_cross else below)


@register_builder("unet")
def unet(arch: str, n_out: int, *, n_in: int = 3, **options: Any) -> UNet:
    """Returns an untrained U-Net for `n_out` outputs a pixel.

    Args:
        arch: the name of a convolutional classifier, or Swin, of torchvision's or timm's, or one in `architectures`.
        n_out: outputs a pixel.
        n_in: channels of the images.
        options: see `UNet`.

    Raises:
        ConfigError: no such architecture, or one without maps of several resolutions.
    """
    model = backbone(arch)
    adapt_first_convolution(model, n_in, pretrained=False)
    return unet_on_backbone(model, n_out, n_in=n_in, **options)


def unet_on_backbone(model: nn.Module, n_out: int, *, n_in: int = 3, cut: Cut = None, **options: Any) -> UNet:
    """Returns a U-Net over the body of a classifier, whose weights stay; see `UNet` for the options."""
    body = create_body(model, n_in, cut=cut)
    return UNet(Pyramid(body.module, n_in), n_out, n_in, first_late=body.first_late, **options)


def _fitted(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns a map in the size of another: an odd size that was halved and doubled is a pixel off."""
    return x if x.shape[-2:] == like.shape[-2:] else F.interpolate(x, size=like.shape[-2:], mode="nearest")
