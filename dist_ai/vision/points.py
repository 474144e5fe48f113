"""Points in an image, as a target beside it: where the nose is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from dist_ai.core.transform import ItemTransform, Transform
from dist_ai.core.vision_types import TensorPoint
from dist_ai.data.device import to_device
from dist_ai.errors import DataError
from dist_ai.losses import MSELoss, default_loss
from dist_ai.vision.transforms import image_sizes

__all__ = ["PlacePoints", "ScalePoints", "ToPoints"]

_NOWHERE = (0, 0)


@dataclass
class ToPoints(ItemTransform):
    """Numbers to a `TensorPoint` (points, 2) of pixels, (x, y) each.

    Args:
        n: how many points a sample has; None to learn it at set-up from the first training item.
        y_first: the numbers are (y, x).

    Raises:
        DataError: not so many points, or one of them is no pair of finite numbers.
    """

    n: int | None = None
    y_first: bool = False

    order: ClassVar[int] = 1

    @property
    def num_outputs(self) -> int | None:
        """How many numbers a model gives for it."""
        return None if self.n is None else 2 * self.n

    def setups(self, items: Sequence) -> None:
        """Learns how many points there are."""
        if self.n is None:
            self.n = len(self.encodes(items[0]))

    def encodes(self, x: object) -> Any:
        """Returns the points."""
        try:
            points = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"target {x!r:.100}: expected points, a list of (x, y)") from error
        points = points.view(-1, 2) if points.dim() == 1 and points.numel() % 2 == 0 else points
        if points.dim() != 2 or points.shape[1] != 2 or not points.isfinite().all():
            raise DataError(f"target {x!r:.100}: expected points, a list of (x, y) of finite numbers")
        if self.n is not None and len(points) != self.n:
            raise DataError(f"target {x!r:.100} has {len(points)} point(s), and others have {self.n}")
        # Which image they lie in is known when the sample is put together: see PlacePoints.
        return TensorPoint(points.flip(-1) if self.y_first else points, canvas_size=_NOWHERE)

    def as_target(self, numbers: torch.Tensor, inputs: tuple[Any, ...]) -> TensorPoint:
        """Returns predicted coordinates, two for each point, as points in the image."""
        return TensorPoint(numbers.reshape(len(numbers), -1, 2), canvas_size=image_sizes(inputs)[0])


@dataclass
class PlacePoints(ItemTransform):
    """Gives the points of a sample the size of its image, before the two are resized together."""

    order: ClassVar[int] = 0

    def encodes(self, x: tuple) -> Any:
        """Returns the sample with its points placed."""
        sizes = image_sizes(x)
        if len(sizes) == 0:
            return x
        return tuple(TensorPoint(each, canvas_size=sizes[0]) if isinstance(each, TensorPoint) else each for each in x)


@dataclass
class ScalePoints(Transform):
    """Pixels to -1 (left, top) to 1 (right, bottom): what a model predicts alike at any size."""

    order: ClassVar[int] = 90

    def encodes(self, x: TensorPoint) -> Any:
        """Returns the points scaled."""
        return x / _half(x) - 1

    def decodes(self, x: TensorPoint) -> Any:
        """Returns the points in pixels."""
        return (x + 1) * _half(x)


@default_loss.register(TensorPoint)
def _(target: TensorPoint) -> MSELoss:
    return MSELoss()


def _half(x: TensorPoint) -> torch.Tensor:
    height, width = x.canvas_size
    return to_device(torch.tensor([width / 2, height / 2], dtype=x.dtype), x.device)
