"""Semantic tensors: tensors that say what they are.

A `TensorCategory` is a tensor of class indices; adding, indexing, stacking or moving it keeps the type and its
metadata. The type picks the right behaviour (transform, show, decode, default loss). The model and the loss get plain
tensors (`plain`): types cost a Python call per operation, and a compiled model must not see them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar, cast

import torch

__all__ = ["SemanticTensor", "TensorCategory", "plain"]

S = TypeVar("S", bound="SemanticTensor")


class SemanticTensor(torch.Tensor):
    """Base of the semantic tensors; keeps subclass and metadata through every torch function.

    The result of an operation on several semantic tensors takes after the first.

    >>> type(TensorCategory(torch.tensor([1, 2]))[0]).__name__
    'TensorCategory'
    """

    def __new__(cls, data: Any, **metadata: Any) -> SemanticTensor:
        """Returns `data` (a tensor, whose memory is shared, or what makes one) with this meaning and this metadata."""
        tensor = torch.as_tensor(data).as_subclass(cls)
        tensor.__dict__.update(metadata)
        return tensor

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs `func` on plain tensors and gives the result the type and metadata of the first semantic argument."""
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        like = _first_semantic(args) if kwargs is None else _first_semantic((*args, *kwargs.values()))
        return result if like is None else _retype(result, like)

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return cast(S, copy)


class TensorCategory(SemanticTensor):
    """Class indices, int64, of any shape."""


def plain(value: Any) -> Any:
    """Returns `value` with semantic tensors as plain `torch.Tensor`s sharing their memory, containers mapped.

    >>> type(plain((TensorCategory([1]),))[0]).__name__
    'Tensor'
    """
    if isinstance(value, torch.Tensor):
        return value.as_subclass(torch.Tensor) if type(value) is not torch.Tensor else value
    if isinstance(value, tuple | list):
        parts = [plain(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return value


def _first_semantic(args: Any) -> SemanticTensor | None:
    for arg in args:
        if isinstance(arg, SemanticTensor):
            return arg
        if isinstance(arg, tuple | list) and (found := _first_semantic(arg)) is not None:
            return found
    return None


def _retype(result: Any, like: SemanticTensor) -> Any:
    if isinstance(result, torch.Tensor):
        typed = result if type(result) is type(like) else result.as_subclass(type(like))
        if typed is not like and like.__dict__:
            typed.__dict__.update(like.__dict__)
        return typed
    if isinstance(result, tuple | list) and any(isinstance(each, torch.Tensor) for each in result):
        parts = [_retype(each, like) for each in result]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    return result
