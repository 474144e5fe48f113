"""Boxes beside images, through a loader: they lie where what they are around lies."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from dist_ai.core.randomness import Draw
from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorBBox, TensorImage
from dist_ai.data import DataBlock, DataLoaders, IndexSplitter, TransformBlock
from dist_ai.errors import ConfigError
from dist_ai.vision import DihedralItem, Flip, ImageBlock, RandomResizedCrop, Resize, aug_transforms

HEIGHT, WIDTH = 90, 120


def corners(i: int) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the bright rectangle in image `i`."""
    return 40 + i, 30, 70, 55 + i


def picture(i: int) -> np.ndarray:
    left, top, right, bottom = corners(i)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    return pixels


def box(i: int) -> TensorBBox:
    return TensorBBox([corners(i)], canvas_size=(HEIGHT, WIDTH))


def loaders(get_y: Any = box, **tfms: Any) -> DataLoaders:
    block = DataBlock((ImageBlock, TransformBlock), get_x=picture, get_y=get_y, splitter=IndexSplitter([8, 9]), **tfms)
    return block.dataloaders(list(range(10)), bs=8, num_workers=0, seed=3)


def around(image: torch.Tensor) -> list[float]:
    """Returns the corners of what is bright in an image."""
    bright = plain(image).float().mean(0) > 0.25
    rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
    return [float(each) for each in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


@pytest.mark.parametrize(
    ("item_tfms", "batch_tfms", "shape"),
    [
        ([Resize(96)], [], (96, 96)),
        ([Resize((64, 128), "squish")], [Flip(1.0)], (64, 128)),
        ([DihedralItem(), Resize(96, "pad")], aug_transforms(flip_vert=True, max_lighting=0), (96, 96)),
        ([RandomResizedCrop(112, min_scale=0.7)], aug_transforms(max_lighting=0, size=80), (80, 80)),
    ],
    ids=["resized", "squished and mirrored", "turned, padded and augmented", "cropped, augmented and resized"],
)
def test_a_box_follows_its_image_through_a_loader(item_tfms: Any, batch_tfms: Any, shape: tuple[int, int]) -> None:
    dls = loaders(item_tfms=item_tfms, batch_tfms=batch_tfms)
    for loader in dls:
        images, boxes = loader.one_batch()
        assert (type(boxes), boxes.canvas_size, tuple(images.shape[-2:])) == (TensorBBox, shape, shape)
        assert len({tuple(each) for each in boxes[:, 0].tolist()}) == len(images)
        for image, (found,) in zip(images, boxes, strict=True):
            # A warped rectangle's corners are cut by interpolation; a pixel or so either way.
            assert found.tolist() == pytest.approx(around(image), abs=2.0)


def plain_boxes(i: int) -> Any:
    return tv_tensors.BoundingBoxes([corners(i)], format="XYXY", canvas_size=(HEIGHT, WIDTH))  # type: ignore[call-overload]


@pytest.mark.parametrize("tfm", [Resize(96), DihedralItem()], ids=["Resize", "DihedralItem"])
def test_an_item_transform_refuses_what_lies_in_an_image_and_it_cannot_move(tfm: Any) -> None:
    message = f"{type(tfm).__name__} moves the pixels of a sample and cannot move the BoundingBoxes beside them"
    with pytest.raises(ConfigError, match=re.escape(message)):
        loaders(plain_boxes, item_tfms=tfm).one_batch()


def test_a_batch_transform_refuses_what_lies_in_an_image_and_it_cannot_move() -> None:
    batch = (TensorImage(torch.zeros(1, 3, HEIGHT, WIDTH)), plain_boxes(0))
    draw = Draw(seed=1, epoch=0, samples=[0]).at("batch_tfms")
    with pytest.raises(ConfigError, match="Flip moves the pixels of a sample and cannot move the BoundingBoxes beside"):
        Flip(1.0)(batch, draw)


def test_an_image_that_is_a_tensor_already_is_not_left_as_it_is_by_resize() -> None:
    with pytest.raises(ConfigError, match="Resize moves the pixels of a sample and cannot move the TensorImage"):
        Resize(4)(TensorImage(torch.zeros(3, 8, 8)))
