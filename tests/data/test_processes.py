"""Processes that call a function on one thing after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

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


class Lost:
    """Its unpickling fails as that of what lies in a file that is gone."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("/nowhere/gone",)


def odd(what: str) -> Any:
    if what == "stdin":
        return sys.stdin.read() + os.read(0, 9).decode()
    if what == "closed":
        os.closerange(3, 99)
        time.sleep(1000)
    return {"tensor": torch.arange(3), "lambda": lambda: 0, "lost": Lost()}[what]


def test_results_are_pickled_and_a_function_finds_its_input_empty() -> None:
    tensor, read = in_processes(odd, ["tensor", "stdin"], num_processes=2)
    assert tensor.tolist() == [0, 1, 2]
    assert read == ""


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("lambda", r"what odd returned cannot be sent to another process: a function that cannot be pickled \("),
        ("lost", "what odd returned cannot be read in another process: unpickling it raised FileNotFoundError: .*gone"),
        (lambda: 0, "what odd is to be called on cannot be sent to another process: a function that cannot be pickled"),
        (Lost(), "what odd is to be called on cannot be read in another process: unpickling it raised FileNotFound"),
        ("closed", "a process that calls odd ended with exit code -9 before its work was done"),
    ],
)
def test_what_cannot_be_sent_is_named(item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(in_processes(odd, [item], num_processes=1))


SLEEPERS = """
import os, time
from pathlib import Path
from dist_ai.data.processes import in_processes

def sleep(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(1000)

if __name__ == "__main__":
    import sleepers
    list(in_processes(sleepers.sleep, ["."] * 2, num_processes=2))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them_and_leave_nothing(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    temporary, pids = tmp_path / "temporary", tmp_path / "pids"
    temporary.mkdir()
    pids.mkdir()
    command = [sys.executable, str(tmp_path / "sleepers.py")]
    program = subprocess.Popen(command, cwd=pids, env={**os.environ, "TMPDIR": str(temporary)})
    try:
        assert within(120, lambda: len(list(pids.iterdir())) == 2)
        program.send_signal(how)
        program.wait()
        assert within(5, lambda: not any(alive(int(each.name)) for each in pids.iterdir()))
        assert not list(temporary.iterdir())
    finally:
        program.kill()
        program.wait()
        for each in pids.iterdir():
            if alive(int(each.name)):
                os.kill(int(each.name), signal.SIGKILL)


def within(seconds: float, true: Any) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
