"""Procs: steps that prepare whole tables, fitted on the training rows only, whose state is plain data.

```python
@dataclass
class Log1p(TabularProc):
    columns: list[str]

    def encodes(self, to):
        for name in self.columns:
            to[name] = np.log1p(to[name])

    def decodes(self, to):
        for name in self.columns:
            to[name] = np.expm1(to[name])
```

They are dataclasses: their fields are their state, which an export holds and which is found again by the class's name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from dist_ai.core.registry import Registry
from dist_ai.data.frames import TabularFrame
from dist_ai.data.transforms import NA
from dist_ai.errors import ArtifactError, ConfigError, DataError

__all__ = ["Categorify", "Proc", "TabularProc", "as_procs", "procs", "procs_from_plain", "sorted_classes"]

procs: Registry[type[TabularProc]] = Registry(
    "tabular proc",
    "import the module that defines it before loading (a TabularProc is known once its class is defined)",
)
"""The procs that an export may name."""


class TabularProc:
    """A step that prepares a table; see the module's page for how to write one.

    Attributes:
        order: where it stands among the procs (lower runs first); those of equal order run as they are listed.

    `setups` learns from the training rows, `encodes` changes rows of any kind, `decodes` undoes that where it can be
    undone; each takes a `TabularFrame` and changes it. By default they do nothing.
    """

    order: ClassVar[int] = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            procs.add_class(cls)

    def setups(self, to: TabularFrame) -> None:
        """Learns from the training rows, as the procs before this one have made them."""

    def encodes(self, to: TabularFrame) -> None:
        """Changes rows, of training or new ones, which may lack `y_names`."""

    def encodes_training(self, to: TabularFrame) -> None:
        """Changes the training rows, after `setups` saw them; by default as any others."""
        self.encodes(to)

    def decodes(self, to: TabularFrame) -> None:
        """Undoes what `encodes` did, as far as it can be undone."""

    def to_plain(self) -> dict[str, Any]:
        """Returns the proc as plain data, for JSON.

        Raises:
            ConfigError: it keeps state and is no dataclass.
        """
        name = type(self).__name__
        if not dataclasses.is_dataclass(self):
            if vars(self):
                raise ConfigError(
                    f"{name} keeps state but is not a dataclass, so it cannot be written to a file; decorate it with "
                    "@dataclass and make its state fields"
                )
            return {"proc": procs.name_of(type(self))}
        return {
            "proc": procs.name_of(type(self)),
            **{each.name: getattr(self, each.name) for each in dataclasses.fields(self)},
        }


Proc: TypeAlias = TabularProc | type[TabularProc]
"""A proc, or the class of one, which is made without arguments."""


def as_procs(given: Iterable[Proc] | Proc) -> list[TabularProc]:
    """Returns procs in the order in which they run; classes are made.

    Raises:
        ConfigError: something is no proc.
    """
    listed = [given] if isinstance(given, TabularProc | type) else list(given)
    made = [each() if isinstance(each, type) and issubclass(each, TabularProc) else each for each in listed]
    for each in made:
        if not isinstance(each, TabularProc):
            raise ConfigError(f"{each!r:.100} is no proc: expected a TabularProc such as Categorify, or its class")
    return sorted(made, key=lambda proc: proc.order)


def procs_from_plain(data: Iterable[Mapping[str, Any]]) -> list[TabularProc]:
    """Returns the procs that their `to_plain` wrote.

    Raises:
        ArtifactError: one is not known in this program.
        ConfigError: one cannot be made from that state.
    """
    made = []
    for each in data:
        state = dict(each)
        name = state.pop("proc", None)
        if not isinstance(name, str):
            raise ArtifactError(f"{each!r:.100} is no proc: expected what to_plain wrote, {{'proc': name, ...}}")
        cls = procs.find(name)
        later = {f.name for f in getattr(cls, "__dataclass_fields__", {}).values() if not f.init}
        try:
            proc = cls(**{key: value for key, value in state.items() if key not in later})
        except TypeError as error:
            raise ConfigError(f"proc {name} cannot be made from {state!r:.200}: {error}") from error
        for key in later & state.keys():
            setattr(proc, key, state[key])
        made.append(proc)
    return made


@dataclass
class Categorify(TabularProc):
    """Categories to numbers, 0 for what is missing and for what training did not see.

    Args:
        classes: of each column, by name: `NA` first, then the categories; learned where a column has none here.

    The categories are those of the training rows, sorted; of an ordered categorical of pandas, in its order.

    >>> from dist_ai.data.frames import as_frame
    >>> to = TabularFrame(as_frame({"a": "x"}), ["a"])
    >>> proc = Categorify()
    >>> proc.setups(to)
    >>> proc.classes
    {'a': ['#na#', 'x']}
    """

    classes: dict[str, list[Any]] = field(default_factory=dict)

    order: ClassVar[int] = 50

    def setups(self, to: TabularFrame) -> None:
        """Learns the categories of each column."""
        for name in to.cat_names:
            if name not in self.classes:
                self.classes[name] = [NA, *sorted_classes(to[name], name)]

    def encodes(self, to: TabularFrame) -> None:
        """Numbers the categories, int64."""
        for name in to.cat_names:
            to[name] = codes_of(to[name], self._index_of(name))

    def decodes(self, to: TabularFrame) -> None:
        """Returns the categories of numbers, None for 0."""
        for name in to.cat_names:
            classes = np.array([None, *self._of(name)[1:]], dtype=object)
            to[name] = classes[to[name].to_numpy()]

    def _index_of(self, name: str) -> Any:
        """Returns the categories as an index, made once: in a stream of batches it would cost more than the look-up."""
        import pandas as pd

        known: dict[str, tuple[list[Any], Any]] = self.__dict__.setdefault("_indexes", {})
        classes = self._of(name)
        if name not in known or known[name][0] is not classes:
            whole = len(classes) > 1 and all(type(each) is int for each in classes[1:])
            known[name] = classes, pd.Index(classes[1:], dtype="int64" if whole else object)
        return known[name][1]

    def _of(self, name: str) -> list[Any]:
        if name not in self.classes:
            raise ConfigError(
                f"column {name!r} is one of categories since Categorify learned; give the proc that makes it a lower order"
            )
        return self.classes[name]


def codes_of(column: Any, known: Any) -> Any:
    """Returns the place of each value of a column in the index `known`, from 1, int64; 0 where it is missing or not there."""
    import pandas as pd

    values = column.astype(object).where(column.notna(), None) if hasattr(column.dtype, "categories") else column
    # Whole numbers are looked up as such, at a tenth of the cost of Python's.
    are_numbers = getattr(values.dtype, "kind", "O") in "iu" and known.dtype != object
    found = known.get_indexer(pd.Index(values if are_numbers else values.astype(object)))
    return np.where(column.isna(), -1, found).astype(np.int64) + 1


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
