"""Item transforms: an image, its mask, its points and its boxes are cut, resized and turned together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dist_ai.core import Draw
from dist_ai.errors import ConfigError
from dist_ai.vision import Resize


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
