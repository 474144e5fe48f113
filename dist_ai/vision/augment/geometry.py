"""What moves pixels: mirrored, turned, zoomed, tilted, leaning, shifted, cut out; neighbours are interpolated as one.

All draw for each sample of a training batch by itself. `p` is how often a sample is changed at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.errors import ConfigError
from dist_ai.vision.augment.coordinates import Coordinates, check_sampling, of_batch
from dist_ai.vision.augment.homography import Frame, Homography, centred, moved, rotated, scaled, sheared, tilted

__all__ = [
    "Dihedral",
    "Flip",
    "RandomResizedCropGPU",
    "Rescale",
    "Rotate",
    "Shear",
    "Translate",
    "View",
    "Warp",
    "Zoom",
    "check_range",
    "check_share",
    "dihedral",
    "dihedral_views",
    "drawn_crop",
    "drawn_or",
    "flip_views",
    "size_of",
]


# ------------------------------------------------------------------------------------------------ pixels onto pixels


@dataclass
class Flip(Coordinates):
    """Mirrors each image of a training batch, or not.

    Args:
        p: how often.
        vertical: upside down rather than left to right.
    """

    p: float = 0.5
    vertical: bool = False

    onto_pixels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the mirroring of the samples that are drawn."""
        sign = np.where(of_batch(self, draw).bernoulli(self.p), -1.0, 1.0)
        return centred(scaled(1, sign) if self.vertical else scaled(sign, 1), frame)


@dataclass
class Dihedral(Coordinates):
    """Mirrors and turns each image of a training batch by quarters, all eight ways equally likely.

    Args:
        p: how often one of the eight is drawn; otherwise an image stays as it is.

    Images that are not square keep their shape: they are mirrored and turned by half only.
    """

    p: float = 0.5

    onto_pixels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the way that is drawn for each sample."""
        draw = of_batch(self, draw)
        way = np.where(draw.bernoulli(self.p), draw.integers(0, 8), 0)
        return dihedral(way if frame.height == frame.width else way % 4, frame)


@dataclass
class View(Coordinates):
    """Mirrors and turns every image in one way, which nothing draws: for `Learner.tta(views=...)`.

    Args:
        way: 0 as it is, plus 1 mirrored left to right, plus 2 upside down, plus 4 with rows and columns swapped first, which
            only square images can be.

    >>> [view.way for view in flip_views()], len(dihedral_views())
    ([0, 1], 8)
    """

    way: int

    onto_pixels: ClassVar[bool] = True
    split_idx: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if self.way not in range(8):
            raise ConfigError(f"View(way={self.way}): expected 0 to 7")

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the way."""
        if self.way >= 4 and frame.height != frame.width:
            raise ConfigError(
                f"View(way={self.way}) swaps rows and columns, which images of {frame.height} x {frame.width} cannot keep "
                "their shape through; take 0 to 3"
            )
        return dihedral(np.array([self.way]), frame)


def flip_views() -> list[View]:
    """Returns the image as it is and mirrored."""
    return [View(way) for way in (0, 1)]


def dihedral_views() -> list[View]:
    """Returns the eight ways to mirror and turn a square image by quarters."""
    return [View(way) for way in range(8)]


def dihedral(way: Any, frame: Frame) -> Homography:
    """Returns for each number of a way, as `View` counts them, where the points of a frame go."""
    way = np.asarray(way)
    swap = np.where((way >= 4)[:, None, None], np.eye(3)[[1, 0, 2]], np.eye(3))
    return centred(scaled(1 - 2.0 * (way & 1), 1.0 - (way & 2)), frame) @ swap


# ------------------------------------------------------------------------------------------------ interpolated


@dataclass
class Rotate(Coordinates):
    """Turns each image of a training batch about its middle.

    Args:
        max_deg: up to how many degrees, either way.
        p: how often.
        mode, pad_mode: see `resample`; neighbours must agree.
    """

    max_deg: float = 10.0
    p: float = 0.5
    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_sampling(self, self.mode, self.pad_mode)

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the turn."""
        return centred(rotated(drawn_or(self, draw, 0.0, -self.max_deg, self.max_deg)), frame)


@dataclass
class Zoom(Coordinates):
    """Enlarges each image of a training batch about a point of it that is drawn.

    Args:
        min_zoom, max_zoom: from how many to how many times; below 1 the image gets smaller.
        p: how often.
        mode, pad_mode: see `resample`; neighbours must agree.
    """

    min_zoom: float = 1.0
    max_zoom: float = 1.1
    p: float = 0.5
    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_range(self, "min_zoom", self.min_zoom, "max_zoom", self.max_zoom)
        check_sampling(self, self.mode, self.pad_mode)

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the enlargement."""
        factor = drawn_or(self, draw, 1.0, self.min_zoom, self.max_zoom)
        draw = of_batch(self, draw)
        x, y = draw.uniform(0, frame.width), draw.uniform(0, frame.height)
        return moved(x, y) @ scaled(factor, factor) @ moved(-x, -y)


@dataclass
class Warp(Coordinates):
    """Tilts each image of a training batch as if one looked at it from another side (perspective).

    Args:
        magnitude: by how much, up to less than 1: an edge becomes up to 1 + magnitude times as long, the one across it shorter.
        p: how often.
        mode, pad_mode: see `resample`; neighbours must agree.
    """

    magnitude: float = 0.2
    p: float = 0.5
    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_sampling(self, self.mode, self.pad_mode)
        if not 0 <= self.magnitude < 1:
            raise ConfigError(
                f"Warp(magnitude={self.magnitude}): expected at least 0 and less than 1, which is on edge"
            )

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the tilt."""
        across, down = drawn_or(self, draw, np.zeros(2), -self.magnitude, self.magnitude, size=(2,)).T
        return tilted(across, down, frame)


@dataclass
class Shear(Coordinates):
    """Makes each image of a training batch lean.

    Args:
        max_deg: up to how many degrees, either way; less than 90.
        p: how often.
        vertical: level lines lean rather than upright ones.
        mode, pad_mode: see `resample`; neighbours must agree.
    """

    max_deg: float = 10.0
    p: float = 0.5
    vertical: bool = False
    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_sampling(self, self.mode, self.pad_mode)
        if not 0 <= self.max_deg < 90:
            raise ConfigError(f"Shear(max_deg={self.max_deg}): expected 0 to less than 90 degrees")

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the shear."""
        degrees = drawn_or(self, draw, 0.0, -self.max_deg, self.max_deg)
        return centred(sheared(degrees, vertical=self.vertical), frame)


@dataclass
class Translate(Coordinates):
    """Shifts each image of a training batch.

    Args:
        max_share: up to what share of its width across and of its height down, either way.
        p: how often.
        mode, pad_mode: see `resample`; neighbours must agree.
    """

    max_share: float = 0.1
    p: float = 0.5
    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_share(self, "max_share", self.max_share)
        check_sampling(self, self.mode, self.pad_mode)

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the shift."""
        across, down = drawn_or(self, draw, np.zeros(2), -self.max_share, self.max_share, size=(2,)).T
        return moved(across * frame.width, down * frame.height)


# ------------------------------------------------------------------------------------------------ to another size


@dataclass
class Rescale(Coordinates):
    """A batch to a size, in validation too, squished where the shape is another.

    Args:
        size: height and width in pixels, or one number for both.
        mode, pad_mode: see `resample`; neighbours must agree.
    """

    size: int | Sequence[int]
    mode: str | None = "bilinear"
    pad_mode: str | None = None

    order: ClassVar[int] = 21  # the others are in pixels of the image before
    split_idx: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        self.size = size_of(self, self.size)
        check_sampling(self, self.mode, self.pad_mode)

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the change of scale."""
        after = self.frame_after(frame)
        return scaled(after.width / frame.width, after.height / frame.height)

    def frame_after(self, frame: Frame) -> Frame:
        """Returns the size."""
        return Frame(*self.size)  # type: ignore[misc]  # two numbers since set-up


@dataclass
class RandomResizedCropGPU(Coordinates):
    """A part of each image of a batch, of a size and shape that are drawn, resized; in validation the middle.

    Args:
        size: height and width of the result in pixels, or one number for both.
        min_scale, max_scale: from what to what share of the image's area.
        ratio: from what to what width for a height of 1.
        valid_scale: in validation the largest part of the result's shape, times this.
        mode, pad_mode: see `resample`; neighbours must agree.

    As in "Going deeper with convolutions" (Szegedy et al., https://arxiv.org/abs/1409.4842).
    """

    size: int | Sequence[int]
    min_scale: float = 0.08
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    max_scale: float = 1.0
    valid_scale: float = 1.0
    mode: str | None = "bilinear"
    pad_mode: str | None = None

    order: ClassVar[int] = 21
    split_idx: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        self.size, self.ratio = size_of(self, self.size), [float(each) for each in self.ratio]
        check_sampling(self, self.mode, self.pad_mode)
        check_crop(self, self.min_scale, self.max_scale, self.ratio)
        if not 0 < self.valid_scale <= 1:
            raise ConfigError(f"RandomResizedCropGPU(valid_scale={self.valid_scale}): expected more than 0, up to 1")

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the way from the part to the result."""
        after = self.frame_after(frame)
        if draw is None:
            unit = min(frame.width / after.width, frame.height / after.height) * self.valid_scale
            width, height = np.array([after.width * unit]), np.array([after.height * unit])
            left, top = (frame.width - width) / 2, (frame.height - height) / 2
        else:
            draw = of_batch(self, draw)
            left, top, width, height = drawn_crop(frame, draw, self.min_scale, self.max_scale, self.ratio)
        return scaled(after.width / width, after.height / height) @ moved(-left, -top)

    def frame_after(self, frame: Frame) -> Frame:
        """Returns the size."""
        return Frame(*self.size)  # type: ignore[misc]  # two numbers since set-up


def drawn_crop(
    frame: Frame, draw: Draw, min_scale: float, max_scale: float, ratio: Sequence[float], tries: int = 10
) -> tuple[Any, Any, Any, Any]:
    """Returns (left, top, width, height) of a part of a frame: numbers for one sample, arrays for a batch.

    Of ten draws of an area and a shape the first that fits; of those that do not, the last is cut at the edges.
    """
    area = draw.uniform(min_scale, max_scale, size=(tries,)) * frame.height * frame.width
    shape = np.exp(draw.uniform(np.log(ratio[0]), np.log(ratio[1]), size=(tries,)))
    width, height = np.sqrt(area * shape), np.sqrt(area / shape)
    fits = (width <= frame.width) & (height <= frame.height)
    first = np.where(fits.any(-1), fits.argmax(-1), tries - 1)[..., None]
    width, height = (np.take_along_axis(each, first, -1)[..., 0] for each in (width, height))
    width, height = np.minimum(width, frame.width), np.minimum(height, frame.height)
    return (frame.width - width) * draw.uniform(), (frame.height - height) * draw.uniform(), width, height


# ------------------------------------------------------------------------------------------------ draws and checks


def drawn_or(
    tfm: Any, draw: Draw | None, otherwise: Any, low: float, high: float, *, size: tuple[int, ...] = ()
) -> Any:
    """Returns numbers uniform from `low` to `high` for the samples that `tfm.p` draws, `otherwise` for the others."""
    draw = of_batch(tfm, draw)
    chosen, values = draw.bernoulli(tfm.p), draw.uniform(low, high, size=size)
    return np.where(chosen.reshape(-1, *[1] * len(size)), values, otherwise)


def size_of(tfm: Transform, size: Any) -> list[int]:
    """Returns height and width.

    Raises:
        ConfigError: these are no numbers of pixels.
    """
    pair = list(size) if isinstance(size, Sequence) else [size, size]
    if len(pair) != 2 or not all(isinstance(pixels, int | np.integer) and pixels >= 1 for pixels in pair):
        raise ConfigError(
            f"{type(tfm).__name__}({size!r}): expected one number or (height, width), in pixels, at least 1"
        )
    return [int(pixels) for pixels in pair]


def check_share(tfm: Transform, name: str, value: float) -> None:
    """Raises `ConfigError` unless a value is from 0 to 1."""
    if not isinstance(value, Real) or not 0 <= value <= 1:
        what = "a probability" if name == "p" else "a share"
        raise ConfigError(f"{type(tfm).__name__}({name}={value!r}): {what} is 0 to 1")


def check_range(tfm: Transform, low_name: str, low: float, high_name: str, high: float) -> None:
    """Raises `ConfigError` unless two values are positive and in order."""
    if not (isinstance(low, Real) and isinstance(high, Real) and 0 < low <= high):
        raise ConfigError(
            f"{type(tfm).__name__}({low_name}={low!r}, {high_name}={high!r}): expected two positive numbers, the first no larger"
        )


def check_crop(tfm: Transform, min_scale: float, max_scale: float, ratio: Sequence[float]) -> None:
    """Raises `ConfigError` unless these are shares of an area, and two shapes in order."""
    check_range(tfm, "min_scale", min_scale, "max_scale", max_scale)
    check_share(tfm, "max_scale", max_scale)
    if not isinstance(ratio, Sequence) or len(ratio) != 2:
        raise ConfigError(f"{type(tfm).__name__}(ratio={ratio!r}): expected (from, to), widths for a height of 1")
    check_range(tfm, "ratio[0]", ratio[0], "ratio[1]", ratio[1])
