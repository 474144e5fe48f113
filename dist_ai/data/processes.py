"""Processes that call one function on many things: all cores of a machine for what comes before the training.

They are no forks, which the threads of Rust's tokenizers would not survive. Nor do they read the program that started them, as
those of `multiprocessing` do: without `if __name__ == "__main__":` it would begin again in each of them, and wait for what it
makes itself. A process that `multiprocessing` forbids children may have them, too.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
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
from dist_ai.errors import DataError, DistAIError

__all__ = ["in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(function: Callable[[Item], Result], items: Iterable[Item], *, num_processes: int) -> Iterator[Result]:
    """Yields what a function makes of each item, in order. As many items as there are processes are in memory at a time.

    Args:
        function: a top-level function of a module, or what can be sent by value, such as a callable object of a notebook.
        items: gone through in this process.
        num_processes: how many processes; no more than there are items. They need a few seconds to start.

    Raises:
        DataError: the function raised what is no error of dist_ai, which names it; or a process was killed.
        ConfigError: the function cannot be sent to another process.
    """
    items = iter(items)
    first = list(itertools.islice(items, num_processes))
    with contextlib.ExitStack() as ends:
        folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="dist_ai-"))
        told = Parcel.of(_serve, [function]).put(Path(folder))
        # All are started before the first is asked: it reads what it is asked only when it has imported what it needs.
        asked = deque([ends.enter_context(_Process(told, name_of(function))) for _ in first])
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

    def ask(self, item: Any) -> None:
        """Sends what the function is called on."""
        with self._alive():
            self._connection.send(item)

    def answer(self) -> Any:
        """Returns what came of it."""
        with self._alive():
            answer = self._connection.recv()
        if isinstance(answer, Failure):
            raise answer.as_error()
        return answer

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise DataError(
                f"a process that calls {self._name} ended with exit code {code} before its work was done. The system ends one "
                "when memory runs out: use fewer processes; what it wrote above says more"
            ) from error


def _serve(function: Callable[[Any], Any]) -> None:
    """Answers what the process sends that started this one, until it closes its end or is gone."""
    caller = Connection(0)
    with contextlib.suppress(EOFError, OSError):
        while True:
            caller.send(_answer(function, caller.recv()))


def _answer(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except DistAIError as error:
        return Failure.of(error)
    except Exception as error:
        failure = DataError(f"{name_of(function)} raised {type(error).__name__}: {error}")
        failure.__cause__ = error
        return Failure.of(failure)
