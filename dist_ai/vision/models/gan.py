"""Generators of images and critics that judge them (arXiv:1406.2661), as one module that the loop can train."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from dist_ai.errors import ConfigError
from dist_ai.export import register_builder
from dist_ai.layers import conv_layer

__all__ = ["GANModule", "basic_critic", "basic_generator", "gan"]


class GANModule(nn.Module):
    """A generator and a critic, of which one is at work at a time.

    Args:
        generator: what it is given (noise, or an image) to images.
        critic: images to a score each, (batch,) or (batch, 1): the higher, the more real.

    Attributes:
        mode: ``"generator"`` or ``"critic"``, whose turn it is in training.

    Output: a dict. Of the generator, and in evaluation: ``fake``, the images, and their ``score``. Of the critic: the scores of
    ``real`` images and of ``fake_score``.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.critic = critic
        self.mode: Literal["generator", "critic"] = "generator"

    def forward(self, x: torch.Tensor, real: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Returns images and scores."""
        if self.training and self.mode == "critic" and real is not None:
            with torch.no_grad():
                fake = self.generator(x)
            return {"real": self.critic(real).flatten(), "fake_score": self.critic(fake).flatten()}
        fake = self.generator(x)
        return {"fake": fake, "score": self.critic(fake).flatten()}


@register_builder("gan")
def gan(size: int, *, channels: int = 3, noise: int = 100, width: int = 64) -> GANModule:
    """Returns an untrained GAN of square images: `basic_generator` and `basic_critic`.

    Args:
        size: pixels a side: a power of 2, at least 8.
        channels: of the images.
        noise: numbers that an image is made of.
        width: channels next to the image; they double with each halving of the size.
    """
    return GANModule(basic_generator(size, channels, noise, width), basic_critic(size, channels, width))


def basic_critic(size: int, channels: int = 3, width: int = 64) -> nn.Sequential:
    """Returns a critic of convolutions that halve the size until it is 4 (DCGAN, arXiv:1511.06434)."""
    _check(size)
    layers: list[nn.Module] = [conv_layer(channels, width, 4, 2, norm=False, act=_leaky())]
    size //= 2
    while size > 4:
        layers.append(conv_layer(width, 2 * width, 4, 2, act=_leaky()))
        size, width = size // 2, 2 * width
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 4), nn.Flatten(0))


def basic_generator(size: int, channels: int = 3, noise: int = 100, width: int = 64) -> nn.Sequential:
    """Returns a generator of transposed convolutions that double the size from 4 on; its images lie from -1 to 1."""
    _check(size)
    wide = width * size // 8
    layers: list[nn.Module] = [
        nn.Unflatten(1, (noise, 1, 1)),
        nn.ConvTranspose2d(noise, wide, 4, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    ]
    while wide > width:
        up = nn.ConvTranspose2d(wide, wide // 2, 4, 2, 1, bias=False)
        layers += [up, nn.BatchNorm2d(wide // 2), nn.ReLU(inplace=True)]
        wide //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(wide, channels, 4, 2, 1), nn.Tanh())


def _leaky() -> Any:
    return nn.LeakyReLU(0.2, inplace=True)


def _check(size: int) -> None:
    if size < 8 or size & (size - 1):
        raise ConfigError(f"size={size} for a GAN: expected a power of 2, 8 or more")
