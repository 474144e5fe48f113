"""Samples to a batch: the same nesting, with a tensor where each sample has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dist_ai.errors import DataError

__all__ = ["collate"]


def collate(samples: Sequence[Any]) -> Any:
    """Returns the samples stacked: tuples, lists and dicts are kept, tensors and arrays gain a first dimension.

    Semantic tensors keep their type. Numbers become tensors (int64, float32, bool); strings stay a list.

    Raises:
        DataError: the samples do not fit together; says which shapes or types they have.

    >>> collate([(torch.zeros(2), 1), (torch.ones(2), 0)])
    (tensor([[0., 0.],
            [1., 1.]]), tensor([1, 0]))
    """
    first = samples[0]
    if isinstance(first, torch.Tensor):
        return _stack(samples)
    if isinstance(first, np.ndarray):
        return _stack([torch.from_numpy(sample) for sample in samples])
    if isinstance(first, bool | np.bool_):
        return torch.tensor(samples, dtype=torch.bool)
    if isinstance(first, int | np.integer):
        return torch.tensor(samples, dtype=torch.int64)
    if isinstance(first, float | np.floating):
        return torch.tensor(samples, dtype=torch.float32)
    if isinstance(first, str | bytes):
        return list(samples)
    if isinstance(first, Mapping):
        return {key: collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple | list):
        lengths = {len(sample) for sample in samples}
        if len(lengths) > 1:
            raise DataError(f"samples of different numbers of elements: {sorted(lengths)}")
        columns = [collate(column) for column in zip(*samples, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    raise DataError(
        f"a sample holds a {type(first).__name__}, which does not stack into a batch; make it a tensor, an array or a "
        "number with a transform, or give DataLoader(collate=...)"
    )


def _stack(tensors: Sequence[Any]) -> torch.Tensor:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise DataError(
            f"samples of different shapes do not stack into a batch: {', '.join(map(str, sorted(shapes)[:4]))}; "
            "give them one size with an item transform such as Resize"
        )
    return torch.stack(list(tensors))
