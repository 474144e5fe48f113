"""Saves the fit's state now and then, and before it leaves, so that a stop at any moment loses little or nothing."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.distributed.launchers.resize import Resize
from dist_ai.distributed.launchers.signals import Interruption, noting_signals
from dist_ai.errors import ConfigError

__all__ = ["BY_COMMAND", "TO_RESIZE", "Checkpointer"]

BY_COMMAND = 1000
"""What stands in `state.leave` for the command to stop, instead of a signal's number."""

TO_RESIZE = 1001
"""What stands there for the command to go on with `state.workers` workers."""


class Checkpointer(Callback):
    """Begins to write a checkpoint to the run directory every so often; the end of a fit is always written.

    Asked to leave (Ctrl-C, SIGTERM, SIGHUP, to any rank), all ranks finish the step, write a checkpoint and then end as the
    signal asks: with a `KeyboardInterrupt`, or a `SystemExit` of 128 and the signal's number. A second signal is obeyed at
    once, without a checkpoint. Signals are heard in the main thread only.

    Args:
        every_s: seconds between checkpoints, by rank 0's clock, while none is being written; None for none by the clock.
            The first comes after 5 seconds already.
        every_steps: training steps between checkpoints; None for none by count.
        every_epoch: also after the validation of each epoch.
    """

    phase: ClassVar[Phase] = Phase.SAVE
    may_cancel: ClassVar[bool] = False

    def __init__(
        self, *, every_s: float | None = 30.0, every_steps: int | None = None, every_epoch: bool = False
    ) -> None:
        if every_steps is not None and every_steps < 1:
            raise ConfigError(f"every_steps={every_steps}: expected 1 or more")
        self.every_s = every_s
        self.every_steps = every_steps
        self.every_epoch = every_epoch
        self._taken = contextlib.ExitStack()
        self._interruption: Interruption | None = None

    def before_fit(self) -> None:
        """Starts the clock, and takes the signals."""
        self._due = None if self.every_s is None else time.monotonic() + min(self.every_s, _FIRST_S)
        self._taken = contextlib.ExitStack()
        self._interruption = self._taken.enter_context(noting_signals(obey_again=True))

    def after_loss(self) -> None:
        """Asks all ranks to leave, if a signal came."""
        self.vote_if_asked()

    def vote_if_asked(self) -> None:
        """Asks all ranks to leave at their next exchange, if a signal came."""
        if self._interruption is not None and (number := self._interruption.signal) and not self.state.leave:
            self.learn.decisions.vote_leave(number)

    def before_step(self) -> None:
        """Asks for a checkpoint at the end of this step, if it is time by the clock."""
        # Clocks differ between ranks: rank 0's counts, and its vote makes all save at the same step. While a slow
        # storage still takes the last checkpoint, the training does not wait for it.
        if (
            self._due is not None
            and time.monotonic() >= self._due
            and self.learn.collectives.world.is_main
            and not self.learn.saving
        ):
            self.learn.decisions.vote_save()

    def after_batch(self) -> None:
        """Saves, if the ranks agreed to or it is time by count; and leaves, if they agreed to."""
        if self.state.leave and self.state.fitting and self.state.last_microbatch:
            self._leave(self.state.leave)
        # Counted here and not before the step, which a rank that cancelled its batch does not come to.
        by_count = self.every_steps is not None and (self.state.train_step + 1) % self.every_steps == 0
        if self.state.training and self.state.last_microbatch and (self.state.save or by_count):
            self._save(epoch_ended=False)

    def after_epoch(self) -> None:
        """Saves, if it is to; the end of the fit's last epoch is the end of the fit."""
        state = self.state
        is_last = state.n_epoch is not None and state.epoch + 1 >= state.n_epoch
        if self.every_epoch and not is_last and not state.mid_epoch:
            self._save(epoch_ended=True)

    def after_fit(self) -> None:
        """Waits for the last checkpoint, which a program that ends now would leave half-written; gives the signals back.

        One that came too late for a last checkpoint is obeyed now.
        """
        interruption, self._interruption = self._interruption, None
        try:
            self.learn.wait_for_checkpoint()
        finally:
            self._taken.close()
        if interruption is not None and interruption.signal and self.state.exception is None:
            signal.raise_signal(interruption.signal)

    def _save(self, *, epoch_ended: bool) -> None:
        self.learn.save_checkpoint(epoch_ended=epoch_ended)
        self.state.save = False
        self._due = None if self.every_s is None else time.monotonic() + self.every_s

    def _leave(self, number: int) -> None:
        self.learn.save_checkpoint()
        self.learn.wait_for_checkpoint()
        if number == TO_RESIZE:
            raise Resize(self.state.workers)
        why = "the command to stop" if number == BY_COMMAND else signal.Signals(number).name
        if self.learn.collectives.world.is_main:
            print(f"{self.learn.run_dir}: {why} came; a checkpoint is written, to go on from", flush=True)
        raise (
            KeyboardInterrupt
            if number == signal.SIGINT
            else SystemExit(128 + (signal.SIGTERM if number == BY_COMMAND else number))
        )


_FIRST_S = 5.0  # somebody tries out a program, and stops it
