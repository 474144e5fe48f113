"""Image files before they are data: which can be read, smaller copies of them, and downloads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from PIL import Image, ImageOps

from dist_ai.data import get_image_files
from dist_ai.data.downloads import download
from dist_ai.data.sources import IMAGE_SUFFIXES
from dist_ai.errors import BadSampleError, ConfigError, DataError
from dist_ai.vision.decoding import decoded
from dist_ai.vision.transforms import OpenImage

__all__ = ["download_images", "resize_images", "verify_images"]

T = TypeVar("T")


def verify_images(files: Iterable[str | Path], *, max_workers: int = 8) -> list[Path]:
    """Returns those of the files that cannot be read as an image, to the last pixel; in their order.

    Raises:
        ConfigError: `files` is one path.

    ```python
    for file in verify_images(get_image_files("pets")):
        file.unlink()
    ```
    """
    if isinstance(files, str | Path):
        raise ConfigError(f"verify_images({str(files)!r}): expected a list of files, such as get_image_files(folder)")
    paths = [Path(file) for file in files]
    readable = _at_once(_can_be_read, paths, max_workers)
    return [path for path, whole in zip(paths, readable, strict=True) if not whole]


def resize_images(
    path: str | Path, max_size: int, *, dest: str | Path, recurse: bool = True, max_workers: int = 8
) -> list[Path]:
    """Writes copies of all images under a folder whose longer side has at most `max_size` pixels; returns them.

    Args:
        path: the folder.
        max_size: pixels; smaller images are copied as they are, in size.
        dest: where the copies go, under the same names; another folder.
        recurse: also the images in folders in it.
        max_workers: threads.

    Copies are upright, in their file's format, and without what cameras note. An image that cannot be read is left out.

    Raises:
        ConfigError: `max_size` is no size, or `dest` is the folder itself.
        DataError: there is no image.
    """
    path, dest = Path(path), Path(dest)
    if max_size < 1:
        raise ConfigError(f"resize_images(max_size={max_size}): expected a number of pixels, at least 1")
    if dest.resolve() == path.resolve():
        raise ConfigError(
            f"resize_images: dest={str(dest)!r} is the folder of the images; give another, or they are lost"
        )
    files = get_image_files(path, recurse=recurse)
    copies = [dest / file.relative_to(path) for file in files]
    for folder in {copy.parent for copy in copies}:
        folder.mkdir(parents=True, exist_ok=True)
    done = _at_once(
        lambda both: _resized(both[0], both[1], max_size), list(zip(files, copies, strict=True)), max_workers
    )
    return [copy for copy, is_there in zip(copies, done, strict=True) if is_there]


def download_images(
    urls: Iterable[str],
    dest: str | Path,
    *,
    max_pics: int = 1000,
    timeout_s: float = 4.0,
    max_workers: int = 8,
) -> list[Path]:
    """Downloads images to a folder as ``00000000.jpg``, ``00000001.png``...; returns those that came, in their order.

    Args:
        urls: http or https.
        dest: the folder.
        max_pics: at most so many of them.
        timeout_s: seconds to wait for a server.
        max_workers: downloads at once.

    What cannot be had by a second attempt, or is no image, is left out: lists from a search hold such.

    Raises:
        ConfigError: `urls` is one address.
    """
    if isinstance(urls, str):
        raise ConfigError(f"download_images({urls!r}): expected a list of addresses, and then the folder")
    wanted = list(urls)[:max_pics]
    dest = Path(dest)
    dest.mkdir(parents=True, exist_ok=True)

    def fetch(both: tuple[int, str]) -> Path | None:
        number, url = both
        suffix = Path(urlsplit(url).path).suffix.lower()
        file = dest / f"{number:08d}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"
        with contextlib.suppress(DataError, OSError, ValueError):
            download(url, file, progress=False, timeout_s=timeout_s, retries=1)
            if _can_be_read(file):
                return file
        file.unlink(missing_ok=True)
        return None

    return [file for file in _at_once(fetch, list(enumerate(wanted)), max_workers) if file is not None]


def _can_be_read(file: Path) -> bool:
    try:
        decoded(OpenImage()(file))
    except BadSampleError:
        return False
    return True


def _resized(file: Path, copy: Path, max_size: int) -> bool:
    try:
        with Image.open(file) as image:
            kind = image.format
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((max_size, max_size), Image.Resampling.BILINEAR)  # never larger; in its own shape
            upright.save(copy, format=kind)
    except Exception:  # each format's reader has errors of its own
        copy.unlink(missing_ok=True)
        return False
    return True


def _at_once(function: Callable[..., T], things: list, max_workers: int) -> list[T]:
    """Returns the function of each thing, from threads: Pillow and sockets let others run meanwhile."""
    with ThreadPoolExecutor(max(1, max_workers)) as pool:
        return list(pool.map(function, things))
