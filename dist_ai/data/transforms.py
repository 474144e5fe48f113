"""Transforms that every kind of data needs: labels to class indices, tensors to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from dist_ai.core.transform import Transform
from dist_ai.core.types import TensorCategory
from dist_ai.errors import ConfigError, DataError, did_you_mean

__all__ = ["Categorize"]


@dataclass
class Categorize(Transform):
    """Labels to class indices; the vocabulary is the sorted labels of the training items.

    Args:
        vocab: the classes in order; empty to learn them at set-up.

    >>> Categorize(["cat", "dog"])("dog")
    TensorCategory(1)
    """

    vocab: list[str] = field(default_factory=list)

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._index: dict[Any, int] = {label: i for i, label in enumerate(self.vocab)}
        if len(self._index) < len(self.vocab):
            twice = sorted({str(label) for i, label in enumerate(self.vocab) if self._index[label] != i})
            raise ConfigError(f"vocab names {', '.join(twice)} more than once; each class has one index")

    def setups(self, items: Sequence) -> None:
        """Learns the vocabulary, unless it was given."""
        if not self.vocab:
            # NumPy's scalars become Python's: an export could not hold them.
            labels = {x.item() if isinstance(x, np.generic) else x for x in (items[i] for i in range(len(items)))}
            if not any(all(isinstance(label, kind) for label in labels) for kind in (str, int)):
                kinds = sorted({type(label).__name__ for label in labels})
                raise DataError(
                    f"labels of type {', '.join(kinds)}: expected all str, or all int; "
                    "turn them into names with a function before Categorize"
                )
            self.vocab = sorted(labels)
            self.__post_init__()

    def encodes(self, x: str | int | np.integer) -> Any:
        """Returns the class index of a label."""
        try:
            return TensorCategory(torch.tensor(self._index[x]))
        except KeyError:
            raise DataError(
                f"label {x!r} is not one of the {len(self.vocab)} classes of the training items"
                f"{did_you_mean(str(x), map(str, self.vocab))}"
            ) from None

    def decodes(self, x: TensorCategory) -> Any:
        """Returns the label of a class index, or the list of labels of several."""
        index = x.tolist()
        return self.vocab[index] if isinstance(index, int) else [self.vocab[i] for i in index]
