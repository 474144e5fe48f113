"""Masks: the class of each pixel, as a target beside its image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Image as PILImage

from dist_ai.core.transform import ItemTransform, Transform
from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorMask
from dist_ai.errors import BadSampleError, DataError
from dist_ai.losses import CrossEntropyLoss, default_loss
from dist_ai.vision.transforms import image_sizes

__all__ = ["FitMask", "MaskToIndex", "OpenMask"]


@dataclass
class OpenMask(Transform):
    """A file, array, tensor or image to a `TensorMask` (height, width), upright.

    Args:
        codes: the name of each class; None if they have none, and then a pixel may be any number from 0 on.
        void: a number beyond them that stands for no class, such as 255.

    Pixels are class numbers: those of a grey image, the indices of one with a palette, or 16 bits; never colours.

    Raises:
        BadSampleError: a file that is no such image, or has a class below 0 or one that `codes` does not name; names the file.
    """

    codes: list[str] | None = None
    void: int | None = None

    def __post_init__(self) -> None:
        self.codes = None if self.codes is None else [str(code) for code in self.codes]

    @property
    def vocab(self) -> list[str]:
        """The classes; empty if they have no names."""
        return self.codes or []

    @property
    def num_outputs(self) -> int | None:
        """How many numbers a model gives for a pixel."""
        return None if self.codes is None else len(self.codes)

    def encodes(self, x: str | Path) -> Any:
        """Returns the mask in a file."""
        try:
            with Image.open(x) as image:
                return self._mask(ImageOps.exif_transpose(image))
        except FileNotFoundError as error:
            raise BadSampleError(f"{x} is not there") from error
        except Exception as error:  # each format's reader has errors of its own
            raise BadSampleError(f"{x} cannot be read as a mask: {error}") from error

    def encodes(self, x: PILImage) -> Any:
        """Returns the mask of an image."""
        return self._mask(x)

    def encodes(self, x: np.ndarray) -> Any:
        """Returns the mask of an array."""
        return self._mask(x)

    def encodes(self, x: torch.Tensor) -> Any:
        """Returns the mask of a tensor."""
        return self._mask(plain(x).cpu())

    def as_target(self, numbers: torch.Tensor, inputs: tuple[Any, ...]) -> TensorMask:
        """Returns predicted classes as masks."""
        return TensorMask(numbers, codes=self.codes)

    def _mask(self, image: Any) -> TensorMask:
        pixels = np.asarray(image)
        if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
            raise DataError(
                f"pixels of {pixels.dtype} with shape {pixels.shape}; expected one class number a pixel (height, width): turn "
                "colours into numbers first"
            )
        if pixels.dtype not in (np.bool_, np.uint8):
            pixels = pixels.astype(np.int32)  # torch and Pillow have no operations on 16 bits
        if self.codes is not None or pixels.dtype.kind == "i":
            self._check(np.unique(pixels))
        return TensorMask(torch.from_numpy(pixels.copy()), codes=self.codes)

    def _check(self, classes: np.ndarray) -> None:
        """Raises `DataError` for a class that is none."""
        beyond = (classes < 0) if self.codes is None else (classes < 0) | (classes >= len(self.codes))
        strange = [each for each in classes[beyond].tolist() if each != self.void]
        if strange and self.codes is None:
            raise DataError(
                f"class {strange[0]} in a mask; classes count from 0: say what stands for none: void={strange[0]}"
            )
        if strange:
            raise DataError(
                f"class {strange[0]} in a mask of {len(self.codes or ())} classes, 0 to {len(self.codes or ()) - 1}; name all in "
                f"codes, or say what stands for none: void={strange[0]}"
            )


@dataclass
class FitMask(ItemTransform):
    """Sees to it that each mask of a sample has as many pixels as an image beside it, before the two are resized together.

    Raises:
        DataError: it has not.
    """

    order: ClassVar[int] = 0

    def encodes(self, x: tuple) -> Any:
        """Returns the sample as it is."""
        sizes = image_sizes(x)
        for mask in x:
            if sizes and isinstance(mask, TensorMask) and tuple(mask.shape[-2:]) not in sizes:
                raise DataError(
                    f"a mask of {mask.shape[-2]} x {mask.shape[-1]} pixels (height x width) beside an image of "
                    f"{' x '.join(map(str, sizes[0]))}; it must have the class of each pixel: see that it is this image's "
                    "mask, upright like it"
                )
        return x


@dataclass
class MaskToIndex(Transform):
    """Masks of a batch to int64, as losses want them, on the device: an eighth of the bytes travel."""

    order: ClassVar[int] = 10

    def encodes(self, x: TensorMask) -> Any:
        """Returns the class numbers as int64."""
        return x.long()


@default_loss.register(TensorMask)
def _(target: TensorMask) -> CrossEntropyLoss:
    return CrossEntropyLoss()
