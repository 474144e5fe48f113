"""Image files before they are data: verified, resized, downloaded."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_ai.errors import ConfigError, DataError
from dist_ai.vision import download_images, resize_images, verify_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, of which one is cut short, and a file that is none."""
    root = tmp_path / "pets"
    (root / "in").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "a.png")
    Image.fromarray(noise[:20, :30]).save(root / "in" / "b.jpg")
    whole = (root / "a.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "none.jpg").write_text("no image")
    return root


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """A server of the folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_images_that_cannot_be_read_to_the_end_are_found(folder: Path) -> None:
    files = [folder / name for name in ("a.png", "cut.png", "in/b.jpg", "none.jpg", "gone.png")]
    assert verify_images(files) == [folder / "cut.png", folder / "none.jpg", folder / "gone.png"]
    assert verify_images([]) == []


def test_a_photograph_that_ends_before_its_last_pixel_is_found_though_its_header_is_whole(folder: Path) -> None:
    file = folder / "in" / "b.jpg"
    whole = file.read_bytes()
    for length, found in ((len(whole), []), (len(whole) - 60, [file]), (len(whole) * 3 // 4, [file])):
        file.write_bytes(whole[:length])
        assert verify_images([file]) == found


def test_copies_are_at_most_so_large_and_keep_names_shapes_and_formats(folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "small"
    copies = resize_images(folder, 40, dest=dest)
    assert copies == [dest / "a.png", dest / "in" / "b.jpg"]
    found = []
    for copy in copies:
        with Image.open(copy) as image:
            found.append((image.size, image.format))
    assert found == [((40, 30), "PNG"), ((30, 20), "JPEG")]
    assert len(list(dest.rglob("*.*"))) == 2


def test_a_copy_is_upright_and_of_one_pixel_at_least(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright
    Image.new("RGB", (60, 20)).save(tmp_path / "in" / "a.jpg", exif=exif)
    Image.new("RGB", (900, 1)).save(tmp_path / "in" / "line.png")
    sizes = []
    for copy in resize_images(tmp_path / "in", 30, dest=tmp_path / "out"):
        with Image.open(copy) as image:
            sizes.append(image.size)
    assert sizes == [(10, 30), (30, 1)]


def test_resizing_that_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dest='.*pets' is the folder of the images; give another, or they are lost"):
        resize_images(folder, 10, dest=folder)
    with pytest.raises(ConfigError, match=r"max_size=0\): expected a number of pixels, at least 1"):
        resize_images(folder, 0, dest=tmp_path)
    with pytest.raises(DataError, match="no image file under"):
        resize_images(tmp_path, 10, dest=tmp_path / "small", recurse=False)


def test_one_path_or_address_where_several_are_expected_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"verify_images\('.*pets'\): expected a list of files, such as get_image_files"
    ):
        verify_images(folder)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(
        ConfigError, match=r"download_images\('http://a.png'\): expected a list of addresses, and then the"
    ):
        download_images("http://a.png", tmp_path)


def test_an_address_where_nobody_answers_is_tried_twice_and_left_out(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert download_images(["http://127.0.0.1:1/a.png"], tmp_path) == []
    assert time.monotonic() - begun < 5


def test_images_are_downloaded_and_what_is_none_is_left_out(address: str, tmp_path: Path) -> None:
    names = ["a.png", "gone.png", "none.jpg", "in/b.jpg?size=large", "a.png"]
    urls = [*(f"{address}/{name}" for name in names), "file:///etc/hostname", "no address"]
    files = download_images(urls, tmp_path / "got", timeout_s=2.0)
    assert [file.name for file in files] == ["00000000.png", "00000003.jpg", "00000004.png"]
    assert sorted(file.name for file in (tmp_path / "got").iterdir() if file.suffix in (".png", ".jpg")) == [
        file.name for file in files
    ]
    assert len(download_images(urls, tmp_path / "few", max_pics=1)) == 1
