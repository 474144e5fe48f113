"""Pixels as tensors and back, and torch's resampling beside Pillow's."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from dist_ai.core import Draw, Pipeline
from dist_ai.core.vision_types import TensorMask, TensorPoint
from dist_ai.vision import RandomResizedCrop, Resize
from dist_ai.vision.pixels import TorchImage, pixels_of, resampled
from dist_ai.vision.transforms import OpenImage


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(18, 25, 3), (18, 25), (1, 1, 3), (3, 900, 4), (2400, 2400, 3)])
def test_pixels_are_those_of_the_image(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    got = pixels_of(Image.fromarray(pixels))
    np.testing.assert_array_equal(got.numpy(), np.atleast_3d(pixels).transpose(2, 0, 1))
    assert got.is_contiguous()


@pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5), (1, 1, 3), (4, 5, 4), (4200, 4000)])
def test_pixels_are_a_copy_that_may_be_written(shape: tuple[int, ...]) -> None:
    image = Image.fromarray(noise(*shape))
    before = np.array(image)
    pixels_of(image).zero_()
    np.testing.assert_array_equal(np.array(image), before)


@pytest.mark.parametrize("shape", [(180, 250, 3), (180, 250), (1, 1, 3), (5, 900, 3)])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (300, 7)])
def test_a_box_of_whole_pixels_is_read_as_pillow_reads_what_was_cut_out(
    shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    image = Image.fromarray(noise(*shape))
    box = (image.width // 3, image.height // 4, image.width, image.height)
    ours, theirs = resampled(image, box, size), image.crop(box).resize(size, Image.Resampling.BILINEAR)
    assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize(("side", "box"), [(30, (0.5, 1.25, 30.0, 20.0)), (2400, (7, 5, 2000, 2400))])
def test_a_box_between_pixels_and_an_image_in_several_pieces_are_read_by_pillow(
    side: int, box: tuple[float, ...]
) -> None:
    image = Image.fromarray(noise(side, side, 3))
    theirs = image.resize((8, 8), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(np.asarray(resampled(image, box, (8, 8))), np.asarray(theirs))


@pytest.mark.parametrize("size", [1, 3, 4])
def test_an_image_of_torchs_memory_is_like_any_other(size: int) -> None:
    stored = torch.from_numpy(noise(6, 5, size))
    other = Image.fromarray(stored.numpy()[..., 0 if size == 1 else slice(3)].copy())
    assert pickle.loads(pickle.dumps(TorchImage(stored))).tobytes() == other.tobytes()
    for use in USES:
        image = TorchImage(stored)
        assert (image.mode, image.size) == (other.mode, other.size)
        np.testing.assert_array_equal(np.asarray(use(image)), np.asarray(use(other)))


USES: list[Callable[[Image.Image], Any]] = [
    Image.Image.copy,
    lambda image: image.getpixel((2, 2)),
    lambda image: image.resize((3, 3)),
    lambda image: image.transpose(Image.Transpose.ROTATE_90),
    lambda image: Image.merge(image.mode, image.split()),
    lambda image: image.convert("RGBA"),
    lambda image: Image.blend(image, image, 0.5),
    lambda image: ImageOps.autocontrast(image),
    lambda image: copy.deepcopy(image),
]
"""What is done with images, of which some read the other's pixels, or a copy's."""


def paste(image: Image.Image) -> None:
    image.paste((7, 7, 7), (0, 0, 3, 3))


def draw(image: Image.Image) -> None:
    ImageDraw.Draw(image).rectangle((0, 0, 2, 2), fill=(7, 7, 7))


@pytest.mark.parametrize("change", [paste, draw])
def test_what_is_drawn_into_an_image_of_torchs_memory_is_in_its_pixels_and_not_in_the_tensor(
    change: Callable[[Image.Image], None],
) -> None:
    stored = torch.from_numpy(noise(6, 5, 4))
    before, image = stored.clone(), TorchImage(stored)
    np.testing.assert_array_equal(pixels_of(image).numpy(), before.numpy()[..., :3].transpose(2, 0, 1))
    change(image)
    np.testing.assert_array_equal(pixels_of(image).numpy(), np.asarray(image).transpose(2, 0, 1))
    assert image.getpixel((2, 2)) == (7, 7, 7)
    torch.testing.assert_close(stored, before)


def test_what_was_resized_lies_in_torchs_memory_until_pillow_reads_it() -> None:
    image = Resize(8)(Image.fromarray(noise(20, 30, 3)))
    pixels = pixels_of(image)
    assert image.stored is not None
    np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), pixels.numpy())
    assert image.stored is None
    torch.testing.assert_close(pixels_of(image), pixels)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tfm", [Resize(24), RandomResizedCrop(24, min_scale=0.3)])
def test_of_a_jpeg_decoded_in_part_mask_and_points_are_where_the_image_is(
    tfm: Resize | RandomResizedCrop, seed: int
) -> None:
    width, height, x, y = 403, 301, 200, 150  # not multiples of 2, 4 or 8
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, x:] = 255
    pixels[y:, :, 1] = 255 - pixels[y:, :, 1]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0)
    mask = TensorMask(torch.from_numpy((pixels[..., 0] > 127).astype(np.uint8)))
    point = TensorPoint([[x, y]], canvas_size=(height, width))
    item = (OpenImage()(file.getvalue()), mask, point)
    image, mask, point = Pipeline([tfm])(item, Draw(seed=seed, epoch=0, samples=1), split_idx=0)
    bright = np.asarray(image).astype(float)[..., 0] / 255
    np.testing.assert_allclose(bright.mean(), mask.float().mean(), atol=0.5 / 24)  # half a pixel of the result
    np.testing.assert_allclose(bright.mean() * 24, 24 - point[0, 0].clamp(0, 24), atol=0.2)
