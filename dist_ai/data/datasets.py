"""Data sets: items seen through transforms, one pipeline for each element of the sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dist_ai.core.transform import Pipeline, Transform
from dist_ai.errors import DataError

__all__ = ["Datasets", "Subset", "TensorData"]

Tfms = Sequence[Transform | type[Transform] | Callable[[Any], Any]]


class Subset(Sequence[Any]):
    """Some items of a collection, seen through pipelines.

    `subset[i]` is the tuple of what each pipeline makes of item i; `subset.item(i)` is the item itself.
    """

    def __init__(
        self, items: Sequence[Any], indices: Sequence[int], pipelines: Sequence[Pipeline], split_idx: int
    ) -> None:
        self.items = items
        self.indices = indices
        self.pipelines = pipelines
        self.split_idx = split_idx

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Any:
        """Returns the untransformed item, such as its file, for messages."""
        return self.items[self.indices[index]]

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        item = self.item(index)
        return tuple(pipeline(item, split_idx=self.split_idx) for pipeline in self.pipelines)


class Datasets:
    """A training and a validation subset of the same items, whose transforms are set up on the training part.

    Args:
        items: what the samples are made from.
        tfms: one list of transforms for each element of the sample.
        splits: (training indices, validation indices), as a splitter gives them.

    >>> from dist_ai.data.transforms import Categorize
    >>> dsets = Datasets(["a1", "b2", "a3"], [[str.upper], [lambda s: s[0], Categorize]], splits=([0, 1], [2]))
    >>> dsets.valid[0]
    ('A3', TensorCategory(0))
    """

    def __init__(self, items: Sequence[Any], tfms: Sequence[Tfms], splits: tuple[Sequence[int], Sequence[int]]) -> None:
        self.items = items
        self.pipelines = [Pipeline(each) for each in tfms]
        train_items = [items[i] for i in splits[0]]
        for pipeline in self.pipelines:
            pipeline.setup(train_items)
        self.train = Subset(items, splits[0], self.pipelines, split_idx=0)
        self.valid = Subset(items, splits[1], self.pipelines, split_idx=1)


class TensorData(Sequence[Any]):
    """Samples held as tensors of equal first dimension; a batch is fetched in one indexing operation a tensor.

    Args:
        tensors: one or more tensors, such as those that a `torch.utils.data.TensorDataset` holds.

    Raises:
        DataError: they do not have the same number of rows.

    >>> TensorData(torch.arange(4), torch.arange(4) * 10).fetch(torch.tensor([1, 3]))
    (tensor([1, 3]), tensor([10, 30]))
    """

    def __init__(self, *tensors: torch.Tensor) -> None:
        if len({len(tensor) for tensor in tensors}) != 1:
            lengths = ", ".join(str(len(tensor)) for tensor in tensors) or "none"
            raise DataError(f"tensors of {lengths} rows: expected at least one tensor, and as many rows in each")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the batch of these samples, on the tensors' own device."""
        return tuple(tensor.index_select(0, indices.to(tensor.device)) for tensor in self.tensors)
