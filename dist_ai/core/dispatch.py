"""Type dispatch: one name, several implementations, chosen by the types of its first one or two arguments.

Explicit and open: implementations are added from anywhere with `register`, a look-up is a dictionary hit, and
`explain` prints why an implementation was chosen.
"""

from __future__ import annotations

import inspect
import itertools
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Dispatch", "first_parameter_types", "return_types"]

F = TypeVar("F", bound=Callable[..., Any])


class Dispatch:
    """A function whose implementation is chosen by the types of its first `arity` positional arguments.

    The nearest registered types win, counted along each argument's method resolution order; the first argument
    counts before the second. An abstract class (`Sequence`) that claims a type without being its base comes after the
    type's real bases and before `object`, the more specific of two first. `object` matches anything.

    >>> describe = Dispatch("describe")
    >>> @describe.register(int)
    ... def _(x): return "a number"
    >>> @describe.register(object)
    ... def _(x): return "something"
    >>> describe(True), describe("a")
    ('a number', 'something')
    """

    def __init__(self, name: str, *, arity: int = 1) -> None:
        self.name = name
        self.arity = arity
        self._implementations: dict[tuple[type, ...], Callable[..., Any]] = {}
        self._chosen: dict[tuple[type, ...], Callable[..., Any] | None] = {}

    def register(self, *on: Any) -> Callable[[F], F]:
        """Returns a decorator that adds an implementation for values of the types `on`, one for each argument.

        A union (``int | str``) stands for each of its types.

        Raises:
            TypeError: these are not as many types as it is chosen by, or one is not a class.
        """
        if len(on) != self.arity:
            raise TypeError(f"{self.name} is chosen by {self.arity} type(s), got {len(on)}: {on}")
        choices = [_classes(each) for each in on]
        if None in choices:
            raise TypeError(f"{self.name}: {on[choices.index(None)]!r} is not a class or a union of classes")

        def add(function: F) -> F:
            for each in itertools.product(*(found or () for found in choices)):
                self._implementations[each] = function
            self._chosen.clear()
            return function

        return add

    def copy(self) -> Dispatch:
        """Returns an independent dispatch with the same implementations (a subclass starts from its base's)."""
        new = Dispatch(self.name, arity=self.arity)
        new._implementations.update(self._implementations)
        return new

    def find(self, *given: type) -> Callable[..., Any] | None:
        """Returns the implementation for values of the types `given`, or None.

        Raises:
            TypeError: these are not as many types as it is chosen by.
        """
        try:
            return self._chosen[given]
        except KeyError:
            candidates = self._candidates(given)
            found = self._chosen[given] = self._implementations[candidates[0]] if candidates else None
            return found

    def __call__(self, *args: Any) -> Any:
        """Calls the implementation for these values.

        Raises:
            TypeError: there is none; the message lists those there are. Or there are too few values.
        """
        given = tuple(map(type, args[: self.arity]))
        implementation = self._chosen.get(given) or self.find(*given)  # spares a call: half of what choosing costs
        if implementation is None:
            raise TypeError(f"no implementation of {self.name} for {_names(given)}; there are: {self._listing()}")
        return implementation(*args)

    def __len__(self) -> int:
        """Number of implementations."""
        return len(self._implementations)

    def explain(self, *given: type) -> str:
        """Returns a text that lists the candidates for values of the types `given`, the chosen one first, and why.

        >>> kind = Dispatch("kind")
        >>> _ = kind.register(object)(repr), kind.register(int)(abs)
        >>> print(kind.explain(bool))
        kind(bool): 2 candidate(s), nearest first
        -> (int) builtins.abs: base 1 of bool
           (object) builtins.repr: takes anything
        """
        candidates = self._candidates(given)
        if not candidates:
            return f"{self.name}{_names(given)}: no candidate; there are: {self._listing()}"
        lines = [f"{self.name}{_names(given)}: {len(candidates)} candidate(s), nearest first"]
        for mark, on in zip(["->"] + ["  "] * len(candidates), candidates, strict=False):
            function = self._implementations[on]
            why = " | ".join(_reason(have, want) for have, want in zip(given, on, strict=True))
            lines.append(f"{mark} {_names(on)} {function.__module__}.{function.__qualname__}: {why}")
        return "\n".join(lines)

    def _candidates(self, given: tuple[type, ...]) -> list[tuple[type, ...]]:
        if len(given) != self.arity:
            raise TypeError(f"{self.name} is chosen by {self.arity} type(s), got {len(given)}: {_names(given)}")
        distances = {
            on: tuple(_distance(have, want) for have, want in zip(given, on, strict=True))
            for on in self._implementations
        }
        return sorted((on for on, far in distances.items() if None not in far), key=lambda on: distances[on])

    def _listing(self) -> str:
        return ", ".join(_names(on) for on in self._implementations) or "none"


def first_parameter_types(function: Callable[..., Any], *, skip_self: bool = True) -> tuple[type, ...]:
    """Returns the types that the annotation of `function`'s first parameter names (several for a union).

    Without an annotation it is `object`: the implementation takes everything.

    Raises:
        TypeError: there is no parameter, or its annotation is not made of classes.
    """
    names = list(inspect.signature(function).parameters)[1 if skip_self else 0 :]
    if not names:
        raise TypeError(f"{function.__qualname__} takes no value to be chosen by; give it a parameter")
    if (found := _classes(annotation := _resolved(function, names[0]))) is None:
        raise TypeError(f"{function.__qualname__}: {annotation!r} is not a class or a union of classes")
    return found


def return_types(function: Callable[..., Any]) -> tuple[type, ...]:
    """Returns the classes that the return annotation of `function` names; none without one.

    Raises:
        TypeError: it cannot be resolved.
    """
    return (_classes(_resolved(function, "return")) or ()) if "return" in function.__annotations__ else ()


def _resolved(function: Callable[..., Any], name: str) -> Any:
    """Returns the annotation of a parameter of `function`, or of its "return"; `object` if it has none."""
    annotation = function.__annotations__.get(name, object)
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, function.__globals__)  # the user's own source, as typing.get_type_hints does
    except (NameError, AttributeError) as error:
        raise TypeError(
            f"{function.__qualname__}: the annotation {annotation!r} of {name!r} cannot be resolved ({error}); "
            "import the class at module level, not under TYPE_CHECKING"
        ) from error


def _classes(annotation: Any) -> tuple[type, ...] | None:
    """Returns the classes that an annotation names, several for a union; None if it is not made of classes."""
    if hasattr(annotation, "__metadata__"):  # typing.Annotated
        annotation = annotation.__origin__
    origins: tuple[Any, ...] = (typing.Union, types.UnionType)
    named = typing.get_args(annotation) if typing.get_origin(annotation) in origins else (annotation,)
    found = tuple(_class_of(each) for each in named)
    return found if all(isinstance(each, type) for each in found) else None


def _class_of(annotation: Any) -> Any:
    """Returns the class that an annotation stands for (``list[int]``: list), or the annotation itself if none does."""
    if annotation is Any:
        return object
    if annotation is None:
        return types.NoneType
    return typing.get_origin(annotation) or annotation


def _distance(have: type, want: type) -> tuple[int, int] | None:
    """Returns how far `want` is from `have`, as something to sort by; None if it does not match."""
    num_bases = len(have.__mro__)
    if want is object:
        return num_bases, 0
    if want in have.__mro__:
        return have.__mro__.index(want), 0
    # An abstract class claims types that do not inherit from it. One that derives from another has more bases of its own.
    return (num_bases - 1, -len(want.__mro__)) if issubclass(have, want) else None


def _reason(have: type, want: type) -> str:
    """Returns why `want` takes a value of the type `have`, for `explain`."""
    if want is object:
        return "takes anything"
    if want is have:
        return "the type itself"
    return f"base {have.__mro__.index(want)} of {have.__name__}" if want in have.__mro__ else "an abstract class of it"


def _names(on: tuple[type, ...]) -> str:
    return "(" + ", ".join(t.__name__ for t in on) + ")"
