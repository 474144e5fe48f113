"""Gradient accumulation: a step that takes several batches."""

from __future__ import annotations

from typing import ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError

__all__ = ["GradientAccumulation"]


class GradientAccumulation(Callback):
    """Lets a step take several batches: as many samples at once as a batch has, and the numbers of one large batch.

    The gradient is that of the mean loss over all samples of the step, however they are dealt to batches and ranks; the
    last step of an epoch takes what is left. Ranks exchange gradients once a step. Steps, schedules, losses and checkpoints
    count steps and not batches. What a layer computes over a batch, as BatchNorm does, it computes over each batch alone.

    Args:
        n_acc: samples in a step: batches are gathered until there are at least so many.
        batches: batches in a step; give this or `n_acc`.

    Raises:
        ConfigError: neither or both are given, or not 1 or more.

    >>> GradientAccumulation(batches=4).batches_of(bs=16)
    4
    >>> GradientAccumulation(100).batches_of(bs=16)
    7
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def __init__(self, n_acc: int | None = None, *, batches: int | None = None) -> None:
        if (n_acc is None) == (batches is None):
            raise ConfigError(
                f"GradientAccumulation(n_acc={n_acc}, batches={batches}): give n_acc (samples a step) or batches (batches a step)"
            )
        for name, number in (("n_acc", n_acc), ("batches", batches)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ConfigError(f"GradientAccumulation({name}={number!r}): expected a whole number, 1 or more")
        self.n_acc, self.batches = n_acc, batches

    def batches_of(self, bs: int) -> int:
        """Returns the batches in a step, of `bs` samples each over all ranks."""
        return -(-self.n_acc // bs) if self.n_acc is not None else self.batches or 1

    def __repr__(self) -> str:
        given = f"{self.n_acc}" if self.n_acc is not None else f"batches={self.batches}"
        return f"GradientAccumulation({given})"
