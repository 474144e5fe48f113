"""Boxes in an image and what is in each of them, as two targets beside it: where which trees stand.

Boxes stay in the pixels of their image, (left, top, right, bottom), as torchvision's detectors take them. A sample has any
number of them, none too; a batch has as many as the fullest sample of its part. What is filled up with is no box: all
zeros, and of class 0, which is no class. So padding must never count, and then it does not matter how much there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision.ops import box_convert, clip_boxes_to_image

from dist_ai.core.transform import ItemTransform
from dist_ai.core.types import TensorCategory, plain
from dist_ai.core.vision_types import TensorBBox
from dist_ai.errors import ConfigError, DataError, did_you_mean
from dist_ai.vision.transforms import image_sizes

__all__ = ["BoxesToBatch", "DropEmptyBoxes", "PlaceBoxes", "ToBoxes"]

_NOWHERE = (0, 0)
_FORMATS = ("xyxy", "xywh", "cxcywh")


@dataclass
class ToBoxes(ItemTransform):
    """Four numbers a box to a `TensorBBox` (boxes, 4) of pixels, (left, top, right, bottom) each, float32.

    Args:
        format: what the numbers are: ``"xyxy"`` left, top, right, bottom; ``"xywh"`` left, top, width, height, as COCO has
            them; ``"cxcywh"`` centre and size.

    Raises:
        ConfigError: another format.
        DataError: not four finite numbers a box, or one whose right end lies left of its left one.

    >>> ToBoxes("xywh")([[10, 20, 5, 5]])[0].tolist()
    [10.0, 20.0, 15.0, 25.0]
    """

    format: str = "xyxy"

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.format not in _FORMATS:
            raise ConfigError(
                f"ToBoxes(format={self.format!r}): expected one of {', '.join(map(repr, _FORMATS))}"
                f"{did_you_mean(str(self.format), _FORMATS)}"
            )

    def encodes(self, x: object) -> Any:
        """Returns the boxes."""
        if isinstance(x, TensorBBox):
            return x
        try:
            boxes = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"target {x!r:.100}: expected boxes, a list of four numbers each") from error
        boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.isfinite().all():
            raise DataError(f"target {x!r:.100}: expected boxes, a list of four finite numbers each")
        boxes = box_convert(boxes, self.format, "xyxy")
        if wrong := (boxes[:, 2:] < boxes[:, :2]).any(1).nonzero().flatten().tolist():
            raise DataError(
                f"box {wrong[0]} of target {x!r:.100} ends before it begins, {boxes[wrong[0]].tolist()} as left, top, right, "
                f"bottom; if its last two numbers are its size, give format='xywh'"
            )
        # Which image they lie in is known when the sample is put together: see PlaceBoxes.
        return TensorBBox(boxes, canvas_size=_NOWHERE)

    def as_target(self, numbers: torch.Tensor, inputs: tuple[Any, ...]) -> TensorBBox:
        """Returns predicted boxes, left, top, right and bottom each, as boxes in the image."""
        return TensorBBox(numbers, canvas_size=image_sizes(inputs)[0])


@dataclass
class PlaceBoxes(ItemTransform):
    """Gives the boxes of a sample the size of its image, and cuts them at its edge, before the two are resized together.

    Raises:
        DataError: not as many labels as boxes.
    """

    order: ClassVar[int] = 0

    def encodes(self, x: tuple) -> Any:
        """Returns the sample with its boxes placed."""
        sizes = image_sizes(x)
        if not sizes or not any(isinstance(each, TensorBBox) for each in x):
            return x
        for boxes, labels in _pairs(x):
            if len(labels) != len(boxes):
                raise DataError(f"{len(boxes)} box(es) and {len(labels)} label(s); expected a label for each box")
        return tuple(
            TensorBBox.wrap(clip_boxes_to_image(plain(each), sizes[0]), each, canvas_size=sizes[0])
            if isinstance(each, TensorBBox)
            else each
            for each in x
        )


@dataclass
class DropEmptyBoxes(ItemTransform):
    """Leaves out the boxes of a sample that lie outside, were cut away, or have no area, with their labels.

    Undone, it leaves out the padding of a batch.
    """

    order: ClassVar[int] = 50

    def encodes(self, x: tuple) -> Any:
        """Returns the sample with the boxes that can be seen."""
        return _only(x, lambda boxes, _: _has_area(boxes))

    def decodes(self, x: tuple) -> Any:
        """Returns the sample without padding."""
        return _only(x, lambda boxes, labels: _has_area(boxes) & (True if labels is None else plain(labels) > 0))


@dataclass
class BoxesToBatch(ItemTransform):
    """Makes the boxes of a batch that its transforms cut away padding: all zeros, and of class 0."""

    order: ClassVar[int] = 98

    def encodes(self, x: tuple) -> Any:
        """Returns the batch."""
        changed = list(x)
        for i, each in enumerate(x):
            if isinstance(each, TensorBBox):
                seen = _has_area(each)
                changed[i] = each.give_type_to(plain(each) * seen[..., None])
                if i + 1 < len(x) and isinstance(x[i + 1], TensorCategory):
                    changed[i + 1] = x[i + 1].give_type_to(plain(x[i + 1]) * seen)
        return tuple(changed)


def _has_area(boxes: TensorBBox) -> torch.Tensor:
    """Returns whether each box has an area, (..., boxes)."""
    numbers = plain(boxes)
    return (numbers[..., 2:] > numbers[..., :2]).all(-1)


def _pairs(sample: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Returns the boxes of a sample with the labels behind them."""
    pairs = itertools.pairwise(sample)
    return [(a, b) for a, b in pairs if isinstance(a, TensorBBox) and isinstance(b, TensorCategory)]


def _only(x: tuple[Any, ...], wanted: Callable[[TensorBBox, Any], torch.Tensor]) -> tuple[Any, ...]:
    """Returns a sample with the boxes that are wanted, and their labels."""
    changed = list(x)
    for i, each in enumerate(x):
        if not isinstance(each, TensorBBox):
            continue
        labels = x[i + 1] if i + 1 < len(x) and isinstance(x[i + 1], TensorCategory) else None
        seen = wanted(each, labels)
        changed[i] = each.give_type_to(plain(each)[seen])
        if labels is not None:
            changed[i + 1] = labels.give_type_to(plain(labels)[seen])
    return tuple(changed)
