"""Decisions that all ranks take together, at the same step.

A callback on any rank votes; at an exchange, before the optimizer step, the votes of all ranks are reduced to their
maximum, so every rank reads the same result at the same step. In a world of one the result is the vote itself.
"""

from __future__ import annotations

from enum import IntEnum

import torch

from dist_ai.distributed.collectives import Collectives

__all__ = ["Decision", "Decisions"]


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


class Decisions:
    """Collects this rank's votes and exchanges them, one small all_reduce a step."""

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives
        self._alone = collectives.world.world_size == 1
        self._control = Decision.NOTHING
        self._save = False

    @property
    def pending(self) -> bool:
        """Whether this rank has voted to cancel something since the last exchange."""
        return self._control != Decision.NOTHING

    def vote(self, decision: Decision) -> None:
        """Asks all ranks to follow `decision` at the next exchange."""
        self._control = max(self._control, decision)

    def clear(self) -> None:
        """Forgets this rank's votes: those of a fit that an error ended are not the next one's."""
        self._control, self._save = Decision.NOTHING, False

    def vote_save(self) -> None:
        """Asks for a checkpoint at the end of this step."""
        self._save = True

    def exchange(self) -> tuple[Decision, bool]:
        """Returns what all ranks decided (control flow, whether to save) and clears the votes. Collective."""
        control, save = self._control, self._save
        if not self._alone:
            word = torch.tensor([control, save], dtype=torch.int64)
            word = self._collectives.all_reduce(word, "max", what="shared decision")
            control, save = Decision(int(word[0])), bool(word[1])
        self.clear()
        return control, save
