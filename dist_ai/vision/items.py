"""Transforms of one sample in a loader worker: its image, mask, points and boxes are cut, resized, mirrored and turned together.

Cutting and resizing is one idea: a `Window` is a part of an image, which may reach beyond it, and the size that it gets. One
resampling (`dist_ai.vision.pixels`, which takes the average where an image shrinks) reads straight from the window; nothing is
resized twice, and of a JPEG no more is decoded than the window needs.
Orders are Pillow's side of things: they run before `ImageToTensor`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as PILImage
from torchvision import tv_tensors

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorBBox, TensorMask, TensorPoint
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.vision.augment.coordinates import check_movable, check_sampling
from dist_ai.vision.augment.geometry import check_crop, check_share, dihedral, drawn_crop, size_of
from dist_ai.vision.augment.homography import Frame, Homography, apply, apply_to_boxes, moved, scaled
from dist_ai.vision.decoding import decoded_in_part, part_for
from dist_ai.vision.pixels import resampled

__all__ = [
    "CropPad",
    "Cut",
    "DihedralItem",
    "FlipItem",
    "RandomCrop",
    "RandomResizedCrop",
    "RatioResize",
    "Resize",
    "Window",
]

_FILLS = {"zeros": "constant", "border": "edge", "reflection": "symmetric"}


class Window(NamedTuple):
    """A part of an image, in its pixels, and the size that it gets; it may reach beyond the image."""

    left: float
    top: float
    right: float
    bottom: float
    frame: Frame

    @property
    def homography(self) -> Homography:
        """Where points of the image go."""
        across = self.frame.width / (self.right - self.left)
        down = self.frame.height / (self.bottom - self.top)
        return scaled(across, down) @ moved(-self.left, -self.top)

    @property
    def shrink(self) -> float:
        """How many times smaller the image becomes, along the side where it keeps the most."""
        return min((self.right - self.left) / self.frame.width, (self.bottom - self.top) / self.frame.height)

    def snapped(self, frame: Frame) -> Window:
        """Returns the window of whole pixels next to it, whole in the JPEG decoded in part too, where it lies inside and shrinks.

        That moves it by less than a pixel of the result, and then torch can read it (`dist_ai.vision.pixels`).
        """
        if self.shrink < 1 or _reaches_beyond(self, frame):
            return self
        window, step = self, 0
        # More than once only where rounding carries what it shrinks by past the next part.
        while (part := part_for(window.shrink)) > step:
            step = part
            left, right = _snapped(self.left, self.right, frame.width, step)
            top, bottom = _snapped(self.top, self.bottom, frame.height, step)
            window = self._replace(left=left, top=top, right=right, bottom=bottom)
        return window

    def on(self, image: Frame, part: Frame) -> Window:
        """Returns the window, snapped to an image, in the pixels of what was decoded of it."""
        if part == image:
            return self
        if _reaches_beyond(self, image):
            across, down = part.width / image.width, part.height / image.height
            return Window(self.left * across, self.top * down, self.right * across, self.bottom * down, self.frame)
        step = part_for(self.shrink)
        # Rounded up, for the last pixel may stand for fewer than `step`.
        left, top, right, bottom = (-(-edge // step) for edge in self[:4])
        return Window(left, top, right, bottom, self.frame)


class Cut(Transform):
    """A transform that takes a window of a sample.

    Attributes:
        pad_mode: what lies beyond the image: ``"zeros"`` (black), its ``"border"`` drawn out, or its ``"reflection"``.

    Masks get the class of the nearest pixel. Points that are cut away lie outside; boxes are cut at the edge, and all zeros
    if nothing is left of them.
    """

    order: ClassVar[int] = 1
    pad_mode: str = "zeros"

    @abstractmethod
    def window(self, frame: Frame, draw: Draw | None) -> Window:
        """Returns what is taken of an image of a size; the middle, say, where nothing is drawn."""

    def encodes(self, x: PILImage, draw: Draw | None) -> Any:
        """Returns the image in the window."""
        frame = Frame(x.height, x.width)
        window = self._taken(frame, draw)
        part = decoded_in_part(x, window.shrink)
        return _read(part, window.on(frame, Frame(part.height, part.width)), resampled, self.pad_mode)

    def encodes(self, x: TensorMask, draw: Draw | None) -> Any:
        """Returns the mask in the window."""
        window = self._taken(Frame(*x.shape[-2:]), draw)
        if self.pad_mode == "zeros" and _reaches_beyond(window, Frame(*x.shape[-2:])):
            raise ConfigError(
                f"{type(self).__name__} has no class for what it fills up with; give it pad_mode='reflection' or 'border' "
                "with masks"
            )
        pixels = plain(x) if x.dtype in (torch.bool, torch.uint8) else plain(x).int()  # the kinds that Pillow has
        read = _read(Image.fromarray(pixels.numpy()), window, _nearest, self.pad_mode)
        return x.give_type_to(torch.from_numpy(np.array(read)).to(x.dtype))

    def encodes(self, x: TensorPoint, draw: Draw | None) -> Any:
        """Returns the points as they lie in the window."""
        window = self._taken(Frame(*x.canvas_size), draw)
        points = apply(window.homography, plain(x)[None])[0]
        return TensorPoint.wrap(points, x, canvas_size=tuple(window.frame))

    def encodes(self, x: TensorBBox, draw: Draw | None) -> Any:
        """Returns the boxes as they lie in the window."""
        window = self._taken(Frame(*x.canvas_size), draw)
        boxes = apply_to_boxes(window.homography, plain(x)[None], x.format.value, window.frame)[0]
        return TensorBBox.wrap(boxes, x, canvas_size=tuple(window.frame))

    def encodes(self, x: tv_tensors.TVTensor) -> Any:
        """Raises `ConfigError`: what else lies in an image must not stay where it was."""
        check_movable(self, x)

    def _taken(self, frame: Frame, draw: Draw | None) -> Window:
        return self.window(frame, draw).snapped(frame)


@dataclass
class Resize(Cut):
    """A sample to a size.

    Args:
        size: height and width in pixels, or one number for both.
        method: ``"crop"`` cuts to the shape (at a random place in training, in the middle otherwise), ``"pad"`` fills
            up, ``"squish"`` distorts.
        pad_mode: what ``"pad"`` fills up with: ``"zeros"`` (black), ``"border"`` or ``"reflection"``.
    """

    size: int | Sequence[int]
    method: Literal["crop", "pad", "squish"] = "crop"
    pad_mode: str = "zeros"

    def __post_init__(self) -> None:
        self.size = size_of(self, self.size)
        methods = ("crop", "pad", "squish")
        if self.method not in methods:
            raise ConfigError(
                f"Resize(method={self.method!r}): expected 'crop', 'pad' or 'squish'{did_you_mean(str(self.method), methods)}"
            )
        check_sampling(self, None, self.pad_mode)

    def window(self, frame: Frame, draw: Draw | None) -> Window:
        """Returns the largest part of the shape, the whole in the middle of the shape, or the whole."""
        size = Frame(*self.size)  # type: ignore[misc]  # two numbers since set-up
        if self.method == "squish":
            return Window(0.0, 0.0, frame.width, frame.height, size)
        if self.method == "pad":
            return _around(frame, size)
        return _placed(frame, *_largest(frame, size), size, draw)


@dataclass
class RandomResizedCrop(Cut):
    """A part of a sample, of a size and shape that are drawn, resized; in validation the middle.

    Args:
        size: height and width of the result in pixels, or one number for both.
        min_scale, max_scale: from what to what share of the image's area.
        ratio: from what to what width for a height of 1.
        val_xtra: in validation, how much larger than the result the image is made before its middle is taken.

    As in "Going deeper with convolutions" (Szegedy et al., https://arxiv.org/abs/1409.4842).
    """

    size: int | Sequence[int]
    min_scale: float = 0.08
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    val_xtra: float = 0.14
    max_scale: float = 1.0

    def __post_init__(self) -> None:
        self.size = size_of(self, self.size)
        check_crop(self, self.min_scale, self.max_scale, self.ratio)
        self.ratio = [float(each) for each in self.ratio]
        if self.val_xtra < 0:
            raise ConfigError(f"RandomResizedCrop(val_xtra={self.val_xtra}): expected 0 or more")

    def window(self, frame: Frame, draw: Draw | None) -> Window:
        """Returns the part."""
        size = Frame(*self.size)  # type: ignore[misc]  # two numbers since set-up
        if draw is None:
            more = max(size) / (max(size) + math.ceil(max(size) * self.val_xtra / 8) * 8)
            width, height = _largest(frame, size)
            return _placed(frame, width * more, height * more, size, None)
        left, top, width, height = map(float, drawn_crop(frame, draw, self.min_scale, self.max_scale, self.ratio))
        # Rounding may carry the sum a hair past the image, which would count as reaching beyond it.
        return Window(left, top, min(left + width, frame.width), min(top + height, frame.height), size)


@dataclass
class RandomCrop(Cut):
    """A part of a sample as it is, not resized: at a random place in training, in the middle otherwise.

    Args:
        size: height and width in pixels, or one number for both; what is smaller is filled up on both sides.
        pad_mode: what it is filled up with: ``"zeros"`` (black), ``"border"`` or ``"reflection"``.
    """

    size: int | Sequence[int]
    pad_mode: str = "zeros"

    def __post_init__(self) -> None:
        self.size = size_of(self, self.size)
        check_sampling(self, None, self.pad_mode)

    def window(self, frame: Frame, draw: Draw | None) -> Window:
        """Returns the part, from a pixel's edge to a pixel's edge."""
        return _unscaled(frame, Frame(*self.size), draw)  # type: ignore[misc]  # two numbers since set-up


@dataclass
class CropPad(Cut):
    """The middle of a sample as it is, not resized.

    Args:
        size: height and width in pixels, or one number for both; what is smaller is filled up on both sides.
        pad_mode: what it is filled up with: ``"zeros"`` (black), ``"border"`` or ``"reflection"``.
    """

    size: int | Sequence[int]
    pad_mode: str = "zeros"

    def __post_init__(self) -> None:
        self.size = size_of(self, self.size)
        check_sampling(self, None, self.pad_mode)

    def window(self, frame: Frame, draw: Draw | None) -> Window:
        """Returns the middle, from a pixel's edge to a pixel's edge."""
        return _unscaled(frame, Frame(*self.size), None)  # type: ignore[misc]  # two numbers since set-up


@dataclass
class RatioResize(Cut):
    """A sample in its own shape, so that its longer side has `max_sz` pixels.

    Args:
        max_sz: pixels, at least 1.
    """

    max_sz: int

    def __post_init__(self) -> None:
        if not isinstance(self.max_sz, Integral) or self.max_sz < 1:
            raise ConfigError(f"RatioResize(max_sz={self.max_sz!r}): expected a number of pixels, at least 1")

    def window(self, frame: Frame, draw: Draw | None) -> Window:
        """Returns the whole."""
        scale = self.max_sz / max(frame)
        size = Frame(*(max(1, round(side * scale)) for side in frame))
        return Window(0.0, 0.0, frame.width, frame.height, size)


# ------------------------------------------------------------------------------------------------ mirrored and turned


class _Turn(Transform):
    """A transform that mirrors and turns a sample by quarters; `way` counts as `View` does."""

    order: ClassVar[int] = 1
    split_idx: ClassVar[int | None] = 0

    @abstractmethod
    def way(self, draw: Draw | None) -> int:
        """Returns the way that is drawn for the sample."""

    def encodes(self, x: PILImage, draw: Draw | None) -> Any:
        """Returns the image turned."""
        way = self.way(draw)
        steps = (
            (4, Image.Transpose.TRANSPOSE),
            (1, Image.Transpose.FLIP_LEFT_RIGHT),
            (2, Image.Transpose.FLIP_TOP_BOTTOM),
        )
        for bit, step in steps:
            x = x.transpose(step) if way & bit else x
        return x

    def encodes(self, x: TensorMask, draw: Draw | None) -> Any:
        """Returns the mask turned."""
        way = self.way(draw)
        turned = x.transpose(-1, -2) if way & 4 else x
        return turned.flip([dim for bit, dim in ((1, -1), (2, -2)) if way & bit]).contiguous()

    def encodes(self, x: TensorPoint, draw: Draw | None) -> Any:
        """Returns the points where their pixels are; each keeps its place in the list."""
        homography, frame = self._turned(x, draw)
        return TensorPoint.wrap(apply(homography, plain(x)[None])[0], x, canvas_size=tuple(frame))

    def encodes(self, x: TensorBBox, draw: Draw | None) -> Any:
        """Returns the boxes around what they were around."""
        homography, frame = self._turned(x, draw)
        boxes = apply_to_boxes(homography, plain(x)[None], x.format.value, frame)[0]
        return TensorBBox.wrap(boxes, x, canvas_size=tuple(frame))

    def encodes(self, x: tv_tensors.TVTensor) -> Any:
        """Raises `ConfigError`: what else lies in an image must not stay where it was."""
        check_movable(self, x)

    def _turned(self, x: TensorPoint | TensorBBox, draw: Draw | None) -> tuple[Homography, Frame]:
        way, frame = self.way(draw), Frame(*x.canvas_size)
        after = Frame(frame.width, frame.height) if way >= 4 else frame
        return dihedral(np.array([way]), after), after


@dataclass
class FlipItem(_Turn):
    """Mirrors a training sample left to right, or not.

    Args:
        p: how often.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)

    def way(self, draw: Draw | None) -> int:
        """Returns 1 or 0."""
        return int(draw is not None and draw.bernoulli(self.p))


@dataclass
class DihedralItem(_Turn):
    """Mirrors and turns a training sample by quarters, all eight ways equally likely; before a `Resize` to one size.

    Args:
        p: how often one of the eight is drawn; otherwise a sample stays as it is.
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)

    def way(self, draw: Draw | None) -> int:
        """Returns 0 to 7."""
        return draw.integers(0, 8) if draw is not None and draw.bernoulli(self.p) else 0


# ------------------------------------------------------------------------------------------------ windows


def _largest(frame: Frame, shape: Frame) -> tuple[float, float]:
    """Returns width and height of the largest part of a frame that has a shape."""
    scale = min(frame.width / shape.width, frame.height / shape.height)
    # Rounding may carry the product a hair past the image, which Pillow refuses.
    return min(shape.width * scale, frame.width), min(shape.height * scale, frame.height)


def _placed(frame: Frame, width: float, height: float, size: Frame, draw: Draw | None) -> Window:
    """Returns a window inside a frame, at a place that is drawn or in the middle."""
    across, down = (draw.uniform(), draw.uniform()) if draw is not None else (0.5, 0.5)
    left, top = (frame.width - width) * across, (frame.height - height) * down
    return Window(left, top, min(left + width, frame.width), min(top + height, frame.height), size)


def _around(frame: Frame, size: Frame) -> Window:
    """Returns the window in whose middle the whole of a frame lies, as large as fits, from pixel to pixel of the result."""
    scale = min(size.width / frame.width, size.height / frame.height)
    # At least one pixel: an image of 1000 x 1 must not vanish.
    inner = Frame(max(1, round(frame.height * scale)), max(1, round(frame.width * scale)))
    across, down = frame.width / inner.width, frame.height / inner.height
    left, top = -((size.width - inner.width) // 2) * across, -((size.height - inner.height) // 2) * down
    return Window(left, top, left + size.width * across, top + size.height * down, size)


def _unscaled(frame: Frame, size: Frame, draw: Draw | None) -> Window:
    """Returns a window of as many pixels as the result has, at a place that is drawn, or in the middle; see `RandomCrop`."""

    def start(room: int) -> int:
        return draw.integers(0, room + 1) if draw is not None and room > 0 else room // 2

    left, top = start(frame.width - size.width), start(frame.height - size.height)
    return Window(left, top, left + size.width, top + size.height, size)


def _reaches_beyond(window: Window, frame: Frame) -> bool:
    return window.left < 0 or window.top < 0 or window.right > frame.width or window.bottom > frame.height


def _snapped(start: float, stop: float, length: int, step: int) -> tuple[int, int]:
    """Returns the part of a length next to the one from `start` to `stop`, from a multiple of `step` to one or to the end."""
    size = max(1, round((stop - start) / step)) * step
    if size >= length or stop - start >= length:
        return 0, length
    start = min(round(start / step), (length - size) // step) * step
    return start, start + size


def _nearest(image: PILImage, box: tuple[float, float, float, float], size: tuple[int, int]) -> PILImage:
    return image.resize(size, Image.Resampling.NEAREST, box=box)


def _read(image: PILImage, window: Window, resample: Callable[..., PILImage], pad_mode: str) -> PILImage:
    """Returns what an image has in a window."""
    frame = Frame(image.height, image.width)
    height, width = window.frame
    if not _reaches_beyond(window, frame):
        return resample(image, window[:4], (width, height))
    across, down = width / (window.right - window.left), height / (window.bottom - window.top)
    # What is inside, in pixels of the image and in those of the result.
    box = (
        max(window.left, 0),
        max(window.top, 0),
        min(window.right, frame.width),
        min(window.bottom, frame.height),
    )
    left, top = round((box[0] - window.left) * across), round((box[1] - window.top) * down)
    inner_width, inner_height = max(1, round((box[2] - box[0]) * across)), max(1, round((box[3] - box[1]) * down))
    left, top = min(left, width - inner_width), min(top, height - inner_height)
    inner = np.asarray(resample(image, box, (inner_width, inner_height)))
    sides = [(top, height - inner_height - top), (left, width - inner_width - left)]
    return Image.fromarray(np.pad(inner, [*sides, (0, 0)][: inner.ndim], _FILLS[pad_mode]))  # type: ignore[call-overload]
