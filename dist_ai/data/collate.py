"""Samples to a batch: the same nesting, with a tensor where each sample has one; and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import get_worker_info

from dist_ai.core.nested import is_container, parts, rebuilt
from dist_ai.core.types import SemanticTensor, plain
from dist_ai.errors import DataError

__all__ = [
    "ByElement",
    "Collate",
    "Pad",
    "Padded",
    "collate",
    "collate_from_plain",
    "collate_to_plain",
    "samples_of",
    "structure",
]

Collate: TypeAlias = Callable[[list[Any]], Any]
"""Makes a batch of a list of samples, or one element of a batch of those of the samples."""


def collate(samples: Sequence[Any]) -> Any:
    """Returns the samples stacked: tuples, lists, dicts and dataclasses are kept, tensors and arrays gain a first dimension.

    Semantic tensors keep their type. Numbers become tensors (int64, float32, bool); strings stay a list. Nothing is
    converted to fit: the type of a batch must not depend on which samples happen to come together.

    Raises:
        DataError: the samples do not fit together; says which shapes or types they have.

    >>> collate([(torch.zeros(2), 1), (torch.ones(2), 0)])
    (tensor([[0., 0.],
            [1., 1.]]), tensor([1, 0]))
    """
    first = samples[0]
    kinds = {_kind(sample) for sample in samples}
    if len(kinds) > 1:
        raise DataError(f"samples of different types do not stack into a batch: {', '.join(sorted(kinds))}")
    if isinstance(first, torch.Tensor):
        _check_alike(samples)
        return _stacked(samples)
    if isinstance(first, np.ndarray) and first.dtype.kind in "biufc":  # not of strings or objects
        _check_alike(samples)
        return torch.from_numpy(np.stack(samples))  # stacked first: torch takes no negative strides or read-only memory
    if isinstance(first, bool | np.bool_):
        return torch.tensor(samples, dtype=torch.bool)
    if isinstance(first, int | np.integer):
        return torch.tensor(samples, dtype=torch.int64)
    if isinstance(first, float | np.floating):
        return torch.tensor(samples, dtype=torch.float32)
    if isinstance(first, str | bytes):
        return list(samples)
    if isinstance(first, Mapping):
        keys = {tuple(sorted(map(str, sample))) for sample in samples}
        if len(keys) > 1:
            raise DataError(f"samples with different keys: {', '.join(map(str, sorted(keys)[:4]))}")
        return {key: collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple | list):
        lengths = {len(sample) for sample in samples}
        if len(lengths) > 1:
            raise DataError(f"samples of different numbers of elements: {sorted(lengths)}")
    if is_container(first):
        return rebuilt(first, [collate(column) for column in zip(*map(parts, samples), strict=True)])
    raise DataError(
        f"a sample holds a {type(first).__name__}, which does not stack into a batch; make it a tensor, an array or a "
        f"number with a transform{_of_images(first)}, or give DataLoader(collate=...)"
    )


def _of_images(value: Any) -> str:
    # By its class's name: texts need not wait for Pillow.
    if not any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__):
        return ""
    return " (of images: ImageToTensor() as the last of item_tfms, ImageToFloat() as the first of batch_tfms)"


class Padded(NamedTuple):
    """Values of different lengths in one tensor.

    Attributes:
        values: (samples, longest, ...).
        lengths: how much of each sample is no padding: (samples,), int64.
    """

    values: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True)
class Pad:
    """Collates tensors or arrays that differ in their first dimension: the shorter ones are filled up behind.

    Args:
        value: what they are filled up with.
        lengths: return `Padded`, which also says how long each was.

    The longest sample of a rank's part of the batch decides, so how much padding there is depends on the number of ranks: a
    model that is to give the same numbers on any must not let padding count, as those of `dist_ai.text` do not.

    Raises:
        DataError: a sample has no length, or they differ in another dimension or their dtype.

    >>> Pad()([torch.tensor([1, 2, 3]), torch.tensor([4])])
    tensor([[1, 2, 3],
            [4, 0, 0]])
    >>> Pad(lengths=True)([torch.tensor([1, 2, 3]), torch.tensor([4])]).lengths
    tensor([3, 1])
    """

    value: float = 0
    lengths: bool = False

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Returns (samples, longest, ...), of the samples' type and dtype."""
        tensors = [torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for x in samples]
        for tensor in tensors:
            if not isinstance(tensor, torch.Tensor) or not tensor.dim():
                raise DataError(
                    f"{tensor!r:.100} has no length to pad; Pad takes tensors and arrays of 1 dimension or more"
                )
        longest = max(map(len, tensors))
        filled = [self._filled(tensor, longest) for tensor in tensors]
        if not self.lengths:
            return collate(filled)
        return Padded(collate(filled), torch.tensor([len(tensor) for tensor in tensors]))

    def _filled(self, tensor: torch.Tensor, length: int) -> torch.Tensor:
        # F.pad counts from the last dimension: none at both ends of all but the first.
        ends = [0, 0] * (tensor.dim() - 1) + [0, length - len(tensor)]
        return torch.nn.functional.pad(tensor, ends, value=self.value)


@dataclass(frozen=True)
class ByElement:
    """Collates each element of the samples in its own way; new items, which have no targets, only their inputs.

    Args:
        collates: one for each element.

    >>> ByElement((Pad(), collate))([(torch.ones(2), 0), (torch.ones(1), 1)])
    (tensor([[1., 1.],
            [1., 0.]]), tensor([0, 1]))
    """

    collates: tuple[Collate, ...]

    def __call__(self, samples: Sequence[Any]) -> tuple[Any, ...]:
        """Returns the elements of the batch."""
        lengths = {len(sample) for sample in samples}
        if len(lengths) > 1 or max(lengths) > len(self.collates):
            raise DataError(
                f"samples of {', '.join(map(str, sorted(lengths)))} elements, and of {len(self.collates)} it is said how they "
                "are collated; where item_tfms change their number, give a collate of the whole samples"
            )
        columns = zip(*samples, strict=True)
        return tuple(together(list(column)) for together, column in zip(self.collates, columns, strict=False))


def collate_to_plain(given: Collate) -> dict[str, Any] | None:
    """Returns how samples are collated as plain data; None for stacking, and for a function, which a file cannot hold.

    >>> collate_to_plain(Pad(1))
    {'pad': {'value': 1, 'lengths': False}}
    """
    if isinstance(given, Pad):
        return {"pad": dataclasses.asdict(given)}
    if isinstance(given, ByElement):
        return {"by element": [collate_to_plain(each) for each in given.collates]}
    return None


def collate_from_plain(data: Mapping[str, Any] | None) -> Collate:
    """Returns the collation that `collate_to_plain` wrote."""
    if data is None:
        return collate
    if "pad" in data:
        return Pad(**data["pad"])
    return ByElement(tuple(map(collate_from_plain, data["by element"])))


def samples_of(batch: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Returns the samples whose elements, stacked, are those of a batch: what `collate` made, taken apart.

    A list is taken for one value a sample, as that of strings is.

    >>> samples_of((torch.tensor([[1, 2], [3, 4]]), ["a", "b"]))
    [(tensor([1, 2]), 'a'), (tensor([3, 4]), 'b')]
    """
    return [tuple(_sample(each, i) for each in batch) for i in range(_num_samples(batch))]


def structure(sample: Any) -> Any:
    """Returns what a sample must have in common with others to stack with them: nesting, types, shapes and dtypes.

    >>> structure((torch.zeros(3, 4), 7))
    ('Tensor float32 (3, 4)', 'int')
    """
    if isinstance(sample, torch.Tensor | np.ndarray):
        return f"{type(sample).__name__} {str(sample.dtype).removeprefix('torch.')} {tuple(sample.shape)}"
    if isinstance(sample, Mapping):
        within = tuple(sorted((str(key), structure(value)) for key, value in sample.items()))
    elif is_container(sample):
        within = tuple(map(structure, parts(sample)))
    else:
        return _kind(sample)
    return within if type(sample) in (tuple, dict) else (_kind(sample), *within)


def _sample(value: Any, i: int) -> Any:
    """Returns sample `i` of a value of a batch, whatever its nesting."""
    if isinstance(value, list) or not is_container(value):
        return value[i]
    return rebuilt(value, [_sample(each, i) for each in parts(value)])


def _num_samples(value: Any) -> int:
    """Returns how many samples a value of a batch has; of several parts, as many as all of them have."""
    if isinstance(value, list) or not is_container(value):
        return len(value)
    return min(map(_num_samples, parts(value)), default=0)


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns tensors of one type, shape and dtype stacked; in a loader's worker in the memory that it shares with the training.

    There a batch would else be copied once more on its way. As torch's `default_collate` does it.
    """
    first = tensors[0]
    known = isinstance(first, SemanticTensor) or type(first) is torch.Tensor
    if get_worker_info() is None or not known or first.is_cuda or first.is_sparse:
        return torch.stack(list(tensors))
    plains = list(map(plain, tensors))
    shared = plains[0]._typed_storage()._new_shared(len(plains) * first.numel(), device=first.device)
    out = plains[0].new(shared).resize_(len(plains), *first.shape)
    stacked = torch.stack(plains, out=out)
    return first.give_type_to(stacked) if isinstance(first, SemanticTensor) else stacked


def _kind(sample: Any) -> str:
    """Returns the name under which values go into a batch together: Python's and NumPy's numbers under one."""
    for kind in (np.bool_, np.integer, np.floating):
        if isinstance(sample, kind):
            return {np.bool_: "bool", np.integer: "int", np.floating: "float"}[kind]
    return type(sample).__name__


def _check_alike(arrays: Sequence[Any]) -> None:
    shapes = {tuple(array.shape) for array in arrays}
    if len(shapes) > 1:
        raise DataError(
            f"samples of different shapes do not stack into a batch: {', '.join(map(str, sorted(shapes)[:4]))}; "
            "give them one size with an item transform such as Resize"
        )
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1:
        raise DataError(
            f"samples of different dtypes do not stack into a batch: {', '.join(sorted(map(str, dtypes)))}; "
            "make them one with a transform"
        )
