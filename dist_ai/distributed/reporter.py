"""A thread beside the training: tells how a rank is doing, listens for commands, and notices when it hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dist_ai.distributed.mailbox import Answer, Command, Mailbox, Status
from dist_ai.distributed.pulse import EXIT_HUNG, Pulse

__all__ = ["Reporter", "write_stacks"]


class Reporter:
    """Posts a rank's status every so often, and knows the newest command. The training itself never waits for it.

    Args:
        mailbox: where to.
        describe: returns the status.
        pulse: the rank's progress.
        is_main: whether this rank listens for the commands that all ranks agree on.
        stacks: the file that takes the rank's stacks.
        hang_s: seconds without progress after which this process is ended; None where a launcher sees to that.
        every_s: seconds between posts.

    Attributes:
        newest: the number of the newest command that ranks are to agree on; 0 if there is none.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        describe: Callable[[], Status],
        pulse: Pulse,
        *,
        is_main: bool,
        stacks: Path,
        hang_s: float | None = None,
        every_s: float = 0.5,
    ) -> None:
        self.newest = 0
        self._mailbox, self._describe, self._pulse, self._is_main = mailbox, describe, pulse, is_main
        self._stacks, self._hang_s, self._every_s = stacks, hang_s, every_s
        self._seen = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        """Begins."""
        with contextlib.suppress(OSError):
            self._seen = max((command.number for command in self._mailbox.commands()), default=0)
            self.newest = max((c.number for c in self._mailbox.commands() if c.verb != "stacks"), default=0)
            self._mailbox.post(self._describe())
        self._thread.start()

    def stop(self) -> None:
        """Posts a last status, and ends."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._mailbox.post(self._describe())

    def _run(self) -> None:
        posted = time.monotonic()
        while not self._ended.wait(min(_LISTEN_S, self._every_s)):
            # A full disk, or a file system that is away for a while, must not end the training.
            with contextlib.suppress(OSError):
                for command in self._mailbox.commands(after=self._seen):
                    self._hear(command)
                if time.monotonic() - posted >= self._every_s:
                    posted = time.monotonic()
                    self._mailbox.post(self._describe())
            if self._hang_s is not None and self._pulse.read().quiet_s > self._hang_s:
                self._give_up()

    def _hear(self, command: Command) -> None:
        self._seen = command.number
        if command.verb != "stacks":
            self.newest = command.number
            return
        write_stacks(self._stacks, f"command {command.number}")
        if self._is_main:
            place = self._stacks.with_name(self._stacks.name.replace("rank0", "rank*"))
            self._mailbox.answer(Answer(number=command.number, ok=True, text=f"the stacks are in {place}"))

    def _give_up(self) -> None:
        beat = self._pulse.read()
        why = f"no progress for {beat.quiet_s:.0f} s at {beat}; its stack is in {self._stacks}"
        write_stacks(self._stacks, why)
        print(f"dist-ai: this rank made {why}", file=sys.stderr, flush=True)
        time.sleep(_OTHERS_TOO_S)  # the first to end would have the others fail before they write theirs
        os._exit(EXIT_HUNG)


def write_stacks(file: Path, why: str) -> None:
    """Adds to `file` where every thread of this process is in its code."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(f"==== {time.strftime('%Y-%m-%d %H:%M:%S')} {why}\n")
            out.flush()
            faulthandler.dump_traceback(out, all_threads=True)


_LISTEN_S = 0.2
_OTHERS_TOO_S = 2.0
