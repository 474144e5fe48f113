"""Splitters: from items to the indices of the training part, of the validation part, and of further parts.

A splitter is any function from the items to two or more lists of indices; those here are values with a readable `repr`
that can be sent to other processes. None touches a global random state, and each gives the same split in every process
and every run: without that, ranks would train on each other's validation samples and a resumed run would move them.
"""

from __future__ import annotations

import dataclasses
import operator
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dist_ai.core.randomness import mix64_int
from dist_ai.data.plan import Permutation
from dist_ai.data.table import as_items, column_of, missing
from dist_ai.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "ColSplitter",
    "EndSplitter",
    "FileSplitter",
    "FuncSplitter",
    "GrandparentSplitter",
    "GroupSplitter",
    "IndexSplitter",
    "MaskSplitter",
    "RandomSplitter",
    "RandomSubsetSplitter",
    "Split",
    "Splitter",
    "TrainTestSplitter",
    "check_split",
    "values_of",
]

Split: TypeAlias = tuple[list[int], ...]
Splitter: TypeAlias = Callable[[Any], Split]
By: TypeAlias = "Callable[[Any], Any] | Sequence[Any] | str"
"""What items are told apart by: a function of an item, a value for each item, or the name of a column."""


def check_split(split: Any, num_items: int, *, may_overlap: bool = False) -> Split:
    """Returns a split as lists of integers, if it is one.

    Args:
        split: the indices of the training part, of the validation part, and of further ones.
        num_items: how many items were split.
        may_overlap: whether parts may share items.

    An index may come several times in the training part, which shows that item more often; nowhere else.

    Raises:
        DataError: fewer than two parts, an empty one, an index that no item has, or one that two parts share.

    >>> check_split((range(2), np.array([2])), num_items=3)
    ([0, 1], [2])
    """
    if not isinstance(split, tuple | list) or len(split) < 2:
        raise DataError(
            f"a splitter gave {reprlib.repr(split)}; expected (training indices, validation indices), or more parts"
        )
    parts = [_indices(part, _part(k)) for k, part in enumerate(split)]
    owner = np.full(num_items, -1, dtype=np.int64)
    for k, part in enumerate(parts):
        if len(part) == 0:
            raise DataError(f"the {_part(k)} part of the split is empty: its {num_items} item(s) went to other parts")
        if part.min() < 0 or part.max() >= num_items:
            outside = next(i for i in part.tolist() if not 0 <= i < num_items)
            raise DataError(
                f"index {outside} in the {_part(k)} part of the split, and the items are 0 to {num_items - 1}"
            )
        taken = part[owner[part] >= 0]
        if len(taken) and not may_overlap:
            raise DataError(
                f"{len(taken)} item(s), such as {taken[0]}, are both in the {_part(int(owner[taken[0]]))} and the "
                f"{_part(k)} part of the split: what a model is judged by must not be what it was trained on"
            )
        owner[part] = k
        if k and len(np.unique(part)) < len(part):
            raise DataError(f"an index comes twice in the {_part(k)} part of the split, where each item counts once")
    return tuple(part.tolist() for part in parts)


def values_of(items: Any, by: By) -> list[Any]:
    """Returns what each item is told apart by.

    Raises:
        DataError: there are not as many values as items, or one is missing.

    >>> values_of(["a1", "b2"], lambda item: item[0]), values_of(["a1", "b2"], [7, 8])
    (['a', 'b'], [7, 8])
    """
    if callable(by):
        rows = as_items(items)
        values, what = [by(rows[i]) for i in range(len(rows))], getattr(by, "__name__", repr(by))
    elif isinstance(by, str):
        values, what = column_of(items, by), f"column {by!r}"
    else:
        values, what = list(by), "the values given"
        if len(values) != len(items):
            raise DataError(f"{len(values)} values for {len(items)} items: expected one for each, in their order")
    lacking = [i for i, value in enumerate(values) if missing(value)]
    if lacking:
        raise DataError(f"{len(lacking)} item(s), such as {lacking[0]}, have no value by {what}; fill or remove them")
    return values


# ------------------------------------------------------------------------------------------------ by chance


class ShortRepr:
    """Gives a dataclass a `repr` that stays short whatever it holds."""

    def __repr__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        shown = (f"{name}={getattr(value, '__name__', None) or reprlib.repr(value)}" for name, value in values)
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(repr=False)
class RandomSplitter(ShortRepr):
    """Draws `valid_pct` of the items, rounded down, for validation.

    Args:
        valid_pct: share of the items, above 0 and below 1; or the shares of several parts beside the training part.
        seed: which draw. None is 0, not another draw each time as in fastai: every process and every resumed run must make
            the same split.

    >>> RandomSplitter(0.4, seed=1)(["a", "b", "c", "d", "e"])
    ([1, 2, 3], [0, 4])
    >>> RandomSplitter((0.2, 0.2), seed=1)(["a", "b", "c", "d", "e"])
    ([1, 2, 3], [0], [4])
    """

    valid_pct: float | Sequence[float] = 0.2
    seed: int | None = 0

    def __post_init__(self) -> None:
        shares = self._shares()
        if not shares or not all(0 < share < 1 for share in shares) or not round(sum(shares), 6) < 1:
            several = "" if len(shares) == 1 else ", and less than 1 together"
            raise ConfigError(
                f"valid_pct={self.valid_pct} is a share of the items: expected more than 0 and less than 1{several}"
            )

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        sizes = [_rounded_down(share * len(items)) for share in self._shares()]
        num_train = len(items) - sum(sizes)
        if min(num_train, *sizes) < 1:
            raise DataError(
                f"valid_pct={self.valid_pct} of {len(items)} item(s) leaves {num_train} for training and "
                f"{' and '.join(map(str, sizes))} for validation; both need at least 1"
            )
        order, parts = shuffled(len(items), self.seed), []
        for size in sizes:
            parts.append(sorted(order[:size].tolist()))
            order = order[size:]
        return (sorted(order.tolist()), *parts)

    def _shares(self) -> list[float]:
        return [self.valid_pct] if isinstance(self.valid_pct, int | float) else list(self.valid_pct)


@dataclass(repr=False)
class TrainTestSplitter(ShortRepr):
    """Draws `test_size` of the items for validation, of each class in proportion.

    Args:
        test_size: a share of the items (rounded down), or a number of them.
        stratify: the classes: a function of an item, a value for each item, or a column's name; None draws from all.
        seed: which draw; None is 0, as in `RandomSplitter`.

    Of a class with a single item, that one is for training.

    >>> TrainTestSplitter(0.5, stratify=lambda item: item[0])(["a1", "a2", "b1", "b2", "b3", "b4"])
    ([0, 2, 4], [1, 3, 5])
    """

    test_size: float | int = 0.2
    stratify: By | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        _check_size("test_size", self.test_size)

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        num_items = len(items)
        num_valid = _size(self.test_size, num_items)
        if not 0 < num_valid < num_items:
            raise DataError(
                f"test_size={self.test_size} of {num_items} item(s) leaves {num_items - num_valid} for training and "
                f"{num_valid} for validation; both need at least 1"
            )
        order = shuffled(num_items, self.seed)
        if self.stratify is None:
            return sorted(order[num_valid:].tolist()), sorted(order[:num_valid].tolist())
        members = by_value(values_of(items, self.stratify), order)
        valid: list[int] = []
        for group, size in zip(members, _in_proportion([len(group) for group in members], num_valid), strict=True):
            valid += group[:size]
        if not valid:
            raise DataError(
                f"each of the {len(members)} classes has a single item, which is for training; nothing is left for validation"
            )
        return _without(valid, num_items), sorted(valid)


@dataclass(repr=False)
class GroupSplitter(ShortRepr):
    """Draws whole groups for validation until about `valid_pct` of the items are: no group is on both sides.

    Args:
        group: what belongs together (the patient of a scan): a function of an item, a value for each item, or a column's
            name.
        valid_pct: share of the items, above 0 and below 1.
        seed: which draw; None is 0, as in `RandomSplitter`.

    >>> GroupSplitter(lambda item: item[0], 0.5)(["a1", "a2", "b1", "b2"])
    ([2, 3], [0, 1])
    """

    group: By
    valid_pct: float = 0.2
    seed: int | None = 0

    def __post_init__(self) -> None:
        _check_share("valid_pct", self.valid_pct)

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        groups = by_value(values_of(items, self.group))
        if len(groups) < 2:
            raise DataError(f"the {len(items)} item(s) are of {len(groups)} group(s); both parts need at least 1")
        wanted = self.valid_pct * len(items)
        valid: list[int] = []
        # The last group stays for training.
        for k in shuffled(len(groups), self.seed)[:-1].tolist():
            # A group that leads further past the share than what is missing is not taken, unless it is the first.
            if valid and len(valid) + len(groups[k]) - wanted > wanted - len(valid):
                break
            valid += groups[k]
        return _without(valid, len(items)), sorted(valid)


@dataclass(repr=False)
class RandomSubsetSplitter(ShortRepr):
    """Draws some items for training and others for validation, and leaves the rest out: for a first try on little data.

    Args:
        train_sz, valid_sz: shares of the items (rounded down), or numbers of them.
        seed: which draw; None is 0, as in `RandomSplitter`.

    >>> RandomSubsetSplitter(2, 1, seed=3)(range(100))
    ([56, 71], [45])
    """

    train_sz: float | int
    valid_sz: float | int
    seed: int | None = 0

    def __post_init__(self) -> None:
        _check_size("train_sz", self.train_sz)
        _check_size("valid_sz", self.valid_sz)

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        num_train, num_valid = _size(self.train_sz, len(items)), _size(self.valid_sz, len(items))
        if min(num_train, num_valid) < 1 or num_train + num_valid > len(items):
            raise DataError(
                f"train_sz={self.train_sz} and valid_sz={self.valid_sz} of {len(items)} item(s) are {num_train} and "
                f"{num_valid}; both need at least 1, and there must be enough for the two"
            )
        order = shuffled(len(items), self.seed)
        return sorted(order[num_valid : num_valid + num_train].tolist()), sorted(order[:num_valid].tolist())


# ------------------------------------------------------------------------------------------------ by place


@dataclass(repr=False)
class EndSplitter(ShortRepr):
    """Takes the last items for validation, or the first: for items in the order of time.

    Args:
        valid_pct: share of the items, above 0 and below 1; rounded down.
        valid_last: the last ones; otherwise the first.

    >>> EndSplitter(0.4)(range(5)), EndSplitter(0.4, valid_last=False)(range(5))
    (([0, 1, 2], [3, 4]), ([2, 3, 4], [0, 1]))
    """

    valid_pct: float = 0.2
    valid_last: bool = True

    def __post_init__(self) -> None:
        _check_share("valid_pct", self.valid_pct)

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        num_items, num_valid = len(items), _rounded_down(self.valid_pct * len(items))
        if num_valid < 1:
            raise DataError(f"valid_pct={self.valid_pct} of {num_items} item(s) leaves none for validation")
        border = num_items - num_valid if self.valid_last else num_valid
        first, last = list(range(border)), list(range(border, num_items))
        return (first, last) if self.valid_last else (last, first)


@dataclass(repr=False)
class IndexSplitter(ShortRepr):
    """Takes the items with these indices for validation, and the others for training.

    >>> IndexSplitter([1, 2])("abcd")
    ([0, 3], [1, 2])
    """

    valid_idx: Sequence[int]

    def __post_init__(self) -> None:
        if isinstance(self.valid_idx, int | np.integer):
            self.valid_idx = [int(self.valid_idx)]
        if len(chosen := np.asarray(self.valid_idx)) and chosen.dtype.kind == "b":
            raise ConfigError("IndexSplitter got True and False; expected indices, or use MaskSplitter")
        self.valid_idx = _indices(self.valid_idx, "validation").tolist()

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        inside = [i for i in self.valid_idx if 0 <= i < len(items)]
        return check_split((_without(inside, len(items)), sorted(self.valid_idx)), len(items))


@dataclass(repr=False)
class MaskSplitter(ShortRepr):
    """Takes the items whose mask is True (or 1) for validation, and the others for training.

    >>> MaskSplitter([False, True, False])("abc")
    ([0, 2], [1])
    """

    mask: Sequence[bool]

    def __post_init__(self) -> None:
        self.mask = [_yes_or_no(value, f"mask[{i}]") for i, value in enumerate(_python(self.mask))]

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        if len(self.mask) != len(items):
            raise DataError(f"a mask of {len(self.mask)} for {len(items)} items: expected one value for each")
        return _by_mask(self.mask)


# ------------------------------------------------------------------------------------------------ by what items are


@dataclass(repr=False)
class FuncSplitter(ShortRepr):
    """Takes the items of which a function says True for validation, and the others for training.

    >>> FuncSplitter(str.isupper)(["a", "B", "c"])
    ([0, 2], [1])
    """

    func: Callable[[Any], bool]

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        rows = as_items(items)
        name = getattr(self.func, "__name__", repr(self.func))
        return _by_mask([_yes_or_no(self.func(rows[i]), f"{name} of item {i}") for i in range(len(rows))])


@dataclass(repr=False)
class ColSplitter(ShortRepr):
    """Takes the rows with True (or 1) in a column of a table for validation, and the others for training.

    Args:
        col: the column, by name or place.
        on: take the rows whose value is this one, or one of these, instead.

    >>> from dist_ai.data.table import Table
    >>> rows = Table({"file": ["1.jpg", "2.jpg", "3.jpg"], "part": ["fit", "check", "fit"]})
    >>> ColSplitter("part", on="check")(rows)
    ([0, 2], [1])
    """

    col: str | int = "is_valid"
    on: Any = None

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        values = column_of(items, self.col)
        if self.on is None:
            return _by_mask([_yes_or_no(value, f"column {self.col!r} of row {i}") for i, value in enumerate(values)])
        wanted = list(self.on) if isinstance(self.on, list | tuple | set | frozenset) else [self.on]
        for value in wanted:
            if value not in values:
                there = list(dict.fromkeys(map(str, values)))
                raise DataError(
                    f"no row has {value!r} in column {self.col!r}; there are {reprlib.repr(there)}"
                    f"{did_you_mean(str(value), there[:2000])}"
                )
        return _by_mask([value in wanted for value in values])


@dataclass(repr=False)
class GrandparentSplitter(ShortRepr):
    """Splits files by the name of their grandparent folder: ``train/cat/1.jpg`` is for training.

    Args:
        train_name, valid_name: the folder, or several.
        test_name: the folder of a third part, if there is one.

    Files in other folders are left out.

    >>> GrandparentSplitter()([Path("train/cat/1.jpg"), Path("valid/cat/2.jpg")])
    ([0], [1])
    """

    train_name: str | Sequence[str] = "train"
    valid_name: str | Sequence[str] = "valid"
    test_name: str | Sequence[str] | None = None

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        folders = [Path(item).parent.parent.name for item in items]
        there = sorted(set(folders))
        wanted = [[each] if isinstance(each, str) else list(each) for each in self._parts()]
        for name in (name for names in wanted for name in names):
            if name not in there:
                near = did_you_mean(name, there)
                raise DataError(
                    f"no file in a folder named {name!r}; the grandparent folders are {there[:8]}{near or '.'} "
                    "Give the folders' names, or valid_pct for a random split"
                )
        return check_split([[i for i, name in enumerate(folders) if name in names] for names in wanted], len(folders))

    def _parts(self) -> list[Any]:
        return [self.train_name, self.valid_name, *([] if self.test_name is None else [self.test_name])]


@dataclass(repr=False)
class FileSplitter(ShortRepr):
    """Takes the files that a text file names, one a line, for validation, and the others for training.

    Args:
        fname: the text file. A line is a name (``1.jpg``) or the end of a path (``cat/1.jpg``).

    Raises:
        DataError: no such file, or a line that names none of the items.
    """

    fname: str | Path

    def __post_init__(self) -> None:
        if not Path(self.fname).is_file():
            raise DataError(f"no file at {self.fname}, which should name the validation files")

    def __call__(self, items: Any) -> Split:
        """Returns the split."""
        lines = [line.strip() for line in Path(self.fname).read_text(encoding="utf-8").splitlines() if line.strip()]
        wanted = {PurePath(line).parts: line for line in lines}
        lengths = sorted({len(parts) for parts in wanted})
        paths = [PurePath(item).parts for item in items]
        ends = [{parts[-length:] for length in lengths} & wanted.keys() for parts in paths]
        unknown = [line for parts, line in wanted.items() if parts not in set().union(*ends)]
        if unknown:
            names = sorted({parts[-1] for parts in paths})
            raise DataError(
                f"{len(unknown)} line(s) of {self.fname}, such as {unknown[0]!r}, name none of the {len(paths)} items"
                f"{did_you_mean(PurePath(unknown[0]).name, names[:2000])}"
            )
        return _by_mask([bool(found) for found in ends])


# ------------------------------------------------------------------------------------------------ their pieces


def by_value(values: Sequence[Any], order: Iterable[int] | None = None) -> list[list[int]]:
    """Returns the indices of each value, in `order`; the values in the order in which they first come."""
    members: dict[Any, list[int]] = {value: [] for value in values}
    for i in range(len(values)) if order is None else order:
        members[values[i]].append(int(i))
    return list(members.values())


def shuffled(num_items: int, seed: int | None) -> npt.NDArray[np.int64]:
    if seed is not None and not isinstance(seed, int | np.integer):
        raise ConfigError(f"seed={seed!r}: expected a whole number, or None for the fixed draw 0")
    return Permutation(num_items, key=mix64_int(int(seed or 0)))(np.arange(num_items))


def _in_proportion(sizes: Sequence[int], total: int) -> list[int]:
    """Returns how many to take of each class: its share, and what rounding leaves to those that lost most by it."""
    num_items = sum(sizes)
    shares = [size * total / num_items for size in sizes]
    taken = [int(share) for share in shares]
    by_loss = sorted(range(len(sizes)), key=lambda k: (taken[k] - shares[k], k))
    for k in by_loss[: total - sum(taken)]:
        taken[k] += 1
    return [min(take, size - 1) for take, size in zip(taken, sizes, strict=True)]


def _without(indices: Iterable[int], num_items: int) -> list[int]:
    left = np.ones(num_items, dtype=bool)
    left[list(indices)] = False
    return np.flatnonzero(left).tolist()


def _by_mask(mask: Sequence[bool]) -> Split:
    chosen = np.asarray(mask, dtype=bool)
    return check_split((np.flatnonzero(~chosen), np.flatnonzero(chosen)), len(chosen))


def _yes_or_no(value: Any, where: str) -> bool:
    # Not by truth: the string "False" and the index 7 would be a yes.
    if isinstance(value, bool | np.bool_) or (isinstance(value, int | np.integer | float) and value in (0, 1)):
        return bool(value)
    raise DataError(f"{where} is {value!r}; expected True or False (or 1 and 0)")


def _indices(part: Any, name: str) -> npt.NDArray[np.int64]:
    given = _python(part)
    try:
        return np.asarray([operator.index(i) for i in given], dtype=np.int64)
    except TypeError:
        raise DataError(
            f"the {name} part of the split is {reprlib.repr(given)}; expected the indices of items"
        ) from None


def _python(values: Any) -> list[Any]:
    """Returns a list of Python's own values from a list, an array, a tensor or a column of a data frame."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _part(k: int) -> str:
    return {0: "training", 1: "validation"}.get(k, f"{k + 1}rd" if k == 2 else f"{k + 1}th")


def _rounded_down(x: float) -> int:
    return int(round(x, 6))  # 0.29 of 100 is 29, and 28.999999999999996 in binary


def _size(size: float | int, num_items: int) -> int:
    return size if isinstance(size, int) else _rounded_down(size * num_items)


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ConfigError(f"{name}={share} is a share of the items: expected more than 0 and less than 1")


def _check_size(name: str, size: float | int) -> None:
    if not (size >= 1 if isinstance(size, int) else 0 < size < 1):
        raise ConfigError(f"{name}={size}: expected a share (more than 0 and less than 1), or a number of items")
