"""Processes that call one function on many things: all cores of a machine for what comes before the training.

They are no forks, which the threads of Rust's tokenizers would not survive. Nor do they read the program that started them, as
those of `multiprocessing` do: without `if __name__ == "__main__":` it would begin again in each of them, and wait for what it
makes itself. A process that `multiprocessing` forbids children may have them, too.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from dist_ai.data.workers import Failure
from dist_ai.distributed.launchers.function import FILE, Parcel, name_of
from dist_ai.distributed.launchers.worker import die_with
from dist_ai.errors import DataError, DistAIError

__all__ = ["in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(function: Callable[[Item], Result], items: Iterable[Item], *, num_processes: int) -> Iterator[Result]:
    """Yields what a function makes of each item, in order. As many items as there are processes are in memory at a time.

    Args:
        function: a top-level function of a module, or what can be sent by value, such as a callable object of a notebook.
        items: gone through in this process.
        num_processes: how many processes; no more than there are items. They need a few seconds to start. On Linux they end with
            the thread that takes the first result.

    Items and results are pickled.

    Raises:
        DataError: the function raised what is no error of dist_ai, which names it; an item or a result cannot be pickled, or not
            be read again; or a process was killed.
        ConfigError: the function cannot be sent to another process.
    """
    items = iter(items)
    first = list(itertools.islice(items, num_processes))
    with contextlib.ExitStack() as ends:
        # The folder goes when all have read it: a kill during the work leaves nothing behind.
        with tempfile.TemporaryDirectory(prefix="dist_ai-") as folder:
            told = Parcel.of(_serve, [function, os.getpid()]).put(Path(folder))
            asked = deque([ends.enter_context(_Process(told, name_of(function))) for _ in first])
            for process in asked:
                process.wait_until_ready()
        for process, item in zip(asked, first, strict=True):
            process.ask(item)
        # In turn, and each gets its next item before anybody looks at its answer: items of one size keep all of them busy.
        for item in items:
            process = asked.popleft()
            result = process.answer()
            process.ask(item)
            asked.append(process)
            yield result
        for process in asked:
            yield process.answer()


class _Process:
    """A process that calls the function on what it is sent, one thing at a time. It ends with the block, or with this process."""

    def __init__(self, told: list[str], name: str) -> None:
        self._name = name
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(FILE), *told],
                stdin=theirs.fileno(),  # its output stays what it is: what a function prints is seen
                process_group=0,  # a terminal's Ctrl-C reaches this process alone, which ends it
            )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def wait_until_ready(self) -> None:
        """Waits until it has read the function and imported what that needs."""
        with self._alive():
            self._connection.recv_bytes()

    def ask(self, item: Any) -> None:
        """Sends what the function is called on."""
        try:
            packed = _packed(item)
        except Exception as error:  # whatever the objects in it raise
            raise DataError(
                f"what {self._name} is to be called on cannot be sent to another process: {_unsendable(item, error)}"
            ) from error
        with self._alive():
            self._connection.send_bytes(packed)

    def answer(self) -> Any:
        """Returns what came of it."""
        with self._alive():
            packed = self._connection.recv_bytes()
        try:
            answer = pickle.loads(packed)
        except Exception as error:
            raise DataError(f"what {self._name} returned {_unreadable(error)}") from error
        if isinstance(answer, Failure):
            raise answer.as_error()
        return answer

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Tells of a process that is gone. Bytes alone go through here: any error is one of the connection."""
        try:
            yield
        except (EOFError, OSError) as error:
            try:
                code = self._process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:  # it closed the connection and lives
                self._process.kill()
                code = self._process.wait()
            raise DataError(
                f"a process that calls {self._name} ended with exit code {code} before its work was done. The system ends one "
                "when memory runs out: use fewer processes; what it wrote above says more"
            ) from error


_SECONDS_TO_END = 5.0


def _serve(function: Callable[[Any], Any], caller_pid: int) -> None:
    """Answers what the process sends that started this one, until it closes its end or is gone."""
    die_with(caller_pid)
    caller = Connection(os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # a function that reads from its input finds it empty, and not what is sent
    with contextlib.suppress(EOFError, OSError):
        caller.send_bytes(b"ready")
        while True:
            asked = caller.recv_bytes()
            caller.send_bytes(_answer(function, asked))


def _answer(function: Callable[[Any], Any], asked: bytes) -> bytes:
    name = name_of(function)
    try:
        item = pickle.loads(asked)
    except Exception as error:
        return _failed(f"what {name} is to be called on {_unreadable(error)}", error)
    try:
        result = function(item)
    except DistAIError as error:
        return _packed(Failure.of(error))
    except Exception as error:
        return _failed(f"{name} raised {type(error).__name__}: {error}", error)
    try:
        return _packed(result)
    except Exception as error:  # whatever the objects in it raise
        return _failed(f"what {name} returned cannot be sent to another process: {_unsendable(result, error)}", error)


def _failed(message: str, cause: Exception) -> bytes:
    failure = DataError(message)
    failure.__cause__ = cause
    return _packed(Failure.of(failure))


def _packed(value: Any) -> bytes:
    # Not as `Connection.send` does: there torch shares a tensor's memory, which needs a process of `multiprocessing`.
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def _unsendable(value: Any, error: Exception) -> str:
    return f"a {type(value).__name__} that cannot be pickled ({error}); use numbers, strings, arrays, or lists and dicts of them"


def _unreadable(error: Exception) -> str:
    return (
        f"cannot be read in another process: unpickling it raised {type(error).__name__}: {error}; its classes must be in a "
        "module that can be imported, and not in the program itself"
    )
