"""What changes colours: each transform is one matrix a sample, and a row of them is one pass over the pixels.

For pixels in 0 to 1, a matrix (channels + 1, channels + 1) takes (red, green, blue, 1) to the new ones. Those of neighbours
are multiplied, and what leaves 0 to 1 is cut off once, at the end, so two that undo each other lose nothing. What `Normalize`
does after that is done in the same memory: on a CPU a new batch of images costs more than what is computed.

The amounts are fastai's, whose steps work on the logit of a pixel; these are the straight lines that touch its curves at
middle grey. See `docs/decisions/0020-one-resampling.md` for why.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Composable
from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorImage
from dist_ai.errors import ConfigError, DataError
from dist_ai.vision.augment.coordinates import check_samples
from dist_ai.vision.augment.geometry import check_share, drawn_or
from dist_ai.vision.augment.sampling import like

__all__ = [
    "Brightness",
    "Colour",
    "Contrast",
    "Hue",
    "Saturation",
    "faded",
    "lit",
    "recolour",
    "scaled_and_shifted",
    "stretched",
]

# Luma of ITU-R BT.601, and its two colour differences.
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class Colour(Composable):
    """A transform of colours, of batches of images in 0 to 1 on their device.

    Attributes:
        mixes: a channel of the result depends on the others.
        limited: its result is cut off at 0 and 1. One that is not may not mix channels.
    """

    order: ClassVar[int] = 30
    split_idx: ClassVar[int | None] = 0
    mixes: ClassVar[bool] = False
    limited: ClassVar[bool] = True

    @abstractmethod
    def matrix(self, channels: int, draw: Draw | None) -> npt.NDArray[np.float64]:
        """Returns where colours go, for each sample (samples, channels + 1, channels + 1) or the same for all (1, ...)."""

    @classmethod
    def run(cls, row: Sequence[tuple[Any, Draw | None]], x: Any) -> Any:
        """Returns images with other colours.

        Raises:
            ConfigError: this is no batch.
            DataError: pixels are whole numbers, or the draws are those of another number of samples.
        """
        if not isinstance(x, TensorImage):
            return x
        name = type(row[0][0]).__name__
        if not x.is_floating_point():
            raise DataError(f"{name} got pixels of {x.dtype}; put ImageToFloat(), which makes them 0..1, before it")
        pixels = plain(x)
        images = pixels.reshape(-1, *pixels.shape[-3:])
        exact = torch.float64 if pixels.dtype == torch.float64 else torch.float32

        def ready(array: npt.NDArray[np.float64]) -> torch.Tensor:
            return torch.from_numpy(array).to(exact).to(pixels.device, non_blocking=True)

        last = max((place for place, (tfm, _) in enumerate(row, 1) if tfm.limited), default=0)
        matrix = _composed(row[:last], images.shape[1])
        lines = _composed(row[last:], images.shape[1])
        if x.dim() != 4 and len(matrix) > 1:
            raise ConfigError(f"{name} draws for each sample of a batch; use it in batch_tfms")
        check_samples(matrix, len(images))
        result = images.to(exact)
        if last:
            result = recolour(result, ready(matrix))
        if last < len(row):
            factor, addend = ready(lines)[..., None, None].unbind(2)
            result = (result.mul_(factor) if last else result * factor).add_(addend)  # in the memory that is at hand
        return x.give_type_to(like(result.view(pixels.shape), pixels))


def recolour(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Returns images with every pixel times a matrix, cut off at 0 and 1.

    Args:
        pixels: (samples, channels, height, width), float.
        matrix: (samples or 1, channels or more rows, channels + 1), the last column added; or (samples or 1, 1 or channels, 2), a
            factor and an addend for all channels alike, or for each.
    """
    entries = matrix[..., None, None]
    channels = pixels.shape[1]
    if matrix.shape[-1] == 2:
        return pixels.mul(entries[:, :channels, 0]).add_(entries[:, :channels, 1]).clamp_(0, 1)
    # Term by term, not as a product of matrices: no sample's rounding depends on its batch.
    result = pixels[:, :1] * entries[:, :channels, 0]
    for i in range(1, channels):
        result += pixels[:, i : i + 1] * entries[:, :channels, i]
    return result.add_(entries[:, :channels, channels]).clamp_(0, 1)


def _composed(row: Sequence[tuple[Any, Draw | None]], channels: int) -> npt.NDArray[np.float64]:
    """Returns the product of a row's matrices; of each channel's factor and addend alone where no other channel has a say."""
    product = np.eye(channels + 1)[None]
    for tfm, draw in row:
        product = tfm.matrix(channels, draw) @ product
    return product if channels > 1 and any(tfm.mixes for tfm, _ in row) else _lines(product)


def _lines(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns factor and addend of each channel, (samples or 1, channels, 2)."""
    return np.stack([np.diagonal(matrix, axis1=1, axis2=2)[:, :-1], matrix[:, :-1, -1]], -1)


@dataclass
class Brightness(Colour):
    """Makes each image of a training batch brighter or darker.

    Args:
        max_lighting: middle grey, 0.5, becomes up to 0.5 (1 ± max_lighting).
        p: how often.
    """

    max_lighting: float = 0.2
    p: float = 0.75

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_share(self, "max_lighting", self.max_lighting)

    def matrix(self, channels: int, draw: Draw | None) -> npt.NDArray[np.float64]:
        """Returns the addition to all channels."""
        return _affine(channels, 1.0, drawn_or(self, draw, 0.0, -self.max_lighting / 2, self.max_lighting / 2))


@dataclass
class Contrast(Colour):
    """Makes the contrast of each image of a training batch, about middle grey, stronger or weaker.

    Args:
        max_lighting: it becomes from 1 - max_lighting to 1 / (1 - max_lighting) times as strong; less than 1.
        p: how often.
    """

    max_lighting: float = 0.2
    p: float = 0.75

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        _check_factor(self, self.max_lighting)

    def matrix(self, channels: int, draw: Draw | None) -> npt.NDArray[np.float64]:
        """Returns the stretching."""
        return stretched(channels, _factor(self, draw, self.max_lighting))


@dataclass
class Saturation(Colour):
    """Makes the colours of each image of a training batch stronger or weaker; its grey stays.

    Args:
        max_lighting: they become from 1 - max_lighting to 1 / (1 - max_lighting) times as far from grey; less than 1.
        p: how often.

    Grey images, of one channel, stay as they are.
    """

    max_lighting: float = 0.2
    p: float = 0.75

    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        _check_factor(self, self.max_lighting)

    def matrix(self, channels: int, draw: Draw | None) -> npt.NDArray[np.float64]:
        """Returns the way away from grey."""
        return _unless_grey(self, channels, faded(_factor(self, draw, self.max_lighting)))


@dataclass
class Hue(Colour):
    """Turns the hue of each image of a training batch: red towards yellow, or towards violet; its grey stays.

    Args:
        max_hue: up to what share of the circle of colours, either way.
        p: how often.

    A turn in the plane of the colour differences of YIQ, which is linear, rather than in HSV. Grey images stay as they are.
    """

    max_hue: float = 0.1
    p: float = 0.75

    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_share(self, "max_hue", self.max_hue)

    def matrix(self, channels: int, draw: Draw | None) -> npt.NDArray[np.float64]:
        """Returns the turn."""
        angle = 2 * np.pi * drawn_or(self, draw, 0.0, -self.max_hue, self.max_hue)
        turn = np.zeros((len(angle), 3, 3))
        turn[:, 0, 0] = 1
        turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
        turn[:, 1, 2], turn[:, 2, 1] = np.sin(angle), -np.sin(angle)
        return _unless_grey(self, channels, _mixed(np.linalg.inv(_YIQ) @ turn @ _YIQ))


# ------------------------------------------------------------------------------------------------ matrices


def lit(channels: int, factor: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns what makes pixels `factor` times as bright, for each sample."""
    return _affine(channels, factor, 0.0)


def stretched(channels: int, factor: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns what makes the contrast about middle grey `factor` times as strong, for each sample."""
    return _affine(channels, factor, (1 - factor) / 2)


def faded(factor: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns what takes red, green and blue `factor` times as far from their grey, for each sample."""
    factor = factor[:, None, None]
    return _mixed(factor * np.eye(3) + (1 - factor) * _LUMA)


def scaled_and_shifted(factor: npt.ArrayLike, addend: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns what takes each channel times a factor and adds to it: (samples or 1, channels) each."""
    factor, addend = np.broadcast_arrays(np.asarray(factor, np.float64), np.asarray(addend, np.float64))
    samples, channels = factor.shape
    matrix = np.zeros((samples, channels + 1, channels + 1))
    colours = np.arange(channels)
    matrix[:, colours, colours] = factor
    matrix[:, :channels, channels] = addend
    matrix[:, channels, channels] = 1
    return matrix


def _affine(channels: int, factor: Any, addend: Any) -> npt.NDArray[np.float64]:
    """Returns what does the same to all channels of a sample."""
    every = np.ones(channels)
    return scaled_and_shifted(np.reshape(factor, (-1, 1)) * every, np.reshape(addend, (-1, 1)) * every)


def _mixed(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns a mixture of red, green and blue, (samples, 3, 3), with nothing added to it."""
    matrix = np.tile(np.eye(4), (len(colours), 1, 1))
    matrix[:, :3, :3] = colours
    return matrix


def _unless_grey(tfm: Colour, channels: int, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the matrix for three channels, and for one what leaves it as it is.

    Raises:
        DataError: there are as many as have no red, green and blue.
    """
    if channels not in (1, 3):
        raise DataError(
            f"{type(tfm).__name__} mixes red, green and blue, and these images have {channels} channels; leave it out"
        )
    return matrix if channels == 3 else np.eye(2)[None]


def _factor(tfm: Colour, draw: Draw | None, most: float) -> Any:
    """Returns factors, as often below 1 as above."""
    return np.exp(drawn_or(tfm, draw, 0.0, math.log(1 - most), -math.log(1 - most)))


def _check_factor(tfm: Colour, most: float) -> None:
    if not 0 <= most < 1:
        raise ConfigError(f"{type(tfm).__name__}(max_lighting={most}): expected at least 0 and less than 1")
