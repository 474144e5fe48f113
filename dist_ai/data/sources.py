"""Sources: where the items of a data set come from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dist_ai.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "get_files", "get_image_files"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def get_files(
    path: str | Path,
    suffixes: Iterable[str] | None = None,
    *,
    recurse: bool = True,
    folders: Iterable[str] = (),
    followlinks: bool = True,
) -> list[Path]:
    """Returns the files under `path`, sorted, so that an index means the same file on every machine.

    Args:
        path: the folder.
        suffixes: keep only files with these endings (``".jpg"``), in any case; None keeps all.
        recurse: look into sub-folders.
        folders: look only into these sub-folders of `path`; none means all.
        followlinks: follow links to folders.

    Names that begin with a dot are left out, folders too.

    Raises:
        DataError: `path` is not a folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"no folder at {path}: it is {'a file' if path.exists() else 'not there'}")
    wanted = None if suffixes is None else {suffix.lower() for suffix in suffixes}
    roots = [path / folder for folder in folders] or [path]
    found: list[Path] = []
    for root in roots:
        for folder, subfolders, names in os.walk(root, followlinks=followlinks):
            subfolders[:] = [name for name in subfolders if recurse and not name.startswith(".")]
            found += [
                Path(folder, name)
                for name in names
                if not name.startswith(".") and (wanted is None or os.path.splitext(name)[1].lower() in wanted)
            ]
    return sorted(found)


def get_image_files(path: str | Path, *, recurse: bool = True, folders: Iterable[str] = ()) -> list[Path]:
    """Returns the image files under `path`, sorted; see `get_files`.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    found = get_files(path, IMAGE_SUFFIXES, recurse=recurse, folders=folders)
    if not found:
        raise DataError(
            f"no image file under {path}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
            + (f" in {', '.join(folders)}" if folders else "")
        )
    return found
