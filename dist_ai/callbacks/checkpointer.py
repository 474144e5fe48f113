"""Saves the fit's state now and then, so that a stop at any moment loses little."""

from __future__ import annotations

import time
from typing import ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError

__all__ = ["Checkpointer"]


class Checkpointer(Callback):
    """Writes a checkpoint to the run directory every so often; the end of a fit is always written.

    Args:
        every_s: seconds between checkpoints, by rank 0's clock; None for none by the clock.
        every_steps: training steps between checkpoints; None for none by count.
    """

    phase: ClassVar[Phase] = Phase.SAVE
    may_cancel: ClassVar[bool] = False

    def __init__(self, *, every_s: float | None = 30.0, every_steps: int | None = None) -> None:
        if every_steps is not None and every_steps < 1:
            raise ConfigError(f"every_steps={every_steps}: expected 1 or more")
        self.every_s = every_s
        self.every_steps = every_steps

    def before_fit(self) -> None:
        """Starts the clock."""
        self._last = time.monotonic()

    def before_step(self) -> None:
        """Asks for a checkpoint at the end of this step, if it is time by the clock."""
        due = self.every_s is not None and time.monotonic() - self._last >= self.every_s
        # Clocks differ between ranks: rank 0's counts, and its vote makes all save at the same step.
        if due and self.learn.collectives.world.is_main:
            self.learn.decisions.vote_save()

    def after_batch(self) -> None:
        """Saves, if the ranks agreed to or it is time by count."""
        # Counted here and not before the step, which a rank that cancelled its batch does not come to.
        by_count = self.every_steps is not None and (self.state.train_step + 1) % self.every_steps == 0
        if self.state.training and self.state.last_microbatch and (self.state.save or by_count):
            self.learn.save_checkpoint()
            self.state.save = False
            self._last = time.monotonic()
