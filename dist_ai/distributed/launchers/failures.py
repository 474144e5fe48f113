"""What a worker leaves behind when it fails, and how the first cause is told from its consequences.

When one rank fails, the others soon fail too, because they wait for it: of all reports, the one to show is the
earliest that does not itself complain of a missing peer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sysconfig
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from dist_ai.distributed.launchers.resize import EXIT_RESIZE, Resize
from dist_ai.errors import CollectiveError, DistAIError, RendezvousError, WorkerError

__all__ = [
    "LINES_OF_LOG",
    "Failure",
    "failure_of",
    "first_cause",
    "headline",
    "log_header",
    "read_failures",
    "was_asked_to_leave",
    "worker_error",
    "write_failure",
]

# torch raises these, or a RuntimeError that names gloo's source, when a peer is gone during a gradient exchange.
TORCH_EXCHANGE_ERRORS = {"DistBackendError", "DistNetworkError", "DistStoreError"}
LINES_OF_LOG = 20
LOG_HEADER = "==== dist-ai launch "
# What stands in here is not the user's own code.
LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
OURS = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How one rank ended badly.

    Attributes:
        rank: which one.
        time: when, in seconds since the epoch.
        exit_code: the status it ended with; negative: the signal that ended it.
        kind: the exception's class, or "" if it left none (a signal, `os._exit`, a crash).
        message: the exception's text; without an exception, what is known of the end, or "".
        traceback: the exception's traceback, without the launcher's frames; "" if it left none. Of an error that
            dist_ai raised on purpose it holds the lines of the user's own code alone: the message says the rest.
        ours: True if dist_ai raised it on purpose, so that its message says what is wrong and how to fix it.
        waited_for_peer: True if it complains of a peer that did not answer, and so may be another rank's consequence.
        again: whether it may go well when it is started again; an error says by its kind that it will not.
        workers: on how many workers all ranks are to be started again, where they left for that; otherwise 0.
    """

    rank: int
    time: float
    exit_code: int
    kind: str = ""
    message: str = ""
    traceback: str = ""
    ours: bool = False
    waited_for_peer: bool = False
    again: bool = True
    workers: int = 0


def failure_of(error: BaseException, *, rank: int, script: str) -> Failure:
    """Returns the report on an exception that left a script.

    Args:
        error: the exception, with its traceback.
        rank: the rank that ran the script.
        script: absolute path of the script; the frames above its first one are ours.
    """
    if isinstance(error, Resize):
        return Failure(
            rank=rank, time=time.time(), exit_code=EXIT_RESIZE, kind=type(error).__name__, workers=error.workers
        )
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        message = "" if isinstance(error.code, int) or error.code is None else str(error.code)
        return Failure(rank=rank, time=time.time(), exit_code=code & 0xFF, kind="SystemExit", message=message)
    ours = isinstance(error, DistAIError)
    if ours:
        lines = [*_in_users_code(error, script), *(f"{note}\n" for note in getattr(error, "__notes__", ()))]
    else:
        lines = traceback.format_exception(type(error), error, _from_script(error.__traceback__, script))
    return Failure(
        rank=rank,
        time=time.time(),
        exit_code=128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1,
        kind=type(error).__name__,
        message=str(error),
        traceback="".join(lines).rstrip(),
        ours=ours,
        waited_for_peer=_waited_for_peer(error),
    )


def write_failure(failure: Failure, folder: Path) -> None:
    """Leaves the report in `folder`, whole or not at all."""
    path = folder / f"rank{failure.rank}.json"
    draft = path.with_suffix(".draft")
    # The folder is gone if the launcher is: then there is nobody left to tell.
    with contextlib.suppress(OSError):
        draft.write_text(json.dumps(asdict(failure)))
        os.replace(draft, path)


def read_failures(folder: Path) -> list[Failure]:
    """Returns the reports that ranks have left in `folder`."""
    return [Failure(**json.loads(path.read_text())) for path in sorted(folder.glob("rank*.json"))]


def first_cause(failures: Iterable[Failure]) -> Failure:
    """Returns the failure to show: the earliest that is not the consequence of another.

    Where one left for the group to become larger or smaller, its checkpoint is complete: what ended others after that is
    no failure. Ranks that fail alike (a mistake in the script fails on all of them) are shown as the lowest of them.

    >>> timeout = Failure(rank=0, time=1.0, exit_code=1, kind="CollectiveError", waited_for_peer=True)
    >>> mistake = Failure(rank=1, time=2.0, exit_code=1, kind="ValueError", message="no")
    >>> first_cause([timeout, mistake]).rank
    1
    """
    ordered = sorted(failures, key=lambda failure: (not failure.workers, failure.waited_for_peer, failure.time))
    first = ordered[0]
    alike = [
        failure
        for failure in ordered
        if (failure.kind, failure.message, failure.exit_code) == (first.kind, first.message, first.exit_code)
        and failure.waited_for_peer == first.waited_for_peer
    ]
    return min(alike, key=lambda failure: failure.rank)


def worker_error(cause: Failure, *, world_size: int, log: Path | None = None, note: str = "") -> WorkerError:
    """Returns the one error that tells of a failed run: what failed first, where, and in which file its output is.

    Args:
        cause: what `first_cause` found.
        world_size: number of ranks.
        log: the file with that rank's output; None if it went to the terminal.
        note: what the launcher has to add to the first line.
    """
    parts = [headline(cause, world_size) + (f"; {note}" if note else "")]
    if cause.traceback:
        parts.append(cause.traceback)
    if log is not None and log.exists():
        tail = "" if cause.traceback or cause.ours else _last_lines(log)
        parts.append(f"Output of rank {cause.rank}: {log}" + (f"\n{tail}" if tail else ""))
    return WorkerError("\n\n".join(parts), rank=cause.rank, exit_code=cause.exit_code, worker_traceback=cause.traceback)


def log_header(text: str) -> str:
    """Returns the line that begins one launch's part of a log, to which every launch in a run directory adds."""
    return f"{LOG_HEADER}{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"


def was_asked_to_leave(failure: Failure) -> bool:
    """Returns whether a rank ended in good order because it was told to: by a command, SIGTERM, SIGHUP or Ctrl-C."""
    return failure.exit_code in _ASKED and failure.kind in ("SystemExit", "KeyboardInterrupt")


_ASKED = frozenset(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def headline(failure: Failure, world_size: int) -> str:
    """Returns in a line which rank failed and how."""
    who = f"rank {failure.rank} of {world_size}"
    if failure.exit_code < 0:
        name = signal.Signals(-failure.exit_code).name if -failure.exit_code in set(signal.Signals) else ""
        hints = {
            "SIGKILL": " (out of memory?)",
            "SIGSEGV": " (a crash in native code)",
            "SIGABRT": " (a crash in native code)",
            "SIGBUS": " (a crash in native code, or /dev/shm is full)",
        }
        return f"{who} was killed by {name or f'signal {-failure.exit_code}'}{hints.get(name, '')}"
    # The rest of a message of several lines stands in its traceback; of an error of ours there is none.
    told = failure.message if failure.ours else failure.message.split("\n", 1)[0]
    if failure.kind == "" and failure.message:
        return f"{who} {failure.message}"
    if failure.kind == "SystemExit" and was_asked_to_leave(failure):
        return f"{who} ended because it was told to, with code {failure.exit_code}"
    if failure.kind in ("", "SystemExit"):
        return f"{who} exited with code {failure.exit_code}" + (f": {told}" if told else "")
    return f"{who} raised {failure.kind}" + (f": {told}" if told else "")


def _from_script(frames: TracebackType | None, script: str) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename != script:
        frames = frames.tb_next
    if Path(script).is_relative_to(OURS):  # it calls a function of the user's
        while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename == script:
            frames = frames.tb_next
    return frames


def _in_users_code(error: BaseException | None, script: str) -> list[str]:
    """Returns the lines of the user's own code that an error came through, outermost first, as a traceback has them.

    Those of its causes lie further in: a transform of the user's that one of our loaders called, say.
    """
    frames: list[traceback.FrameSummary] = []
    while error is not None:
        frames += [each for each in traceback.extract_tb(error.__traceback__) if _is_users(each.filename, script)]
        error = error.__cause__
    return ["In your code (most recent call last):\n", *traceback.format_list(frames)] if frames else []


def _is_users(file: str, script: str) -> bool:
    if file.startswith("<") or Path(file).is_relative_to(OURS):
        return False
    return file == script or not any(Path(file).is_relative_to(folder) for folder in LIBRARIES)


def _waited_for_peer(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (CollectiveError, RendezvousError)) or type(error).__name__ in TORCH_EXCHANGE_ERRORS:
            return True
        if isinstance(error, RuntimeError) and "gloo/transport" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _last_lines(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        text = file.read().decode(errors="replace")
    _, header, this_launch = text.rpartition(LOG_HEADER)
    lines = this_launch.splitlines()[1 if header else 0 :]
    return "\n".join(lines[-LINES_OF_LOG:])
