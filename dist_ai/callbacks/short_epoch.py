"""Trains on the beginning of each epoch only, to try a program out."""

from __future__ import annotations

import math
from typing import ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.event import CancelTrain, CancelValidate
from dist_ai.errors import ConfigError, UnknownLengthError

__all__ = ["ShortEpoch"]


class ShortEpoch(Callback):
    """Ends each epoch's training, and its validation, after a share of their batches (fastai's ShortEpochCallback).

    Schedules go on counting whole epochs. For a fit of so many steps, see ``fit(steps=...)``.

    Args:
        pct: share of an epoch's steps that is trained, more than 0; at least one step is.
        short_valid: whether validation is cut too; its metrics are then of its first batches.

    Raises:
        ConfigError: `pct` is no share.
        UnknownLengthError: when a fit begins: only the end of the training data tells how long it is.

    >>> ShortEpoch(0.1)
    ShortEpoch(0.1)
    """

    phase: ClassVar[Phase] = Phase.CHANGE
    cancels_alike: ClassVar[bool] = True

    def __init__(self, pct: float = 0.01, *, short_valid: bool = True) -> None:
        if not 0 < pct <= 1:
            raise ConfigError(f"ShortEpoch(pct={pct}): expected a share of the epoch, more than 0 and at most 1")
        self.pct, self.short_valid = pct, short_valid

    def before_fit(self) -> None:
        """Checks that a share of an epoch means something."""
        if self.state.num_steps is None:
            raise UnknownLengthError(
                "ShortEpoch needs to know how long an epoch is: give the loader num_samples=..., or train by fit(steps=...)"
            )

    def after_batch(self) -> None:
        """Ends the training, or the validation, if enough was seen."""
        state = self.state
        if not state.fitting:
            return
        if state.training:
            if state.last_microbatch and self._is_enough(state.step, state.num_steps):
                raise CancelTrain
        elif self.short_valid and self._is_enough(state.step, state.num_valid_steps):
            raise CancelValidate

    def __repr__(self) -> str:
        return f"ShortEpoch({self.pct})"

    def _is_enough(self, step: int, num_steps: int | None) -> bool:
        return num_steps is not None and math.ceil(self.pct * num_steps) <= step + 1 < num_steps
