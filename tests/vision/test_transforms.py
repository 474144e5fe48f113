"""Image transforms: whatever a camera or a programme made becomes an upright image of one mode and size."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torchvision.transforms import v2

from dist_ai.core import Draw, Pipeline, Transform
from dist_ai.core.vision_types import TensorImage, TensorMask
from dist_ai.errors import BadSampleError, ConfigError, DataError
from dist_ai.vision import Flip, ImageBlock, Normalize, Resize, imagenet_stats
from dist_ai.vision.decoding import is_undecoded
from dist_ai.vision.transforms import ImageToFloat, ImageToTensor, OpenImage


def noise(width: int = 6, height: int = 4, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def file_bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def draw_of(sample: int, epoch: int = 0) -> Draw:
    return Draw(seed=1, epoch=epoch, samples=sample)


# ------------------------------------------------------------------------------------------------ OpenImage


def test_a_path_a_text_bytes_an_array_and_an_image_are_the_same_image(tmp_path: Path) -> None:
    pixels = noise()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    held = io.BytesIO(path.read_bytes())
    for given_as in (path, str(path), path.read_bytes(), held, held, pixels, Image.fromarray(pixels)):
        opened = OpenImage()(given_as)
        assert opened.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(opened), pixels)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3, 4, 5), r"^a Tensor of torch.float32 with shape \(3, 4, 5\) does .* TensorImage\(x\), of shape"),
        (
            TensorMask(torch.zeros(4, 5, dtype=torch.uint8)),
            r"^a TensorMask of torch.uint8 with shape \(4, 5\) does not say",
        ),
        (
            None,
            "^a NoneType does not say that it is an image; expected a file, an address, bytes, a uint8 array, a PIL",
        ),
        (["a.jpg"], r"^a list does .*; predict takes one image, and dls.test_dl\(...\) a list$"),
    ],
)
def test_a_block_of_images_takes_nothing_that_transforms_of_images_would_pass_by(given: Any, said: str) -> None:
    opens = Pipeline(ImageBlock().type_tfms)
    with pytest.raises(DataError, match=said):
        opens(given)
    image = TensorImage(torch.zeros(6, 4, 5))
    assert opens(image) is image


def test_what_cannot_be_read_as_an_image_is_named_by_what_was_open(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    with (
        open(tmp_path / "a.jpg", "rb") as file,
        pytest.raises(BadSampleError, match=r"a.jpg cannot be read as an image"),
    ):
        OpenImage()(file)
    with pytest.raises(BadSampleError, match="an open file cannot be read as an image: it is of no known format"):
        OpenImage()(io.BytesIO(b"text"))


def test_the_file_is_closed_and_the_image_outlives_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path)
    opened = OpenImage()(path)  # an open file would be a ResourceWarning, which is an error here
    path.unlink()
    assert opened.getpixel((5, 3)) == tuple(noise()[3, 5])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_that_a_file_may_have_becomes_the_one_asked_for(stored: str, mode: str) -> None:
    grey = 255 if stored == "1" else 102  # a grey of Pillow's web palette
    image = Image.new("RGB", (6, 4), (grey, grey, grey)).convert(stored)
    opened = OpenImage(mode)(image)
    assert (opened.mode, opened.size) == (mode, (6, 4))
    assert np.abs(np.asarray(opened).astype(int) - grey).max() <= 2


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 40))
    opened = OpenImage()(file_bytes(red.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(opened).astype(int) - (200, 30, 40)).max() < 12


def test_a_jpeg_held_sideways_or_of_another_mode_is_decoded_at_once() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(noise(60, 40))
    sideways = OpenImage()(file_bytes(image, "JPEG", exif=exif))
    assert sideways.size == (40, 60)
    assert not is_undecoded(sideways)
    assert not is_undecoded(OpenImage("L")(file_bytes(image, "JPEG")))
    assert is_undecoded(OpenImage("L")(file_bytes(image.convert("L"), "JPEG")))


def test_16_bit_pixels_are_scaled_and_not_cut_off() -> None:
    ramp = (np.arange(24, dtype=np.uint16) * 2849).reshape(4, 6)  # 0 to 65,527
    opened = OpenImage("L")(file_bytes(Image.fromarray(ramp)))
    np.testing.assert_array_equal(np.asarray(opened), (ramp / 257).round().astype(np.uint8))


def test_a_palette_with_transparent_entries_opens_without_a_warning() -> None:
    image = Image.fromarray(noise()).quantize(4)
    with_holes = file_bytes(image, "PNG", transparency=bytes([0, 128, 255, 255]))
    np.testing.assert_array_equal(np.asarray(OpenImage()(with_holes)), np.asarray(image.convert("RGB")))


def test_transparency_is_dropped_and_the_colours_beneath_it_stay() -> None:
    pixels = noise(channels=4)
    np.testing.assert_array_equal(np.asarray(OpenImage()(file_bytes(Image.fromarray(pixels)))), pixels[:, :, :3])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_note_of_how_the_camera_was_held_is_followed(orientation: int) -> None:
    upright = noise(width=3, height=2)
    # How a viewer turns what is stored to make it upright, for each value of the EXIF tag; here undone to store it.
    as_stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_bytes(Image.fromarray(np.ascontiguousarray(as_stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(OpenImage()(content)), upright)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 2), (4, 6, 3), (4, 6, 4)])
def test_arrays_of_1_to_4_channels_are_images(shape: tuple[int, ...]) -> None:
    assert OpenImage()(np.full(shape, 9, np.uint8)).getpixel((5, 3)) == (9, 9, 9)


@pytest.mark.parametrize("shape", [(4,), (4, 6, 5), (3, 4, 6), (0, 6, 3), (2, 4, 6, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"an array of uint8 with shape \(.*\) is not an image; expected uint8 pixels"):
        OpenImage()(np.zeros(shape, np.uint8))


def test_float_pixels_are_refused_because_nobody_knows_their_range() -> None:
    with pytest.raises(DataError, match=r"an array of float64 with shape \(4, 6\) is not an image"):
        OpenImage()(np.zeros((4, 6)))
    with pytest.raises(
        DataError, match="an image of float pixels, whose range is not known; save it with 8 or 16 bits"
    ):
        OpenImage()(Image.new("F", (6, 4)))


def test_an_unknown_mode_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"OpenImage\(mode='rgb'\): expected 'RGB' or 'L' \(grey\)"):
        OpenImage("rgb")


def damaged_files() -> dict[str, tuple[bytes, str]]:
    """Files that are no images, by name, with what is said of them."""
    jpeg = file_bytes(Image.fromarray(noise(64, 64)), "JPEG")
    png = file_bytes(Image.fromarray(noise(64, 64)))
    # A header that promises more pixels than Pillow is willing to unpack.
    size = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = png[:16] + size + struct.pack(">I", zlib.crc32(b"IHDR" + size)) + png[33:]
    return {
        "text.jpg": (b"<html>404 not found</html>", "it is of no known format"),
        "nothing.png": (b"", "it is empty"),
        "half.jpg": (jpeg[: len(jpeg) // 2], r"image file is truncated \(\d+ bytes not processed\)"),
        "half.png": (png[: len(png) // 2], r".+"),
        "bomb.png": (bomb, r"Image size \(1600000000 pixels\) exceeds limit .*decompression bomb"),
    }


@pytest.mark.parametrize("name", damaged_files())
def test_a_file_that_is_no_image_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    content, said = damaged_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadSampleError, match=rf"{name} cannot be read as an image: {said}.*; replace it or remove it"):
        ImageToTensor()(OpenImage()(path))
    with pytest.raises(BadSampleError, match=rf"{len(content):,} bytes cannot be read as an image: {said}"):
        Resize(2)(OpenImage()(content))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadSampleError, match=r"^gone/cat\.jpg is not there$"):
        OpenImage()("gone/cat.jpg")


# ------------------------------------------------------------------------------------------------ to tensors


def test_an_image_becomes_a_uint8_tensor_with_the_channels_first() -> None:
    pixels = noise()
    tensor = ImageToTensor()(Image.fromarray(pixels))
    assert type(tensor) is TensorImage
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.uint8, (3, 4, 6))
    np.testing.assert_array_equal(tensor.numpy(), pixels.transpose(2, 0, 1))
    assert tuple(ImageToTensor()(Image.fromarray(noise(channels=1))).shape) == (1, 4, 6)


def test_pixels_become_floats_from_0_to_1_once() -> None:
    pixels = TensorImage(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    floats = ImageToFloat()(pixels)
    assert type(floats) is TensorImage
    torch.testing.assert_close(floats.as_subclass(torch.Tensor), torch.arange(256.0).view(1, 1, 16, 16) / 255)
    assert ImageToFloat()(floats) is floats
    assert pixels.dtype == torch.uint8  # the batch itself is left as it was


def test_torchvisions_transforms_take_our_images_and_give_them_back() -> None:
    image = ImageToTensor()(Image.fromarray(noise()))
    assert type(v2.functional.horizontal_flip(image)) is TensorImage


# ------------------------------------------------------------------------------------------------ Normalize


def test_the_numbers_are_those_of_the_formula_and_decode_undoes_them() -> None:
    batch = TensorImage(torch.rand(2, 3, 4, 5, dtype=torch.float64))
    normalize = Normalize(*imagenet_stats)
    for channel, (mean, std) in enumerate(zip(*imagenet_stats, strict=True)):
        expected = (batch[:, channel] - mean) / std
        torch.testing.assert_close(normalize(batch)[:, channel], expected, rtol=1e-15, atol=1e-15)
    assert type(normalize(batch)) is TensorImage
    torch.testing.assert_close(normalize.decode(normalize(batch)), batch)


def test_a_normalised_batch_has_mean_0_and_deviation_1() -> None:
    normalised = Normalize([0.3], [0.2])(TensorImage(torch.randn(8, 1, 64, 64) * 0.2 + 0.3))
    assert normalised.mean().item() == pytest.approx(0, abs=0.05)
    assert normalised.std().item() == pytest.approx(1, abs=0.05)


def test_another_number_of_channels_is_explained() -> None:
    with pytest.raises(
        DataError, match=r"images with 1 channel\(s\) and statistics of 3; give Normalize 1, or .*n_in=1$"
    ):
        Normalize(*imagenet_stats)(TensorImage(torch.rand(2, 1, 4, 4)))


def test_whole_numbers_are_refused_because_the_statistics_are_of_0_to_1() -> None:
    with pytest.raises(DataError, match=r"Normalize got pixels of torch\.uint8; put ImageToFloat\(\).* before it"):
        Normalize([0.5], [0.5])(TensorImage(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)))


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5, 0.5]), ([0.5], [0.0]), ([0.5], [-1.0])])
def test_statistics_that_cannot_be_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ConfigError, match="expected as many positive deviations as means"):
        Normalize(mean, std)


# ------------------------------------------------------------------------------------------------ all of them


EVERY = [
    OpenImage("L"),
    Resize((3, 4), "pad"),
    Resize(5),
    ImageToTensor(),
    ImageToFloat(),
    Flip(0.25, vertical=True),
    Normalize([0.5], [0.25]),
]


@pytest.mark.parametrize("tfm", EVERY, ids=lambda tfm: type(tfm).__name__)
def test_every_transform_survives_json(tfm: Transform) -> None:
    assert Transform.from_plain(json.loads(json.dumps(tfm.to_plain()))) == tfm


@pytest.mark.parametrize("tfm", EVERY, ids=lambda tfm: type(tfm).__name__)
def test_every_transform_leaves_other_types_alone(tfm: Transform) -> None:
    label = torch.tensor(3)
    assert tfm(label, draw_of(0)) is label


def test_a_pipeline_runs_them_in_the_order_that_makes_sense() -> None:
    shuffled = [Normalize([0.5], [0.25]), Flip(), ImageToFloat(), ImageToTensor(), Resize(5), OpenImage("L")]
    names = [type(tfm).__name__ for tfm in Pipeline(shuffled).tfms]
    assert names == ["OpenImage", "Resize", "ImageToTensor", "ImageToFloat", "Flip", "Normalize"]
