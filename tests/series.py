"""Series that tests train on: small ones with classes that differ, and the archive's from the kit."""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path
from typing import Any

import kit
import numpy as np
import numpy.typing as npt

from dist_ai.learner import Learner
from dist_ai.timeseries import TSDataLoaders, ts_learner

SMALL = {"FCN": {"filters": [8, 8, 8]}, "TST": {"width": 8, "heads": 2, "hidden": 8, "layers": 1}}

__all__ = ["archive_set", "labelled", "quick_learner", "uneven", "waves"]


def labelled(num: int = 24, channels: int = 2, length: int = 20) -> tuple[npt.NDArray[Any], list[str]]:
    """Returns noise that rises in one class and falls in the other, (num, channels, length), and the classes."""
    random = np.random.default_rng(0)
    slope = np.where(np.arange(num) % 2, 1.0, -1.0)[:, None, None]
    X = slope * np.linspace(-1, 1, length) + random.normal(0, 0.3, (num, channels, length))
    return X, ["up" if i % 2 else "down" for i in range(num)]


def uneven(num: int = 24, channels: int = 2, length: int = 20) -> tuple[list[npt.NDArray[Any]], list[str]]:
    """Returns the same with lengths from 12 to `length`."""
    X, y = labelled(num, channels, length)
    return [x[:, : 12 + (5 * i) % (length - 11)] for i, x in enumerate(X)], y


def waves(num: int = 200, period: int = 8) -> npt.NDArray[Any]:
    """Returns a wave with a little noise, of mean 50 and a height of 10: (num,)."""
    random = np.random.default_rng(1)
    return 50 + 10 * np.sin(2 * np.pi * np.arange(num) / period) + random.normal(0, 0.5, num)


def quick_learner(
    X: Any, y: Any, arch: str = "FCN", *, config: Any = None, learner: Any = None, **options: Any
) -> Learner:
    """Returns a Learner that writes no files, with loaders in this process."""
    small = SMALL
    dls = TSDataLoaders.from_arrays(X, y, **{"bs": 8, "num_workers": 0, **options})
    chosen = small.get(arch) if config is None else config
    return ts_learner(dls, arch, config=chosen, **{"run_dir": None, "progress": False, **(learner or {})})


@functools.cache
def _names() -> dict[str, str]:
    with zipfile.ZipFile(kit._archive("aeon")) as archive:
        return {Path(name).name: name for name in archive.namelist() if name.startswith("aeon/datasets/data/")}


def archive_set(folder: Path, *names: str) -> list[Path]:
    """Writes files of the UCR/UEA archive, such as ``GunPoint_TRAIN.ts``, to a folder; returns where they are."""
    for name in names:
        (folder / name).write_bytes(kit._read("aeon", _names()[name]))
    return [folder / name for name in names]
