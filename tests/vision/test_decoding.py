"""How finely a JPEG is decoded, and by which of two decoders, whose pixels are the same."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from dist_ai.errors import BadSampleError
from dist_ai.vision import ImageToTensor, Resize, decoding
from dist_ai.vision.decoding import UndecodedJpeg, decoded, decoded_in_part, is_undecoded
from dist_ai.vision.pixels import TorchImage, pixels_of
from dist_ai.vision.transforms import OpenImage


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A JPEG of smooth shapes with edges and noise."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([128 + 90 * np.sin(x / 20), 128 + 90 * np.cos(y / 15), 200 * ((x // 9 + y // 7) % 2)], -1)
    picture += np.random.default_rng(0).normal(0, 8, picture.shape)
    file = io.BytesIO()
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert(mode)
    image.save(file, "JPEG", **{"quality": 85, **options})
    return file.getvalue()


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two in turn, and its name."""
    if request.param == "Pillow":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    return str(request.param)


def test_where_it_is_installed_simplejpeg_decodes(decoder: str) -> None:
    image = decoded(OpenImage()(jpeg(40, 30)))
    assert isinstance(image, TorchImage) == (decoder == "simplejpeg")
    assert not is_undecoded(image)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(160, 120), (403, 301), (17, 91), (200, 3), (8, 8), (5, 5), (3, 3), (1, 1)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_both_give_the_same_pixels(
    size: tuple[int, int], mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = jpeg(*size, mode, **options)
    shrinks = (1, 3, 6, 11)
    ours = [pixels_of(decoded_in_part(OpenImage(mode)(file), shrink)) for shrink in shrinks]
    monkeypatch.setattr(decoding, "simplejpeg", None)
    for mine, shrink in zip(ours, shrinks, strict=True):
        theirs = pixels_of(decoded_in_part(OpenImage(mode)(file), shrink))
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), err_msg=f"at a part of 1/{shrink}")


@pytest.mark.usefixtures("decoder")
def test_a_jpeg_is_decoded_no_finer_than_its_result_needs_and_looks_the_same() -> None:
    file = jpeg(600, 400, quality=95)
    opened = OpenImage()(file)
    sizes = [decoded_in_part(OpenImage()(file), shrink).size for shrink in (1, 2.6, 2.7, 5.3, 5.4, 10.6, 10.7, 100)]
    assert sizes == [*[(600, 400)] * 2, *[(300, 200)] * 2, *[(150, 100)] * 2, *[(75, 50)] * 2]
    assert decoded_in_part(opened, 8).size == (150, 100)
    assert is_undecoded(opened)
    assert opened.size == (600, 400)
    small, full = (np.asarray(Resize(64)(image)).astype(float) for image in (opened, decoded(OpenImage()(file))))
    assert np.abs(small - full).mean() < 2


def test_what_is_no_jpeg_stays_as_it_is() -> None:
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, "PNG")
    png = OpenImage()(file.getvalue())
    assert not is_undecoded(png)
    assert decoded_in_part(png, 8) is png


@pytest.mark.usefixtures("decoder")
def test_a_jpeg_that_ends_too_early_is_named() -> None:
    whole = jpeg(160, 120)
    opened = OpenImage()(whole[: len(whole) // 2])
    with pytest.raises(
        BadSampleError, match=r"bytes cannot be read as an image: .*truncated.*; replace it or remove it"
    ):
        ImageToTensor()(opened)
    with pytest.raises(BadSampleError, match="truncated"):
        Resize(16)(opened)


def test_a_jpeg_without_a_cameras_notes_is_like_any_other_image() -> None:
    file, theirs = jpeg(160, 120), Image.open(io.BytesIO(jpeg(160, 120)))
    for use in (np.asarray, Image.Image.tobytes, lambda image: pickle.loads(pickle.dumps(image)).tobytes()):
        image = OpenImage()(file)
        assert isinstance(image, UndecodedJpeg)
        assert (image.mode, image.size) == (theirs.mode, theirs.size)
        np.testing.assert_array_equal(use(image), use(theirs))
        assert not is_undecoded(image)
    image.paste((7, 7, 7), (0, 0, 3, 3))
    np.testing.assert_array_equal(pixels_of(image)[:, 2, 2].numpy(), [7, 7, 7])


@pytest.mark.usefixtures("decoder")
def test_a_jpeg_says_what_its_file_says_also_once_its_pixels_are_read() -> None:
    file = jpeg(160, 120, icc_profile=b"a profile", dpi=(72, 72), comment=b"a note")
    theirs = Image.open(io.BytesIO(file))
    for use in (lambda image: image, lambda image: image.load() and image, lambda image: image.copy(), pickled):
        assert use(OpenImage()(file)).info == theirs.info
    image = OpenImage()(file)
    assert (image.format, image.format_description) == (theirs.format, theirs.format_description)
    image.info["mine"] = 1
    assert image.crop((0, 0, 9, 9)).info == theirs.info | {"mine": 1}


def pickled(image: Image.Image) -> Image.Image:
    """The image that a worker process would get."""
    return pickle.loads(pickle.dumps(image))


@pytest.mark.usefixtures("decoder")
def test_colours_stored_at_a_quarter_of_the_rows_are_pillows_to_read() -> None:
    file = bytearray(jpeg(160, 120, subsampling=0))
    file[file.index(b"\xff\xc0") + 11] = 0x14  # 4:4:1, as of a 4:1:1 that was turned; simplejpeg has no name for it
    theirs = Image.open(io.BytesIO(file))
    np.testing.assert_array_equal(np.asarray(OpenImage()(bytes(file))), np.asarray(theirs))


@pytest.mark.parametrize("note", ["exif", "xmp"])
def test_a_jpeg_in_which_a_camera_wrote_how_it_was_held_is_upright(note: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    opened = OpenImage()(jpeg(160, 120, **({"exif": exif} if note == "exif" else {"xmp": xmp})))
    assert opened.size == (120, 160)


@pytest.mark.parametrize("place", ["first", "after a part that looks like pixels", "after padding", "after the frame"])
def test_how_a_camera_was_held_is_found_wherever_it_stands_in_the_header(place: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    note, file = part(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")), jpeg(160, 120)
    at = file.index(b"\xff\xc4") if place == "after the frame" else 2
    before = {"after a part that looks like pixels": part(0xED, b"\xff\xda\0\2"), "after padding": b"\xff\xff"}.get(
        place, b""
    )
    assert OpenImage()(file[:at] + before + note + file[at:]).size == (120, 160)


def part(kind: int, content: bytes) -> bytes:
    """A part of a JPEG's header."""
    return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2) + content


def test_what_only_looks_like_a_cameras_note_in_the_pixels_is_none() -> None:
    file = jpeg(160, 120)
    assert isinstance(OpenImage()(file + b"Exif\0\0"), UndecodedJpeg)


def test_a_jpeg_of_too_many_pixels_is_pillows_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadSampleError, match="could be decompression bomb DOS attack"):
        OpenImage()(jpeg(160, 120))


@pytest.mark.usefixtures("decoder")
def test_an_image_that_pillow_opened_from_a_file_is_decoded_too(tmp_path: Any) -> None:
    path = tmp_path / "one.jpg"
    path.write_bytes(jpeg(160, 120))
    with Image.open(path) as image, Image.open(path) as other:
        assert decoded_in_part(image, 6).size == (40, 30)
        np.testing.assert_array_equal(pixels_of(decoded(image)).numpy(), np.asarray(other).transpose(2, 0, 1))
        assert not is_undecoded(image)
        assert image.fp is None  # Pillow has closed the file, as always once it has all


@pytest.mark.usefixtures("decoder")
def test_a_part_of_an_image_is_of_the_mode_and_of_the_image_in_its_file_that_was_asked_for() -> None:
    grey = Image.open(io.BytesIO(jpeg(160, 120)))
    grey.draft("L", (160, 120))
    assert (decoded_in_part(grey, 6).mode, decoded_in_part(grey, 6).size) == ("L", (40, 30))
    second = second_of_two()
    np.testing.assert_array_equal(np.asarray(decoded_in_part(second, 6)), np.asarray(second_of_two()))


def second_of_two() -> Image.Image:
    """An image that comes after another in its file."""
    file = io.BytesIO()
    first, second = (Image.open(io.BytesIO(jpeg(160, 120, quality=quality))) for quality in (90, 20))
    first.save(file, "MPO", save_all=True, append_images=[second])
    image = Image.open(file)
    image.seek(1)
    return image


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("kind", ["asked for a part", "asked for grey", "four inks", "the second of two"])
def test_what_only_pillow_reads_has_its_pixels(kind: str) -> None:
    def opened() -> Image.Image:
        if kind == "the second of two":
            return second_of_two()
        image = Image.open(io.BytesIO(jpeg(160, 120, "CMYK" if kind == "four inks" else "RGB")))
        if kind == "asked for a part":
            image.draft(None, (80, 60))
        elif kind == "asked for grey":
            image.draft("L", (160, 120))
        return image

    image = opened()
    assert is_undecoded(image)
    mine, theirs = decoded(image), opened()
    assert (mine.mode, mine.size) == (theirs.mode, theirs.size)
    np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
