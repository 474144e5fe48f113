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
from dist_ai.errors import DataError
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
            vocab: the classes in order; by default the sorted labels.
            item_tfms: transforms of one image, such as `Resize`; images in a batch need one size.
            batch_tfms: transforms of a batch on the device, such as `aug_transforms()`.
            bs: images in a training batch, over all processes.
            val_bs: images in a validation batch; by default `bs`.
            num_workers: processes that load, for each process that trains; see `DataLoader`.
            mode: ``"RGB"`` or ``"L"`` (grey, one channel).
            device: where batches go; by default this rank's device.

        Raises:
            DataError: there is no such folder, or no image, or only one class.
        """
        files = get_image_files(path, folders=() if valid_pct is not None else (train, valid))
        splitter = GrandparentSplitter(train, valid) if valid_pct is None else RandomSplitter(valid_pct, seed)
        categorize = Categorize(list(vocab or ()))
        datasets = Datasets(files, [[OpenImage(mode)], [parent_label, categorize]], splitter(files))
        if len(categorize.vocab) < 2:
            raise DataError(
                f"the training images under {path} have one class only ({', '.join(categorize.vocab)}); a classifier needs "
                "at least 2 folders of images"
            )
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


def _listed(tfms: Tfms) -> list[Any]:
    if tfms is None:
        return []
    return [tfms] if isinstance(tfms, Transform | type) or callable(tfms) else list(tfms)
