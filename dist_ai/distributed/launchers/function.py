"""A program that is a function: how the ranks get it.

One that stands at the top of a file is found there by its name. Any other, such as a notebook's or one made inside another,
travels by value, with what it uses: as a pickle in the run directory, of which the ranks are told the digest, so that they
read what was written for them and nothing else.

The ranks run this file: ``function.py WHERE ARGUMENTS``, both JSON.
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
from pathlib import Path
from typing import Any, TypeAlias

from dist_ai.errors import ConfigError, MissingDependencyError

__all__ = ["FILE", "Arguments", "find", "main", "name_of", "reference", "refuse_while_reading", "shipped"]

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
    sys.path += [each for each in where["path"] if each not in sys.path]
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


def refuse_while_reading(what: str) -> None:
    """Refuses to start processes from the top of a program that its own processes are reading, each of which would start more.

    Raises:
        ConfigError: this process is reading one.
    """
    if _reading is not None:
        raise ConfigError(
            f"{what} was called again by a process that it had started, which reads {_reading} to find its function; put "
            'the call there under `if __name__ == "__main__":`'
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
        return {"module": module, "file": None, "name": name, "path": _import_path()}
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or not file.endswith(".py") or not os.path.isfile(file):  # a notebook, or what was typed
        return None
    return {"module": None, "file": os.path.abspath(file), "name": name, "path": _import_path()}


def _import_path() -> list[str]:
    return [os.path.abspath(each) for each in sys.path]


# ------------------------------------------------------------------------------------ by name or by value


@contextmanager
def shipped(function: Callable[..., Any], args: Arguments, folder: Path) -> Iterator[list[str]]:
    """Gives, inside the block, the arguments with which this file calls ``function(*args)`` in another process.

    Args:
        function: any.
        args: its arguments, in order or by name.
        folder: which the processes share; it holds the pickle inside the block, if there is one.

    Raises:
        ConfigError: it does not take these arguments; or it, or what it uses, cannot be sent to another process.
        MissingDependencyError: it must travel by value, and cloudpickle is not installed.
    """
    _check_arguments(function, args)
    where, text = _place_of(function), _as_json(args)
    if where is not None and text is not None:
        yield [json.dumps(where), text]
        return
    data = _pickled(function, args)
    digest = hashlib.sha256(data).hexdigest()
    file = folder / f"function-{os.getpid()}.pickle"  # another launch that finds the folder taken must not remove it
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    try:
        yield [json.dumps({"pickle": str(file), "sha256": digest, "path": _import_path()}), "null"]
    finally:
        file.unlink(missing_ok=True)


def _check_arguments(function: Callable[..., Any], args: Arguments) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is built in, Python does not always tell
        return
    try:
        signature.bind(**args) if isinstance(args, Mapping) else signature.bind(*args)
    except TypeError as error:
        raise ConfigError(
            f"args={args!r:.200} do not fit {name_of(function)}{signature}: {error}; give a list of them in order, or a dict by "
            "name"
        ) from None


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
        raise ConfigError(
            f"{name} cannot be sent to the ranks: it, its arguments or something that it uses from outside cannot be pickled "
            f"({error}); make that inside the function, as open files, connections, loaders and Learners should be"
        ) from error


def _unpickled(where: Mapping[str, Any]) -> tuple[Callable[..., Any], Arguments]:
    sys.path += [each for each in where["path"] if each not in sys.path]
    try:
        data = Path(where["pickle"]).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the function to run is not at {where['pickle']} ({error.strerror}): all machines of a run must share its run "
            "directory; give one on a shared file system, or a function that stands at the top of a file"
        ) from error
    if hashlib.sha256(data).hexdigest() != where["sha256"]:
        raise ConfigError(f"{where['pickle']} is not what the launcher wrote, and is not read")
    function, args = pickle.loads(data)
    return function, args


def main() -> None:
    """Calls the function that this process's arguments tell of."""
    told, text = sys.argv[1:]
    where = json.loads(told)
    function, args = _unpickled(where) if "pickle" in where else (find(told), json.loads(text))
    function(**args) if isinstance(args, Mapping) else function(*args)


if __name__ == "__main__":
    from dist_ai.distributed.launchers import function as module  # this one, under the name by which others know it

    module.main()
