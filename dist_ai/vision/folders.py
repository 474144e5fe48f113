"""Folders whose names are the classes of the images in them: what is wrong with one is said before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dist_ai.errors import DataError, did_you_mean

__all__ = ["one_of_each", "require_classes", "require_folders", "require_labels"]


def require_folders(path: Path, *names: str) -> None:
    """Raises `DataError` if a folder has no folder of one of these names."""
    for name in names:
        if path.is_dir() and not (path / name).is_dir():
            there = ", ".join(sorted(each.name for each in path.iterdir() if each.is_dir())[:5])
            raise DataError(
                f"{path} has no folder {name!r}, but {there or 'none at all'}; name its folders with train= and valid=, or "
                "give valid_pct=0.2 to draw the validation images at random"
            )


def require_labels(files: Sequence[Path], parts: Sequence[Path], *, nested: bool) -> None:
    """Raises `DataError` if an image does not lie in a class's folder: directly in one of `parts`, or deeper."""
    for folder, file in one_of_each(files).items():
        if folder in parts or not (nested or folder.parent in parts):
            raise DataError(
                f"{file} does not lie in the folder of a class, so it has no label; expected "
                f"{' or '.join(str(part / '<class>' / file.name) for part in parts)}. Move it, or take it away"
            )


def require_classes(files: Sequence[Path], vocab: Sequence[str], *, given: bool) -> None:
    """Raises `DataError` for an image of a class that is not in the vocabulary, before an epoch is lost to it."""
    for folder, file in one_of_each(files).items():
        if folder.name not in vocab:
            raise DataError(
                f"the class {folder.name!r} of {file} is not one of the {len(vocab)} classes of "
                f"{'vocab' if given else 'the training images'}{did_you_mean(folder.name, vocab)}; "
                f"add {'it there' if given else 'training images of it'}, or take its images away"
            )


def one_of_each(files: Sequence[Path]) -> dict[Path, Path]:
    """Returns the folders that the files lie in, each with its first file."""
    found: dict[Path, Path] = {}
    for file in files:
        found.setdefault(file.parent, file)
    return found
