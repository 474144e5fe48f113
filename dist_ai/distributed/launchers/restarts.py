"""Whether a run whose rank failed is started again, and on how many workers: plain rules, no processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dist_ai.distributed.launchers.failures import Failure, headline, was_asked_to_leave
from dist_ai.distributed.mailbox import Status
from dist_ai.distributed.pulse import Beat, Stage

__all__ = ["Restarts", "Verdict", "furthest"]

# How often the same end at the same step is believed to be chance: an exception is not, a kill may be.
ERRORS_ALIKE, DEATHS_ALIKE = 2, 3
# So many losses of a worker in a row, and the run goes on with one fewer, if it may.
LOSSES_TO_SHRINK = 2
_AGAIN = "the same command goes on from its last checkpoint; max_restarts (--max-restarts) has that happen by itself"
# A setting that cannot work does not work the second time either.
NEVER_AGAIN = ("ConfigError", "MissingDependencyError", "SyntaxError", "ModuleNotFoundError")


@dataclass(frozen=True)
class Verdict:
    """What follows from a failure.

    Attributes:
        workers: on how many workers to start again; 0: not at all.
        why: in a few words, why not, or what is different now; "" if there is nothing to say.
    """

    workers: int
    why: str = ""


@dataclass
class Restarts:
    """Counts the restarts of one run.

    Args:
        limit: how many there may be.
        workers: how many workers the run has at present.
        min_workers: and at least.

    Attributes:
        used: how many there have been. One that was asked for, to go on with more or fewer workers, does not count.
    """

    limit: int
    workers: int
    min_workers: int
    used: int = 0
    _alike: int = field(default=0, init=False)
    _last: object = field(default=None, init=False)
    _losses: int = field(default=0, init=False)

    def after(self, cause: Failure, place: Beat) -> Verdict:
        """Decides after a failure; counts the restart, if there is to be one.

        Args:
            cause: the first cause.
            place: where the run had come to.

        >>> restarts = Restarts(limit=3, workers=2, min_workers=2)
        >>> error = Failure(rank=0, time=0.0, exit_code=1, kind="ValueError", message="no")
        >>> [restarts.after(error, Beat(1, 0, 7)).workers for _ in range(2)]
        [2, 0]
        """
        if cause.workers:
            self.workers, self._last, self._losses = cause.workers, None, 0
            return Verdict(cause.workers)
        if was_asked_to_leave(cause):
            return Verdict(0)
        if cause.kind in NEVER_AGAIN or not cause.again:
            return Verdict(0, "starting it again would not help" if self.limit else "")
        died = not cause.kind
        this = (cause.kind, cause.message, cause.exit_code, place.fit, place.step)
        self._alike = self._alike + 1 if this == self._last else 1
        self._losses = self._losses + 1 if died else 0
        self._last = this
        if self.used >= self.limit:
            why = (
                f"that was restart {self.used} of {self.limit}" if self.limit else _AGAIN if died and place.fit else ""
            )
            return Verdict(0, why)
        note = ""
        if died and self._losses >= LOSSES_TO_SHRINK and self.workers > self.min_workers:
            self.workers, self._losses, self._alike = self.workers - 1, 0, 0
            note = f"it goes on with {self.workers} worker{'s' * (self.workers > 1)}, after losing one {LOSSES_TO_SHRINK} times"
        elif self._alike >= (DEATHS_ALIKE if died else ERRORS_ALIKE):
            return Verdict(
                0, f"it ended {self._alike} times in the same way at the same place, so it is not started again"
            )
        self.used += 1
        return Verdict(self.workers, note)

    def told(self, cause: Failure, place: Beat, verdict: Verdict, *, world_size: int) -> str:
        """Returns the sentence that tells a person why a run is started again.

        Args:
            cause, place, verdict: what `after` was given, and what it returned.
            world_size: how many workers there were.
        """
        if cause.workers:
            return f"it goes on with {cause.workers} worker{'s' * (cause.workers > 1)} instead of {world_size}, as was asked"
        note = f"; {verdict.why}" if verdict.why else ""
        return f"{headline(cause, world_size)}, {place}; restart {self.used} of {self.limit}{note}"


def furthest(statuses: Iterable[Status]) -> Beat:
    """Returns where the rank that has come furthest is, by what the ranks told of themselves.

    >>> furthest([Status(rank=rank, world_size=2, fit=1, step=step, stage="data") for rank, step in enumerate((7, 8))]).step
    8
    """
    first = max(statuses, key=lambda each: (each.fit, each.epoch, each.step), default=None)
    return Beat() if first is None else Beat(first.fit, first.epoch, first.step, Stage[first.stage.upper()])
