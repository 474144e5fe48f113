"""Transforms of targets: labels to class indices, to a yes or no for each class, to numbers; and back.

A target that cannot be made is an error that names it, at set-up where training items show it: a missing label never
becomes a class, and NaN never a number to learn from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from dist_ai.core.transform import ItemTransform, Transform
from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.data.datasets import Subset
from dist_ai.data.getters import ColReader
from dist_ai.data.table import Table, missing
from dist_ai.errors import ConfigError, DataError, did_you_mean

__all__ = ["NA", "Categorize", "EncodedMultiCategorize", "MultiCategorize", "OneHotEncode", "RegressionSetup"]

NA = "#na#"
"""The class of what has no label, or one that training did not see, where `add_na` makes one."""


@dataclass
class Categorize(Transform):
    """Labels to class indices; the vocabulary is the labels of the training items.

    Args:
        vocab: the classes in order, or a categorical of pandas, whose categories they are; empty to learn them at set-up.
        sort: learned classes are sorted; otherwise they are in the order in which they first come.
        add_na: class 0 is `NA`, for missing labels and those that training did not see.

    The classes of a data frame's categorical column, read by a `ColReader`, are its categories in their order if that is an
    ordered one (small, medium, large) or `sort` is off; those that no training item has too.

    >>> Categorize(["cat", "dog"])("dog")
    TensorCategory(1)
    """

    vocab: list[Any] = field(default_factory=list)
    sort: bool = True
    add_na: bool = False

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.vocab = _with_na(self.vocab, self.add_na)
        self._index = _index_of(self.vocab)

    @property
    def num_outputs(self) -> int:
        """How many numbers a model gives for it."""
        return len(self.vocab)

    @property
    def learns_classes(self) -> bool:
        """Whether the classes are still to be learned from the training items."""
        return self.vocab in ([], [NA])

    def setups(self, items: Sequence) -> None:
        """Learns the vocabulary, unless it was given."""
        if self.learns_classes:
            labels = (_label(label, where, self.add_na) for label, where in _each(items))
            learned = _learned(labels, sort=self.sort)
            self.vocab = _categories_of(items, sort=self.sort) or learned
            self.__post_init__()

    def encodes(self, x: object) -> Any:
        """Returns the class index of a label."""
        if isinstance(x, TensorCategory):
            return x
        return TensorCategory(torch.tensor(_find(_label(x, "", self.add_na), self._index)))

    def decodes(self, x: TensorCategory) -> Any:
        """Returns the label of a class index, or the list of labels of several."""
        return _labels(x.tolist(), self.vocab)


@dataclass
class MultiCategorize(ItemTransform):
    """Lists of labels to lists of class indices; the vocabulary is all labels of the training items, sorted.

    Args:
        vocab: the classes in order; empty to learn them at set-up.
        add_na: class 0 is `NA`, for labels that training did not see.

    >>> MultiCategorize(["cat", "dog", "emu"])(["emu", "cat"])
    TensorCategory([2, 0], num_classes=3)
    """

    vocab: list[Any] = field(default_factory=list)
    add_na: bool = False

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.vocab = _with_na(self.vocab, self.add_na)
        self._index = _index_of(self.vocab)

    @property
    def num_outputs(self) -> int:
        """How many numbers a model gives for it."""
        return len(self.vocab)

    @property
    def learns_classes(self) -> bool:
        """Whether the classes are still to be learned from the training items."""
        return self.vocab in ([], [NA])

    def setups(self, items: Sequence) -> None:
        """Learns the vocabulary, unless it was given."""
        if self.learns_classes:
            several = ((_several(labels, where), where) for labels, where in _each(items))
            self.vocab = _learned(
                (_label(label, where, self.add_na) for labels, where in several for label in labels), sort=True
            )
            self.__post_init__()

    def encodes(self, x: object) -> Any:
        """Returns the class indices of several labels, in their order."""
        if isinstance(x, TensorCategory):
            return x
        indices = [_find(_label(label, "", self.add_na), self._index) for label in _several(x, "")]
        return TensorCategory(torch.tensor(indices, dtype=torch.int64), num_classes=len(self.vocab))

    def decodes(self, x: TensorCategory) -> Any:
        """Returns the labels of class indices."""
        return _labels(x.tolist(), self.vocab)


@dataclass
class OneHotEncode(Transform):
    """Class indices of a sample to a yes (1) or no (0) for each class, float32.

    Args:
        c: number of classes; None to learn it at set-up from `MultiCategorize` before it.

    >>> OneHotEncode(3)(TensorCategory([2, 0]))
    TensorMultiCategory([1., 0., 1.])
    """

    c: int | None = None

    order: ClassVar[int] = 2

    @property
    def num_outputs(self) -> int | None:
        """How many numbers a model gives for it."""
        return self.c

    def setups(self, items: Sequence) -> None:
        """Learns the number of classes, unless it was given."""
        if self.c is None:
            self.c = getattr(items[0], "num_classes", None)

    def encodes(self, x: TensorCategory) -> Any:
        """Returns a one for each class that is there."""
        if self.c is None:
            raise ConfigError(
                "OneHotEncode does not know how many classes there are; put MultiCategorize before it, or give OneHotEncode(c)"
            )
        indices = x.tolist()
        if outside := [i for i in indices if not 0 <= i < self.c]:
            raise DataError(f"class index {outside[0]}, and there are {self.c} classes, 0 to {self.c - 1}")
        encoded = torch.zeros(self.c)
        encoded[indices] = 1.0
        return TensorMultiCategory(encoded)

    def decodes(self, x: TensorMultiCategory) -> Any:
        """Returns the indices of the classes that are there."""
        return TensorCategory(x.bool().nonzero().flatten())


@dataclass
class EncodedMultiCategorize(ItemTransform):
    """Targets that are a yes (1) or no (0) for each class already: a list, an array, or several columns of a table.

    Args:
        vocab: the classes, in the order of the numbers.

    >>> EncodedMultiCategorize(["cat", "dog", "emu"])([1, 0, 1])
    TensorMultiCategory([1., 0., 1.])
    """

    vocab: list[Any]

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.vocab = list(self.vocab)
        _index_of(self.vocab)

    @property
    def num_outputs(self) -> int:
        """How many numbers a model gives for it."""
        return len(self.vocab)

    def encodes(self, x: object) -> Any:
        """Returns the target as float32."""
        encoded = _numbers(x)
        if encoded.shape != (len(self.vocab),) or not ((encoded == 0) | (encoded == 1)).all():
            raise DataError(
                f"target {x!r:.200} for {len(self.vocab)} classes; expected a 1 or 0 (True or False) for each of them, "
                "in the order of vocab"
            )
        return TensorMultiCategory(encoded)

    def decodes(self, x: TensorMultiCategory) -> Any:
        """Returns the labels of the classes that are there."""
        return [self.vocab[i] for i in x.bool().nonzero().flatten().tolist()]


@dataclass
class RegressionSetup(ItemTransform):
    """Targets that are a number, or several of them, to float32.

    Args:
        c: how many numbers a target has; None to learn it at set-up from the first training item.
        names: what several numbers are called, such as the columns that they are from; undone they are a dict then.

    Raises:
        DataError: a target is no number, NaN or infinite, or has not as many numbers as the first.

    >>> RegressionSetup(2)([0.5, 1])
    TensorRegression([0.5000, 1.0000])
    >>> RegressionSetup(2, ["width", "height"]).decode(TensorRegression([0.5, 1]))
    {'width': 0.5, 'height': 1.0}
    """

    c: int | None = None
    names: list[str] | None = None

    order: ClassVar[int] = 1

    @property
    def num_outputs(self) -> int | None:
        """How many numbers a model gives for it."""
        return self.c

    def setups(self, items: Sequence) -> None:
        """Learns how many numbers a target has, and looks at all of them."""
        for target, where in _each(items):
            numbers = self._checked(target, where)
            self.c = numbers.numel()

    def encodes(self, x: object) -> Any:
        """Returns the target: 0-d for a number, 1-d for several."""
        return x if isinstance(x, TensorRegression) else TensorRegression(self._checked(x, ""))

    def decodes(self, x: TensorRegression) -> Any:
        """Returns a number, or a list of them, or a dict where they have names."""
        numbers = x.flatten().tolist()
        if self.names is not None and len(self.names) == len(numbers):
            return dict(zip(self.names, numbers, strict=True))
        return numbers[0] if x.numel() == 1 else x.tolist()

    def _checked(self, x: Any, where: str) -> torch.Tensor:
        numbers = _numbers(x, where)
        if not numbers.isfinite().all():
            what = "missing (None, or NaN in a table)" if x is None else f"{x!r:.100}, which is not finite"
            raise DataError(
                f"the target{where} is {what}: a model cannot learn from it; fill it, or leave the item out"
            )
        if self.c is not None and numbers.numel() != self.c:
            raise DataError(f"the target{where} is {x!r:.100}: {numbers.numel()} number(s), and others have {self.c}")
        return numbers


# ------------------------------------------------------------------------------------------------ their pieces


def _each(items: Sequence) -> Iterator[tuple[Any, str]]:
    """Yields each target of the training items, with words for which item it is of."""
    sources = getattr(items, "items", items)  # what the transforms before this one are given
    for i in range(len(items)):
        try:
            target = items[i]
        except Exception as error:
            what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            raise DataError(f"training item {i} ({sources[i]!r:.200}): {what}") from error
        yield (
            target,
            f" of training item {i} ({sources[i]!r:.200})" if sources is not items else f" of training item {i}",
        )


def _label(x: Any, where: str, add_na: bool) -> Any:
    """Returns a label as Python's own value (an export could not hold NumPy's); `NA` for a missing one, if there is that."""
    if isinstance(x, np.generic) or (isinstance(x, torch.Tensor) and x.dim() == 0):
        x = x.item()
    if not missing(x):
        return x
    if add_na:
        return NA
    raise DataError(
        f"the label{where} is missing ({x!r}); fill it, leave the item out, or make missing labels a class: add_na=True"
    )


def _several(x: Any, where: str) -> list[Any]:
    if isinstance(x, list | tuple | set | frozenset | np.ndarray):
        return list(x)
    raise DataError(
        f"the target{where} is {x!r:.100}, a {type(x).__name__}; expected a list of labels. Text is split by "
        "ColReader(column, label_delim=' '), or by a function"
    )


def _learned(labels: Iterator[Any], *, sort: bool) -> list[Any]:
    try:
        found = dict.fromkeys(labels)
    except TypeError as error:
        raise DataError(
            f"a label cannot be a class: {error}; expected text or a number, and MultiCategorize for lists"
        ) from error
    classes = [label for label in found if label != NA]
    if not any(all(isinstance(label, kind) for label in classes) for kind in (str, int)):
        kinds = sorted({type(label).__name__ for label in classes})
        raise DataError(
            f"labels of type {', '.join(kinds)}: expected all str, or all int; "
            "turn them into names with a function before Categorize"
        )
    return sorted(classes) if sort else classes


def in_order(categories: tuple[list[Any], bool] | None, *, sort: bool) -> list[Any] | None:
    """Returns the categories of a column if their order is that of the classes, else None."""
    return None if categories is None or (sort and not categories[1]) else categories[0]


def _categories_of(items: Any, *, sort: bool) -> list[Any] | None:
    """Returns the classes that the column of a table has, where the items are what a `ColReader` makes of its rows."""
    readers = list(getattr(getattr(items, "pipeline", None), "tfms", []))
    if [type(reader) for reader in readers] != [ColReader] or (column := readers[0].only_column) is None:
        return None
    rows = items
    while not isinstance(rows, Table):
        rows = rows.source if isinstance(rows, Subset) else getattr(rows, "items", None)
        if rows is None or isinstance(rows, Mapping):
            return None
    return in_order(rows.categories(column), sort=sort)


def _with_na(vocab: Any, add_na: bool) -> list[Any]:
    categories = getattr(getattr(vocab, "dtype", vocab), "categories", None)
    vocab = list(vocab) if categories is None else categories.tolist()
    return [NA, *(label for label in vocab if label != NA)] if add_na else vocab


def _index_of(vocab: Sequence[Any]) -> dict[Any, int]:
    index = {label: i for i, label in enumerate(vocab)}
    if len(index) < len(vocab):
        twice = sorted({str(label) for i, label in enumerate(vocab) if index[label] != i})
        raise ConfigError(f"vocab names {', '.join(twice)} more than once; each class has one index")
    return index


def _find(label: Any, index: dict[Any, int]) -> int:
    try:
        return index[label]
    except KeyError:
        if NA in index:
            return index[NA]
        raise DataError(
            f"label {label!r} is not one of the {len(index)} classes of the training items"
            f"{_of_numbers(label, index) or did_you_mean(str(label), map(str, index))}"
        ) from None
    except TypeError:
        raise DataError(
            f"{label!r:.100} is no label; expected text or a number, and MultiCategorize for lists"
        ) from None


def _of_numbers(label: Any, index: dict[Any, int]) -> str:
    """Returns how to predict a number, where so many classes, and what is none of them, are numbers, also as text; else ""."""
    if len(index) <= _FEW or not all(map(_reads_as_number, (label, *index))):
        return ""
    return (
        ". These are numbers: to predict them as such, and not as classes, use RegressionBlock (y_block=RegressionBlock of a "
        "table), or make them floats"
    )


_FEW = 10  # classes that numbers may well name: digits


def _reads_as_number(label: Any) -> bool:
    try:
        return math.isfinite(float(label))
    except (TypeError, ValueError):
        return False


def _labels(indices: Any, vocab: Sequence[Any]) -> Any:
    return vocab[indices] if isinstance(indices, int) else [_labels(each, vocab) for each in indices]


def _numbers(x: Any, where: str = "") -> torch.Tensor:
    try:
        return torch.as_tensor(np.asarray(float("nan") if missing(x) else x), dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"the target{where} is {x!r:.100}; expected a number, or a list of numbers") from error
