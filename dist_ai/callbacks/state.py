"""The training state: everything that an event may read or change, in one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from dist_ai.data.plan import Share

__all__ = ["LossParts", "TrainState"]


class LossParts(NamedTuple):
    """What a loss that is a weighted mean (`dist_ai.losses.weighted`) is made of in this rank's share of a batch.

    Attributes:
        totals, weights: (terms,), without a gradient; the weights are 0 where the rank only runs along.
        loss: the loss they were made for: not these, but its mean over samples counts if a callback has written another.
    """

    totals: torch.Tensor
    weights: torch.Tensor
    loss: torch.Tensor


@dataclass
class TrainState:
    """Where a fit stands, and the batch under way. Callbacks read it and write to it as `self.state`.

    Attributes:
        n_epoch: epochs of this fit.
        num_steps: training batches in an epoch.
        num_valid_steps: batches of the validation under way.
        epoch: the epoch under way, from 0.
        step: the batch under way in this epoch, from 0.
        training: True in a training batch, False in a validation batch.
        share: which samples of the global batch this rank has, and how many count.
        batch: the batch as it came from the loader; semantic types are still on it.
        xb: inputs of the model, a tuple of plain tensors; write to it to change what the model sees.
        yb: targets, a tuple of plain tensors; empty where there are none.
        pred: what the model returned.
        loss: loss of this rank's share, on its device; write to it to change what is back-propagated. The mean over the
            samples that count, over all ranks, is that of the global batch; so in training on several ranks a weighted
            mean is divided by the batch's weight, not by the share's.
        loss_parts: what the loss is made of, if it is a weighted mean; otherwise None.
        save: True if the ranks agreed to write a checkpoint at the end of this batch.
        exception: the error or interrupt that is ending the fit, in `after_fit`; None if it ends well.
    """

    n_epoch: int = 0
    num_steps: int = 0
    num_valid_steps: int = 0
    epoch: int = 0
    step: int = 0
    training: bool = False
    share: Share | None = None
    batch: Any = None
    xb: tuple[Any, ...] = ()
    yb: tuple[Any, ...] = ()
    pred: Any = None
    loss: torch.Tensor | None = None
    loss_parts: LossParts | None = None
    save: bool = False
    exception: BaseException | None = None

    @property
    def total_steps(self) -> int:
        """Training batches in the whole fit."""
        return self.n_epoch * self.num_steps

    @property
    def train_step(self) -> int:
        """The batch under way, counted over the whole fit, from 0."""
        return self.epoch * self.num_steps + self.step

    @property
    def pct_train(self) -> float:
        """How much of the fit's training is done, 0 to 1."""
        return self.train_step / max(1, self.total_steps)

    def drop_batch(self) -> None:
        """Lets go of the batch's tensors."""
        self.batch, self.xb, self.yb, self.pred, self.loss, self.loss_parts = None, (), (), None, None, None
