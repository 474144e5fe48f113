"""Getters: from an item to what an input or a target is made from.

Those here say what they do as plain data, so an export can hold them. Any function will do too; it is wrapped in a
`Getter`. What is not an item of the source's kind passes through: a model trained from the rows of a table predicts
from a file's path as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dist_ai.core.transform import ItemTransform
from dist_ai.data.table import Row, is_row, missing, row_value
from dist_ai.errors import ConfigError, DataError, did_you_mean

__all__ = ["AttrGetter", "ColReader", "ElementOf", "Getter", "ItemGetter"]


@dataclass
class ItemGetter(ItemTransform):
    """One element of an item: of a tuple by its place, of a dict or a row by its key.

    Args:
        i: the place or the key.

    A path and text pass through: they are taken for the element itself.

    >>> ItemGetter(1)(("1.jpg", "cat"))
    'cat'
    """

    i: int | str

    order: ClassVar[int] = -10

    def encodes(self, x: object) -> Any:
        """Returns the element."""
        if isinstance(x, str | bytes | os.PathLike):
            return x
        try:
            return row_value(x, self.i) if is_row(x) else x[self.i]  # type: ignore[index]  # what has no items raises
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{self!r} found none in a {type(x).__name__}: {error.args[0]}") from error


@dataclass
class ElementOf(ItemTransform):
    """One element of a sample that the transforms before made as a whole; it comes after all of them.

    Args:
        i: its place.

    >>> ElementOf(1)(("text", 3))
    3
    """

    i: int

    order: ClassVar[int] = 1000

    def encodes(self, x: object) -> Any:
        """Returns the element."""
        return x[self.i]  # type: ignore[index]  # what has no items raises


@dataclass
class AttrGetter(ItemTransform):
    """One attribute of an item.

    Args:
        nm: its name.
        default: what an item without it gives; by default that is an error.

    >>> from pathlib import Path
    >>> AttrGetter("stem")(Path("cat_7.jpg")), AttrGetter("speed", default=0)(Path("cat_7.jpg"))
    ('cat_7', 0)
    """

    nm: str
    default: Any = None

    order: ClassVar[int] = -10

    def encodes(self, x: object) -> Any:
        """Returns the attribute."""
        try:
            return getattr(x, self.nm)
        except AttributeError:
            if self.default is not None:
                return self.default
            names = list(x) if isinstance(x, Row) else [name for name in dir(x) if not name.startswith("_")]
            raise DataError(
                f"a {type(x).__name__} has no attribute {self.nm!r}{did_you_mean(self.nm, names)}"
            ) from None


@dataclass
class ColReader(ItemTransform):
    """The value of a row in a column of a table.

    Args:
        cols: the column, by name or place; or several, whose values make a list.
        pref, suff: put before and after the value: a folder (which an absolute path does not take) and ``".jpg"``.
        label_delim: between the labels in a value that holds several, which then are a list; "" holds none.

    What is not a row passes through. A missing value is None.

    Raises:
        DataError: the row has no such column, or no value where there is something to add or to split.

    >>> row = {"file": 7, "tags": "sea sky"}
    >>> ColReader("file", pref="images/", suff=".jpg")(row), ColReader("tags", label_delim=" ")(row)
    ('images/7.jpg', ['sea', 'sky'])
    """

    cols: str | int | Sequence[str | int]
    pref: str | os.PathLike[str] = ""
    suff: str = ""
    label_delim: str | None = None

    order: ClassVar[int] = -10

    def __post_init__(self) -> None:
        if isinstance(self.pref, os.PathLike):
            self.pref = os.path.join(self.pref, "")  # with the separator at its end

    def encodes(self, x: object) -> Any:
        """Returns the value, or the values."""
        if not is_row(x):
            return x
        if isinstance(self.cols, str | int):
            return self._value(x, self.cols)
        return [self._value(x, column) for column in self.cols]

    @property
    def only_column(self) -> str | int | None:
        """The column whose values it gives as they are; None if it changes them, or reads several."""
        changes = self.pref or self.suff or self.label_delim is not None
        return self.cols if isinstance(self.cols, str | int) and not changes else None

    def _value(self, row: Any, column: str | int) -> Any:
        try:
            value = row_value(row, column)
        except KeyError as error:
            raise DataError(error.args[0]) from None
        if missing(value):
            if not self.pref and not self.suff and self.label_delim is None:
                return None
            raise DataError(
                f"no value in column {column!r}; fill it (with '' where there are no labels), or leave such rows out"
            )
        if self.label_delim is not None:
            return str(value).split(self.label_delim) if str(value) else []
        if not self.pref and not self.suff:
            return value
        pref, name = str(self.pref), f"{value}{self.suff}"
        return os.path.join(pref, name) if pref.endswith(os.sep) else pref + name


class Getter(ItemTransform):
    """A plain function that takes out of an item what an input or a target is made from.

    It is called for every item of the source. Set up on that, it knows what kinds of items there are, and lets another kind
    pass: if all are rows and the function returns paths, a path that comes later is taken for what the function would return.
    An export, which holds no code, then leaves it out: its model takes what the function returns.

    Raises:
        DataError: at set-up, the function fails on the first item.
    """

    order: ClassVar[int] = -10

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self._passes: str | None = None

    @property
    def passes_others(self) -> bool:
        """Whether what the function returns can be told from what it takes."""
        return self._passes is not None

    def setups(self, items: Sequence) -> None:
        """Learns the kind of what the function returns from the first item, and whether no item is of that kind."""
        first = items[0]
        try:
            returned = _kind(self.function(first))
        except Exception as error:
            raise DataError(
                f"{self!r} fails on the first training item, {first!r:.200}: {type(error).__name__}: {error}"
            ) from error
        self._passes = returned if returned not in _kinds(items) else None

    def encodes(self, x: object) -> Any:
        """Returns the function of an item."""
        return x if self.passes_others and _kind(x) == self._passes else self.function(x)

    def to_plain(self) -> dict[str, Any]:
        """Raises `ConfigError`: a file cannot hold code."""
        raise ConfigError(
            f"{self!r} cannot be written to a file, because files hold no code, and what it returns cannot be told from what "
            "it takes; write it as a Transform class"
        )

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


def _kinds(items: Sequence) -> set[str]:
    """Returns the kinds of all items of a source, those for validation too."""
    source = getattr(items, "source", items)
    # Only what is in memory can be looked at for nothing. What reads an item when asked, such as a table, has one kind of them.
    return set(map(_kind, source if isinstance(source, list | tuple | np.ndarray) else [items[0]]))


def _kind(x: Any) -> str:
    if isinstance(x, str | os.PathLike):
        return "path or text"
    if isinstance(x, Mapping) or is_row(x):
        return "row"
    return type(x).__name__
