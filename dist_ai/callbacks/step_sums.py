"""Sums over ranks of what callbacks measure in some steps, read in one exchange."""

from __future__ import annotations

import torch

from dist_ai.distributed.collectives import Collectives

__all__ = ["StepSums"]


class StepSums:
    """Keeps a tensor a step on the device, and adds them up over the ranks when they are read.

    Every rank calls `end_step` for the same steps; of a step that was cancelled none keeps anything.
    """

    def __init__(self) -> None:
        self._now: torch.Tensor | None = None
        self._steps: list[int] = []
        self._waiting: list[torch.Tensor] = []

    def add(self, values: torch.Tensor) -> None:
        """Adds to the step under way."""
        self._now = values if self._now is None else self._now + values

    def end_step(self, step: int, *, keep: bool) -> None:
        """Ends the step under way, and keeps what was added or forgets it."""
        now, self._now = self._now, None
        if keep and now is not None:
            self._steps.append(step)
            self._waiting.append(now)

    def read(self, collectives: Collectives, what: str) -> list[tuple[int, torch.Tensor]]:
        """Returns (step, sums over the ranks), on the CPU, of the steps since the last time. Collective if there are any."""
        steps, waiting, self._steps, self._waiting = self._steps, self._waiting, [], []
        if not steps:
            return []
        sums = collectives.all_reduce(torch.stack(waiting), what=what)
        return list(zip(steps, sums, strict=True))

    def forget(self) -> None:
        """Drops everything."""
        self._now, self._steps, self._waiting = None, [], []
