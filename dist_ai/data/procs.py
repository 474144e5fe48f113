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

They are dataclasses: their fields are their state, which an export holds and which is found again by the class's name. A field
with ``init=False`` is learned; one with ``metadata={"exported": False}`` is for training alone. Procs that are given to a table
are not changed: it has its own, made of their other fields, which learn from its training rows.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from dist_ai.core.registry import Registry
from dist_ai.data.categories import Categories, sorted_classes
from dist_ai.data.frames import TabularFrame
from dist_ai.data.transforms import NA
from dist_ai.errors import ArtifactError, ConfigError

__all__ = ["Categorify", "Proc", "TabularProc", "as_procs", "procs", "procs_from_plain"]

S = TypeVar("S")
T = TypeVar("T")

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
        """Changes training rows, after `setups` saw them or some of them; by default as any others.

        All of them at once, or a batch of a stream: `to.numbers` says which of all training rows they are.
        """
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
            **{
                each.name: getattr(self, each.name)
                for each in dataclasses.fields(self)
                if each.metadata.get("exported", True)
            },
        }

    def _once(self, name: str, state: S, make: Callable[[S], T]) -> T:
        """Returns what `make` makes of a column's state, made once: in a stream of batches it would cost more than its use."""
        made: dict[str, tuple[S, T]] = self.__dict__.setdefault("_made", {})
        if name not in made or made[name][0] is not state:
            made[name] = state, make(state)
        return made[name][1]


Proc: TypeAlias = TabularProc | type[TabularProc]
"""A proc, or the class of one, which is made without arguments."""


def as_procs(given: Iterable[Proc] | Proc) -> list[TabularProc]:
    """Returns procs in the order in which they run: new ones, which have what those given were made with and learned nothing.

    Raises:
        ConfigError: something is no proc.
    """
    listed = [given] if isinstance(given, TabularProc | type) else list(given)
    made = [each() if isinstance(each, type) and issubclass(each, TabularProc) else each for each in listed]
    for each in made:
        if not isinstance(each, TabularProc):
            raise ConfigError(f"{each!r:.100} is no proc: expected a TabularProc such as Categorify, or its class")
    return sorted(map(_anew, made), key=lambda proc: proc.order)


def _anew(proc: TabularProc) -> TabularProc:
    if not dataclasses.is_dataclass(proc):
        return copy.deepcopy(proc)
    given = {each.name: copy.deepcopy(getattr(proc, each.name)) for each in dataclasses.fields(proc) if each.init}
    return type(proc)(**given)


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
        classes: of each column, by name, `NA` first, which is put there where it is not; learned where a column has none here.

    The categories are those of the training rows, sorted; of an ordered categorical of pandas, in its order.
    In new rows 3, 3.0 and "3" are one category, as `Categories` says.

    Raises:
        ConfigError: `classes` has a category twice, or what is none.

    >>> from dist_ai.data.frames import as_frame
    >>> to = TabularFrame(as_frame({"a": "x"}), ["a"])
    >>> proc = Categorify()
    >>> proc.setups(to)
    >>> proc.classes
    {'a': ['#na#', 'x']}
    """

    classes: dict[str, list[Any]] = field(default_factory=dict)

    order: ClassVar[int] = 50

    def __post_init__(self) -> None:
        self.classes = {name: _with_na(name, classes) for name, classes in self.classes.items()}

    def setups(self, to: TabularFrame) -> None:
        """Learns the categories of each column."""
        for name in to.cat_names:
            if name not in self.classes:
                self.classes[name] = [NA, *(each for each in sorted_classes(to[name], name) if each != NA)]

    def encodes(self, to: TabularFrame) -> None:
        """Numbers the categories, int64."""
        for name in to.cat_names:
            classes = self._of(name)
            to[name] = self._once(name, classes, lambda listed: Categories(listed[1:])).codes(to[name])

    def decodes(self, to: TabularFrame) -> None:
        """Returns the categories of numbers, None for 0."""
        for name in to.cat_names:
            classes = np.array([None, *self._of(name)[1:]], dtype=object)
            to[name] = classes[to[name].to_numpy()]

    def _of(self, name: str) -> list[Any]:
        if name not in self.classes:
            raise ConfigError(
                f"column {name!r} is one of categories since Categorify learned; give the proc that makes it a lower order"
            )
        return self.classes[name]


def _with_na(name: str, classes: Iterable[Any]) -> list[Any]:
    listed = [each.item() if isinstance(each, np.generic) else each for each in classes]
    where = f"Categorify: the classes of column {name!r}"
    for each in listed:
        if not isinstance(each, bool | int | float | str) or each != each:
            raise ConfigError(f"{where} have {each!r:.60}; expected text, numbers, or yes and no")
    listed = listed if listed[:1] == [NA] else [NA, *listed]
    seen: set[Any] = set()
    for each in listed:
        if each in seen:
            hint = ", which stands for what is missing and comes first" if each == NA else "; each is there once"
            raise ConfigError(f"{where} have {each!r} twice{hint}")
        seen.add(each)
    return listed
