"""Processes that call a function on one thing after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import pytest

from dist_ai.data.processes import in_processes
from dist_ai.errors import DataError


def shout(texts: list[str]) -> list[str]:
    if "bad" in texts:
        raise ValueError("a bad text")
    if "kill" in texts:
        os.kill(os.getpid(), signal.SIGKILL)
    return [text.upper() for text in texts]


def shout_in_processes(queue: Any) -> None:
    queue.put(list(in_processes(shout, [["a"], ["b"], ["c", "d"]], num_processes=2)))


def test_a_daemonic_process_has_processes_too() -> None:
    fork = multiprocessing.get_context("spawn")
    queue = fork.Queue()
    process = fork.Process(target=shout_in_processes, args=(queue,), daemon=True)
    process.start()
    assert queue.get(timeout=500) == [["A"], ["B"], ["C", "D"]]
    process.join()


def test_what_goes_wrong_in_a_process_is_told_where_it_was_asked_for() -> None:
    with pytest.raises(DataError, match="shout raised ValueError: a bad text") as caught:
        list(in_processes(shout, [["a"], ["bad"]], num_processes=2))
    assert "raised in a worker process by:\nTraceback" in caught.value.__notes__[0]
    with pytest.raises(DataError, match="a process that calls shout ended with exit code -9 before its work was done"):
        list(in_processes(shout, [["a"], ["kill"]], num_processes=2))
