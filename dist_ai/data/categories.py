"""Categories of a column: which there are, in which order, and which of them each value is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from dist_ai.errors import DataError

__all__ = ["Categories", "sorted_classes"]


class Categories:
    """Categories by number, from 1: 3, 3.0 and "3" are one, whatever a file or a frame made of the value.

    Args:
        classes: the categories, which are all different: text, numbers, yes and no.

    A column of whole numbers has floats in a frame of pandas where one is missing, and a service sends text: neither makes
    another category. A value that is itself a category is that one and no other.

    >>> from dist_ai.data.frames import as_frame
    >>> Categories([1, 3]).codes(as_frame([{"a": 3.0}, {"a": "1"}, {"a": None}, {"a": 2}])["a"])
    array([2, 1, 0, 0])
    """

    def __init__(self, classes: Sequence[Any]) -> None:
        import pandas as pd

        self.classes = list(classes)
        whole = self.classes and all(type(each) is int and -_HALF <= each < _HALF for each in self.classes)
        self._index = pd.Index(self.classes, dtype="int64" if whole else object)

    def codes(self, column: Any) -> Any:
        """Returns the number of each value of a column, int64 (n,); 0 where it is missing or not among them."""
        import pandas as pd

        lacking = column.isna().to_numpy()
        values = column.astype(object).where(~lacking, None) if hasattr(column.dtype, "categories") else column
        # Whole numbers are looked up as such, at a tenth of the cost of Python's.
        are_whole = getattr(values.dtype, "kind", "O") in "iu" and self._index.dtype != object
        found = self._index.get_indexer(pd.Index(values if are_whole else values.astype(object)))
        codes = np.where(lacking, -1, found).astype(np.int64) + 1
        if not are_whole:
            unknown = np.flatnonzero((codes == 0) & ~lacking)
            codes[unknown] = [self._read(value) for value in values.to_numpy(dtype=object)[unknown]]
        return codes

    def _read(self, value: Any) -> int:
        """Returns the number of the category that reads as a value of another type does; 0 if there is none."""
        if isinstance(value, str) and self._all_text:
            return 0
        return next((self._spelled[text] for text in _spellings(value) if text in self._spelled), 0)

    @cached_property
    def _all_text(self) -> bool:
        return all(isinstance(each, str) for each in self.classes)

    @cached_property
    def _spelled(self) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for number, each in enumerate(self.classes, 1):
            for text in _spellings(each):
                numbers.setdefault(text, number)
        return numbers


_HALF = 1 << 63  # int64 ends here


def _spellings(value: Any) -> tuple[str, ...]:
    """Returns how a value may be written: a whole number also without its point, as where one is missing beside it."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(value), str(int(value))
    return (str(value),)


def sorted_classes(column: Any, name: str) -> list[Any]:
    """Returns the categories of a column in their order, as Python's values.

    Raises:
        DataError: they are of several types, or of one that no file can hold; names the column.
    """
    try:
        seen = column.dropna().unique()
    except TypeError as error:  # lists, dicts and the like
        one = type(column.dropna().iloc[0]).__name__
        raise DataError(
            f"column {name!r} holds values of type {one}, which are no categories; expected text, whole numbers, or yes and no"
        ) from error
    values = [value.item() if isinstance(value, np.generic) else value for value in list(seen)]
    kinds = {bool: "yes or no", str: "text", int: "numbers", float: "numbers"}
    found = {kinds.get(type(value), type(value).__name__) for value in values}
    if len(found) > 1:
        examples = {kinds.get(type(value), type(value).__name__): value for value in values}
        shown = ", ".join(f"{kind} ({examples[kind]!r:.40})" for kind in sorted(found))
        raise DataError(
            f"column {name!r} holds values of several types: {shown}; make them one, such as text with .astype(str)"
        )
    if found - set(kinds.values()):
        raise DataError(
            f"column {name!r} holds values of type {found.pop()} ({values[0]!r:.40}), which are no categories; expected text, "
            "whole numbers, or yes and no. Dates become them with add_datepart"
        )
    if hasattr(column.dtype, "categories") and column.dtype.ordered:
        return [value for value in column.dtype.categories.tolist() if value in set(values)]
    return sorted(values)
