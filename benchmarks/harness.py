"""What the benchmarks share: interleaved rounds, medians, the table, the JSON line, and the file of last results.

Times are compared within a round only, where the contenders ran one after the other, and the median over rounds is
reported: what else the machine does then hits all of them alike.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import random
import re
import statistics
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import torch

__all__ = [
    "INSTALL",
    "Contender",
    "Report",
    "Result",
    "interleave",
    "median_ratio",
    "take_turns",
    "terminal",
    "versions",
]

Contender: TypeAlias = Callable[[], dict[str, float]]

RESULTS = Path(__file__).parent / "results"
INSTALL = "not installed: pip install -c launch/constraints.txt -r benchmarks/peers.txt"


@dataclass(kw_only=True)
class Result:
    """One measured number.

    Attributes:
        what: who or what was measured.
        value: the median over rounds; None if it could not be measured.
        unit: of the value.
        against: what `ratio` compares it with.
        ratio: the median over rounds of value / value of `against` in the same round.
        goal: the ratio that it should stay at or below; None where there is no goal.
        met: whether it does.
        note: how it was set up, or why it is absent; for the table.
    """

    what: str
    value: float | None
    unit: str
    against: str | None = None
    ratio: float | None = None
    goal: float | None = None
    met: bool | None = field(init=False)
    note: str = ""

    def __post_init__(self) -> None:
        self.met = None if self.goal is None or self.ratio is None else self.ratio <= self.goal


@dataclass(kw_only=True)
class Report:
    """A benchmark's results, where and with what they were measured.

    Attributes:
        only: what of it was measured, where not all was; kept in a file of its own.
    """

    name: str
    about: str
    versions: dict[str, str]
    results: list[Result]
    only: str | None = None

    def publish(self, *, save: bool) -> None:
        """Prints the table and, as the last line, the JSON object; with `save` keeps both in `results/`."""
        print(self.table())
        if save:
            print(f"kept in {self.keep().relative_to(Path(__file__).parent.parent)}")
        print(self.json())

    def keep(self) -> Path:
        """Writes both to `results/`, also in the middle of a long measurement, and returns the file."""
        name = f"{self.name}-{_slug(self.only)}" if self.only else self.name
        path = RESULTS / f"{name}_{_slug(hardware())}_{datetime.date.today().isoformat()}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {self.name}\n\n{self.table()}\n\n```json\n{self.json()}\n```\n")
        return path

    def table(self) -> str:
        """Returns the results as a Markdown table with what is needed to judge them."""
        head = ["what", "value", "ratio", "goal", "how"]
        rows = [
            [
                each.what,
                "absent" if each.value is None else f"{each.value:,.4g} {each.unit}",
                "" if each.ratio is None else f"{each.ratio:.3f} of {each.against}",
                "" if each.goal is None else f"<= {each.goal:g}: {'met' if each.met else 'MISSED'}",
                each.note,
            ]
            for each in self.results
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
            for row in [head, ["-" * width for width in widths], *rows]
        ]
        used = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join([self.about, "", f"Hardware: {hardware()}.", f"Versions: {used}.", "", *lines])

    def json(self) -> str:
        """Returns the results as one line of JSON."""
        results = [
            {key: _short(value) for key, value in asdict(each).items() if key != "note"} for each in self.results
        ]
        return json.dumps(
            {"name": self.name, "hardware": hardware(), "versions": self.versions, "results": results}, sort_keys=False
        )


def take_turns(contenders: Mapping[str, Contender], *, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Runs every contender once a round, in a new random order each, and returns their measurements by name.

    The first run of each warms it up and is not counted. Where several ranks call this, they take the same turns.
    """
    for contender in contenders.values():
        contender()
    order, shuffler = list(contenders), random.Random(0)
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for _ in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            gc.collect()  # a run does not pay for the garbage of the one before
            for key, value in contenders[name]().items():
                measured[name].setdefault(key, []).append(value)
    return measured


def interleave(
    make: Callable[[str], Contender], names: Sequence[str], *, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Lets contenders that live in processes of their own take turns, and returns their measurements by name.

    The processes are for the peers: what one imports can slow another down. Lightning sets an environment
    variable that makes every step of a `torch.optim` optimizer look for a GPU driver, a quarter of a small step.
    All but the one whose turn it is sleep.

    Args:
        make: of a name, a function that runs the work once and returns its measurements; at the top level of the
            benchmark, so that a fresh process finds it.
        names: of the contenders. Those whose package is not installed are left out of the answer.
        rounds: how often.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name in names:
        pipes[name], far_end = context.Pipe()
        processes.append(context.Process(target=_serve, args=(make, name, far_end)))  # no daemon: those have no workers
        processes[-1].start()
        far_end.close()
    try:
        there = {name: pipe for name, pipe in pipes.items() if _ask(pipe)}
        measured = take_turns({name: partial(_ask, pipe, "run") for name, pipe in there.items()}, rounds=rounds)
        for pipe in there.values():
            pipe.send("end")
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    return measured


def _ask(pipe: Connection, request: str | None = None) -> Any:
    if request is not None:
        pipe.send(request)
    answer = pipe.recv()
    if isinstance(answer, str):
        raise RuntimeError(f"a contender failed:\n{answer}")
    return answer


def _serve(make: Callable[[str], Contender], name: str, pipe: Connection) -> None:
    """A contender's process: makes it, says so, and runs it whenever it is asked to."""
    # A spawned process would spawn its loader workers too, which is not what a user's program does here.
    multiprocessing.set_start_method("fork" if "fork" in multiprocessing.get_all_start_methods() else None, force=True)
    try:
        with terminal():
            try:
                run = make(name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] in ("torch", "dist_ai", "harness"):
                    raise
                pipe.send(False)
                return
            pipe.send(True)
            while pipe.recv() == "run":
                gc.collect()
                pipe.send(run())
    except Exception:
        pipe.send(traceback.format_exc())


def median_ratio(values: Sequence[float], against: Sequence[float]) -> float:
    """Returns the median of the ratios of values of the same round."""
    return statistics.median(a / b for a, b in zip(values, against, strict=True))


def versions(*packages: str) -> dict[str, str]:
    """Returns the installed versions of Python and `packages`; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def hardware() -> str:
    """Returns the number of usable CPU cores and the processor's name, and the GPU's if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            name = found[1].strip()
    found_gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cores} CPU cores {name}{found_gpu}"


class _Terminal(io.TextIOBase):
    """A terminal whose output nobody sees: programs draw their progress bars on it as for a person."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Makes the program believe that it writes to a terminal, and drops what it writes, warnings included."""
    unseen = _Terminal()
    kept, os.environ["TERM"] = os.environ.get("TERM"), "xterm-256color"
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = unseen
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peers deprecate or advise is not ours to print
            yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        if kept is None:
            del os.environ["TERM"]
        else:
            os.environ["TERM"] = kept


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()
