"""Names for things that a file may ask for: the closed list that makes loading safe.

An export says ``"builder": "vision_model"`` and ``"transform": "Resize"``; loading looks the name up here and finds a
function or class that the program already has, or fails. Nothing in a file is ever imported or executed.

Applications fill the registries when they are imported. A process that only loads an export may not have imported
any, so a name that is not there yet makes the *installed* applications be imported, which packages declare as
entry points of the group ``dist_ai.applications``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from dist_ai.errors import ArtifactError, ConfigError, did_you_mean

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: what they are, for messages: ``"transform"``.
        how_to_add: what to do about a missing one, for messages.
    """

    def __init__(self, kind: str, how_to_add: str) -> None:
        self.kind = kind
        self._how_to_add = how_to_add
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> None:
        """Adds `thing` under `name`.

        Raises:
            ConfigError: another module's thing has that name (defining one again in its own module replaces it).
        """
        old = self._things.get(name)
        if old is not None and getattr(old, "__module__", None) != getattr(thing, "__module__", None):
            raise ConfigError(
                f"{self.kind} {name!r} of {thing.__module__} has the name of the one in {old.__module__}; "
                "files find it by that name, so give it another"
            )
        self._things[name] = thing

    def add_class(self, cls: T) -> None:
        """Adds a class under its name; where another module's has it, under its module's name and its own.

        Of two the one of dist_ai keeps the short name: a program may call a class of its own as it likes.
        """
        name, old = _name_of(cls), self._things.get(_name_of(cls))
        if old is not None and old.__module__ != cls.__module__:
            if cls.__module__.startswith("dist_ai."):
                self._things[f"{old.__module__}.{name}"] = old
            else:
                name = f"{cls.__module__}.{name}"
        self._things[name] = cls

    def name_of(self, cls: T) -> str:
        """Returns the name under which `find` gives a class that was added."""
        name = _name_of(cls)
        return name if self._things.get(name) is cls else f"{cls.__module__}.{name}"

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that adds what it decorates under `name`."""

        def add(thing: T) -> T:
            self.add(name, thing)
            return thing

        return add

    def find(self, name: str) -> T:
        """Returns what is registered under `name`.

        Raises:
            ArtifactError: nothing is, here or in any installed application.
        """
        broken = "" if name in self._things else _import_applications()
        if name not in self._things:
            raise ArtifactError(
                f"{self.kind} {name!r} is not known in this program{did_you_mean(name, self._things)}; "
                f"{self._how_to_add}{broken}"
            )
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __contains__(self, name: str) -> bool:
        return name in self._things


def _name_of(cls: object) -> str:
    return str(cls.__name__)  # type: ignore[attr-defined]  # classes have one


def _import_applications() -> str:
    """Imports the installed applications, which fills the registries; returns what to say of those that cannot be."""
    broken = ""
    for application in entry_points(group="dist_ai.applications"):
        try:
            application.load()
        except Exception as error:  # somebody's broken package must not take those of others with it
            broken += f". The application {application.value} cannot be imported: {type(error).__name__}: {error}"
    return broken
