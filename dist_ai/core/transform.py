"""Transforms that can be undone, and pipelines of them.

A transform has `encodes`, `decodes` and `setups`, each with several definitions told apart by the type of the value:

```python
@dataclass
class Invert(Transform):
    top: int = 255

    def encodes(self, x: TensorImage):
        return self.top - x

    def decodes(self, x: TensorImage):
        return self.top - x
```

Values of other types pass through; a tuple is mapped element by element. Transforms are dataclasses: their fields are
their state, which makes the `repr`, and which `to_plain` and `from_plain` write to and read from JSON.

What `encodes` and `decodes` return: where it is a plain tensor though a semantic one came in, some operation has lost the
type, and it is given back with its metadata (if the type can hold such numbers). An annotation says otherwise:
``-> TensorMask`` makes a plain tensor a mask, ``-> torch.Tensor`` leaves it plain.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import types
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import reduce
from itertools import groupby
from typing import Any, ClassVar, Never, Self, TypeVar, cast

import torch

from dist_ai.core.dispatch import Dispatch, first_parameter_types, return_types
from dist_ai.core.randomness import Draw
from dist_ai.core.registry import Registry
from dist_ai.core.types import SemanticTensor
from dist_ai.errors import ArtifactError, ConfigError

__all__ = ["ADAPTERS", "Composable", "Func", "ItemTransform", "Pipeline", "Transform", "transforms"]

TRAIN, VALID = 0, 1

ADAPTERS: dict[str, Callable[[Any], Transform]] = {}
"""What makes a `Transform` of another library's transforms, by the name of its package; rooms add theirs.

They are callable too, but take more than one value: as functions they would fail in the first batch."""

transforms: Registry[type[Transform]] = Registry(
    "transform", "import the module that defines it before loading (a Transform is known once its class is defined)"
)

F = TypeVar("F", bound=Callable[..., Any])

_OVERLOADED = ("encodes", "decodes", "setups")
_FOR_CALLERS = {"__call__": "encodes", "decode": "decodes", "setup": "setups"}
_SETTINGS = ("order", "split_idx")


class _Overloads(dict[str, Any]):
    """The namespace of a Transform class body: it keeps every definition of an overloaded name, not only the last."""

    def __init__(self) -> None:
        super().__init__()
        self.definitions: dict[str, list[Callable[..., Any]]] = {name: [] for name in _OVERLOADED}

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.definitions and callable(value):
            self.definitions[name].append(value)
        super().__setitem__(name, value)


class _TransformType(type):
    """Builds each class's dispatch tables from its own definitions, over those of its bases."""

    _own: dict[str, dict[type, Callable[..., Any]]]
    _tables: dict[str, Dispatch]

    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **kwargs: Any) -> _Overloads:
        return _Overloads()

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: _Overloads, **kwargs: Any) -> _TransformType:
        made = super().__new__(cls, name, bases, dict(namespace), **kwargs)
        if namespace.get("__module__") != __name__:  # the classes of this file are what the others are checked against
            _check_names(name, namespace)
        # `@dataclass(slots=True)` makes a class again from a plain namespace, which has what the first one found.
        made._own = namespace.get("_own") or {each: {} for each in _OVERLOADED}
        for each, functions in getattr(namespace, "definitions", {}).items():
            for function in functions:
                made._define(each, function)
        made._build_tables()
        return made

    def extend(cls, function: F) -> F:
        """Adds a definition from outside, to this class and those derived from it: a decorator.

        The function's name is `encodes`, `decodes` or `setups`, and its annotation the type that it is for.

        >>> class Twice(Transform):
        ...     def encodes(self, x: int): return 2 * x
        >>> @Twice.extend
        ... def encodes(self, x: str): return x + x
        >>> Twice()((3, "a"))
        (6, 'aa')

        Raises:
            ConfigError: it has another name, or takes other parameters.
        """
        name = function.__name__
        if name not in _OVERLOADED:
            raise ConfigError(
                f"{cls.__name__} is extended by a function named {' or '.join(_OVERLOADED)}, not {name!r}"
            )
        cls._define(name, function)
        cls._build_tables()
        return function

    def _define(cls, name: str, function: Callable[..., Any]) -> None:
        call = _adapted(name, function)
        for on in first_parameter_types(function):
            cls._own[name][on] = call

    def _build_tables(cls) -> None:
        cls._tables = {}
        for name in _OVERLOADED:
            cls._tables[name] = table = Dispatch(name)
            for base in reversed(cls.__mro__):
                for on, function in vars(base).get("_own", {}).get(name, {}).items():
                    table.register(on)(function)
        for derived in cast("list[_TransformType]", cls.__subclasses__()):
            derived._build_tables()


def _check_names(owner: str, namespace: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for a name in a class body that is a slip: nothing would ever call or read it."""
    for name, value in namespace.items():
        is_function = isinstance(value, types.FunctionType)
        if name in _FOR_CALLERS:
            if not is_function or getattr(value, "__override__", False):
                continue
            raise ConfigError(
                f"{owner} defines {name}, which is what callers call; did you mean {_FOR_CALLERS[name]!r}? "
                "To replace it all the same, decorate it with typing_extensions.override"
            )
        if is_function and len(inspect.signature(value).parameters) >= 2:
            meant: tuple[str, ...] = _OVERLOADED
        elif not callable(value) and not isinstance(value, property | classmethod | staticmethod):
            meant = _SETTINGS
        else:
            continue
        for other in meant:
            if _is_slip(name, other):
                raise ConfigError(
                    f"{owner} defines {name!r}, which nothing reads; did you mean {other!r}? If not, rename it"
                )


def _is_slip(given: str, meant: str) -> bool:
    """Returns whether one letter too many, too few, wrong or swapped leads from `meant` to `given`.

    The first letter does not slip: a `border` is no misspelt `order`.
    """
    if given == meant or given[0] != meant[0]:
        return False
    if len(given) == len(meant):
        wrong = [i for i in range(len(given)) if given[i] != meant[i]]
        swapped = len(wrong) == 2 and given[wrong[0] : wrong[1] + 1] == meant[wrong[0] : wrong[1] + 1][::-1]
        return len(wrong) == 1 or swapped
    shorter, longer = sorted((given, meant), key=len)
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))


def _adapted(name: str, function: Callable[..., Any]) -> Callable[[Transform, Any, Draw | None], Any]:
    """Returns `function` with the parameters (self, x, draw) and the return type that the module's page promises."""
    names = list(inspect.signature(function).parameters)
    wants_draw = names[2:3] == ["draw"] and name == "encodes"
    if len(names) != 2 + wants_draw:
        also = ", or (self, x, draw)" if name == "encodes" else ""
        raise ConfigError(f"{function.__qualname__}({', '.join(names)}): expected the parameters (self, x){also}")
    returns = return_types(function) if name != "setups" else ()
    into = next((each for each in returns if issubclass(each, SemanticTensor)), None)
    stays = name == "setups" or (into is None and torch.Tensor in returns)

    def call(self: Transform, x: Any, draw: Draw | None) -> Any:
        try:
            result = function(self, x, draw) if wants_draw else function(self, x)
        except AttributeError as error:
            if not wants_draw or draw is not None or error.obj is not None:
                raise
            raise ConfigError(
                f"{function.__qualname__} draws, and its draw is None here: a loader gives one to the item_tfms and batch_tfms "
                "of training samples, and nobody to what a block or Datasets make of an item, in validation, or by hand. Give "
                "the transform to a loader with split_idx = 0, or have it return x where draw is None"
            ) from error
        return _typed(result, x, into) if type(result) is torch.Tensor and not stays else result

    call.__qualname__, call.__module__ = function.__qualname__, function.__module__
    return call


def _typed(result: torch.Tensor, x: Any, into: type[SemanticTensor] | None) -> torch.Tensor:
    """Returns a plain result as an `into`, or else as what `x` is; with x's metadata where the one is a kind of the other."""
    if into is not None:
        related = isinstance(x, into) or (isinstance(x, SemanticTensor) and issubclass(into, type(x)))
        return SemanticTensor.__new__(into, result, **(x.__dict__ if related else {}))
    return x.give_type_to(result) if isinstance(x, SemanticTensor) else result


class Transform(metaclass=_TransformType):
    """A reversible step of a pipeline; see the module's page for how to write one.

    Attributes:
        order: where it stands in a pipeline (lower runs first).
        split_idx: 0 to run on training samples only, 1 on validation samples only, None on both.

    A definition of `encodes` that takes a second parameter named `draw` is given the `Draw` of the sample (or, in a
    batch transform, of the batch's samples) at this transform; None outside training, where nothing is random. Every
    element of a tuple gets the same draws.

    ``Transform(enc, dec=None, *, order=0, split_idx=None)`` makes a transform of functions of one value, as an `encodes` and a
    `decodes` do: for the types of their annotations. It may decorate one. A file cannot hold it; nor does it take draws.

    >>> @Transform
    ... def double(x: int): return 2 * x
    >>> double((3, "a"))
    (6, 'a')

    Raises:
        ConfigError: when the class is made, for a misspelt name (`encode`, `oder`) or a `decode` where `decodes` is meant.
        TypeError: when a transform is made, for arguments to a class that takes none: it is no dataclass.
    """

    order: ClassVar[int] = 0
    split_idx: ClassVar[int | None] = None
    _tables: ClassVar[dict[str, Dispatch]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Returns a new transform; ``Transform(function)`` is that of a function."""
        if (args or kwargs) and cls is not Transform and cls.__init__ is object.__init__:
            _refuse_arguments(cls, args, kwargs)  # beside a __new__, Python's own __init__ would let them fall
        return object.__new__(_OfFunctions if cls is Transform and (args or kwargs) else cls)  # type: ignore[return-value]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_") and cls.__module__ != __name__:
            transforms.add_class(cls)

    def __call__(self, x: Any, draw: Draw | None = None) -> Any:
        """Returns `x` transformed, or `x` itself if no `encodes` is for its type."""
        return self._map("encodes", x, draw)

    def decode(self, x: Any) -> Any:
        """Returns `x` with the transform undone, or `x` itself if no `decodes` is for its type."""
        return self._map("decodes", x, None)

    def setup(self, items: Any) -> None:
        """Learns the transform's state from the training items (a vocabulary, a mean); by default nothing.

        Args:
            items: a sequence, or anything of known length and order: an array, a column of a table, the keys of a dict.

        Raises:
            ConfigError: the transform learns from sequences, and this is none: a set or an iterator, a whole table.
        """
        table = self._tables["setups"]
        if (function := table.find(type(items))) is None and (function := table.find(list)) is not None:
            items = _in_order(items, type(self).__name__)
        if function is not None:
            function(self, items, None)

    @property
    def can_undo(self) -> bool:
        """True if there is a `decodes`."""
        return len(self._tables["decodes"]) > 0

    def to_plain(self) -> dict[str, Any]:
        """Returns the transform as plain data, for JSON.

        Raises:
            ConfigError: its state is not plain data, or a file cannot name its class.
        """
        name, known_as = type(self).__name__, transforms.name_of(type(self))
        if known_as not in transforms:
            raise ConfigError(
                f"{name} cannot be written to a file, which would not find it again; name it without the _"
            )
        if not dataclasses.is_dataclass(self):
            if vars(self):
                raise ConfigError(
                    f"{name} keeps state but is not a dataclass, so it cannot be written to a file; "
                    "decorate it with @dataclass and make its state fields"
                )
            return {"transform": known_as}
        fields = {field.name: _plain(getattr(self, field.name), name) for field in dataclasses.fields(self)}
        if "transform" in fields:
            raise ConfigError(f"{name} has a field named 'transform', where a file has its class; give it another name")
        return {"transform": known_as, **fields}

    @staticmethod
    def from_plain(data: dict[str, Any]) -> Transform:
        """Returns the transform that `to_plain` wrote, its class found by name among the known ones.

        Raises:
            ArtifactError: no transform of that name is known in this program, or it stands for a function.
            ConfigError: it cannot be made from that state.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("transform"), str):
            raise ArtifactError(f"{data!r} is no transform: expected what to_plain wrote, {{'transform': name, ...}}")
        state = dict(data)
        name = state.pop("transform")
        if name == Func.__name__:
            raise ArtifactError(
                "transform 'Func' stands for a function, and files hold no code; write it as a Transform class, which a "
                "file finds by its name"
            )
        cls = transforms.find(name)
        later = {name for name, field in getattr(cls, "__dataclass_fields__", {}).items() if not field.init}
        try:
            made = cls(**{name: value for name, value in state.items() if name not in later})
        except TypeError as error:
            raise ConfigError(f"transform {cls.__name__} cannot be made from {state}: {error}") from error
        for name in later & state.keys():
            setattr(made, name, state[name])
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _map(self, name: str, x: Any, draw: Draw | None) -> Any:
        if type(x) is tuple:
            return tuple(self._map(name, element, draw and draw.restart()) for element in x)
        function = self._tables[name].find(type(x))
        return x if function is None else function(self, x, draw)


def _refuse_arguments(cls: type[Transform], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Never:
    given = ", ".join([f"{each!r:.100}" for each in args] + [f"{name}={each!r:.100}" for name, each in kwargs.items()])
    if cls.__module__ == __name__:
        hint = "derive a class from it, or make a Transform of a function"
    elif args and isinstance(args[0], types.FunctionType):
        hint = f"a definition is added to it by @{cls.__name__}.extend"
    else:
        hint = "decorate the class with @dataclass, and the names that are annotated in it are its arguments"
    raise TypeError(f"{cls.__name__}({given}): {cls.__name__} takes no arguments; {hint}")


class ItemTransform(Transform):
    """A transform that sees a tuple whole instead of element by element."""

    def _map(self, name: str, x: Any, draw: Draw | None) -> Any:
        function = self._tables[name].find(type(x))
        return x if function is None else function(self, x, draw)


class Composable(Transform):
    """A transform that composes with its neighbours of the same kind: a pipeline runs a row of them as one.

    A kind is a class derived from this one, which says in `run` what a row does; its transforms derive from the kind. So three
    rotations multiply their matrices and interpolate once. Neighbours are those that run one after the other on a split; a
    transform of another kind between two of them parts the row.

    >>> class Shifting(Composable):
    ...     @classmethod
    ...     def run(cls, row, x): return x + sum(tfm.by for tfm, _ in row)
    >>> @dataclasses.dataclass
    ... class Shift(Shifting):
    ...     by: int
    >>> Pipeline([Shift(1), Shift(2)])((10, 20))
    (13, 23)
    """

    kind: ClassVar[type[Composable] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Composable in cls.__bases__:
            cls.kind = cls

    @classmethod
    @abstractmethod
    def run(cls, row: Sequence[tuple[Any, Draw | None]], x: Any) -> Any:
        """Returns `x`, no tuple, after the transforms of a row, each with its draws; types that it is not for unchanged."""

    def _map(self, name: str, x: Any, draw: Draw | None) -> Any:
        return _run_row([(self, draw)], x) if name == "encodes" else super()._map(name, x, draw)


class Func(Transform):
    """A plain function as a transform; it cannot be undone, nor written to a file.

    >>> Func(str.upper)("a")
    'A'
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def encodes(self, x: object) -> Any:
        """Returns the function of `x`."""
        return self.function(x)

    def __call__(self, x: Any, draw: Draw | None = None) -> Any:
        """Returns the function of `x`, tuples included: the function decides what they mean."""
        return self.function(x)

    def to_plain(self) -> dict[str, Any]:
        """Raises `ConfigError`: a file cannot hold code."""
        raise ConfigError(
            f"{self!r} cannot be written to a file, because files hold no code; write it as a Transform class"
        )

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


class _OfFunctions(Transform):
    """What `Transform` makes of functions."""

    def __init__(
        self,
        enc: Callable[[Any], Any] | None = None,
        dec: Callable[[Any], Any] | None = None,
        *,
        order: int = 0,
        split_idx: int | None = None,
    ) -> None:
        for function in (enc, dec):
            if function is not None and not callable(function):
                raise ConfigError(
                    f"Transform({function!r:.100}): expected a function, or derive a class from Transform"
                )
        self.enc, self.dec = enc, dec
        self.order, self.split_idx = order, split_idx  # type: ignore[misc]  # of this one, not of its class
        self._tables = {name: Dispatch(name) for name in _OVERLOADED}  # type: ignore[misc]  # of this one too
        for name, function in (("encodes", enc), ("decodes", dec)):
            if function is not None:
                on, method = _as_method(function)
                for each in on:
                    self._tables[name].register(each)(_adapted(name, method))

    def to_plain(self) -> dict[str, Any]:
        """Raises `ConfigError`: a file cannot hold code."""
        raise ConfigError(
            f"{self!r} cannot be written to a file, because files hold no code; write it as a Transform class"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_functions, (self.enc, self.dec, self.order, self.split_idx)

    def __repr__(self) -> str:
        return getattr(self.enc or self.dec, "__qualname__", repr(self.enc or self.dec))


def _of_functions(enc: Any, dec: Any, order: int, split_idx: int | None) -> Transform:
    return _OfFunctions(enc, dec, order=order, split_idx=split_idx)


def _as_method(function: Callable[[Any], Any]) -> tuple[tuple[type, ...], Callable[..., Any]]:
    """Returns the types that a function is for, and the function as a method of a transform."""

    def method(self: Transform, x: Any) -> Any:
        return function(x)

    method.__annotations__ = {}
    if not isinstance(function, types.FunctionType):  # of what is built in, Python does not tell
        return (object,), method
    method.__qualname__ = function.__qualname__
    if returns := return_types(function):
        method.__annotations__["return"] = reduce(operator.or_, returns)
    return first_parameter_types(function, skip_self=False), method


class Pipeline:
    """Transforms in their order; undone in reverse.

    Args:
        tfms: transforms, transform classes (made without arguments) or plain functions; or one of these. Of a pipeline among
            them its transforms are taken.

    >>> Pipeline([str.strip, str.upper])(" a ")
    'A'
    """

    def __init__(
        self,
        tfms: Iterable[Transform | type[Transform] | Callable[[Any], Any]]
        | Transform
        | type[Transform]
        | Callable[[Any], Any] = (),
    ) -> None:
        several = tfms if isinstance(tfms, Iterable) and not isinstance(tfms, type) else [tfms]
        flat = (tfm for each in several for tfm in (each.tfms if isinstance(each, Pipeline) else [each]))
        self.tfms: list[Transform] = sorted((_as_transform(tfm) for tfm in flat), key=lambda tfm: tfm.order)

    def __call__(self, x: Any, draw: Draw | None = None, *, split_idx: int | None = None) -> Any:
        """Returns `x` after every transform that runs on this split, rows of `Composable` ones as one."""
        running = [
            (tfm, draw and draw.at(f"{place}:{type(tfm).__name__}"))
            for place, tfm in enumerate(self.tfms)
            if tfm.split_idx is None or tfm.split_idx == split_idx
        ]
        for kind, row in groupby(running, key=lambda each: each[0].kind if isinstance(each[0], Composable) else None):
            if kind is not None:
                x = _run_row(list(row), x)
            else:
                for tfm, its_draw in row:
                    x = tfm(x, its_draw)
        return x

    def decode(self, x: Any, *, until: type | tuple[type, ...] | types.UnionType = ()) -> Any:
        """Returns `x` with every transform undone, the last first.

        Args:
            x: what the pipeline made.
            until: values of these types (those that can be shown, say) are not undone further; in a tuple, each
                element stops by itself.

        >>> class Halve(Transform):
        ...     def encodes(self, x: int): return x / 2
        ...     def decodes(self, x: float): return int(2 * x)
        >>> Pipeline([Halve, Halve]).decode((1.5, "a"))
        (3, 'a')
        >>> Pipeline([Halve, Halve]).decode((1.5, "a"), until=float)
        (1.5, 'a')
        """
        for tfm in reversed(self.tfms):
            x = _undone(tfm, x, until)
        return x

    def setup(self, items: Sequence[Any]) -> None:
        """Sets the transforms up on training items, each seeing what the ones before it make of them."""
        for place, tfm in enumerate(self.tfms):
            before = Pipeline(self.tfms[:place])
            tfm.setup(_Mapped(items, before) if place else items)

    def to_plain(self) -> list[dict[str, Any]]:
        """Returns the transforms as plain data."""
        return [tfm.to_plain() for tfm in self.tfms]

    @classmethod
    def from_plain(cls, data: Sequence[dict[str, Any]]) -> Pipeline:
        """Returns the pipeline that `to_plain` wrote."""
        return cls([Transform.from_plain(each) for each in data])

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline([*self.tfms, *other.tfms])

    def __len__(self) -> int:
        return len(self.tfms)

    def __repr__(self) -> str:
        return "Pipeline: " + (" -> ".join(_shortened(repr(tfm)) for tfm in self.tfms) or "identity")


class _Mapped(Sequence[Any]):
    """Items seen through the transforms that come before, one at a time: the whole is never held."""

    def __init__(self, items: Sequence[Any], pipeline: Pipeline) -> None:
        self.items = items
        self.pipeline = pipeline

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.pipeline(self.items[index])


def _run_row(row: Sequence[tuple[Any, Draw | None]], x: Any) -> Any:
    """Returns `x` after a row of transforms of one kind; every element of a tuple gets the same draws."""
    if type(x) is tuple:
        return tuple(_run_row([(tfm, draw and draw.restart()) for tfm, draw in row], each) for each in x)
    return row[0][0].kind.run(row, x)


def _undone(tfm: Transform, x: Any, until: Any) -> Any:
    if isinstance(x, until):
        return x
    if until and type(x) is tuple and not isinstance(tfm, ItemTransform):
        return tuple(_undone(tfm, each, until) for each in x)
    return tfm.decode(x)


def _shortened(text: str, length: int = 100) -> str:
    """Returns `text`, cut if it is long: a learned vocabulary would fill the screen."""
    return text if len(text) <= length else f"{text[: length - 4]}...)"


def _as_transform(tfm: Any) -> Transform:
    if isinstance(tfm, Transform):
        return tfm
    if isinstance(tfm, type) and issubclass(tfm, Transform):
        return tfm()
    for base in type(tfm).__mro__:  # a class of the user's own is derived from one of the library's
        if (adapt := ADAPTERS.get(base.__module__.partition(".")[0])) is not None:
            return adapt(tfm)
    if callable(tfm):
        return Func(tfm)
    raise ConfigError(f"{tfm!r} is not a transform: expected a Transform, a Transform class or a function")


def _in_order(items: Any, owner: str) -> list[Any]:
    """Returns what a transform can learn from as a list."""
    is_table = isinstance(items, Mapping) or hasattr(items, "columns")  # iterating gives the names of its columns
    if isinstance(items, set | frozenset):
        hint = "it has no order, and processes may disagree about it: give sorted(...)"
    elif is_table or not isinstance(items, Iterable) or not isinstance(items, Sized):
        hint = (
            "expected items in order, with a length: a list, an array, one column of a table, the training part of data"
        )
    else:
        return list(items)
    raise ConfigError(f"{owner} cannot learn from a {type(items).__name__}; {hint}")


def _plain(value: Any, owner: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each, owner) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(each, owner) for key, each in value.items()}
    raise ConfigError(
        f"{owner} holds a {type(value).__name__}, which JSON cannot; keep numbers, strings, lists and dicts in its fields"
    )
