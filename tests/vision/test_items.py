"""Item transforms: an image, its mask, its points and its boxes are cut, resized and turned together."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from dist_ai.core import Draw, Pipeline, Transform
from dist_ai.core.types import TensorCategory
from dist_ai.core.vision_types import TensorBBox, TensorMask, TensorPoint
from dist_ai.errors import ConfigError
from dist_ai.vision import CropPad, DihedralItem, FlipItem, RandomCrop, RandomResizedCrop, RatioResize, Resize, Rotate
from dist_ai.vision.augment.homography import Frame
from dist_ai.vision.decoding import part_for
from dist_ai.vision.items import Window


def noise(width: int = 6, height: int = 4, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def draw_of(sample: int, epoch: int = 0) -> Draw:
    return Draw(seed=1, epoch=epoch, samples=sample)


# ------------------------------------------------------------------------------------------------ Resize


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    method=st.sampled_from(["crop", "pad", "squish"]),
    sample=st.none() | st.integers(0, 10**9),
)
def test_any_image_gets_exactly_the_size(width: int, height: int, size: Any, method: Any, sample: int | None) -> None:
    image = Image.new("RGB", (width, height), (9, 99, 199))
    resized = Resize(size, method)(image, None if sample is None else draw_of(sample))
    assert (resized.height, resized.width) == size
    values = np.asarray(resized)
    if method == "pad":  # black borders, and the image between them
        assert values.reshape(-1, 3).max(0).tolist() == [9, 99, 199]
    else:  # nothing from outside the image: that would be black
        assert (values == (9, 99, 199)).all()


def test_the_crop_never_leaves_the_image_by_a_rounding() -> None:
    for width in range(1, 100):  # 29 is one of those whose product with 28 / 29 is a hair too large
        image = Image.new("L", (width, 29))
        for pixels in (3, 7, 28, 49):
            for draw in (None, draw_of(width)):
                assert Resize(pixels)(image, draw).size == (pixels, pixels)


@pytest.mark.parametrize("method", ["crop", "pad", "squish"])
@pytest.mark.parametrize("shape", [(1, 1), (5000, 1), (1, 5000)])
def test_extreme_images_keep_something_of_themselves(method: Any, shape: tuple[int, int]) -> None:
    assert np.asarray(Resize((28, 30), method)(Image.new("L", shape, 200))).max() == 200


@pytest.mark.parametrize(
    ("left", "top", "side", "size", "frame"),
    [
        (
            162.93,
            83.18,
            399.55,
            75,
            Frame(512, 628),
        ),  # shrinks by a little less than 16/3, and by that once it is rounded
        (7.5, 9.1, 799.7, 300, Frame(900, 1001)),  # as much less than 8/3
        (3.3, 5.2, 120.0, 30, Frame(301, 300)),
    ],
)
def test_a_window_that_shrinks_begins_at_pixels_of_the_jpeg_in_part_as_it_is_decoded(
    left: float, top: float, side: float, size: int, frame: Frame
) -> None:
    window = Window(left, top, left + side, top + side, Frame(size, size)).snapped(frame)
    step = part_for(window.shrink)
    assert [edge % step for edge in window[:4]] == [0, 0, 0, 0]
    assert max(abs(window.left - left), abs(window.top - top)) <= step


def test_the_crop_is_the_largest_of_the_shape_and_in_the_middle_without_draws() -> None:
    pixels = noise(40, 20)
    got = Resize((10, 10))(Image.fromarray(pixels))
    middle = Image.fromarray(pixels[:, 10:30]).resize((10, 10), Image.Resampling.BILINEAR)
    # At its edges the crop's resampling looks at the pixels next to it, which a crop made before cannot.
    np.testing.assert_array_equal(np.asarray(got)[1:-1, 1:-1], np.asarray(middle)[1:-1, 1:-1])


def test_in_training_the_crop_lies_where_the_samples_draw_says() -> None:
    columns = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (20, 1)))  # a pixel's value is its column
    lefts = []
    for sample in range(200):
        crop = np.asarray(Resize(20)(columns, draw_of(sample)))
        np.testing.assert_array_equal(crop, np.asarray(Resize(20)(columns, draw_of(sample))))
        assert crop[0, -1] - crop[0, 0] == pytest.approx(19, abs=1)  # neither stretched nor outside
        lefts.append(int(crop[0, 0]))
    assert np.mean(lefts) == pytest.approx(40, abs=5)
    assert min(lefts) <= 3
    assert max(lefts) >= 77
    assert not np.array_equal(Resize(20)(columns, draw_of(3)), Resize(20)(columns, draw_of(3, epoch=1)))


def test_pad_keeps_the_shape_and_fills_up_with_black_on_both_sides() -> None:
    got = np.asarray(Resize((10, 10), "pad")(Image.new("L", (40, 20), 200)))
    assert got[:2].max() == 0
    assert got[7:].max() == 0
    assert got[3:7].min() == 200


def test_squish_keeps_the_whole_image() -> None:
    pixels = noise(40, 20)
    squished = Resize((10, 12), "squish")(Image.fromarray(pixels))
    expected = Image.fromarray(pixels).resize((12, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(squished), np.asarray(expected))


@pytest.mark.parametrize("size", [0, -3, 64.0, "64", (64,), (64, 64, 3), (64, 0), (64, 1.5), None])
def test_sizes_that_cannot_be_are_refused(size: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"Resize\(.*\): expected one number or \(height, width\), in pixels, at least 1"
    ):
        Resize(size)


def test_a_misspelt_method_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="expected 'crop', 'pad' or 'squish'; did you mean 'squish'"):
        Resize(3, "squash")  # type: ignore[arg-type]


def test_pad_may_fill_up_with_the_border_or_the_reflection() -> None:
    ramp = Image.fromarray(np.tile(np.arange(10, 50, 10, dtype=np.uint8)[:, None], (1, 8)))  # 4 rows of 10, 20, 30, 40
    rows = {mode: np.asarray(Resize(8, "pad", mode)(ramp))[:, 0].tolist() for mode in ("zeros", "border", "reflection")}
    assert rows == {
        "zeros": [0, 0, 10, 20, 30, 40, 0, 0],
        "border": [10, 10, 10, 20, 30, 40, 40, 40],
        "reflection": [20, 10, 10, 20, 30, 40, 40, 30],
    }
    with pytest.raises(
        ConfigError, match=r"Resize\(pad_mode='reflect'\): expected one of .*; did you mean 'reflection'"
    ):
        Resize(8, "pad", "reflect")


# ------------------------------------------------------------------------------------------------ all of them together

CUTS = [
    Resize((20, 30)),
    Resize((20, 30), "squish"),
    Resize((30, 20), "pad", "reflection"),
    RandomResizedCrop(24),
    RandomCrop((18, 22)),
    RandomCrop((60, 22), "border"),
    CropPad((22, 18)),
    CropPad((64, 70), "reflection"),
    RatioResize(33),
    FlipItem(1.0),
    DihedralItem(),
]


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(CUTS),
    st.tuples(st.integers(25, 60), st.integers(25, 60)),
    st.floats(0.3, 0.7),
    st.floats(0.3, 0.7),
    st.none() | st.integers(0, 10**6),
)
def test_mask_points_and_boxes_go_where_the_image_goes(
    tfm: Transform, size: tuple[int, int], across: float, down: float, sample: int | None
) -> None:
    """A bright spot is where its point says, in its box, and in its mask."""
    height, width = size
    x, y = across * width, down * height
    column, row = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    far = np.hypot(column - x, row - y)
    image = Image.fromarray((np.clip(1.5 - far / 6, 0, 1) * 255).astype(np.uint8))
    item = (
        image,
        TensorMask(torch.from_numpy((far < 6).astype(np.uint8)), codes=["dark", "bright"]),
        TensorPoint([[x, y]], canvas_size=size),
        TensorBBox([[x - 6, y - 6, 12, 12], [0, 0, 0, 0]], canvas_size=size, format="XYWH"),
        TensorCategory(3),
    )
    draw = None if sample is None else draw_of(sample)
    got, mask, point, box, label = Pipeline([tfm])(item, draw, split_idx=0)
    assert mask.shape == (got.height, got.width) == point.canvas_size == box.canvas_size
    assert (mask.codes, mask.dtype, label.item(), box.format.value) == (["dark", "bright"], torch.uint8, 3, "XYWH")
    light = np.asarray(got) / 255
    apart = (light > 0.5) != mask.bool().numpy()
    assert (np.abs(light - 0.5)[apart] < 0.35).all()
    at_x, at_y = point[0].tolist()
    left, top, wide, high = box[0].tolist()
    if 1 < at_x < got.width - 1 and 1 < at_y < got.height - 1:
        assert light[int(at_y), int(at_x)] > 0.6
        assert left - 0.01 <= at_x <= left + wide + 0.01
        assert top - 0.01 <= at_y <= top + high + 0.01
    assert box[1].tolist() == [0, 0, 0, 0]


@settings(deadline=None)
@given(
    st.sampled_from(CUTS),
    st.tuples(st.integers(1, 90), st.integers(1, 90)) | st.sampled_from([(1, 3000), (3000, 1), (1, 1)]),
    st.none() | st.integers(0, 10**9),
)
def test_every_shape_comes_through_and_gets_the_size(tfm: Any, size: tuple[int, int], sample: int | None) -> None:
    got = tfm(Image.new("RGB", (size[1], size[0]), (9, 99, 199)), None if sample is None else draw_of(sample))
    if isinstance(tfm, RatioResize):
        assert max(got.size) == 33
    elif not isinstance(tfm, FlipItem | DihedralItem):
        assert [got.height, got.width] == tfm.size
    assert np.asarray(got).reshape(-1, 3).max(0).tolist() == [9, 99, 199]


def test_a_crop_as_it_is_takes_whole_pixels_at_places_that_are_equally_likely() -> None:
    pixels = np.arange(100, dtype=np.uint8).reshape(10, 10)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(np.asarray(CropPad(4)(image, draw_of(0))), pixels[3:7, 3:7])
    np.testing.assert_array_equal(np.asarray(RandomCrop(4)(image)), pixels[3:7, 3:7])
    firsts = [int(np.asarray(RandomCrop(8)(image, draw_of(i)))[0, 0]) for i in range(900)]
    counts = {first: firsts.count(first) for first in set(firsts)}
    assert sorted(counts) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert min(counts.values()) > 65
    np.testing.assert_array_equal(np.asarray(CropPad(12)(image))[1:-1, 1:-1], pixels)


def test_a_part_has_the_area_and_shape_that_are_drawn_and_validation_the_middle() -> None:
    areas, shapes = [], []
    for sample in range(500):
        window = RandomResizedCrop(32, 0.2, (0.5, 2)).window(Frame(100, 150), draw_of(sample))
        width, height = window.right - window.left, window.bottom - window.top
        assert 0 <= window.left < window.right <= 150
        assert 0 <= window.top < window.bottom <= 100
        areas.append(width * height / 15_000)
        shapes.append(width / height)
    assert 0.2 <= min(areas) < 0.23 < 0.9 < max(areas)
    assert 0.5 <= min(shapes) < 0.55 < 1.8 < max(shapes) <= 2.0001
    middle = RandomResizedCrop(224).window(Frame(256, 512), None)
    # 224 and a seventh, in steps of 8, are 256: that is what the image's height is made.
    assert middle[:4] == (144, 16, 368, 240)


def test_turned_items_are_turned_in_all_ways_in_training_only() -> None:
    image = Image.fromarray(noise(4, 6))
    ways = {np.asarray(DihedralItem()(image, draw_of(i))).tobytes() for i in range(60)}
    assert len(ways) == 8
    assert Pipeline([DihedralItem(), FlipItem(1.0)])(image, None, split_idx=1) is image
    np.testing.assert_array_equal(np.asarray(FlipItem(1.0)(image, draw_of(0))), noise(4, 6)[:, ::-1])


def test_torchvisions_transforms_of_whole_samples_stand_in_a_pipeline_as_they_are() -> None:
    item = (
        Image.fromarray(noise(40, 30)),
        TensorMask(torch.ones(30, 40, dtype=torch.uint8), codes=["a", "b"]),
        TensorPoint([[10, 10]], canvas_size=(30, 40)),
        TensorCategory(1),
    )
    steps = v2.Compose([v2.RandomHorizontalFlip(1.0), v2.Resize((15, 20))])
    image, mask, point, label = Pipeline([steps, Resize(12)])(item, draw_of(0), split_idx=0)
    assert (image.size, tuple(mask.shape), mask.codes, label.item()) == ((12, 12), (12, 12), ["a", "b"], 1)
    # 40 - 10 = 30, halved is 15; of 20 columns 0 to 5 are cut away on the left, and 15 become 12.
    assert 7.5 <= point[0, 0] <= 12
    assert point.canvas_size == (12, 12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("tfm", [Resize(4), CropPad(12, "border"), DihedralItem()], ids=lambda tfm: type(tfm).__name__)
def test_masks_of_every_kind_of_integer_stay_of_their_kind(tfm: Transform, dtype: torch.dtype) -> None:
    mask = TensorMask((torch.arange(64).reshape(8, 8) % 2).to(dtype))
    expected = Pipeline([tfm])(TensorMask(mask.to(torch.uint8)), draw_of(0), split_idx=0)
    made = Pipeline([tfm])(mask, draw_of(0), split_idx=0)
    assert made.dtype == dtype
    assert made.tolist() == expected.to(dtype).tolist()


def test_masks_need_a_class_for_what_they_are_filled_up_with() -> None:
    mask = TensorMask(torch.ones(5, 5, dtype=torch.uint8))
    with pytest.raises(
        ConfigError, match="CropPad has no class for what it fills up with; give it pad_mode='reflection'"
    ):
        CropPad(8)(mask)
    assert CropPad(4)(mask).shape == (4, 4)
    assert (CropPad(8, "border")(mask) == 1).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RandomCrop(0), r"RandomCrop\(0\): expected one number or \(height, width\)"),
        (lambda: CropPad((3, 4, 5)), r"CropPad\(\(3, 4, 5\)\): expected one number or \(height, width\)"),
        (
            lambda: RandomResizedCrop(8, 1.5),
            r"RandomResizedCrop\(min_scale=1.5, max_scale=1.0\): expected two positive",
        ),
        (lambda: RandomResizedCrop(8, val_xtra=-1), r"RandomResizedCrop\(val_xtra=-1\): expected 0 or more"),
        (
            lambda: RandomResizedCrop(8, ratio=1),
            r"RandomResizedCrop\(ratio=1\): expected \(from, to\), widths for a heig",
        ),
        (
            lambda: RandomResizedCrop(8, "all"),
            r"RandomResizedCrop\(min_scale='all', max_scale=1.0\): expected two positive",
        ),
        (lambda: RatioResize(0), r"RatioResize\(max_sz=0\): expected a number of pixels, at least 1"),
        (lambda: RatioResize((3, 4)), r"RatioResize\(max_sz=\(3, 4\)\): expected a number of pixels, at least 1"),
        (lambda: FlipItem(2), r"FlipItem\(p=2\): a probability is 0 to 1"),
        (lambda: FlipItem("half"), r"FlipItem\(p='half'\): a probability is 0 to 1"),
        (lambda: DihedralItem(-1), r"DihedralItem\(p=-1\): a probability is 0 to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("tfm", CUTS, ids=lambda tfm: type(tfm).__name__)
def test_every_item_transform_survives_json(tfm: Transform) -> None:
    assert Transform.from_plain(json.loads(json.dumps(tfm.to_plain()))) == tfm


def test_numbers_of_numpy_are_numbers() -> None:
    assert RatioResize(np.int64(64)).max_sz == 64
    assert Rotate(p=np.float32(0.5)).p == 0.5
