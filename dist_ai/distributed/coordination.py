"""Decisions that all ranks take together, at the same step.

A callback on any rank votes; at an exchange, before the optimizer step, the votes of all ranks are reduced to their
maximum, so every rank reads the same result at the same step. In a world of one the result is the vote itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import torch

from dist_ai.distributed.collectives import Collectives

__all__ = ["Decision", "Decisions", "Word"]


class Decision(IntEnum):
    """What ranks can decide together. Where ranks vote differently, the stronger one (the larger number) holds."""

    NOTHING = 0
    CANCEL_BACKWARD = 1
    CANCEL_STEP = 2
    CANCEL_BATCH = 3
    CANCEL_TRAIN = 4
    CANCEL_VALIDATE = 5
    CANCEL_EPOCH = 6
    CANCEL_FIT = 7


class Word(NamedTuple):
    """What the ranks tell each other at an exchange; where they differ, the largest number holds.

    Attributes:
        control: what to cancel.
        save: whether to write a checkpoint at the end of this step.
        leave: the signal for which to leave at the end of this step; 0 for none.
        pace_us: microseconds that a batch takes.
        progress: how much of the fit's time is used up, in millionths, by rank 0's clock.
        command: the number of the newest command from outside; 0 for none.
        memory: 1 if a rank ran out of memory.
    """

    control: Decision = Decision.NOTHING
    save: int = 0
    leave: int = 0
    pace_us: int = 0
    progress: int = 0
    command: int = 0
    memory: int = 0


class Decisions:
    """Collects this rank's votes and exchanges them, one small all_reduce a step."""

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives
        self._alone = collectives.world.world_size == 1
        self._control = Decision.NOTHING
        self._save = False
        self._leave = 0
        self._command = 0
        self._memory = 0

    @property
    def pending(self) -> bool:
        """Whether this rank has voted to cancel something since the last exchange."""
        return self._control != Decision.NOTHING

    @property
    def voted(self) -> Decision:
        """What this rank has voted for since the last exchange."""
        return self._control

    def vote(self, decision: Decision) -> None:
        """Asks all ranks to follow `decision` at the next exchange."""
        self._control = max(self._control, decision)

    def clear(self) -> None:
        """Forgets this rank's votes: those of a fit that an error ended are not the next one's."""
        self._control, self._save, self._leave, self._command, self._memory = Decision.NOTHING, False, 0, 0, 0

    def take(self) -> Decision:
        """Returns and clears what this rank has voted to cancel, where every rank has voted for the same."""
        control, self._control = self._control, Decision.NOTHING
        return control

    def vote_save(self) -> None:
        """Asks for a checkpoint at the end of this step."""
        self._save = True

    def vote_leave(self, signal: int) -> None:
        """Asks all ranks to leave at the end of this step, because signal number `signal` came."""
        self._leave = max(self._leave, signal)

    def vote_command(self, number: int) -> None:
        """Tells all ranks that there are commands up to this number."""
        self._command = max(self._command, number)

    def vote_memory(self) -> None:
        """Tells all ranks that this one ran out of memory, and so cannot finish the batch."""
        self.vote(Decision.CANCEL_BATCH)
        self._memory = 1

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Keeps this rank's votes for after the block."""
        votes = self._control, self._save, self._leave, self._command, self._memory
        self.clear()
        try:
            yield
        finally:
            self._control, self._save, self._leave, self._command, self._memory = votes

    def exchange(self, *, pace_us: int = 0, progress: int = 0) -> Word:
        """Returns what all ranks decided and clears the votes. Collective.

        Args:
            pace_us, progress: see `Word`.
        """
        if self._alone and not (self._control or self._save or self._leave or self._command or progress):
            return _NOTHING
        word = Word(self._control, self._save, self._leave, pace_us, progress, self._command, self._memory)
        if not self._alone:
            mine = torch.tensor(word, dtype=torch.int64)
            control, *rest = self._collectives.all_reduce(mine, "max", what="shared decision").tolist()
            word = Word(Decision(control), *rest)
        self.clear()
        return word


_NOTHING = Word()
