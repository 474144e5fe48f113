"""Loaders of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from dist_ai.core.transform import Transform
from dist_ai.data import (
    Categorize,
    DataLoaders,
    Datasets,
    GrandparentSplitter,
    RandomSplitter,
    get_image_files,
    parent_label,
)
from dist_ai.errors import DataError, did_you_mean
from dist_ai.vision.transforms import ImageToFloat, ImageToTensor, OpenImage

__all__ = ["ImageDataLoaders"]

Tfms: TypeAlias = Iterable[Transform | type[Transform] | Callable[[Any], Any]] | Transform | None


class ImageDataLoaders(DataLoaders):
    """Loaders of images and their labels.

    ```python
    dls = ImageDataLoaders.from_folder("pets", valid_pct=0.2, seed=42, item_tfms=Resize(64), bs=64)
    ```
    """

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float | None = None,
        seed: int = 0,
        vocab: Sequence[str] | None = None,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        bs: int = 64,
        val_bs: int | None = None,
        num_workers: int | None = None,
        mode: str = "RGB",
        device: torch.device | str | None = None,
    ) -> ImageDataLoaders:
        """Returns loaders of a folder of images whose labels are the names of the folders they lie in.

        Args:
            path: holds ``train/cat/1.jpg``, ``valid/dog/2.jpg``; or, with `valid_pct`, ``cat/1.jpg`` at any depth.
            train, valid: names of the two folders.
            valid_pct: share of all images drawn at random for validation, instead of the two folders.
            seed: of that draw, of the order and of the augmentations.
            vocab: the classes in order; by default the sorted labels of the training images, or with `valid_pct` of
                all images.
            item_tfms: transforms of one image, such as `Resize`; images in a batch need one size.
            batch_tfms: transforms of a batch on the device, such as `aug_transforms()`.
            bs: images in a training batch, over all processes.
            val_bs: images in a validation batch; by default `bs`.
            num_workers: processes that load, for each process that trains; see `DataLoader`.
            mode: ``"RGB"`` or ``"L"`` (grey, one channel).
            device: where batches go; by default this rank's device.

        Raises:
            DataError: there is no such folder, or no image, or only one class; or an image lies outside the folders of
                classes, or in that of a class which the training images do not have.
        """
        path = Path(path)
        if valid_pct is None:
            _require_folders(path, train, valid)
            files = get_image_files(path, folders=(train, valid))
            _require_labels(files, [path / train, path / valid], nested=False)
            split = GrandparentSplitter(train, valid)(files)
            categorize = Categorize(list(vocab or ()))
        else:
            files = get_image_files(path)
            _require_labels(files, [path], nested=True)
            split = RandomSplitter(valid_pct, seed)(files)
            # Of all images, because the draw may leave a rare class without one to train on.
            categorize = Categorize(list(vocab or sorted({folder.name for folder in _one_of_each(files)})))
        datasets = Datasets(files, [[OpenImage(mode)], [parent_label, categorize]], split)
        if len(categorize.vocab) < 2:
            raise DataError(
                f"the training images under {path} have one class only ({', '.join(categorize.vocab)}); a classifier needs "
                "at least 2 folders of images"
            )
        _require_classes(files, categorize.vocab, given=bool(vocab))
        return cls.from_datasets(
            datasets,
            bs=bs,
            val_bs=val_bs,
            item_tfms=[*_listed(item_tfms), ImageToTensor()],
            batch_tfms=[ImageToFloat(), *_listed(batch_tfms)],
            num_workers=num_workers,
            seed=seed,
            device=device,
        )


def _require_folders(path: Path, *names: str) -> None:
    for name in names:
        if path.is_dir() and not (path / name).is_dir():
            there = ", ".join(sorted(each.name for each in path.iterdir() if each.is_dir())[:5])
            raise DataError(
                f"{path} has no folder {name!r}, but {there or 'none at all'}; name its folders with train= and valid=, or "
                "give valid_pct=0.2 to draw the validation images at random"
            )


def _require_labels(files: Sequence[Path], parts: Sequence[Path], *, nested: bool) -> None:
    """Raises `DataError` if an image does not lie in a class's folder: directly in one of `parts`, or deeper."""
    for folder, file in _one_of_each(files).items():
        if folder in parts or not (nested or folder.parent in parts):
            raise DataError(
                f"{file} does not lie in the folder of a class, so it has no label; expected "
                f"{' or '.join(str(part / '<class>' / file.name) for part in parts)}. Move it, or take it away"
            )


def _require_classes(files: Sequence[Path], vocab: Sequence[str], *, given: bool) -> None:
    """Raises `DataError` for an image of a class that is not in the vocabulary, before an epoch is lost to it."""
    for folder, file in _one_of_each(files).items():
        if folder.name not in vocab:
            raise DataError(
                f"the class {folder.name!r} of {file} is not one of the {len(vocab)} classes of "
                f"{'vocab' if given else 'the training images'}{did_you_mean(folder.name, vocab)}; "
                f"add {'it there' if given else 'training images of it'}, or take its images away"
            )


def _one_of_each(files: Sequence[Path]) -> dict[Path, Path]:
    """Returns the folders that the files lie in, each with its first file."""
    found: dict[Path, Path] = {}
    for file in files:
        found.setdefault(file.parent, file)
    return found


def _listed(tfms: Tfms) -> list[Any]:
    if tfms is None:
        return []
    return [tfms] if isinstance(tfms, Transform | type) or callable(tfms) else list(tfms)
