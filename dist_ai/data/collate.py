"""Samples to a batch: the same nesting, with a tensor where each sample has one; and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dist_ai.errors import DataError

__all__ = ["collate", "elements", "samples_of", "structure"]


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
        return torch.stack(list(samples))
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
        columns = [collate(column) for column in zip(*samples, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        return dataclasses.replace(
            first, **{name: collate([getattr(sample, name) for sample in samples]) for name in names}
        )
    raise DataError(
        f"a sample holds a {type(first).__name__}, which does not stack into a batch; make it a tensor, an array or a "
        "number with a transform, or give DataLoader(collate=...)"
    )


def elements(batch: Any) -> tuple[Any, ...]:
    """Returns the elements of a batch, inputs before targets: of a tuple or list, the values of a dict, a dataclass's fields.

    Anything else is one element.

    >>> elements({"text": 1, "label": 2})
    (1, 2)
    """
    if isinstance(batch, tuple | list):
        return tuple(batch)
    if isinstance(batch, Mapping):
        return tuple(batch.values())
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return tuple(getattr(batch, field.name) for field in dataclasses.fields(batch))
    return (batch,)


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
        return tuple(sorted((str(key), structure(value)) for key, value in sample.items()))
    if isinstance(sample, tuple | list):
        return tuple(map(structure, sample))
    return _kind(sample)


def _sample(value: Any, i: int) -> Any:
    """Returns sample `i` of a value of a batch, whatever its nesting."""
    if isinstance(value, Mapping):
        return {key: _sample(each, i) for key, each in value.items()}
    if isinstance(value, tuple):
        parts = [_sample(each, i) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _sample(getattr(value, name), i) for name in names})
    return value[i]


def _num_samples(value: Any) -> int:
    """Returns how many samples a value of a batch has; of several parts, as many as all of them have."""
    if isinstance(value, Mapping | tuple) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return min((_num_samples(each) for each in elements(value)), default=0)
    return len(value)


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
