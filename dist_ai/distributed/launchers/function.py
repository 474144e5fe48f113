"""A program that is a function: how the ranks get it.

One that stands at the top of a file is found there by its name. Any other, such as a notebook's or one made inside another,
travels by value, with what it uses: as a pickle. Either goes with its arguments in a `Parcel`, a file of which the ranks are
told the digest, so that they read what was written for them and nothing else; a command line would be too short for large ones.

The ranks run this file: ``function.py PARCEL DIGEST``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from dist_ai.distributed.environment import is_a_rank, launched_rank, launched_world_size
from dist_ai.errors import ConfigError, MissingDependencyError, did_you_mean

__all__ = [
    "FILE",
    "Arguments",
    "Parcel",
    "check_call",
    "find",
    "main",
    "name_of",
    "reference",
    "refuse_in_its_processes",
]

Arguments: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""What a function gets: values in order, or by name."""

FILE = Path(__file__).absolute()
"""The script that a rank runs where the program is a function."""

# What `multiprocessing` does with the main program, too: under another name, so that its last part does not run again.
MAIN = "__mp_main__"


def name_of(function: Callable[..., Any]) -> str:
    """Returns what a function is called, for messages and run directories.

    >>> name_of(name_of), name_of(lambda: None)
    ('name_of', 'function')
    """
    name = getattr(function, "__name__", "") or getattr(getattr(function, "func", None), "__name__", "")
    return name if name.isidentifier() else "function"


# ------------------------------------------------------------------------------------ what can be called


def check_call(function: Callable[..., Any], args: Arguments) -> None:
    """Checks that ``function(*args)``, or ``function(**args)``, is a call that does something.

    Raises:
        ConfigError: it does not take these arguments, or calling it only makes a coroutine or a generator.

    >>> check_call(name_of, {"funktion": len})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    dist_ai.errors.ConfigError: name_of(... cannot be called with funktion: missing ...; did you mean 'function'?
    """
    name = name_of(function)
    calls = (function, getattr(type(function), "__call__", None))  # noqa: B004  # whether it is async, not whether it is
    if any(inspect.iscoroutinefunction(each) for each in calls):
        raise ConfigError(
            f"{name} is an async function, and calling it only makes a coroutine, which nobody runs; give a function that does: "
            f"asyncio.run({name}(...))"
        )
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in calls):
        raise ConfigError(
            f"{name} is a generator function (it has a `yield`), and calling it runs nothing of it; give a function that goes "
            f"through what it yields: for each in {name}(...)"
        )
    try:
        # Not that of what it wraps: a decorator may give arguments itself, as configuration libraries' do.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # of what is built in, Python does not always tell
        return
    try:
        signature.bind(**args) if isinstance(args, Mapping) else signature.bind(*args)
    except TypeError as error:
        by_name = isinstance(args, Mapping)
        given = ", ".join(str(each) if by_name else f"{each!r:.60}" for each in args) or "no arguments"
        strangers = [str(each) for each in args if each not in signature.parameters] if by_name else []
        near = next((hint for each in strangers if (hint := did_you_mean(each, signature.parameters))), "")
        raise ConfigError(f"{name}{signature} cannot be called with {given}: {error}{near}") from None


# ------------------------------------------------------------------------------------ by name


def reference(function: Callable[..., Any]) -> str:
    """Returns by which another process finds a function, as JSON.

    Raises:
        ConfigError: it stands in no file, or not at the top of one.

    >>> find(reference(reference)) is reference
    True
    """
    if (where := _place_of(function)) is None:
        name = getattr(function, "__qualname__", "") or repr(function)
        raise ConfigError(
            f"{name} cannot be found by the processes of a trial: give a function that stands at the top of a Python file, with "
            "`def`, or a script"
        )
    return json.dumps(where)


def find(told: str) -> Callable[..., Any]:
    """Returns the function that `reference` told of.

    Raises:
        ConfigError: it is not there.
    """
    where = json.loads(told)
    _become_like(where)
    if where["file"] is None:
        try:
            module = importlib.import_module(where["module"])
        except ModuleNotFoundError as error:
            if error.name != where["module"]:
                raise
            raise ConfigError(
                f"the module {where['module']} of {where['name']} is not where this process imports from; all machines of a "
                "run must have it"
            ) from error
    else:
        spec = importlib.util.spec_from_file_location(MAIN, where["file"])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[MAIN] = importlib.util.module_from_spec(spec)
        with _reading_is(where["file"]):
            spec.loader.exec_module(module)
    found: Callable[..., Any] | None = getattr(module, where["name"], None)
    if found is None:
        raise ConfigError(
            f"{where['file'] or where['module']} has no {where['name']} where another process reads it; put the function at its "
            'top, before `if __name__ == "__main__":`'
        )
    return found


def refuse_in_its_processes(what: str) -> None:
    """Refuses to start processes in one of several that were started to share the work, each of which would start more.

    Args:
        what: what was called.

    Raises:
        ConfigError: this process is a rank of several, or reads a program to find its function.
    """
    if _reading is not None:
        raise ConfigError(
            f"{what} was called again by a process that it had started, which reads {_reading} to find its function; put "
            'the call there under `if __name__ == "__main__":`'
        )
    if is_a_rank():
        world_size = launched_world_size()
        raise ConfigError(
            f"{what} was called in rank {launched_rank()} of {world_size}, and each of the {world_size} would start its own; "
            f"start the program once (`python program.py`), or call here what {what} would, which joins the others. A "
            "program that one rank alone starts needs an environment without RANK and WORLD_SIZE"
        )


_reading: str | None = None


@contextmanager
def _reading_is(file: str) -> Iterator[None]:
    global _reading
    _reading = file
    try:
        yield
    finally:
        _reading = None


def _place_of(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Returns where a function stands; None for one at the top of no file."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not inspect.isfunction(function) or not name.isidentifier():
        return None
    if module != "__main__":
        return {"module": module, "file": None, "name": name, **_caller()}
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or not file.endswith(".py") or not os.path.isfile(file):  # a notebook, or what was typed
        return None
    return {"module": None, "file": os.path.abspath(file), "name": name, **_caller()}


def _caller() -> dict[str, Any]:
    """Returns what a program finds here when it is read: where it imports from, and what it was called with."""
    return {"path": [os.path.abspath(each) for each in sys.path], "argv": [str(each) for each in sys.argv]}


def _become_like(caller: Mapping[str, Any]) -> None:
    # The folder of this very file comes first where it runs as a script, and has a `ray.py`, which is not the library.
    own = [each for each in sys.path if each not in caller["path"] and each != str(FILE.parent)]
    sys.path[:], sys.argv[:] = [*caller["path"], *own], caller["argv"]


# ------------------------------------------------------------------------------------ by name or by value


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A function with its arguments, on its way to the ranks.

    Attributes:
        name: the function's.
        content: a line of JSON, which says how the function is found; then its arguments, as JSON, or both as a pickle.
    """

    name: str
    content: bytes

    @classmethod
    def of(cls, function: Callable[..., Any], args: Arguments) -> Parcel:
        """Packs ``function(*args)``, or ``function(**args)``.

        Raises:
            ConfigError: it is no such call; or it, or what it uses, cannot be sent to another process.
            MissingDependencyError: it must travel by value, and cloudpickle is not installed.
        """
        check_call(function, args)
        where, text = _place_of(function), _as_json(args)
        if where is not None and text is not None:
            return cls._packed(where, text.encode())
        return cls._packed({"name": name_of(function), **_caller()}, _pickled(function, args))

    @classmethod
    def of_reference(cls, told: str, args: Mapping[str, Any]) -> Parcel:
        """Packs the call of the function that `reference` told of, with arguments that JSON holds."""
        return cls._packed(json.loads(told), json.dumps(args).encode())

    @classmethod
    def _packed(cls, where: Mapping[str, Any], payload: bytes) -> Parcel:
        return cls(name=where["name"], content=json.dumps(where).encode() + b"\n" + payload)

    def put(self, folder: Path) -> list[str]:
        """Writes it into a folder that the ranks can read; returns the arguments with which they run this file."""
        file = folder / "function"
        file.write_bytes(self.content)
        return [str(file), hashlib.sha256(self.content).hexdigest()]


def _as_json(args: Arguments) -> str | None:
    """Returns arguments as JSON, if that gives them back as they are."""
    plain = dict(args) if isinstance(args, Mapping) else list(args)
    try:
        text = json.dumps(plain)
        return text if bool(json.loads(text) == plain) else None
    except (TypeError, ValueError):  # no JSON, or not to be compared, such as arrays
        return None


def _pickled(function: Callable[..., Any], args: Arguments) -> bytes:
    name = name_of(function)
    try:
        import cloudpickle  # type: ignore[import-untyped]  # it has no types
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} must travel to the ranks by value, which needs cloudpickle; install it with `pip install cloudpickle`, or "
            "put the function at the top of a Python file"
        ) from error

    try:
        return bytes(cloudpickle.dumps((function, args)))
    except Exception as error:  # whatever the objects in it raise
        what, part, why = _first_refused(function, args, cloudpickle.dumps)
        raise ConfigError(
            f"{name} cannot be sent to the ranks: {what} is a {type(part).__name__}, which cannot be pickled ({why or error}); "
            "make it inside the function, as open files, connections, loaders and Learners should be"
        ) from error


def _first_refused(
    function: Callable[..., Any], args: Arguments, pickled: Callable[[Any], bytes]
) -> tuple[str, Any, str]:
    """Returns what cannot be pickled, the innermost thing of which that is so: in words, itself, and why."""

    def refusal(value: Any) -> str:
        try:
            pickled(value)
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    told, found, why, user, seen = name_of(function), function, "", "", set[int]()
    parts = {told: function, **_by_name(function, args)}
    while refused := next(
        ((name, part) for name, part in parts.items() if id(part) not in seen and refusal(part)), None
    ):
        name, found = refused
        told, why = f"{name}, which {user} uses," if user else name, refusal(found)
        seen.add(id(found))  # what has itself in it
        parts, user = _parts_of(name, found), name_of(found) if inspect.isfunction(found) else user
    return told, found, why


def _by_name(function: Callable[..., Any], args: Arguments) -> dict[str, Any]:
    """Returns arguments by what messages call them."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return {"args": args}
    bound = signature.bind(**args) if isinstance(args, Mapping) else signature.bind(*args)
    return {f"its argument {name}": value for name, value in bound.arguments.items()}


def _parts_of(called: str, value: Any) -> dict[str, Any]:
    """Returns what a value is made of, by what a program would write for it."""
    if isinstance(value, Mapping):
        return {f"{called}[{key!r}]": each for key, each in value.items()}
    if isinstance(value, list | tuple):
        return {f"{called}[{number}]": each for number, each in enumerate(value)}
    if isinstance(value, partial):
        return {f"{called}.{name}": getattr(value, name) for name in ("func", "args", "keywords")}
    if inspect.ismethod(value):
        return {f"{called}.__self__": value.__self__}
    if not inspect.isfunction(value):
        return {f"{called}.{name}": each for name, each in getattr(value, "__dict__", {}).items()}
    defaults = {name: each.default for name, each in inspect.signature(value).parameters.items()}
    try:
        outside = inspect.getclosurevars(value)
    except ValueError:  # it uses what has no value yet
        return defaults
    return {**outside.globals, **outside.nonlocals, **defaults}


def _received(file: str, digest: str) -> tuple[Callable[..., Any], Arguments]:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the function to run is not at {file} ({error.strerror}): all machines of a run must share its run directory; "
            "give one on a shared file system"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ConfigError(f"{file} is not what the launcher wrote, and is not read")
    line, _, payload = content.partition(b"\n")
    where = json.loads(line)
    if "module" in where:
        return find(line.decode()), json.loads(payload)
    _become_like(where)
    function, args = pickle.loads(payload)
    return function, args


def main() -> None:
    """Calls the function that this process's arguments tell of."""
    function, args = _received(*sys.argv[1:])
    function(**args) if isinstance(args, Mapping) else function(*args)


if __name__ == "__main__":
    from dist_ai.distributed.launchers import function as module  # this one, under the name by which others know it

    module.main()
