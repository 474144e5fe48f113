"""Cross-validation: splitters into folds, each of which is the validation part once.

```python
for fold in range(5):
    dls = block.new(splitter=KFoldSplitter(5, fold, stratify=parent_label)).dataloaders(path)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dist_ai.data.splitters import By, ShortRepr, Split, by_value, shuffled, values_of
from dist_ai.errors import ConfigError, DataError

__all__ = ["KFoldSplitter", "fold_numbers"]


@dataclass(repr=False)
class KFoldSplitter(ShortRepr):
    """Takes one of `k` folds of the items for validation, and the others for training.

    Args:
        k: number of folds, at least 2.
        fold: which one, 0 to k-1.
        stratify: classes that every fold shall have in proportion: a function of an item, a value for each item, or a
            column's name.
        group: what must not be in two folds, given likewise.
        seed: which draw; the same for all folds of one cross-validation.

    >>> [KFoldSplitter(3, fold)(range(6))[1] for fold in range(3)]
    [[2, 5], [3, 4], [0, 1]]
    """

    k: int
    fold: int
    stratify: By | None = None
    group: By | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 2 or not 0 <= self.fold < self.k:
            raise ConfigError(
                f"KFoldSplitter(k={self.k}, fold={self.fold}): expected k of at least 2, and a fold of 0 to k-1"
            )

    def __call__(self, items: Any) -> Split:
        """Returns the split.

        Raises:
            DataError: there are fewer items, or groups, than folds.
        """
        classes = None if self.stratify is None else values_of(items, self.stratify)
        groups = None if self.group is None else values_of(items, self.group)
        numbers = np.asarray(fold_numbers(len(items), self.k, classes=classes, groups=groups, seed=self.seed))
        return np.flatnonzero(numbers != self.fold).tolist(), np.flatnonzero(numbers == self.fold).tolist()


def fold_numbers(
    num_items: int,
    k: int,
    *,
    classes: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
) -> list[int]:
    """Returns the fold, 0 to k-1, of each item.

    Args:
        num_items: how many items there are.
        k: number of folds.
        classes: of each item; every fold gets its share of each.
        groups: of each item; those of one group get the same fold.
        seed: which draw.

    Folds are of one size, give or take one item; with groups, as nearly as whole groups allow.

    Raises:
        DataError: there are fewer items, or groups, than folds.

    >>> fold_numbers(6, 2, groups=["a", "a", "b", "b", "c", "c"])
    [0, 0, 1, 1, 0, 0]
    """
    members = [[i] for i in range(num_items)] if groups is None else by_value(groups)
    if len(members) < k:
        raise DataError(
            f"{len(members)} {'item' if groups is None else 'group'}(s) for {k} folds; each needs at least 1"
        )
    order = shuffled(len(members), seed)
    numbers = np.empty(num_items, dtype=np.int64)
    if groups is None:
        # Dealt like cards, class after class: the next class begins where the last one ended.
        dealt = order if classes is None else np.concatenate(by_value(classes, order))
        numbers[dealt] = np.arange(num_items) % k
        return numbers.tolist()
    # Groups go, the largest first, to the fold that is then most alike to the others, class by class (the greedy
    # algorithm of scikit-learn's StratifiedGroupKFold).
    class_of = np.unique([str(each) for each in classes or [""] * num_items], return_inverse=True)[1]
    counts = np.stack([np.bincount(class_of[group], minlength=class_of.max() + 1) for group in members])
    folds = np.zeros((k, counts.shape[1]))
    totals = counts.sum(0)
    for g in sorted(order.tolist(), key=lambda g: -len(members[g])):
        unlike = [((folds + (np.arange(k) == fold)[:, None] * counts[g]) / totals).std(0).mean() for fold in range(k)]
        best = min(range(k), key=lambda fold: (round(unlike[fold], 12), folds[fold].sum()))
        folds[best] += counts[g]
        numbers[members[g]] = best
    return numbers.tolist()
