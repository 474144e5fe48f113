"""Transforms of coordinates: each says where the points of a batch go, and a row of them moves everything once.

A pipeline runs neighbours as one (see `Composable`): their homographies are multiplied, image and mask are read once by the
product's inverse, points and boxes are multiplied by the product itself. So however many are listed, a batch is interpolated
once, and a point lies where its pixel does.

To write one, say where points go:

```python
@dataclass
class Drift(Coordinates):
    by: float = 4.0

    def homography(self, frame, draw):
        return moved(of_batch(self, draw).uniform(-self.by, self.by), 0)
```
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import tv_tensors

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Composable, Transform
from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorMask, TensorPoint
from dist_ai.errors import ConfigError, DataError, did_you_mean
from dist_ai.vision.augment.homography import Frame, Homography, apply, apply_to_boxes, inverted
from dist_ai.vision.augment.sampling import interpolated

__all__ = ["Coordinates", "Motion", "check_movable", "check_samples", "check_sampling", "move", "of_batch"]

_MODES, _PAD_MODES = ("bilinear", "bicubic", "nearest"), ("reflection", "border", "zeros")


class Coordinates(Composable):
    """A transform of coordinates, of batches on their device.

    Attributes:
        mode: how pixels are interpolated; None leaves it to the neighbours, and bilinear if they have no say.
        pad_mode: what lies beyond the image; None leaves it to the neighbours, and its reflection if they have no say.
        onto_pixels: each pixel goes onto one: a row of such transforms moves pixels without interpolating.
    """

    order: ClassVar[int] = 20
    split_idx: ClassVar[int | None] = 0
    onto_pixels: ClassVar[bool] = False
    mode: str | None = None
    pad_mode: str | None = None

    @abstractmethod
    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns where points of a frame go, for each sample (samples, 3, 3) or the same for all (1, 3, 3)."""

    def frame_after(self, frame: Frame) -> Frame:
        """Returns the size of the result; by default as it was."""
        return frame

    @classmethod
    def run(cls, row: Sequence[tuple[Any, Draw | None]], x: Any) -> Any:
        """Returns `x` moved; see `move` for what can be."""
        if (function := move.find(type(x))) is None:
            check_movable(row[0][0], x)
            return x
        return function(x, row)


@dataclass(frozen=True)
class Motion:
    """What a row of transforms does to a batch.

    Attributes:
        homography: the product of theirs, (samples or 1, 3, 3).
        frame: the size of the result.
        mode, pad_mode: what they agree on.
        onto_pixels: no pixel needs to be interpolated.
    """

    homography: Homography
    frame: Frame
    mode: str
    pad_mode: str
    onto_pixels: bool

    @classmethod
    def of(cls, row: Sequence[tuple[Any, Draw | None]], frame: Frame, samples: int) -> Motion:
        """Returns what a row does to a batch of so many samples of a size.

        Raises:
            ConfigError: neighbours want to interpolate in different ways.
            DataError: the draws are those of another number of samples, or the frame is empty.
        """
        if min(frame) < 1:
            raise DataError(f"a batch of images of {frame.height} x {frame.width} pixels has nothing to move")
        settings = {name: _agreed(row, name) for name in ("mode", "pad_mode")}
        product, at = np.eye(3)[None], frame
        for tfm, draw in row:
            product = tfm.homography(at, draw) @ product
            at = tfm.frame_after(at)
        check_samples(product, samples)
        return cls(
            product,
            at,
            settings["mode"] or "bilinear",
            settings["pad_mode"] or "reflection",
            all(tfm.onto_pixels for tfm, _ in row),
        )


def of_batch(tfm: Transform, draw: Draw | None) -> Draw:
    """Returns the draws, which must be those of a batch.

    Raises:
        ConfigError: there are none, or they are those of a single sample.
    """
    if draw is None or draw.single:
        raise ConfigError(f"{_name(tfm)} draws for each sample of a batch; use it in batch_tfms")
    return draw


def check_movable(tfm: Transform, x: Any) -> None:
    """Raises `ConfigError` for a value that lies in an image, which a transform without an implementation for it would leave.

    Those are torchvision's types: left where they were while the image moves, they would be wrong targets without a word.
    """
    if isinstance(x, tv_tensors.TVTensor):
        raise ConfigError(
            f"{_name(tfm)} moves the pixels of a sample and cannot move the {type(x).__name__} beside them; an item transform "
            "moves PIL images, a batch transform a TensorImage, and both a TensorMask, TensorPoint and TensorBBox: make it one "
            "of these"
        )


def check_samples(drawn: Sized, samples: int) -> None:
    """Raises `DataError` unless what was drawn is for so many samples, or the same for all."""
    if len(drawn) not in (1, samples):
        raise DataError(f"draws of {len(drawn)} samples for a batch of {samples}")


def check_sampling(tfm: Transform, mode: str | None, pad_mode: str | None) -> None:
    """Raises `ConfigError` if there is no such way to interpolate, or to go on beyond the edge."""
    for name, value, known in (("mode", mode, _MODES), ("pad_mode", pad_mode, _PAD_MODES)):
        if value is not None and value not in known:
            raise ConfigError(
                f"{_name(tfm)}({name}={value!r}): expected one of {', '.join(known)}{did_you_mean(str(value), known)}"
            )


move = Dispatch("move")
"""How a value of a type follows a row of coordinate transforms, (x, row) -> x; values of other types stay as they are."""


@move.register(TensorImage)
def _(x: TensorImage, row: Sequence[tuple[Any, Draw | None]]) -> Any:
    pixels = _batch(plain(x), 4, "images (samples, channels, height, width)", row)
    motion = Motion.of(row, Frame(*pixels.shape[-2:]), len(pixels))
    if motion.onto_pixels:
        return x.give_type_to(_rearranged(pixels, motion))
    inverse = inverted(motion.homography)
    return x.give_type_to(interpolated(pixels, inverse, motion.frame, mode=motion.mode, pad_mode=motion.pad_mode))


@move.register(TensorMask)
def _(x: TensorMask, row: Sequence[tuple[Any, Draw | None]]) -> Any:
    """Each pixel gets the class of the nearest one."""
    classes = _batch(plain(x), 3, "masks (samples, height, width)", row)[:, None]
    motion = Motion.of(row, Frame(*classes.shape[-2:]), len(classes))
    if motion.onto_pixels:
        return x.give_type_to(_rearranged(classes, motion)[:, 0])
    if motion.pad_mode == "zeros":
        raise ConfigError(
            "pad_mode='zeros' has no class for what lies beyond a mask; use 'reflection' or 'border' with masks"
        )
    inverse = inverted(motion.homography)
    result = interpolated(classes, inverse, motion.frame, mode="nearest", pad_mode=motion.pad_mode)
    return x.give_type_to(result[:, 0])


@move.register(TensorPoint)
def _(x: TensorPoint, row: Sequence[tuple[Any, Draw | None]]) -> Any:
    """Points that leave the image lie outside, each at its place in the list."""
    points = _batch(plain(x), 3, "points (samples, points, 2)", row)
    motion = Motion.of(row, Frame(*x.canvas_size), len(points))
    return TensorPoint.wrap(apply(motion.homography, points), x, canvas_size=tuple(motion.frame))


@move.register(TensorBBox)
def _(x: TensorBBox, row: Sequence[tuple[Any, Draw | None]]) -> Any:
    """See `apply_to_boxes`."""
    boxes = _batch(plain(x), 3, "boxes (samples, boxes, 4)", row)
    motion = Motion.of(row, Frame(*x.canvas_size), len(boxes))
    moved = apply_to_boxes(motion.homography, boxes, x.format.value, motion.frame)
    return TensorBBox.wrap(moved, x, canvas_size=tuple(motion.frame))


def _batch(x: torch.Tensor, dims: int, expected: str, row: Sequence[tuple[Any, Draw | None]]) -> torch.Tensor:
    if x.dim() != dims:
        raise ConfigError(
            f"{_name(row[0][0])} draws for each sample of a batch; use it in batch_tfms: it got shape {tuple(x.shape)}, "
            f"expected {expected}"
        )
    return x


def _rearranged(pixels: torch.Tensor, motion: Motion) -> torch.Tensor:
    """Returns pixels (samples, channels, height, width) mirrored and turned, to the last bit what they were."""
    a, b, _, d, e, _ = motion.homography[:, :2].reshape(-1, 6).T
    across, down = a + b < 0, d + e < 0  # each row has a single 1 or -1: whether it is read from the other end
    ways = np.stack([b != 0, across, down])
    masks = torch.from_numpy(ways).to(pixels.device, non_blocking=True)[..., None, None, None]
    changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
        lambda x: x.transpose(-1, -2),
        lambda x: x.flip(-1),
        lambda x: x.flip(-2),
    )
    for chosen, mask, change in zip(ways, masks, changes, strict=True):
        if chosen.any():
            pixels = torch.where(mask, change(pixels), pixels)
    return pixels


def _agreed(row: Sequence[tuple[Any, Draw | None]], name: str) -> str | None:
    """Returns what those of a row that have a say want; they must want the same, since they are interpolated once."""
    voters = [tfm for tfm, _ in row if getattr(tfm, name) is not None]
    for one, other in pairwise(voters):
        if getattr(one, name) != getattr(other, name):
            raise ConfigError(
                f"{_name(one)}({name}={getattr(one, name)!r}) and {_name(other)}({name}={getattr(other, name)!r}) stand in one "
                f"row, which is interpolated once; give them one {name}"
            )
    return getattr(voters[0], name) if voters else None


def _name(tfm: Transform) -> str:
    return type(tfm).__name__
