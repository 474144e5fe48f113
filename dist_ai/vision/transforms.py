"""Image transforms: on one image in a loader worker (item), and on a batch on its rank's device (batch)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps
from PIL.Image import Image as PILImage

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import ItemTransform, Transform
from dist_ai.core.vision_types import TensorImage
from dist_ai.data.device import to_device
from dist_ai.data.downloads import download
from dist_ai.errors import BadSampleError, ConfigError, DataError, did_you_mean
from dist_ai.losses import MSELoss, default_loss
from dist_ai.vision.augment.colour import Colour, scaled_and_shifted
from dist_ai.vision.decoding import decoded, is_undecoded, reading, undecoded_jpeg
from dist_ai.vision.pixels import pixels_of

__all__ = [
    "CheckImage",
    "ImageToFloat",
    "ImageToTensor",
    "Normalize",
    "OpenImage",
    "image_sizes",
    "imagenet_stats",
]

imagenet_stats: tuple[list[float], list[float]] = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation of ImageNet's RGB channels, for pixels in 0..1."""


# ------------------------------------------------------------------------------------------------ items


@dataclass
class OpenImage(Transform):
    """A file, bytes or an array to a decoded PIL image, upright and in one mode.

    Args:
        mode: ``"RGB"`` or ``"L"`` (grey).

    Takes a path, an address (the file is kept in the cache), the bytes of an image file, a file that is open for reading
    bytes, an image, or a uint8 array (height, width) or (height, width, channels). Pixels of 16 bits are scaled to 8;
    transparency is dropped. A JPEG is decoded when its pixels are first asked for: a transform that makes it smaller, such as
    `Resize`, decodes it at a part of its size (`dist_ai.vision.decoding`). A `TensorImage` stays as it is, with any number of
    channels: batch transforms take it, item transforms that move pixels do not.

    Raises:
        ConfigError: another mode.
        BadSampleError: a file or bytes that are no image, or a part of one; names the file.
        DataError: an array or an image whose pixels have no agreed range.
    """

    mode: str = "RGB"

    def __post_init__(self) -> None:
        if self.mode not in ("RGB", "L"):
            raise ConfigError(
                f"OpenImage(mode={self.mode!r}): expected 'RGB' or 'L' (grey){did_you_mean(str(self.mode), ['RGB', 'L'])}"
            )

    @property
    def num_outputs(self) -> int:
        """How many numbers a model that makes such an image gives for a pixel."""
        return 1 if self.mode == "L" else 3

    def as_target(self, numbers: torch.Tensor, inputs: tuple[Any, ...]) -> TensorImage:
        """Returns predicted pixels as images."""
        return TensorImage(numbers)

    def encodes(self, x: str | Path) -> Any:
        """Returns the image in a file, or at an address that begins with https:// or http://."""
        name = str(x)
        if isinstance(x, str) and x.startswith(("https://", "http://")):
            try:
                x = download(x, progress=False)
            except (DataError, ConfigError) as error:
                raise BadSampleError(str(error)) from error
        with reading(name), open(x, "rb") as file:  # to make a Path of a string takes as long again
            data = file.read()
        return self._read(data, name)

    def encodes(self, x: bytes) -> Any:
        """Returns the image in the bytes of a file."""
        return self._read(x, f"{len(x):,} bytes")

    def encodes(self, x: io.BufferedIOBase) -> Any:
        """Returns the image in an open file, such as a `BytesIO`, from its beginning."""
        if x.seekable():
            x.seek(0)
        return self._read(x.read(), str(getattr(x, "name", "an open file")))

    def encodes(self, x: np.ndarray) -> Any:
        """Returns the image of an array."""
        pixels = x[:, :, 0] if x.ndim == 3 and x.shape[2] == 1 else x
        if x.dtype != np.uint8 or x.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and x.shape[2] <= 4)):
            raise DataError(
                f"an array of {x.dtype} with shape {x.shape} is not an image; expected uint8 pixels, 0 to 255, of shape "
                "(height, width) or (height, width, 1 to 4 channels)"
            )
        return self._ready(Image.fromarray(pixels))

    def encodes(self, x: PILImage) -> Any:
        """Returns the image in its mode."""
        return self._ready(x.copy())  # what was given stays as it was

    def _read(self, data: bytes, name: str) -> PILImage:
        if (jpeg := undecoded_jpeg(data, name)) is not None and jpeg.mode == self.mode:
            return jpeg
        with reading(name):
            if not data:  # an interrupted copy's; Pillow says that it knows no such format
                raise ValueError("it is empty")
            image = Image.open(io.BytesIO(data))
            image.filename = name  # Pillow's note of where an image is from
            return self._ready(image)

    def _ready(self, image: PILImage) -> PILImage:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            ImageOps.exif_transpose(image, in_place=True)  # a camera's note on how it was held; most viewers follow it
        if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255: nearly all white
            image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
        elif image.mode == "F":
            raise DataError("an image of float pixels, whose range is not known; save it with 8 or 16 bits a channel")
        elif image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # Pillow warns otherwise
        if image.mode != self.mode:
            return image.convert(self.mode)
        if not is_undecoded(image):
            image.load()
        return image


@dataclass
class CheckImage(ItemTransform):
    """Sees to it that what an `ImageBlock` has opened is an image: transforms of images would pass anything else by.

    Raises:
        DataError: it is something else.
    """

    order: ClassVar[int] = 1

    def encodes(self, x: object) -> Any:
        """Returns the image as it is."""
        if isinstance(x, PILImage | TensorImage):
            return x
        if isinstance(x, torch.Tensor):
            what = f"a {type(x).__name__} of {x.dtype} with shape {tuple(x.shape)}"
            hint = "; if it is one, give TensorImage(x), of shape (channels, height, width), uint8 or float in 0..1"
        else:
            what, hint = f"a {type(x).__name__}", ""
            if isinstance(x, list | tuple):
                hint = "; predict takes one image, and dls.test_dl(...) a list"
        raise DataError(
            f"{what} does not say that it is an image; expected a file, an address, bytes, a uint8 array, a PIL image or a "
            f"TensorImage{hint}"
        )


@default_loss.register(TensorImage)
def _(target: TensorImage) -> MSELoss:
    return MSELoss()


@dataclass
class ImageToTensor(Transform):
    """A PIL image to a `TensorImage` (channels, height, width), uint8."""

    order: ClassVar[int] = 5

    def encodes(self, x: PILImage) -> Any:
        """Returns the pixels; `BadSampleError` if an image file ends before them."""
        return TensorImage(pixels_of(decoded(x)))


def image_sizes(sample: tuple[Any, ...]) -> list[tuple[int, int]]:
    """Returns (height, width) in pixels of each image of a sample.

    >>> image_sizes((Image.new("L", (30, 20)), "a label"))
    [(20, 30)]
    """
    return [
        (each.height, each.width) if isinstance(each, PILImage) else (each.shape[-2], each.shape[-1])
        for each in sample
        if isinstance(each, PILImage | TensorImage)
    ]


# ------------------------------------------------------------------------------------------------ batches


@dataclass
class ImageToFloat(Transform):
    """Pixels from uint8 0..255 to float32 0..1, on the device: a quarter of the bytes travel."""

    order: ClassVar[int] = 10

    def encodes(self, x: TensorImage) -> Any:
        """Returns the pixels as float32."""
        return x if x.is_floating_point() else x.float().div_(255)


@dataclass
class Normalize(Colour):
    """Pixels in 0..1 to mean 0 and deviation 1 by channel, in one pass with the transforms of colours before it.

    Args:
        mean, std: of each channel.

    >>> Normalize([0.5], [0.25])(TensorImage(torch.ones(1, 1, 1, 1))).item()
    2.0
    >>> Normalize.from_stats(*imagenet_stats) == Normalize(*imagenet_stats)
    True
    """

    mean: list[float]
    std: list[float]

    order: ClassVar[int] = 99
    split_idx: ClassVar[int | None] = None
    limited: ClassVar[bool] = False

    @classmethod
    def from_stats(cls, mean: Sequence[float], std: Sequence[float]) -> Normalize:
        """Returns the transform with these statistics, such as `imagenet_stats`: what calling the class does too."""
        return cls(list(mean), list(std))

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(deviation > 0 for deviation in self.std):
            raise ConfigError(
                f"Normalize(mean={self.mean}, std={self.std}): expected as many positive deviations as means"
            )

    def matrix(self, channels: int, draw: Draw | None) -> npt.NDArray[np.float64]:
        """Returns the straight line of each channel, the same for every sample."""
        if channels != len(self.mean):
            raise DataError(
                f"images with {channels} channel(s) and statistics of {len(self.mean)}; give Normalize {channels}, or make the "
                f"data anew and give its learner n_in={channels}"
            )
        mean, std = np.array([self.mean]), np.array([self.std])
        return scaled_and_shifted(1 / std, -mean / std)

    def decodes(self, x: TensorImage) -> Any:
        """Returns the batch in 0..1 again."""
        mean, std = to_device(torch.tensor([self.mean, self.std], dtype=x.dtype), x.device).view(2, -1, 1, 1)
        return x * std + mean
