"""Folders of small images that tests train on, and the vision Learners that are quick to train on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dist_ai.learner import Learner
from dist_ai.vision import ImageDataLoaders, vision_learner

WIDTH, HEIGHT = 24, 20


def image_folder(
    root: Path,
    classes: Sequence[str] = ("cat", "dog"),
    per_class: int = 8,
    parts: Sequence[str] = ("train", "valid"),
) -> Path:
    """Writes 24 x 20 noise that is redder, greener or bluer by class, and returns the folder.

    Args:
        root: the folder.
        classes: names of the classes.
        per_class: images of each, in each part.
        parts: folders of classes; ``("",)`` puts the classes into the root.
    """
    random = np.random.default_rng(0)
    for part in parts:
        for k, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                pixels = random.integers(0, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                pixels[:, :, k % 3] += 100
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def small_loaders(root: Path | str, **options: Any) -> ImageDataLoaders:
    """Returns loaders of an image folder that load in this process, 4 images a batch, unless `options` say so."""
    return ImageDataLoaders.from_folder(root, **{"bs": 4, "num_workers": 0, **options})


def small_learner(dls: ImageDataLoaders, arch: Any = "small_cnn", **options: Any) -> Learner:
    """Returns a vision Learner from random weights that writes and shows nothing, unless `options` say so."""
    defaults: dict[str, Any] = {"pretrained": False, "run_dir": None, "progress": False}
    return vision_learner(dls, arch, **{**defaults, **options})
