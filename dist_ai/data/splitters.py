"""Splitters: functions from items to (training indices, validation indices).

None touches a global random state, and each gives the same split in every process and every run: without that, ranks
would train on each other's validation samples and a resumed run would move them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dist_ai.core.randomness import mix64_int
from dist_ai.data.plan import Permutation
from dist_ai.errors import ConfigError, DataError

__all__ = ["GrandparentSplitter", "RandomSplitter", "Split", "Splitter"]

Split: TypeAlias = tuple[list[int], list[int]]
Splitter: TypeAlias = Callable[[Sequence[Any]], Split]


def RandomSplitter(valid_pct: float = 0.2, seed: int = 0) -> Splitter:
    """Returns a splitter that draws `valid_pct` of the items, rounded down, for validation.

    Args:
        valid_pct: share of the items, above 0 and below 1.
        seed: which draw; the default is a fixed one.

    >>> RandomSplitter(0.4, seed=1)(["a", "b", "c", "d", "e"])
    ([0, 1, 4], [2, 3])
    """
    if not 0 < valid_pct < 1:
        raise ConfigError(f"valid_pct={valid_pct} is a share of the items: expected more than 0 and less than 1")

    def split(items: Sequence[Any]) -> Split:
        num_valid = int(round(valid_pct * len(items), 6))  # 0.29 of 100 is 29, and 28.999999999999996 in binary
        if not 0 < num_valid < len(items):
            raise DataError(
                f"valid_pct={valid_pct} of {len(items)} item(s) leaves {len(items) - num_valid} for training and "
                f"{num_valid} for validation; both need at least 1"
            )
        order = Permutation(len(items), key=mix64_int(seed))(np.arange(len(items)))
        return sorted(order[num_valid:].tolist()), sorted(order[:num_valid].tolist())

    return split


def GrandparentSplitter(train_name: str = "train", valid_name: str = "valid") -> Splitter:
    """Returns a splitter by the name of each file's grandparent folder: ``train/cat/1.jpg`` is for training.

    >>> GrandparentSplitter()([Path("train/cat/1.jpg"), Path("valid/cat/2.jpg")])
    ([0], [1])
    """

    def split(items: Sequence[Any]) -> Split:
        names = [Path(item).parent.parent.name for item in items]
        train = [i for i, name in enumerate(names) if name == train_name]
        valid = [i for i, name in enumerate(names) if name == valid_name]
        for part, name in ((train, train_name), (valid, valid_name)):
            if not part:
                raise DataError(
                    f"no file in a folder named {name!r}; the grandparent folders are {sorted(set(names))[:8]}. "
                    "Give the folders' names, or valid_pct for a random split"
                )
        return train, valid

    return split
