"""Sources: where the items of a data set come from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dist_ai.errors import ConfigError, DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "FileGetter",
    "ImageGetter",
    "get_files",
    "get_image_files",
    "get_text_files",
]

# Written out, not asked of Pillow or of the system: a machine that has a build without AVIF would have another data set.
# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".apng", ".avif", ".avifs", ".bmp", ".bw", ".dib", ".gif", ".icb", ".icns", ".ico", ".j2c", ".j2k", ".jfif",
    ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm",
    ".psd", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm",
})
# fmt: on
"""The endings of all image formats that Pillow reads."""


def get_files(
    path: str | Path,
    extensions: str | Iterable[str] | None = None,
    *,
    recurse: bool = True,
    folders: str | Iterable[str] = (),
    followlinks: bool = True,
) -> list[Path]:
    """Returns the files under `path`, sorted, so that an index means the same file on every machine.

    Args:
        path: the folder.
        extensions: keep only files with this ending (``".jpg"``) or one of several, in any case; None keeps all.
        recurse: look into sub-folders.
        folders: look only into this sub-folder of `path` or these; one that is not there has no files; none means all.
        followlinks: follow links to folders, but not to one that the link lies in.

    Names that begin with a dot are left out, folders too.

    Raises:
        DataError: `path` is not a folder, or one under it cannot be read.
        ConfigError: an extension has no dot.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"no folder at {path}: it is {'a file' if path.exists() else 'not there'}")
    wanted = None if extensions is None else {extension.lower() for extension in _several(extensions)}
    if strange := [extension for extension in wanted or () if not extension.startswith(".")]:
        raise ConfigError(
            f"extensions without a dot: {', '.join(map(repr, sorted(strange)))}; expected such as ('.jpg',)"
        )
    roots = [path / folder for folder in _several(folders)] or [path]
    found: list[Path] = []
    for root in roots:
        for folder, subfolders, names in os.walk(root, onerror=_cannot_read, followlinks=followlinks):
            subfolders[:] = [
                name for name in subfolders if recurse and not name.startswith(".") and not _leads_back(folder, name)
            ]
            found += [
                Path(folder, name)
                for name in names
                if not name.startswith(".") and (wanted is None or os.path.splitext(name)[1].lower() in wanted)
            ]
    return sorted(found)


def get_image_files(path: str | Path, *, recurse: bool = True, folders: str | Iterable[str] = ()) -> list[Path]:
    """Returns the image files under `path`, sorted; see `get_files`.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    folders = _several(folders)
    found = get_files(path, IMAGE_SUFFIXES, recurse=recurse, folders=folders)
    if not found:
        raise DataError(
            f"no image file under {path}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
            + (f" in {', '.join(folders)}" if folders else "")
        )
    return found


def get_text_files(path: str | Path, *, recurse: bool = True, folders: str | Iterable[str] = ()) -> list[Path]:
    """Returns the ``.txt`` files under `path`, sorted; see `get_files`.

    Raises:
        DataError: there is no such folder, or no text file in it.
    """
    folders = _several(folders)
    found = get_files(path, {".txt"}, recurse=recurse, folders=folders)
    if not found:
        raise DataError(f"no .txt file under {path}" + (f" in {', '.join(folders)}" if folders else ""))
    return found


@dataclass(frozen=True)
class FileGetter:
    """`get_files` with its options chosen, for `DataBlock(get_items=...)`.

    Args:
        suf: a folder under the one that is given, where the files are.
        extensions, recurse, folders, followlinks: see `get_files`.
    """

    suf: str = ""
    extensions: str | Iterable[str] | None = None
    recurse: bool = True
    folders: str | Iterable[str] = ()
    followlinks: bool = True

    def __call__(self, path: str | Path) -> list[Path]:
        """Returns the files."""
        return get_files(
            Path(path) / self.suf,
            self.extensions,
            recurse=self.recurse,
            folders=self.folders,
            followlinks=self.followlinks,
        )


@dataclass(frozen=True)
class ImageGetter:
    """`get_image_files` with its options chosen, for `DataBlock(get_items=...)`.

    Args:
        suf: a folder under the one that is given, where the images are.
        recurse, folders: see `get_files`.
    """

    suf: str = ""
    recurse: bool = True
    folders: str | Iterable[str] = ()

    def __call__(self, path: str | Path) -> list[Path]:
        """Returns the image files."""
        return get_image_files(Path(path) / self.suf, recurse=self.recurse, folders=self.folders)


def _several(names: str | Iterable[str]) -> list[str]:
    """Returns the names; one alone is not taken apart into its letters."""
    return [names] if isinstance(names, str) else list(names)


def _cannot_read(error: OSError) -> None:
    # Skipped, it would silently make another data set of this machine's files.
    if not isinstance(error, FileNotFoundError):
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _leads_back(folder: str, name: str) -> bool:
    """Returns whether a link leads to a folder that it lies in: followed, it would give the same files 40 times."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path))
