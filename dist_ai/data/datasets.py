"""Data sets: items seen through transforms, one pipeline for each element of the sample."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from dist_ai.core.names import missing_attribute
from dist_ai.core.nested import parts
from dist_ai.core.transform import TRAIN, VALID, Pipeline, Transform
from dist_ai.data.plan import Order
from dist_ai.data.splitters import check_split
from dist_ai.data.table import as_items, in_memory
from dist_ai.errors import DataError

if TYPE_CHECKING:
    from dist_ai.data.loaders import DataLoaders, LoaderOptions, Weights

__all__ = ["Datasets", "Subset", "TensorData", "TfmdLists"]

Tfms = Sequence[Transform | type[Transform] | Callable[[Any], Any]]


class Subset(Sequence[Any]):
    """Some items of a collection, seen through pipelines, and read when asked for.

    Args:
        source: the collection.
        indices: which of its items.
        pipelines: one for each element of a sample, and `subset[i]` is the tuple of what each makes of item i; or a single
            `Pipeline`, and it is what that makes. A slice or a list of indices gives a list of samples.
        split_idx: whose transforms run: 0 training's, 1 validation's.

    Attributes:
        pipelines: all of them, as a sequence.
        by_element: whether there is one for each element.
    """

    def __init__(
        self, source: Sequence[Any], indices: Sequence[int], pipelines: Sequence[Pipeline] | Pipeline, split_idx: int
    ) -> None:
        self.source = source
        self.indices = indices
        self.by_element = not isinstance(pipelines, Pipeline)
        self.pipelines: Sequence[Pipeline] = [pipelines] if isinstance(pipelines, Pipeline) else pipelines
        self.split_idx = split_idx

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Any:
        """Returns the untransformed item, such as its file, for messages."""
        return self.source[self.indices[index]]

    @property
    def at_hand(self) -> Callable[[int], Any] | None:
        """Returns untransformed items by number; None where they would have to be read."""
        return self.item if in_memory(self.source) else None

    @property
    def items(self) -> Subset:
        """The untransformed items of this part, such as their files, in its order: that of the predictions of a loader without
        shuffling. Each is read when it is asked for.

        >>> dsets = Datasets(["a1", "b2", "a3"], [[str.upper]], splits=([0, 1], [2]))
        >>> dsets.valid.items[0], dsets.train.items[:2]
        ('a3', ['a1', 'b2'])
        """
        return Subset(self.source, self.indices, Pipeline(), self.split_idx)

    @property
    def vocab(self) -> list[str]:
        """The classes, from the last transform that has any: those of the targets.

        Raises:
            DataError: none has.
        """
        vocabs = [getattr(tfm, "vocab", None) for pipeline in self.pipelines for tfm in pipeline.tfms]
        if not any(vocabs):
            raise DataError("this data has no classes: no transform has a vocabulary")
        return next(filter(None, reversed(vocabs)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} of {len(self.source):,} items)"

    def element(self, place: int) -> Subset:
        """Returns the same items seen through one of the pipelines alone."""
        return Subset(self.source, self.indices, self.pipelines[place], self.split_idx)

    def loading_order(self, shuffle: bool) -> Order | None:
        """Returns the order in which these items are read best, where they have one (`ParquetData`)."""
        order_of = getattr(self.source, "order_of", None)
        return None if order_of is None else order_of(self.indices, shuffle)

    def __getitem__(self, index: Any) -> Any:
        return _one_or_some(index, len(self), self._sample)

    def _sample(self, index: Any) -> Any:
        item = self.item(index)
        if not self.by_element:
            return self.pipelines[0](item, split_idx=self.split_idx)
        return tuple(pipeline(item, split_idx=self.split_idx) for pipeline in self.pipelines)


class _Parts:
    """A collection of items and its parts, of which the first is for training."""

    items: Any
    subsets: list[Subset]

    @property
    def train(self) -> Subset:
        """The training part."""
        return self.subsets[0]

    @property
    def vocab(self) -> list[str]:
        """The classes, from the last transform that has any: those of the targets.

        Raises:
            DataError: none has.
        """
        return self.train.vocab

    @property
    def valid(self) -> Subset:
        """The validation part.

        Raises:
            DataError: no splits were given.
        """
        _require_valid(self)
        return self.subsets[1]

    def __len__(self) -> int:
        return len(self.items)

    def in_words(self) -> str:
        """Returns how many items each part has, in words: ``32 for training, 12 for validation``."""
        names = ["for training", "for validation", *(f"in part {k}" for k in range(2, len(self.subsets)))]
        return ", ".join(f"{len(part):,} {name}" for part, name in zip(self.subsets, names, strict=False))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} items: {self.in_words()})"

    def dataloaders(
        self,
        *,
        item_tfms: Tfms | Transform = (),
        batch_tfms: Tfms | Transform = (),
        n_inp: int | None = None,
        seed: int | None = 0,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders:
        """Returns loaders of the training part and, if there is one, the validation part; see `DataLoaders.from_dsets`.

        Args:
            item_tfms, batch_tfms, seed: see `DataLoader`.
            n_inp: how many elements of a sample are inputs; by default all but the last.
            options: see `LoaderOptions`.

        >>> dls = Datasets([1.0, 2.0], [[], [lambda x: 2 * x]]).dataloaders(bs=2, num_workers=0)
        >>> len(dls.train), dls.valid
        (1, None)
        """
        from dist_ai.data.loaders import DataLoaders  # which is made from what is defined here

        return DataLoaders.from_dsets(
            self.train,
            self.subsets[1] if len(self.subsets) > 1 else None,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            n_inp=max(1, self._num_elements() - 1) if n_inp is None else n_inp,
            seed=seed,
            **options,
        )

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    def weighted_dataloaders(self, wgts: Weights, bs: int = 64) -> DataLoaders:
        """Returns `dataloaders` with `weights`, under the name that fastai has for it."""
        return self.dataloaders(bs=bs, weights=wgts)

    @abstractmethod
    def _num_elements(self) -> int:
        """Returns how many elements a sample has."""


class Datasets(_Parts):
    """The parts of a collection of items: for training, for validation, and further ones; transforms learn from the first.

    Args:
        items: what the samples are made from: a list, a table of any kind, a map-style data set; see `as_items`.
        tfms: one list of transforms for each element of the sample.
        splits: the indices of the training part, of the validation part and of further ones, as a splitter gives them.
            They may overlap: whoever wants to see a model learn four samples by heart validates with the same four. By
            default all items are for training and none for validation.

    `dsets[i]` is the sample of item i, of whatever part, without the transforms that are for one part only; a slice or a list
    of indices gives a list of samples, here and in the parts.

    Attributes:
        subsets: the parts, in the order of `splits`; those behind the first see the transforms of validation.

    Raises:
        DataError: a part is empty or has an index that no item has; or `items` is no collection.

    >>> from dist_ai.data.transforms import Categorize
    >>> dsets = Datasets(["a1", "b2", "a3"], [[str.upper], [lambda s: s[0], Categorize]], splits=([0, 1], [2]))
    >>> dsets.valid[0]
    ('A3', TensorCategory(0))
    """

    def __init__(self, items: Any, tfms: Sequence[Tfms], splits: Sequence[Sequence[int]] | None = None) -> None:
        self.items = as_items(items)
        self.splits = _parts(self.items, splits)
        self.pipelines = [Pipeline(each) for each in tfms]
        train_items = Subset(self.items, self.splits[0], Pipeline(), TRAIN)
        for pipeline in self.pipelines:
            pipeline.setup(train_items)
        self.subsets = [
            Subset(self.items, indices, self.pipelines, split_idx=VALID if k else TRAIN)
            for k, indices in enumerate(self.splits)
        ]

    def __getitem__(self, index: Any) -> Any:
        return _one_or_some(index, len(self), self._sample)

    def _sample(self, index: Any) -> tuple[Any, ...]:
        item = self.items[index]
        return tuple(pipeline(item) for pipeline in self.pipelines)

    def _num_elements(self) -> int:
        return len(self.pipelines)

    def decode(self, sample: Sequence[Any]) -> tuple[Any, ...]:
        """Returns a sample, or the first elements of one, with what can be undone undone.

        >>> from dist_ai.data.transforms import Categorize
        >>> dsets = Datasets(["a", "b"], [[str.upper], [Categorize]], splits=([0, 1], [1]))
        >>> dsets.decode(dsets.valid[0])
        ('B', 'b')
        """
        return tuple(pipeline.decode(x) for pipeline, x in zip(self.pipelines, sample, strict=False))


class TfmdLists(_Parts):
    """The parts of a collection of items seen through one pipeline, which makes a whole sample.

    For samples whose elements are made together, such as a pair of images and whether they show the same; where each is
    made on its own, `Datasets` has a pipeline for each.

    Args:
        items: what the samples are made from; see `as_items`.
        tfms: the transforms; they learn from the training part.
        splits: as of `Datasets`; by default all items are for training and none for validation.

    `tl[i]` is the sample of item i, of whatever part, without the transforms that are for one part only.

    Attributes:
        subsets: the parts, in the order of `splits`.

    Raises:
        DataError: a part is empty or has an index that no item has; or `items` is no collection.

    >>> from dist_ai.data.transforms import Categorize
    >>> labels = TfmdLists(["cat", "dog", "cat"], [Categorize], splits=([0, 1], [2]))
    >>> labels.valid[0], labels.decode(labels.valid[0])
    (TensorCategory(0), 'cat')
    """

    def __init__(self, items: Any, tfms: Tfms, splits: Sequence[Sequence[int]] | None = None) -> None:
        self.items = as_items(items)
        self.splits = _parts(self.items, splits)
        self.pipeline = Pipeline(tfms)
        self.pipeline.setup(Subset(self.items, self.splits[0], Pipeline(), TRAIN))
        self.subsets = [
            Subset(self.items, indices, self.pipeline, split_idx=VALID if k else TRAIN)
            for k, indices in enumerate(self.splits)
        ]

    def __getitem__(self, index: Any) -> Any:
        return _one_or_some(index, len(self), lambda i: self.pipeline(self.items[i]))

    def decode(self, sample: Any) -> Any:
        """Returns a sample with what can be undone undone."""
        return self.pipeline.decode(sample)

    def _num_elements(self) -> int:
        return len(parts(self.train[0]))


def _parts(items: Sequence[Any], splits: Sequence[Sequence[int]] | None) -> Sequence[Sequence[int]]:
    """Returns the indices of each part; all items are for training where nothing is said."""
    if splits is not None:
        return check_split(splits, len(items), may_overlap=True)
    if not len(items):
        raise DataError("no items; there is nothing to learn from")
    return (range(len(items)),)


def _require_valid(datasets: _Parts) -> None:
    if len(datasets.subsets) < 2:
        name = type(datasets).__name__
        raise DataError(f"there is no validation part: no splits were given; give {name}(splits=...)")


def _one_or_some(index: Any, length: int, sample: Callable[[Any], Any]) -> Any:
    """Returns the sample of an index, or a list of them for a slice, a list or an array of indices."""
    if isinstance(index, slice):
        return [sample(i) for i in range(*index.indices(length))]
    if isinstance(index, list) or (isinstance(index, np.ndarray | torch.Tensor) and index.ndim == 1):
        return [sample(operator.index(i)) for i in index]
    return sample(index)


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

    def at_hand(self, index: int) -> tuple[torch.Tensor, ...]:
        """Returns a sample."""
        return self[index]

    def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the batch of these samples, on the tensors' own device."""
        there = {device: indices.to(device, non_blocking=True) for device in {tensor.device for tensor in self.tensors}}
        return tuple(tensor.index_select(0, there[tensor.device]) for tensor in self.tensors)
