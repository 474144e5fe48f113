"""Ctrl-C and polite requests to end, noted while processes are looked after, and obeyed when those are stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "noting_signals"]

ONE_REQUEST_S = 2.0


class Interruption:
    """Which signal asked this process to end, if one did.

    Args:
        obey_again: obey a second signal at once, wherever this process is.

    Attributes:
        signal: the first one that arrived, or None.
        again: True once a second one arrived: whoever sent it does not want to wait. SIGTERM and SIGHUP within two seconds
            of the first are the same request, come twice: `timeout`, systemd and Slurm send them to all processes of a
            launch, and the launcher passes its own on.
    """

    def __init__(self, *, obey_again: bool = False) -> None:
        self.signal: signal.Signals | None = None
        self.again = False
        self._first = 0.0
        self._obey_again = obey_again

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Remembers that signal `number` arrived."""
        if self.signal is None:
            self.signal, self._first = signal.Signals(number), time.monotonic()
        elif number == signal.SIGINT or time.monotonic() - self._first > ONE_REQUEST_S:
            self.again = True
            if self._obey_again:
                self.obey()

    def listen(self) -> None:
        """Takes the signals; again, where a library has taken them since."""
        if not _hears_signals():
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, self.note)

    def obey(self) -> None:
        """Ends what this process was doing, as the signal asked; does nothing if none arrived.

        Raises:
            KeyboardInterrupt: it was SIGINT.
            SystemExit: it was another; the code is 128 + its number, as a shell would report it.
        """
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextmanager
def noting_signals(*, obey_again: bool = False) -> Iterator[Interruption]:
    """Notes SIGINT, SIGTERM and SIGHUP inside the block instead of obeying them. Signals that are ignored stay so.

    With `obey_again` a second one is obeyed at once.

    Python tells signals to the main thread alone: in any other, nothing is noted.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interruption = Interruption(obey_again=obey_again)
    interruption.listen()
    try:
        yield interruption
    finally:
        if _hears_signals():
            for number, handler in before.items():
                if handler is not None:  # None: not set from Python, so not ours to restore
                    signal.signal(number, handler)


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
