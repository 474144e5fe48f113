"""What goes to and from the outside of a run: each rank's status, commands to all ranks, and the answers to them.

Files in the run directory are the default (`FileMailbox`): they need no port and no library, work over a shared file
system, and outlive the run, so a command that a killed run had not come to is found by the one that goes on.
`MemoryMailbox` serves one process. `provide` puts in another, such as that of a Ray worker.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dist_ai.errors import ConfigError, did_you_mean

__all__ = [
    "VERBS",
    "Answer",
    "Command",
    "FileMailbox",
    "Mailbox",
    "MemoryMailbox",
    "Status",
    "command_line",
    "mailbox_at",
    "mailbox_of",
    "provide",
]

VERBS = {
    "stop": "write a checkpoint and end; started again, the run goes on from there",
    "checkpoint": "write a checkpoint at the end of the step",
    "set": "set hyper-parameters for the rest of the fit, whatever their schedule says: set lr=1e-4 mom=0.9",
    "pause": "wait after the step, on all ranks",
    "resume": "go on after a pause",
    "workers": "write a checkpoint and go on from it with so many workers, within what `dist-ai launch --workers MIN:MAX` gave:"
    " workers 3",
    "stacks": "write where every rank is in its code to logs/ in the run directory, at once, hanging or not",
}
"""What a run can be told, and what it does then."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a rank tells of itself.

    Attributes:
        rank, world_size: which it is.
        host, pid: its process.
        fit, epoch, step: where it is; the fit from 1, the step over the whole fit.
        total_steps: of the fit; None if that is not known.
        stage: a name of `dist_ai.distributed.pulse.Stage`, in small letters.
        loss: the last training loss that was read from the device; None before the first.
        samples_per_s: training samples over all ranks, recently.
        own_ms: milliseconds of a training batch that this rank spends by itself: on data, forward (where parameters are not
            divided), loss, callbacks and the optimizer. The rank with most of them is the one that the others wait for.
        batch_ms: milliseconds a training batch takes, recently.
        quiet_s: seconds without progress.
        time: when this was written, in seconds since the epoch: the heartbeat.
    """

    rank: int
    world_size: int
    host: str = ""
    pid: int = 0
    fit: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int | None = None
    stage: str = "outside"
    loss: float | None = None
    samples_per_s: float = 0.0
    own_ms: float = 0.0
    batch_ms: float = 0.0
    quiet_s: float = 0.0
    time: float = field(default_factory=time.time)

    @property
    def age_s(self) -> float:
        """Seconds since the heartbeat."""
        return max(0.0, time.time() - self.time)


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a run is told.

    Attributes:
        number: from 1; it is what the ranks agree on.
        verb: one of `VERBS`.
        args: for ``set``, a number by hyper-parameter, or a list with one for each parameter group; for ``workers``, their
            ``count``.
    """

    number: int
    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Checks that it can be done: before it is sent, and by the ranks, for whoever wrote it without asking us.

        Raises:
            ConfigError: there is no such verb, or its arguments are not of that kind.
        """
        if not (isinstance(self.verb, str) and isinstance(self.args, Mapping)):
            raise ConfigError(
                f"a command is a verb and its arguments by name; it was given {self.verb!r:.40}, {self.args!r:.40}"
            )
        if self.verb not in VERBS:
            raise ConfigError(
                f"{self.verb!r} is not a command to a run: {', '.join(VERBS)}{did_you_mean(self.verb, VERBS)}"
            )
        if self.verb == "workers":
            count = self.args.get("count")
            if set(self.args) != {"count"} or not isinstance(count, int) or count < 1:
                raise ConfigError("workers needs their number, 1 or more: workers 3")
            return
        if self.verb != "set":
            if self.args:
                raise ConfigError(f"{self.verb} takes no arguments; it was given {', '.join(map(str, self.args))}")
            return
        if not self.args:
            raise ConfigError("set needs a hyper-parameter and its value: set lr=1e-4")
        for name, value in self.args.items():
            numbers = value if isinstance(value, list) else [value]
            if not numbers or not all(_is_number(each) for each in numbers):
                raise ConfigError(
                    f"set {name}={value}: expected a number, or one for each parameter group: set {name}=1e-5,1e-4"
                )
            below = _BELOW.get(name)
            if below is not None and not all(0 <= each < below for each in numbers):
                last = "" if below == math.inf else f", and less than {below:g}"
                raise ConfigError(f"set {name}={value}: {name} is 0 or more{last}")

    def __str__(self) -> str:
        if self.verb == "workers":
            return f"workers {self.args['count']}"
        given = (
            f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in self.args.items()
        )
        return " ".join([self.verb, *given])


_BELOW = {"lr": math.inf, "wd": math.inf, "eps": math.inf, "mom": 1.0, "sqr_mom": 1.0}
"""What training cannot do without is 0 or more, and less than this; of others the optimizer alone knows."""


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number larger than any float
        return False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a command.

    Attributes:
        number: the command's.
        ok: whether it was done.
        fit, step: the training step before which all ranks did it; the fit from 1, the step over the whole fit.
        text: what there is to say.
    """

    number: int
    ok: bool
    fit: int = 0
    step: int = 0
    text: str = ""


def command_line(words: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Returns the verb and arguments of a command as a person writes it; whether it can be done, `Command.check` knows.

    Raises:
        ConfigError: an argument of ``set`` is not ``name=number``.

    >>> command_line(["set", "lr=1e-5,1e-4"])
    ('set', {'lr': [1e-05, 0.0001]})
    """
    verb, *rest = words
    if verb == "workers":  # what is no number is none of them
        return verb, {"count": int(rest[0]) if len(rest) == 1 and rest[0].isdecimal() else 0}
    if verb != "set":
        return verb, dict.fromkeys(rest)
    args: dict[str, Any] = {}
    for word in rest:
        name, equals, text = word.partition("=")
        try:
            numbers = [float(each) for each in text.split(",")]
        except ValueError:
            numbers = []
        if not (name and equals and numbers):
            raise ConfigError(f"{word!r} is not name=number, as in: set lr=1e-4")
        if name in args:
            raise ConfigError(f"set was given {name} twice; for each parameter group a value is set {name}=1e-5,1e-4")
        args[name] = numbers if len(numbers) > 1 else numbers[0]
    return verb, args


class Mailbox(Protocol):
    """What ranks and whoever watches them tell each other. Nothing here is collective."""

    def post(self, status: Status) -> None:
        """Replaces what a rank told of itself."""
        ...

    def statuses(self) -> list[Status]:
        """Returns what each rank told last, by rank."""
        ...

    def send(self, verb: str, args: Mapping[str, Any] | None = None) -> Command:
        """Adds a command, under the next number.

        Raises:
            ConfigError: it cannot be done; see `Command.check`.
        """
        ...

    def commands(self, after: int = 0) -> list[Command]:
        """Returns the commands with larger numbers than `after`, in order."""
        ...

    def answer(self, answer: Answer) -> None:
        """Tells what became of a command."""
        ...

    def answers(self) -> dict[int, Answer]:
        """Returns what became of the commands that were answered, by number."""
        ...

    def keep_ranks(self, world_size: int) -> None:
        """Forgets the statuses of ranks that a world of this size does not have."""
        ...


class MemoryMailbox:
    """The mailbox of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[int, Status] = {}
        self._commands: list[Command] = []
        self._answers: dict[int, Answer] = {}

    def post(self, status: Status) -> None:
        """Replaces what a rank told of itself."""
        self._statuses[status.rank] = status

    def statuses(self) -> list[Status]:
        """Returns what each rank told last, by rank."""
        return [status for _, status in sorted(self._statuses.copy().items())]

    def send(self, verb: str, args: Mapping[str, Any] | None = None) -> Command:
        """Adds a command, under the next number."""
        with self._lock:
            number = self._commands[-1].number + 1 if self._commands else 1
            command = Command(number=number, verb=verb, args=dict(args or {}))
            command.check()
            self._commands.append(command)
        return command

    def take(self, command: Command) -> None:
        """Adds a command that another mailbox has numbered."""
        with self._lock:
            self._commands.append(command)

    def commands(self, after: int = 0) -> list[Command]:
        """Returns the commands with larger numbers than `after`, in order."""
        return [each for each in self._commands if each.number > after]

    def answer(self, answer: Answer) -> None:
        """Tells what became of a command."""
        self._answers[answer.number] = answer

    def answers(self) -> dict[int, Answer]:
        """Returns what became of the commands that were answered, by number."""
        return self._answers.copy()

    def keep_ranks(self, world_size: int) -> None:
        """Forgets the statuses of ranks that a world of this size does not have."""
        self._statuses = {rank: status for rank, status in self._statuses.items() if rank < world_size}


class FileMailbox:
    """A mailbox of small files: ``ranks/3.json``, ``commands/7.json``, ``answers/7.json``.

    Each is written aside and then renamed, so nobody reads half of one. What cannot be read is passed over.

    Args:
        folder: of the mailbox; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def post(self, status: Status) -> None:
        """Replaces what a rank told of itself."""
        self._write("ranks", status.rank, asdict(status))

    def statuses(self) -> list[Status]:
        """Returns what each rank told last, by rank."""
        found = dict(self._read("ranks", self._numbers("ranks")))
        # While a file is replaced, a listing may be without it.
        size = max((each["world_size"] for each in found.values()), default=0)
        found |= dict(self._read("ranks", (rank for rank in range(size) if rank not in found)))
        return [Status(**found[rank]) for rank in sorted(found)]

    def send(self, verb: str, args: Mapping[str, Any] | None = None) -> Command:
        """Adds a command, under the next number."""
        number = max(self._numbers("commands"), default=0) + 1
        while True:
            command = Command(number=number, verb=verb, args=dict(args or {}))
            command.check()
            if self._write("commands", number, asdict(command), new=True):
                return command
            number += 1  # somebody else was quicker

    def commands(self, after: int = 0) -> list[Command]:
        """Returns the commands with larger numbers than `after`, in order."""
        # All up to the last, for a listing may be without one that is being added; there are no gaps.
        last = max(self._numbers("commands"), default=0)
        found = self._read("commands", range(after + 1, last + 1))
        # Whoever wrote them: `Command.check` tells what is wrong with one.
        return [Command(number=number, verb=each.get("verb", ""), args=each.get("args", {})) for number, each in found]

    def answer(self, answer: Answer) -> None:
        """Tells what became of a command."""
        self._write("answers", answer.number, asdict(answer))

    def answers(self) -> dict[int, Answer]:
        """Returns what became of the commands that were answered, by number."""
        return {number: Answer(**each) for number, each in self._read("answers", self._numbers("answers"))}

    def keep_ranks(self, world_size: int) -> None:
        """Forgets the statuses of ranks that a world of this size does not have."""
        for rank in self._numbers("ranks"):
            if rank >= world_size:
                (self.folder / "ranks" / f"{rank}.json").unlink(missing_ok=True)

    def _write(self, kind: str, number: int, content: dict[str, Any], *, new: bool = False) -> bool:
        path = self.folder / kind / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{number}.{os.getpid()}.{threading.get_ident()}")
        draft.write_text(json.dumps(content))
        if not new:
            draft.replace(path)
            return True
        try:
            os.link(draft, path)  # unlike a rename, it does not replace what is there
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _numbers(self, kind: str) -> list[int]:
        try:
            names = os.listdir(self.folder / kind)
        except OSError:
            return []
        return sorted(int(stem) for name in names if (stem := name.removesuffix(".json")).isdigit())

    def _read(self, kind: str, numbers: Iterable[int]) -> list[tuple[int, dict[str, Any]]]:
        found = []
        for number in numbers:
            with contextlib.suppress(OSError, ValueError):
                content = json.loads((self.folder / kind / f"{number}.json").read_text())
                found.append((number, content if isinstance(content, dict) else {}))
        return found


_provided: Callable[[Path], Mailbox] | None = None


def provide(make: Callable[[Path], Mailbox] | None) -> None:
    """Has `mailbox_of` answer with what `make` returns for a run directory; None for files again."""
    global _provided
    _provided = make


def mailbox_of(run_dir: Path) -> Mailbox:
    """Returns the mailbox that the ranks of a run use."""
    return mailbox_at(run_dir) if _provided is None else _provided(run_dir)


def mailbox_at(run_dir: Path) -> FileMailbox:
    """Returns the mailbox of a run for who watches it: whatever the ranks use, it is in the run directory too."""
    return FileMailbox(run_dir / "control")
