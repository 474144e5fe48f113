"""Image transforms: on one image in a loader worker (item), and on a batch on its rank's device (batch)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Image as PILImage

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.core.vision_types import TensorImage
from dist_ai.errors import ConfigError, DataError

__all__ = [
    "Flip",
    "ImageToFloat",
    "ImageToTensor",
    "Normalize",
    "OpenImage",
    "Resize",
    "aug_transforms",
    "imagenet_stats",
]

imagenet_stats: tuple[list[float], list[float]] = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation of ImageNet's RGB channels, for pixels in 0..1."""


# ------------------------------------------------------------------------------------------------ items


@dataclass
class OpenImage(Transform):
    """A file, bytes or array to a decoded PIL image, upright and in one mode.

    Args:
        mode: ``"RGB"`` or ``"L"`` (grey).

    Takes a path, the bytes of an image file, a uint8 array (height, width) or (height, width, channels), or an image.
    """

    mode: str = "RGB"

    def encodes(self, x: str | Path) -> Any:
        """Returns the image in a file."""
        with Image.open(x) as image:
            return self._ready(image)

    def encodes(self, x: bytes) -> Any:
        """Returns the image in the bytes of a file."""
        with Image.open(io.BytesIO(x)) as image:
            return self._ready(image)

    def encodes(self, x: np.ndarray) -> Any:
        """Returns the image of an array."""
        if x.dtype != np.uint8:
            raise DataError(
                f"an array of {x.dtype} with shape {x.shape} is not an image; expected uint8 pixels, 0 to 255"
            )
        return self._ready(Image.fromarray(x))

    def encodes(self, x: PILImage) -> Any:
        """Returns the image in its mode."""
        return self._ready(x)

    def _ready(self, image: PILImage) -> PILImage:
        image = ImageOps.exif_transpose(image)  # a camera's note on how it was held; most viewers follow it
        return image.convert(self.mode) if image.mode != self.mode else image.copy()


@dataclass
class Resize(Transform):
    """An image to a size, as an item transform.

    Args:
        size: height and width in pixels, or one number for both.
        method: ``"crop"`` cuts to the shape (at a random place in training, in the middle otherwise), ``"pad"`` fills
            up with black, ``"squish"`` distorts.

    One resampling (bilinear) reads straight from the crop's box; nothing is resized twice.
    """

    size: int | Sequence[int]
    method: Literal["crop", "pad", "squish"] = "crop"

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.size = [self.size, self.size] if isinstance(self.size, int) else list(self.size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"Resize({self.size}): expected one number or (height, width), in pixels, at least 1")
        if self.method not in ("crop", "pad", "squish"):
            raise ConfigError(f"Resize(method={self.method!r}): expected 'crop', 'pad' or 'squish'")

    def encodes(self, x: PILImage, draw: Draw | None) -> Any:
        """Returns the image resized."""
        height, width = self.size  # type: ignore[misc]
        if self.method == "pad":
            return ImageOps.pad(x, (width, height), Image.Resampling.BILINEAR)
        box = None
        if self.method == "crop":
            scale = min(x.width / width, x.height / height)
            cut_width, cut_height = width * scale, height * scale
            across, down = (draw.uniform(), draw.uniform()) if draw is not None else (0.5, 0.5)
            left, top = (x.width - cut_width) * across, (x.height - cut_height) * down
            box = (left, top, left + cut_width, top + cut_height)
        return x.resize((width, height), Image.Resampling.BILINEAR, box=box)


@dataclass
class ImageToTensor(Transform):
    """A PIL image to a `TensorImage` (channels, height, width), uint8."""

    order: ClassVar[int] = 5

    def encodes(self, x: PILImage) -> Any:
        """Returns the pixels."""
        pixels = torch.from_numpy(np.array(x, dtype=np.uint8))
        return TensorImage(pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous())


# ------------------------------------------------------------------------------------------------ batches


@dataclass
class ImageToFloat(Transform):
    """Pixels from uint8 0..255 to float32 0..1, on the device: a quarter of the bytes travel."""

    order: ClassVar[int] = 10

    def encodes(self, x: TensorImage) -> Any:
        """Returns the pixels as float32."""
        return x if x.is_floating_point() else x.float().div_(255)


@dataclass
class Flip(Transform):
    """Mirrors each image of a training batch, or not, by a draw of its own.

    Args:
        p: how often.
        vertical: upside down rather than left to right.
    """

    p: float = 0.5
    vertical: bool = False

    order: ClassVar[int] = 20
    split_idx: ClassVar[int | None] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ConfigError(f"Flip(p={self.p}): a probability is 0 to 1")

    def encodes(self, x: TensorImage, draw: Draw | None) -> Any:
        """Returns the batch with some images mirrored."""
        if draw is None:
            raise ConfigError("Flip draws for each sample of a batch; use it in batch_tfms")
        chosen = torch.as_tensor(np.asarray(draw.bernoulli(self.p)), device=x.device)
        return torch.where(chosen.view(-1, 1, 1, 1), x.flip(-2 if self.vertical else -1), x)


@dataclass
class Normalize(Transform):
    """Pixels in 0..1 to mean 0 and deviation 1 by channel.

    Args:
        mean, std: of each channel.

    >>> Normalize([0.5], [0.25])(TensorImage(torch.ones(1, 1, 1, 1))).item()
    2.0
    """

    mean: list[float]
    std: list[float]

    order: ClassVar[int] = 99

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(deviation > 0 for deviation in self.std):
            raise ConfigError(
                f"Normalize(mean={self.mean}, std={self.std}): expected as many positive deviations as means"
            )

    def encodes(self, x: TensorImage) -> Any:
        """Returns the batch normalised."""
        mean, std = self._like(x)
        return (x - mean) / std

    def decodes(self, x: TensorImage) -> Any:
        """Returns the batch in 0..1 again."""
        mean, std = self._like(x)
        return x * std + mean

    def _like(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        channels = x.shape[-3]
        if channels != len(self.mean):
            raise DataError(
                f"images with {channels} channel(s) and statistics of {len(self.mean)}; give Normalize {channels}"
            )
        mean, std = torch.tensor([self.mean, self.std], dtype=x.dtype, device=x.device).view(2, -1, 1, 1)
        return mean, std


def aug_transforms(*, do_flip: bool = True, flip_vert: bool = False, p: float = 0.5) -> list[Transform]:
    """Returns batch augmentations: mirroring, drawn for each sample on the batch's device.

    Args:
        do_flip: mirror left to right.
        flip_vert: mirror upside down too.
        p: how often, each.
    """
    return [*[Flip(p)] * do_flip, *[Flip(p, vertical=True)] * flip_vert]
