"""Run by test_sealed.py: does things with a sealed directory, killed before each of their file operations in turn.

`python kill_writer.py FOLDER` prints, as JSON, what stood there after each kill, by scenario. The last scenario writes
without end and is killed at random moments.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dist_ai

# The package `core` without what its __init__ imports: a process with torch in it takes 70 ms to fork, and not 1.
core = types.ModuleType("dist_ai.core")
core.__path__ = [str(Path(dist_ai.__file__).with_name("core"))]
sys.modules[core.__name__] = core

from dist_ai.core.sealed import _aside, open_sealed, remove_sealed, remove_unsealed, seal  # noqa: E402
from dist_ai.errors import ArtifactError  # noqa: E402

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree")


def write(directory: Path, text: str) -> None:
    with seal(directory, "test") as folder:
        (folder / "a.txt").write_text(text)
        (folder / "b.txt").write_text(text)


def state(directory: Path) -> str:
    """Returns the text that the directory holds, or "absent"; raises if it is anything in between."""
    try:
        open_sealed(directory, "test")
    except ArtifactError as error:
        if "not there" not in str(error):
            raise
        return "absent"
    texts = {(directory / name).read_text() for name in ("a.txt", "b.txt")}
    assert len(texts) == 1, texts
    return texts.pop()


def half_replaced(directory: Path) -> None:
    """What a kill between the two renames of a replacement leaves."""
    write(directory, "old")
    directory.rename(_aside(directory))


def replaced_but_for_the_end(directory: Path) -> None:
    """What a kill after the two renames of a replacement leaves."""
    write(directory, "older")
    directory.rename(_aside(directory))
    write(directory.with_name("twin"), "old")
    directory.with_name("twin").rename(directory)


# Before, and what is done.
SCENARIOS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "write": (lambda _: None, lambda d: write(d, "new")),
    "replace": (lambda d: write(d, "old"), lambda d: write(d, "new")),
    "replace after a kill in the middle": (half_replaced, lambda d: write(d, "new")),
    "replace after a kill at the end": (replaced_but_for_the_end, lambda d: write(d, "new")),
    "remove": (lambda d: write(d, "old"), remove_sealed),
    "remove after a kill in the middle": (half_replaced, remove_sealed),
    "remove after a kill at the end": (replaced_but_for_the_end, remove_sealed),
    "open after a kill in the middle": (half_replaced, lambda d: open_sealed(d, "test") and None),
    "clean up after a kill in the middle": (half_replaced, lambda d: remove_unsealed(d.parent)),
    "clean up after a kill at the end": (replaced_but_for_the_end, lambda d: remove_unsealed(d.parent)),
}


def die_before(number: int) -> None:
    """Kills this process before its file operation of that number."""
    left = number

    def hook(event: str, _: object) -> None:
        nonlocal left
        if event in OPERATIONS:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(hook)


def killed_before_each_operation(scenario: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields what stands in the folder after a kill before the first file operation, the second, and so on."""
    before, act = SCENARIOS[scenario]
    number, killed = 0, True
    while killed:
        directory = fresh(folder)
        before(directory)
        child = os.fork()
        if child == 0:
            die_before(number)
            act(directory)
            os._exit(0)
        killed = was_killed(child)
        yield outcome(directory)
        number += 1


def killed_at_random_moments(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields what stands in the folder after kills in the midst of writing versions 0, 1, 2..."""
    delays = random.Random(0)
    for _ in range(30):
        directory = fresh(folder)
        child = os.fork()
        if child == 0:
            for version in itertools.count():
                write(directory, str(version))
        time.sleep(delays.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert was_killed(child)
        yield outcome(directory)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder / "thing"


def was_killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, f"the writer failed: {status}"
    return os.WIFSIGNALED(status)


def outcome(directory: Path) -> dict[str, Any]:
    """Returns what is found in a directory when it is opened, opened again, and cleaned up; and then written again."""
    found = {"found": state(directory), "again": state(directory)}
    remove_unsealed(directory.parent)
    cleaned = {"cleaned": state(directory), "left": sorted(path.name for path in directory.parent.iterdir())}
    write(directory, "later")
    return {**found, **cleaned, "later": state(directory)}


if __name__ == "__main__":
    os.fsync = lambda _: None  # for power cuts, which nobody makes here; waiting for the disk takes most of the time
    place = Path(sys.argv[1]) / "try"
    results = {scenario: list(killed_before_each_operation(scenario, place)) for scenario in SCENARIOS}
    print(json.dumps({**results, "random moments": list(killed_at_random_moments(place))}))
