"""Keeps the batches and what the model made of them, and predictions during a fit."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.core.nested import map_tensors
from dist_ai.errors import ConfigError

__all__ = ["CollectData", "Collected", "FetchPreds"]


class Collected(NamedTuple):
    """One batch as this rank saw it, on the CPU.

    Attributes:
        training: whether it was trained on.
        epoch, step: where it was.
        xb, yb, pred, loss: of this rank's share; None where it was not computed.
    """

    training: bool
    epoch: int
    step: int
    xb: tuple[Any, ...]
    yb: tuple[Any, ...]
    pred: Any
    loss: torch.Tensor | None


class CollectData(Callback):
    """Keeps every batch with its prediction and its loss (fastai's CollectDataCallback).

    Each rank keeps its own share; a rank that only runs along in a batch keeps nothing of it. Waits for the device at each
    batch, and takes memory for all: for looking at a few batches. `Learner.get_preds` gives the predictions of all ranks.

    Args:
        max_n: how many batches are kept at most, the first ones.

    Attributes:
        data: the batches of the last fit or validation, as `Collected`.

    Raises:
        ConfigError: `max_n` is not 1 or more.
    """

    phase: ClassVar[Phase] = Phase.RECORD
    may_cancel: ClassVar[bool] = False

    def __init__(self, max_n: int | None = None) -> None:
        if max_n is not None and max_n < 1:
            raise ConfigError(f"CollectData(max_n={max_n}): expected 1 batch or more")
        self.max_n = max_n
        self.data: list[Collected] = []

    def before_fit(self) -> None:
        """Forgets the fit before."""
        self.data = []

    def before_validate(self) -> None:
        """Forgets what was before, if this is a validation on its own."""
        if not self.state.fitting:
            self.data = []

    def after_batch(self) -> None:
        """Keeps the batch."""
        state = self.state
        if state.share is None or not state.share.num_local or len(self.data) == self.max_n:
            return
        kept = map_tensors(lambda t: t.detach().to("cpu", copy=True), (state.xb, state.yb, state.pred, state.loss))
        self.data.append(Collected(state.training, state.epoch, state.step, *kept))


class FetchPreds(Callback):
    """Predicts at the end of epochs, for a look at how predictions change (fastai's FetchPredsCallback).

    Args:
        dl: the loader of what is predicted; by default that of validation. It must not be shuffled.
        every: epochs from one time to the next.

    Attributes:
        preds: (predictions, targets) as `Learner.get_preds` returns them, of the last time; None before the first.
    """

    phase: ClassVar[Phase] = Phase.REPORT  # the epoch's row is written
    may_cancel: ClassVar[bool] = False

    def __init__(self, dl: Any = None, *, every: int = 1) -> None:
        if every < 1:
            raise ConfigError(f"FetchPreds(every={every}): expected 1 epoch or more")
        self.dl, self.every = dl, every
        self.preds: tuple[Any, ...] | None = None

    def after_epoch(self) -> None:
        """Predicts."""
        if (self.state.epoch + 1) % self.every == 0:
            self.preds = self.learn.get_preds(self.dl)
