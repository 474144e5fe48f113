"""Semantic tensors for vision: torchvision's transforms take an image, its mask, points and boxes, and keep what they are."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from dist_ai.core.types import SemanticTensor, TensorCategory, plain
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorImageBW, TensorMask, TensorPoint
from dist_ai.errors import DataError

SIZE = (8, 12)  # height, width

Sample = tuple[SemanticTensor, ...]


def sample() -> Sample:
    """An image with one white pixel at (x, y) = (2, 5), and the mask, the point and the box of that pixel."""
    pixels = torch.zeros(3, *SIZE)
    pixels[:, 5, 2] = 1
    return (
        TensorImage(pixels, of="image"),
        TensorMask(pixels[0].to(torch.uint8), codes=["black", "white"], of="mask"),
        TensorPoint([[2, 5]], canvas_size=SIZE, of="points"),
        TensorBBox([[2, 5, 3, 6]], canvas_size=SIZE, of="boxes"),
        TensorCategory([1], vocab=["a", "b"], of="labels"),
    )


def as_tv_tensors(values: Sample) -> tuple[Any, ...]:
    image, mask, points, boxes, labels = (plain(value) for value in values)
    return (
        tv_tensors.Image(image),
        tv_tensors.Mask(mask),
        tv_tensors.KeyPoints(points, canvas_size=SIZE),
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=SIZE),
        labels,
    )


TRANSFORMS = [
    v2.Resize((16, 6)),
    v2.RandomHorizontalFlip(p=1),
    v2.RandomVerticalFlip(p=1),
    v2.RandomAffine(30, translate=(0.2, 0.2), scale=(0.8, 1.2), shear=10),
    v2.RandomRotation(30),
    v2.RandomPerspective(p=1),
    v2.RandomResizedCrop(6),
    v2.RandomCrop(6, padding=2),
    v2.CenterCrop(4),
    v2.Pad(2),
    v2.RandomZoomOut(p=1),
    v2.ColorJitter(0.5),
    v2.GaussianBlur(3),
    v2.Normalize([0.5] * 3, [0.2] * 3),
    v2.ToDtype(torch.float64, scale=True),
    v2.Identity(),
    v2.Compose(
        [v2.RandomHorizontalFlip(p=1), v2.Resize((4, 6)), v2.RandomAffine(20), v2.ToDtype(torch.float16, scale=True)]
    ),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_torchvision_transforms_take_a_whole_sample_and_give_it_back(transform: Any):
    given = sample()
    torch.manual_seed(0)
    result = transform(*given)
    torch.manual_seed(0)
    expected = transform(*as_tv_tensors(given))
    for before, after, theirs in zip(given, result, expected, strict=True):
        assert type(after) is type(before)
        assert after.of == before.of
        assert torch.equal(plain(after), plain(theirs))
    image, mask, points, boxes, labels = result
    assert mask.codes == ["black", "white"]
    assert points.canvas_size == boxes.canvas_size == tuple(image.shape[-2:]) == tuple(mask.shape[-2:])
    assert (boxes.format, boxes.clamping_mode) == (expected[3].format, expected[3].clamping_mode)
    assert labels.vocab == ["a", "b"]


def white(image: torch.Tensor) -> list[int]:
    """(x, y) of the white pixel."""
    y, x = (plain(image).reshape(-1, *image.shape[-2:])[0] > 0.5).nonzero()[0].tolist()
    return [x, y]


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(p=1),
        v2.RandomVerticalFlip(p=1),
        v2.RandomAffine((0, 0), translate=(0.2, 0.2)),
        v2.RandomRotation((90, 90), expand=True),
        v2.RandomCrop(SIZE, padding=1),
        v2.Pad([1, 2, 3, 4]),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_points_and_boxes_stay_on_the_pixel_that_they_mark(transform: Any):
    torch.manual_seed(1)
    image, mask, points, boxes, _ = transform(*sample())
    x, y = white(image)
    assert white(mask) == [x, y]
    assert points.tolist() == [
        pytest.approx([x, y], abs=1.01)
    ]  # torchvision turns points about a centre half a pixel away
    assert boxes.tolist() == [pytest.approx([x, y, x + 1, y + 1], abs=0.01)]


def test_points_and_boxes_are_scaled_with_their_image():
    _, _, points, boxes, _ = v2.Resize((16, 6))(*sample())
    assert points.tolist() == [[1, 10]]
    assert boxes.tolist() == [[1, 10, 1.5, 12]]
    assert points.canvas_size == (16, 6)


def test_a_type_per_dtype_is_found_by_its_own_name():
    image, mask, *_ = v2.ToDtype({TensorImage: torch.float64, TensorMask: torch.int64, "others": None})(*sample())
    assert (image.dtype, mask.dtype) == (torch.float64, torch.int64)
    assert mask.codes == ["black", "white"]


def test_a_format_of_boxes_is_changed_and_remembered():
    boxes = v2.ConvertBoundingBoxFormat("CXCYWH")(TensorBBox([[2, 4, 6, 10]], canvas_size=SIZE))
    assert type(boxes) is TensorBBox
    assert boxes.tolist() == [[4, 7, 4, 6]]
    assert boxes.format is tv_tensors.BoundingBoxFormat.CXCYWH


def test_sanitizing_drops_a_box_with_its_label():
    boxes = TensorBBox([[2, 4, 6, 8], [3, 3, 3, 3]], canvas_size=SIZE)
    labels = TensorCategory([0, 1], vocab="ab")
    kept = v2.SanitizeBoundingBoxes()({"boxes": boxes, "labels": labels})
    assert type(kept["boxes"]) is TensorBBox
    assert kept["boxes"].tolist() == [[2, 4, 6, 8]]
    assert (type(kept["labels"]), kept["labels"].tolist(), kept["labels"].vocab) == (TensorCategory, [0], "ab")


def test_grey_images_are_images():
    grey = v2.Resize((4, 6))(TensorImageBW(torch.rand(1, *SIZE), of="image"))
    assert type(grey) is TensorImageBW
    assert isinstance(grey, TensorImage)
    assert grey.of == "image"
    assert type(grey * 2) is TensorImageBW


def test_several_crops_of_one_image_are_images():
    crops = v2.FiveCrop(4)(TensorImage(torch.rand(3, 8, 8), of="image"))
    assert [(type(crop), crop.of) for crop in crops] == [(TensorImage, "image")] * 5


def test_a_type_that_torchvision_does_not_know_is_left_alone():
    image, label = v2.RandomHorizontalFlip(p=1)((TensorImage(torch.eye(2)[None]), TensorCategory([1, 2])))
    assert plain(image).tolist() == [[[0, 1], [1, 0]]]
    assert type(label) is TensorCategory
    assert label.tolist() == [1, 2]


def test_what_wrap_changes_replaces_what_was():
    like = TensorBBox([[0, 0, 1, 1]], canvas_size=(4, 4), of="boxes")
    wrapped = TensorBBox.wrap(torch.zeros(2, 3, 4), like, canvas_size=(5, 6))
    assert (wrapped.canvas_size, wrapped.of, wrapped.shape) == ((5, 6), "boxes", (2, 3, 4))
    assert like.canvas_size == (4, 4)


# ------------------------------------------------------------------------------------ making one


def test_coordinates_are_floats_so_that_scaling_does_not_round_them():
    assert TensorPoint([[1, 2]], canvas_size=SIZE).dtype == torch.float32
    assert TensorBBox(torch.ones(1, 4, dtype=torch.int64), canvas_size=SIZE).dtype == torch.float32
    precise = torch.zeros(1, 2, dtype=torch.float64)
    assert TensorPoint(precise, canvas_size=SIZE).data_ptr() == precise.data_ptr()


def test_codes_are_none_where_none_are_given():
    mask = TensorMask(torch.zeros(2, 2, dtype=torch.uint8))
    assert mask.codes is None
    assert mask.__dict__ == {}


def test_an_image_without_boxes_has_none_of_them():
    boxes = v2.Resize((4, 6))(TensorBBox(torch.zeros(0, 4), canvas_size=SIZE))
    assert boxes.shape == (0, 4)
    assert boxes.canvas_size == (4, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TensorPoint([[1, 2, 3]], canvas_size=SIZE),
            "TensorPoint of shape (1, 3): the last dimension is (x, y), so its size is 2",
        ),
        (
            lambda: TensorBBox([1, 2], canvas_size=SIZE),
            "TensorBBox of shape (2,): the last dimension is four numbers a box, so its size is 4",
        ),
        (
            lambda: TensorPoint([[1, 2]], canvas_size=(3, 4, 5)),
            "TensorPoint(canvas_size=(3, 4, 5)): expected (height, width) of the image, in pixels",
        ),
        (
            lambda: TensorBBox([[1, 2, 3, 4]], canvas_size=SIZE, format="XXYY"),
            "TensorBBox(format='XXYY'): expected one of XYXY, XYWH, CXCYWH; did you mean 'XYXY'?",
        ),
    ],
)
def test_coordinates_that_make_no_sense_are_refused(make: Any, message: str):
    with pytest.raises(DataError, match=re.escape(message)):
        make()
