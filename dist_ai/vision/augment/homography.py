"""Homographies: where every point of an image goes, as one 3 x 3 matrix for each sample.

Coordinates are those of points and boxes: (x, y) in pixels from the top left corner, where an image spans 0 to its width and
height and the middle of its first pixel is (0.5, 0.5). A homography takes (x, y, 1) to a multiple of the new point; one after
the other is the product of their matrices. They are float64 arrays (samples, 3, 3), made on the CPU in microseconds; one that
is the same for all samples is (1, 3, 3).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_convert

__all__ = [
    "Frame",
    "Homography",
    "apply",
    "apply_to_boxes",
    "centred",
    "inverted",
    "moved",
    "rotated",
    "scaled",
    "sheared",
    "tilted",
]

Homography: TypeAlias = npt.NDArray[np.float64]

_NEAREST = 1e-6  # a point on or behind the horizon would be at infinity; it goes very far out instead


class Frame(NamedTuple):
    """The size of an image in pixels."""

    height: int
    width: int


def moved(dx: npt.ArrayLike, dy: npt.ArrayLike) -> Homography:
    """Returns the shift by (dx, dy) pixels.

    >>> apply(moved(3, -1), torch.tensor([[[1.0, 1.0]]])).tolist()
    [[[4.0, 0.0]]]
    """
    return _stacked(c=dx, f=dy)


def scaled(sx: npt.ArrayLike, sy: npt.ArrayLike) -> Homography:
    """Returns the enlargement by `sx` across and `sy` down, away from the top left corner."""
    return _stacked(a=sx, e=sy)


def rotated(degrees: npt.ArrayLike) -> Homography:
    """Returns the turn by an angle about the top left corner, clockwise as one sees it."""
    radians = np.deg2rad(degrees)
    cos, sin = np.cos(radians), np.sin(radians)
    return _stacked(a=cos, b=-sin, d=sin, e=cos)


def sheared(degrees: npt.ArrayLike, *, vertical: bool = False) -> Homography:
    """Returns what makes upright lines lean by an angle (or, vertical, level ones), and leaves the others."""
    slope = np.tan(np.deg2rad(degrees))
    return _stacked(d=slope) if vertical else _stacked(b=slope)


def tilted(across: npt.ArrayLike, down: npt.ArrayLike, frame: Frame) -> Homography:
    """Returns the view of an image that is tilted about its upright and its level middle line.

    With -1 to 1 from edge to edge, a tilt by k takes (x, y) to ((1 - k²) x, y + k) / (1 + k y): the upper edge becomes 1 + k
    times as long, the lower one 1 - k times, and both stay where they are.
    """
    k, j = np.asarray(down, dtype=np.float64), np.asarray(across, dtype=np.float64)
    upright = _stacked(a=1 - k**2, f=k, h=k)
    level = _stacked(e=1 - j**2, c=j, g=j)
    to_pixels = moved(frame.width / 2, frame.height / 2) @ scaled(frame.width / 2, frame.height / 2)
    return to_pixels @ upright @ level @ inverted(to_pixels)


def centred(homography: Homography, frame: Frame) -> Homography:
    """Returns the homography about the middle of a frame instead of its top left corner."""
    x, y = frame.width / 2, frame.height / 2
    return moved(x, y) @ homography @ moved(-x, -y)


def inverted(homography: Homography) -> Homography:
    """Returns the way back."""
    return np.linalg.inv(homography).astype(np.float64, copy=False)


def apply(homography: Homography, points: torch.Tensor) -> torch.Tensor:
    """Returns where points (samples, n, 2) go, in their dtype."""
    dtype = points.dtype if points.dtype == torch.float64 else torch.float32
    matrix = torch.from_numpy(homography).to(dtype).to(points.device, non_blocking=True)[:, None]
    x, y = points.to(dtype).unbind(-1)
    u, v, w = (matrix[..., i, 0] * x + matrix[..., i, 1] * y + matrix[..., i, 2] for i in range(3))
    w = w.clamp(min=_NEAREST)
    return torch.stack([u / w, v / w], -1).to(points.dtype)


def apply_to_boxes(homography: Homography, boxes: torch.Tensor, layout: str, frame: Frame) -> torch.Tensor:
    """Returns the smallest upright boxes around where boxes (samples, n, 4) go, cut at the edges of the new frame.

    A box of which nothing is left in the frame is all zeros, and so is one that was empty: boxes keep their places beside
    their labels.

    Args:
        homography: where points go.
        boxes: four numbers each, as `layout` says.
        layout: ``"XYXY"``, ``"XYWH"`` or ``"CXCYWH"``.
        frame: the size of the result.
    """
    left, top, right, bottom = box_convert(boxes, layout.lower(), "xyxy").unbind(-1)
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], -1).unflatten(-1, (4, 2))
    around = apply(homography, corners.flatten(1, 2)).view(corners.shape)
    low, high = (
        torch.stack([each[..., 0].clamp(0, frame.width), each[..., 1].clamp(0, frame.height)], -1)
        for each in (around.amin(-2), around.amax(-2))
    )
    there = ((right > left) & (bottom > top) & (high > low).all(-1))[..., None]
    return box_convert(torch.cat([low, high], -1) * there, "xyxy", layout.lower())


def _stacked(
    a: Any = 1, b: Any = 0, c: Any = 0, d: Any = 0, e: Any = 1, f: Any = 0, g: Any = 0, h: Any = 0
) -> Homography:
    """Returns the matrices [[a, b, c], [d, e, f], [g, h, 1]]; each letter is a number or an array of one a sample."""
    entries = [np.asarray(each, np.float64) for each in (a, b, c, d, e, f, g, h, 1)]
    matrices = np.empty((np.broadcast(*entries).size, 9))
    for place, each in enumerate(entries):  # a third of the time of `np.stack`; a batch needs a dozen of these
        matrices[:, place] = each
    return matrices.reshape(-1, 3, 3)
