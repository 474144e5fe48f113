"""Transforms of other libraries, usable as they are: Albumentations', and torchvision's v2."""

from __future__ import annotations

from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dist_ai.core.transform import Pipeline
from dist_ai.core.types import plain
from dist_ai.data import DataBlock, DataLoaders
from dist_ai.errors import DataError
from dist_ai.vision import Albumentations, BBoxBlock, BBoxLblBlock, ImageBlock, MaskBlock, PointBlock

HEIGHT, WIDTH = 20, 32


def picture(i: int) -> np.ndarray:
    """A bright rectangle."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[4:10, 6:16] = 200
    return pixels


def loaders(tfm: Any, num_workers: int = 0) -> DataLoaders:
    block = DataBlock(
        (ImageBlock, MaskBlock(["back", "thing"]), BBoxBlock, BBoxLblBlock(["thing"]), PointBlock),
        get_x=picture,
        get_y=[lambda i: (picture(i)[..., 0] > 0).astype(np.uint8), lambda i: [[6, 4, 16, 10]], lambda i: ["thing"],
               lambda i: [(6, 4), (16, 10)]],
        n_inp=1,
        item_tfms=tfm,
    )  # fmt: skip
    return block.dataloaders(list(range(10)), bs=8, num_workers=num_workers, seed=3)


def check_together(dls: DataLoaders, tolerance: float) -> int:
    """Returns how many samples were moved; mask, box and points lie where the rectangle is."""
    images, masks, boxes, labels, points = (plain(each) for each in dls.one_batch())
    height, width = images.shape[-2:]
    corners = (points.reshape(len(points), -1, 2) + 1) * torch.tensor([width / 2, height / 2])
    moved = 0
    for image, mask, box, label, corner in zip(images, masks, boxes, labels, corners, strict=True):
        assert torch.equal(image[0] > 0.3, mask > 0)
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        around = [float(each) for each in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
        assert label.tolist() == [1]
        assert box[0].tolist() == pytest.approx(around, abs=tolerance)
        spread = [*corner.amin(0).tolist(), *corner.amax(0).tolist()]
        assert spread == pytest.approx(around, abs=tolerance + 1)
        moved += around != [6, 4, 16, 10]
    return moved


class OfOnesOwn(A.ImageOnlyTransform):
    pass


def test_albumentations_moves_all_of_a_sample_together() -> None:
    flips = Albumentations([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    assert 0 < check_together(loaders(flips), tolerance=0.01) < 8
    as_they_are = loaders([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    assert 0 < check_together(as_they_are, tolerance=0.01) < 8
    assert isinstance(Pipeline([OfOnesOwn()]).tfms[0], Albumentations)
    assert torch.equal(as_they_are.valid.one_batch()[0], loaders([]).valid.one_batch()[0])  # in training alone
    assert check_together(loaders(Albumentations(A.Compose([A.Transpose(p=1.0)]))), tolerance=0.01) == 8
    assert check_together(loaders(Albumentations(A.Resize(40, 64), split_idx=None)), tolerance=1.01) == 8


def test_what_albumentations_draws_depends_on_the_sample_alone() -> None:
    tfm = Albumentations([A.RandomBrightnessContrast(p=1.0), A.HorizontalFlip()])
    batches = [torch.cat([x for x, *_ in loaders(tfm, num_workers).train]) for num_workers in (0, 2)]
    assert torch.equal(*batches)
    shades = {round(float(image.max()), 3) for image in batches[0]}
    assert len(shades) > 3
    valid = loaders(tfm).valid.one_batch()[0]
    assert {round(float(image.max()), 3) for image in valid} == {round(200 / 255, 3)}


def test_albumentations_that_makes_floats_is_refused() -> None:
    with pytest.raises(DataError, match="Albumentations transform made float32 of an image; expected uint8: leave out"):
        loaders(Albumentations(A.Normalize())).one_batch()


def test_torchvisions_v2_moves_all_of_a_sample_together() -> None:
    images, masks, boxes, _, _ = loaders([]).one_batch()
    flipped = v2.RandomHorizontalFlip(p=1.0)(images, masks, boxes)
    assert [type(each) for each in flipped] == [type(each) for each in (images, masks, boxes)]
    assert torch.equal(plain(flipped[0])[:, 0] > 0.3, plain(flipped[1]) > 0)
    assert plain(flipped[2])[0, 0].tolist() == [16, 4, 26, 10]
