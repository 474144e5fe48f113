"""When ranks exchange decisions that none of them is known to have made, and how a fit's time goes by."""

from __future__ import annotations

import time

__all__ = ["Rhythm"]


class Rhythm:
    """When the ranks exchange decisions although none of them may cancel, and how the fit's time goes by.

    Args:
        time: seconds that the fit may take; None for any.
        progress: how much of them is used up.
        keeps_time: whether this rank's clock counts.
    """

    def __init__(self, time: float | None = None, progress: float = 0.0, *, keeps_time: bool = True) -> None:
        self._seconds = time if keeps_time else None
        self._spent = progress * (time or 0.0)
        self._began = self._last = _now()
        self._batches = 0
        self._countdown = 1

    def due(self) -> bool:
        """Counts a batch; returns whether it ends with an exchange, which is so on all ranks alike."""
        self._batches += 1
        self._countdown -= 1
        return self._countdown <= 0

    def pace_us(self) -> int:
        """Returns microseconds a batch since the last exchange."""
        now, since = _now(), self._last
        self._last, batches, self._batches = now, self._batches, 0
        return int((now - since) * 1e6 / max(1, batches))

    def follow(self, pace_us: int) -> None:
        """Takes over the slowest rank's pace."""
        # An exchange costs two processes a quarter of a millisecond on a busy CPU, more than a tiny model's step, so
        # there is none in most steps; but a vote to save before a machine is taken away must not wait for long.
        self._countdown = max(1, min(_EXCHANGE_EVERY, _EXCHANGE_WITHIN_US // max(1, pace_us)))

    def progress(self) -> int:
        """Returns how much of the time is used up, in millionths."""
        if self._seconds is None:
            return 0
        used = self._spent + _now() - self._began
        return min(1_000_000, int(1e6 * used / self._seconds)) if self._seconds else 1_000_000


_EXCHANGE_EVERY = 16
_EXCHANGE_WITHIN_US = 500_000
_now = time.perf_counter
