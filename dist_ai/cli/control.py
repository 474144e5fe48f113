"""`dist-ai control`: tells a run under way what to do."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Annotated

import typer

from dist_ai.distributed.mailbox import VERBS, Answer, FileMailbox, Status, command_line, mailbox_at
from dist_ai.errors import ConfigError, WorldError, did_you_mean

__all__ = ["control", "mailbox_of_run"]

# A rank posts twice a second.
SILENT_S = 20.0


def control(
    run: Annotated[str, typer.Argument(help="The run directory.", metavar="RUN")],
    words: Annotated[
        list[str],
        typer.Argument(help=" | ".join(f"{verb}: {what}" for verb, what in VERBS.items()), metavar="COMMAND"),
    ],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 60.0,
) -> None:
    """Tells the run in RUN what to do, and waits until all its ranks have done it.

    dist-ai control runs/train set lr=1e-4
    """
    mailbox = mailbox_of_run(run)
    verb, args = command_line(words)
    require_alive(run, mailbox.statuses())
    command = mailbox.send(verb, args)
    answer = _wait(mailbox, command.number, timeout, run)
    if not answer.ok:
        raise ConfigError(f"command {command.number} ({command}) was not done: {answer.text}")
    when = f", before step {answer.step} of fit {answer.fit}" if answer.fit else ""
    print(f"command {command.number}: {answer.text}{when}")


def mailbox_of_run(run: str) -> FileMailbox:
    """Returns the mailbox of a run.

    Raises:
        ConfigError: there is no such run.
    """
    folder = Path(run)
    mailbox = mailbox_at(folder)
    if mailbox.folder.is_dir():
        return mailbox
    if any((folder / name).exists() for name in ("log.jsonl", "checkpoints", "logs")):  # a launcher begins with logs/
        raise ConfigError(f"no fit has begun in {run} that could be watched: there is no {mailbox.folder}")
    raise ConfigError(f"{run} is no run directory{runs_near(run)}")


def runs_near(run: str) -> str:
    """Returns which runs may be meant by what is none: the one it is in, those in it, or one beside it of a name like it.

    >>> runs_near("/nowhere/at/all")
    ''
    """
    folder = Path(run)
    whole = [part.parent for part in (folder, folder.parent) if part.name in _OF_A_RUN and folder.exists()]
    if whole:
        return f"; it is a part of a run: did you mean {str(whole[0])!r}?"
    inside = sorted(str(each) for each in folder.glob("*") if any((each / name).is_dir() for name in _OF_A_RUN))
    if inside:
        return f"; there are runs in it: {', '.join(inside[:_SHOWN])}{', ...' if len(inside) > _SHOWN else ''}"
    beside = folder.parent.glob("*") if folder.parent.is_dir() else ()
    return did_you_mean(run, [str(each) for each in beside if each.is_dir() and each != folder])


_OF_A_RUN = ("checkpoints", "logs", "control")
_SHOWN = 5


def require_alive(run: str, statuses: list[Status]) -> None:
    """Checks that the run's ranks tell of themselves.

    Raises:
        WorldError: they do not.
    """
    if not statuses:
        raise WorldError(f"the run in {run} has not told of itself yet")
    freshest = min(statuses, key=lambda status: status.age_s)
    if all(map(is_over, statuses)) and freshest.stage != "outside":
        raise WorldError(
            f"the run in {run} is not alive: the processes of its ranks are gone. Started again, it goes on from its last "
            "checkpoint"
        )
    if freshest.stage == "outside" and is_over(freshest):
        raise WorldError(
            f"the run in {run} has ended; it last told of itself {freshest.age_s:.0f} s ago. If it is being started again, "
            "repeat the command when `dist-ai watch` shows its next step"
        )
    if freshest.stage != "outside" and freshest.age_s > SILENT_S:
        raise WorldError(
            f"the run in {run} is not alive: it last told of itself {freshest.age_s:.0f} s ago, in fit {freshest.fit}, step "
            f"{freshest.step}. Started again, it goes on from its last checkpoint"
        )


def is_over(status: Status) -> bool:
    """Returns whether a rank that is in no fit will not begin another: its process is gone, or silent on another machine."""
    if status.host != socket.gethostname():
        return status.age_s > SILENT_S
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _wait(mailbox: FileMailbox, number: int, timeout: float, run: str) -> Answer:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (answer := mailbox.answers().get(number)) is not None:
            return answer
        time.sleep(0.05)
    ranks = ", ".join(f"rank {each.rank}: {each.stage} of step {each.step}" for each in mailbox.statuses()[:4])
    raise WorldError(
        f"command {number} was not answered within {timeout:g} s ({ranks}); it stays in the mailbox, and the run does it when "
        f"it comes to its next step. `dist-ai watch {run}` shows whether it gets there"
    )
