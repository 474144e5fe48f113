"""Values inside values: what a batch, a prediction or a target may be made of, walked and rebuilt in one place.

The containers are tuples, named tuples, lists, mappings (a model's output object that is a dict among them) and dataclasses;
anything else is a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import torch

__all__ = ["is_container", "map_tensors", "parts", "rebuilt", "tensors_in"]


def is_container(value: Any) -> bool:
    """Says whether a value is made of others.

    >>> [is_container(each) for each in ((1, 2), {"a": 1}, "text", torch.zeros(2))]
    [True, True, False, False]
    """
    return isinstance(value, tuple | list | Mapping) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type | torch.Tensor)
    )


def parts(value: Any) -> tuple[Any, ...]:
    """Returns what a container is made of, in its order: a dict's values, a dataclass's fields; a leaf is one part.

    >>> parts({"text": 1, "label": 2}), parts(3)
    ((1, 2), (3,))
    """
    if isinstance(value, tuple | list):
        return tuple(value)
    if isinstance(value, Mapping):
        return tuple(value.values())
    if is_container(value):
        return tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    return (value,)


def rebuilt(value: Any, new: Sequence[Any]) -> Any:
    """Returns a container like `value` of other parts, as many and in the same order.

    Dicts keep their type; other mappings become dicts.

    >>> rebuilt({"text": 1, "label": 2}, [3, 4])
    {'text': 3, 'label': 4}
    """
    if isinstance(value, tuple | list):
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    if isinstance(value, dict):
        again = copy(value)  # a model's output object is a dict with attributes, which follow its items
        for key, part in zip(value, new, strict=True):
            again[key] = part
        return again
    if isinstance(value, Mapping):
        return dict(zip(value, new, strict=True))
    names = [field.name for field in dataclasses.fields(value)]
    return dataclasses.replace(value, **dict(zip(names, new, strict=True)))


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Returns `value` with `function` of every tensor in it, in the containers that they are in; other leaves stay.

    >>> map_tensors(torch.Tensor.tolist, {"a": torch.ones(2), "b": ("text", torch.zeros(1))})
    {'a': [1.0, 1.0], 'b': ('text', [0.0])}
    """
    if isinstance(value, torch.Tensor):
        return function(value)
    if type(value) in _LEAVES or not is_container(value):
        return value
    return rebuilt(value, [map_tensors(function, each) for each in parts(value)])


_LEAVES = {str, bytes, int, float, bool, type(None)}  # asked first: a batch may have thousands of texts


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Returns the tensors in a value, in its order.

    >>> len(tensors_in({"a": torch.ones(2), "b": ("text", torch.zeros(1))}))
    2
    """
    found: list[torch.Tensor] = []
    map_tensors(found.append, value)
    return found
