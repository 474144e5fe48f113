"""Semantic tensors: tensors that say what they are.

A `TensorCategory` is a tensor of class indices; indexing, stacking, copying or moving it keeps the type and its
metadata. The type picks the right behaviour (transform, show, decode, default loss). The model and the loss get plain
tensors (`plain`): types cost a Python call per operation, and a compiled model must not see them.

**What an operation gives.** Its result takes after the first semantic argument that can hold numbers of the result's
dtype, with that argument's metadata; if none can, it is a plain tensor:

| operation | gives | because |
|---|---|---|
| `image * 2`, `torch.stack(images)` | image | |
| `image * mask`, `mask * image`, `torch.where(mask == 3, image, 0)` | image | a mask holds no floats |
| `category + 1` | category | |
| `category.float().mean()`, `category == other` | plain | an index is an integer |
| `image > 0.5` | plain | pixels are numbers |
| `mask == 3` | mask | a mask may be bool |
| `plain.add_(image)`, `torch.add(image, 1, out=plain)` | plain | the tensor that was changed stays what it is |

The tensors of a stack should have the same metadata; it is not compared. What differs from sample to sample belongs
beside them, in a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch

from dist_ai.core.nested import map_tensors
from dist_ai.errors import DataError

__all__ = [
    "SemanticTensor",
    "TabularRow",
    "TensorCategory",
    "TensorLMText",
    "TensorMultiCategory",
    "TensorRegression",
    "TensorSeries",
    "TensorText",
    "floating",
    "plain",
]

S = TypeVar("S", bound="SemanticTensor")

_KINDS = {
    dtype: "bool"
    if dtype is torch.bool
    else "float"
    if dtype.is_floating_point
    else "complex"
    if dtype.is_complex
    else "int"
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}


class SemanticTensor(torch.Tensor):
    """Base of the semantic tensors; keeps subclass and metadata through every torch function.

    Attributes:
        holds: the kinds of numbers that make sense: ``"bool"``, ``"int"``, ``"float"``, ``"complex"``. A result of
            another kind is a plain tensor.

    Metadata are attributes: ``TensorSeries(x, rate=100).rate``.

    Raises:
        DataError: made from numbers of a kind that it does not hold.

    >>> type(TensorCategory(torch.tensor([1, 2]))[0]).__name__
    'TensorCategory'
    """

    holds: ClassVar[frozenset[str]] = frozenset({"bool", "int", "float", "complex"})

    def __new__(cls, data: Any, **metadata: Any) -> Any:
        """Returns `data` (a tensor, whose memory is shared, or what makes one) with this meaning and this metadata."""
        tensor = data if isinstance(data, torch.Tensor) else torch.as_tensor(data)
        if _KINDS[tensor.dtype] not in cls.holds:
            if tensor.numel():
                raise DataError(
                    f"{cls.__name__} holds {' or '.join(sorted(cls.holds))}, got {tensor.dtype}; convert the tensor, or "
                    "leave it a plain one"
                )
            tensor = tensor.long()  # torch takes an empty list for floats
        typed = tensor.as_subclass(cls)
        typed.__dict__.update(metadata)
        return typed

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs `func` on plain tensors and gives the result the meaning that the module's page says."""
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs) if kwargs else func(*args)
        if torch.compiler.is_compiling():  # compiled code works on plain tensors; a type would break its graph
            return result
        if kwargs:
            return _retype(result, (*args, *kwargs.values()))
        first = args[0] if args else None
        if type(result) is torch.Tensor and isinstance(first, SemanticTensor) and _KINDS[result.dtype] in first.holds:
            return first.give_type_to(result)  # as `_retype` would; nearly always, and at half its cost
        return _retype(result, args)

    def give_type_to(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns `tensor` with this one's type and metadata; a plain tensor if the type cannot hold its numbers.

        >>> TensorCategory([1], vocab="ab").give_type_to(torch.tensor([0]))
        TensorCategory([0], vocab='ab')
        """
        if _KINDS[tensor.dtype] not in self.holds:
            return plain(tensor)
        typed = tensor.as_subclass(type(self))
        typed.__dict__.update(self.__dict__)
        return typed

    def __deepcopy__(self: S, memo: dict[int, Any]) -> S:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return cast(S, copy)

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes more
        with torch._C.DisableTorchFunctionSubclass():
            text = torch.Tensor.__repr__(self)
        metadata = "".join(f", {name}={value!r}" for name, value in self.__dict__.items())
        return f"{text[:-1]}{metadata})"

    def __format__(self, spec: str) -> str:
        """Formats a single number as one, which torch does for its own type alone: ``f"{image.mean():.2f}"``."""
        return format(self.item(), spec) if spec and self.dim() == 0 else super().__format__(spec)


class TensorCategory(SemanticTensor):
    """Class indices, int64, of any shape."""

    holds = frozenset({"int"})


class TensorMultiCategory(SemanticTensor):
    """Which of the classes are there: (..., classes) of zeros and ones, float32 or bool.

    No `TensorCategory`: an index of the one class and a yes or no for each have other losses and other decodings.
    """


class TensorRegression(SemanticTensor):
    """Numbers to be predicted, floats of any shape; integers are made float32.

    >>> TensorRegression([1, 2])
    TensorRegression([1., 2.])
    """

    holds = frozenset({"float"})

    def __new__(cls, data: Any, **metadata: Any) -> Any:
        """Returns `data` as a target."""
        return super().__new__(cls, floating(data), **metadata)


class TensorText(SemanticTensor):
    """Token ids, int64, (..., length)."""

    holds = frozenset({"int"})


class TensorLMText(TensorText):
    """Token ids for a language model, int64, (..., length): every next token is the target of the ones before."""


class TensorSeries(SemanticTensor):
    """A time series: (..., channels, length)."""

    holds = frozenset({"int", "float"})


class TabularRow(NamedTuple):
    """A row of a table as a model takes it, or a batch of rows.

    A named tuple: it collates, moves and travels field by field, and a transform sees it whole, as one value. The names
    of the columns and their vocabularies belong to the transforms.

    Attributes:
        cats: codes of the categorical columns, int64 (..., categorical columns).
        conts: values of the continuous columns, float32 (..., continuous columns).
    """

    cats: torch.Tensor
    conts: torch.Tensor


def floating(data: Any) -> torch.Tensor:
    """Returns `data` as a tensor of floats: as it is if it holds floats (memory shared), float32 otherwise."""
    tensor = torch.as_tensor(data)
    return tensor if tensor.is_floating_point() else tensor.float()


def plain(value: Any) -> Any:
    """Returns `value` with semantic tensors as plain `torch.Tensor`s sharing their memory, containers mapped.

    >>> type(plain((TensorCategory([1]),))[0]).__name__
    'Tensor'
    """
    return map_tensors(_as_plain, value)


def _as_plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor) if type(tensor) is not torch.Tensor else tensor


def _semantic(args: Any) -> Iterator[SemanticTensor]:
    for arg in args:
        if isinstance(arg, SemanticTensor):
            yield arg
        elif isinstance(arg, tuple | list):
            yield from _semantic(arg)


def _retype(result: Any, args: Sequence[Any]) -> Any:
    if isinstance(result, torch.Tensor):
        if any(result is arg for arg in args):  # changed in place, or by out=
            return result
        kind = _KINDS[result.dtype]
        for like in _semantic(args):
            if kind in like.holds:
                return like.give_type_to(result)
        return plain(result)
    if isinstance(result, tuple | list) and any(isinstance(each, torch.Tensor) for each in result):
        parts = [_retype(each, args) for each in result]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    return result
