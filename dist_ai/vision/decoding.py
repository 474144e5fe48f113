"""When and how finely a JPEG is decoded: not before somebody asks for its pixels, and not finer than they are needed.

Pillow reads a file's header when it opens it, and its pixels when they are asked for. A JPEG's pixels can be had at a half, a
quarter or an eighth of their size at a fraction of the cost, for they are stored as frequencies and the high ones are left
out. `OpenImage` leaves JPEGs undecoded, so that a transform which makes an image smaller decides how finely.

Pillow's pixels take 1.5 to 1.7 times as long as those of simplejpeg, which has the same decoder (libjpeg-turbo) and gives the
same pixels, and its headers three times; so where that is installed, it reads what is in order, and Pillow decides about
the rest.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from PIL.Image import Image as PILImage
from PIL.JpegImagePlugin import JpegImageFile

from dist_ai.errors import BadSampleError, DataError
from dist_ai.vision.pixels import TorchImage

try:
    import simplejpeg
except ImportError:  # it has no wheel for some machines
    simplejpeg = None

__all__ = ["UndecodedJpeg", "decoded", "decoded_in_part", "is_undecoded", "part_for", "reading", "undecoded_jpeg"]

SPARE = 4 / 3
"""How many times the pixels of the result, by side, a JPEG is decoded to at least.

Of 20 photographs resized from 512 pixels to 100 ... 200, those decoded with this much to spare differ by 41 to 46 dB from those
decoded whole; two filters of Pillow, bilinear and Lanczos, by 36 to 37 dB.
"""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Names the file in whatever goes wrong when it is read.

    Raises:
        BadSampleError: it is not there, is no image, or is one in part.
    """
    try:
        yield
    except DataError as error:
        raise BadSampleError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise BadSampleError(f"{name} is not there") from error
    except Exception as error:  # each format's reader has errors of its own, down to struct.error
        reason = "it is of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadSampleError(f"{name} cannot be read as an image: {reason}; replace it or remove it") from error


class UndecodedJpeg(Image.Image):
    """A JPEG of which only the size was read, until Pillow asks for its pixels or somebody for what else the file says.

    Args:
        data: the bytes of the file.
        mode, size: as Pillow has them.
        name: what an error calls it.
    """

    format, format_description = JpegImageFile.format, JpegImageFile.format_description
    is_decoded: bool = True  # where an image was unpickled: Pillow makes those itself

    def __init__(self, data: bytes, mode: str, size: tuple[int, int], name: str) -> None:
        super().__init__()
        self.data, self._mode, self._size, self.filename = data, mode, size, name
        self._info: dict[Any, Any] | None = None
        self.is_decoded = False

    @property
    def info(self) -> dict[Any, Any]:
        """What the file says beside its pixels, such as a colour profile; Pillow reads it when it is first asked for."""
        if self._info is None:
            with reading(_name(self)):
                self._info = Image.open(io.BytesIO(self.data)).info
        return self._info

    @info.setter
    def info(self, info: dict[Any, Any]) -> None:
        self._info = info

    def load(self) -> Any:
        """Gives Pillow the pixels, which calls this before it reads or writes them."""
        if not self.is_decoded:
            whole = decoded(self)
            whole.load()
            self.im, self.is_decoded = whole.im, True
        return super().load()


def undecoded_jpeg(data: bytes, name: str) -> UndecodedJpeg | None:
    """Returns the JPEG in a file's bytes; None for what Pillow must look at: another format, more than pixels and their size.

    Args:
        data: of the whole file.
        name: what errors call it.
    """
    if simplejpeg is None or not data.startswith(b"\xff\xd8\xff"):
        return None
    header = _header_of(data)
    if b"Exif\0" in header or b"tiff:Orientation" in header:  # where a camera writes how it was held
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except Exception:  # also a KeyError, of a sampling of colours that it has no name for
        return None
    limit = math.inf if Image.MAX_IMAGE_PIXELS is None else Image.MAX_IMAGE_PIXELS
    if colours not in _MODE_OF or height * width > limit:
        return None
    return UndecodedJpeg(data, _MODE_OF[colours], (int(width), int(height)), name)


def _header_of(data: bytes) -> bytes:
    """Returns what stands before the pixels of a JPEG; all of its file, where the header has an unusual part.

    To look through a whole file takes a seventh of the time of its decoding.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] in _PARTS:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[:at] if data[at : at + 2] == b"\xff\xda" else data


_PARTS = {bytes([kind]) for kind in (0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)}
"""The kinds of part that most headers have: frame, tables, applications' notes and comments. Each says how long it is."""

_MODE_OF = {"Gray": "L", "RGB": "RGB", "YCbCr": "RGB"}


def is_undecoded(image: PILImage) -> bool:
    """Says whether an image is a JPEG of which only the header was read."""
    if isinstance(image, UndecodedJpeg):
        return not image.is_decoded
    return isinstance(image, JpegImageFile) and image.fp is not None and bool(image.tile)


def decoded(image: PILImage) -> PILImage:
    """Returns an image with its pixels in memory.

    Raises:
        BadSampleError: there are fewer than its header promised.
    """
    return decoded_in_part(image, 1)


BLOCK = 8
"""Pixels by side. Of fewer, several parts have one size, by which simplejpeg is asked for one."""


def part_for(shrink: float) -> int:
    """Returns at which part of its size a JPEG is decoded that will be made `shrink` times smaller by side: 1, 2, 4 or 8.

    >>> [part_for(shrink) for shrink in (1, 2.6, 2.7, 100)]
    [1, 1, 2, 8]
    """
    return next((part for part in (8, 4, 2) if shrink >= part * SPARE), 1)


def decoded_in_part(image: PILImage, shrink: float) -> PILImage:
    """Returns an image that will be made `shrink` times smaller by side, decoded no finer than that needs; see `part_for`.

    What was given keeps its size. Smaller than the blocks of `BLOCK` pixels that a JPEG is made of, it is decoded whole.

    Raises:
        BadSampleError: there are fewer pixels than its header promised.
    """
    if not is_undecoded(image):
        return image
    part = part_for(shrink) if min(image.size) >= BLOCK else 1
    with reading(_name(image)):
        return _by_simplejpeg(image, part) or _by_pillow(image, part)


def _by_simplejpeg(image: PILImage, part: int) -> PILImage | None:
    """Returns an image decoded at a part of its size; None if it is not in order, or not what Pillow would give."""
    if simplejpeg is None or image.mode not in _COLOURS or image.tell():
        return None
    if part == 1 and isinstance(image, JpegImageFile) and not isinstance(image.fp, io.BytesIO):
        return None  # somebody's own, from a file that Pillow closes once it has its pixels
    height, width = -(-image.height // part), -(-image.width // part)
    try:
        pixels = simplejpeg.decode_jpeg(_file_of(image), _COLOURS[image.mode], min_height=height, min_width=width)
    except Exception:  # Pillow says better what is wrong, if anything is
        return None
    if pixels.shape[:2] != (height, width):  # somebody has asked Pillow for a part of it before
        return None
    return TorchImage(torch.from_numpy(pixels))


_COLOURS = {"L": "GRAY", "RGB": "RGB"}


def _by_pillow(image: PILImage, part: int) -> PILImage:
    if isinstance(image, UndecodedJpeg) or (part > 1 and not image.tell()):  # a file's second image has no part
        opened = Image.open(io.BytesIO(_file_of(image)), formats=["JPEG"])
        if part > 1:
            opened.draft(image.mode, (image.width // part, image.height // part))
        image = opened
    image.load()
    return image


def _file_of(image: PILImage) -> bytes:
    """Returns the bytes of an undecoded image's file."""
    if isinstance(image, UndecodedJpeg):
        return image.data
    image.fp.seek(0)  # type: ignore[attr-defined]  # `is_undecoded` says that there is one
    return image.fp.read()  # type: ignore[attr-defined]  # as above


def _name(image: PILImage) -> str:
    return str(getattr(image, "filename", "") or "an image")
