"""The training state: everything that an event may read or change, in one object."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch

from dist_ai.core.names import missing_attribute
from dist_ai.data.plan import Share
from dist_ai.errors import UnknownLengthError

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


@dataclass(slots=True)  # so that a misspelt name is an error, and not a value that nobody reads
class TrainState:
    """Where a fit stands, and the batch under way. Callbacks read it and write to it as `self.state`.

    A step is one update of the parameters. It takes one batch of the loader, or with `GradientAccumulation` several:
    then the batch events come once for each of these microbatches, and the step's own at the last.

    Attributes:
        n_epoch: epochs of this fit, the last of which may be cut short; None for a fit that ends by the clock.
        num_steps: steps in a whole epoch; None if only its end tells.
        total_steps: steps in the whole fit; None for a fit that ends by the clock, or with data of unknown length.
        num_valid_steps: batches of the validation under way; None if only its end tells.
        steps_before: steps of the fit's earlier epochs; where `num_steps` is None, those that this process has seen.
        epoch: the epoch under way, from 0.
        step: the step under way in this epoch, from 0; in validation, the batch.
        next_step: the step of this epoch that a checkpoint of this moment goes on with.
        microbatch: the batch under way in this step, from 0.
        last_microbatch: whether the step follows this batch; True unless gradients are accumulated.
        fitting: True in a fit's own training and validation, False in a validation on its own, also in the middle of a fit.
        goes_on: whether the epoch's training is under way, also while it validates in between.
        training: True in a training batch, False in a validation batch.
        share: which samples of the batch this rank has, and how many count.
        num_global: samples in the step, over all its microbatches and all ranks.
        batch: the batch as it came from the loader; semantic types are still on it.
        xb: inputs of the model, a tuple of plain tensors; write to it to change what the model sees.
        yb: targets, a tuple of plain tensors; empty where there are none.
        pred: what the model returned; floating-point tensors are float32 also where the model computes in less.
        loss: loss of this rank's share, on its device; write to it to change what is back-propagated. The mean over the
            samples that count, over all batches of the step and all ranks, is the step's loss; so in training a weighted mean
            is divided by the weight of the step, not by that of the share.
        loss_parts: what the loss is made of, if it is a weighted mean; otherwise None.
        save: True if the ranks agreed to write a checkpoint at the end of this step.
        leave: why all ranks leave at the end of this step: the number of a signal, `BY_COMMAND`, `TO_RESIZE`, or 0 for no
            reason.
        workers: on how many workers they go on, if they leave for that.
        command: the number of the newest command from outside that the ranks know of; 0 for none.
        progress: how much of the fit's time is used up, 0 to 1, equal on all ranks; for a fit that ends by the clock.
        exception: the error or interrupt that is ending the fit, in `after_fit`; None if it ends well.
    """

    n_epoch: int | None = 0
    num_steps: int | None = 0
    total_steps: int | None = 0
    num_valid_steps: int | None = 0
    steps_before: int = 0
    epoch: int = 0
    step: int = 0
    next_step: int = 0
    microbatch: int = 0
    last_microbatch: bool = True
    fitting: bool = False
    goes_on: bool = False
    training: bool = False
    share: Share | None = None
    num_global: int = 0
    batch: Any = None
    xb: tuple[Any, ...] = ()
    yb: tuple[Any, ...] = ()
    pred: Any = None
    loss: torch.Tensor | None = None
    loss_parts: LossParts | None = None
    save: bool = False
    leave: int = 0
    workers: int = 0
    command: int = 0
    progress: float = 0.0
    exception: BaseException | None = None

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    @property
    def train_step(self) -> int:
        """The step under way, counted over the whole fit, from 0; outside training, the next one."""
        return self.steps_before + (self.step if self.training else self.next_step)

    @property
    def mid_epoch(self) -> bool:
        """Whether training goes on in this epoch, after a validation of the fit."""
        return self.fitting and self.goes_on

    @property
    def pct_train(self) -> float:
        """How much of the fit's training is done, 0 to 1.

        Raises:
            UnknownLengthError: only the end of the training data tells how long it is, and the fit does not end by the clock.
        """
        if self.total_steps is not None:
            return self.train_step / max(1, self.total_steps)
        if self.n_epoch is None:
            return self.progress
        raise UnknownLengthError(
            "how much of the fit is done is not known: only the end of the training data tells how long it is. A schedule "
            "needs to know: give the loader num_samples=..., the samples of an epoch, or train by fit()"
        )

    @property
    def weight(self) -> float:
        """What the mean loss of this rank's share counts in the mean loss of the step."""
        return self.share.num_local / self.num_global if self.share is not None else 0.0

    def drop_batch(self) -> None:
        """Lets go of the batch's tensors."""
        self.batch, self.xb, self.yb, self.pred, self.loss, self.loss_parts = None, (), (), None, None, None

    def copy(self) -> Self:
        """Returns a copy that goes its own way; the tensors are the same."""
        return replace(self)

    def become(self, other: TrainState) -> None:
        """Takes over everything from `other`."""
        for field in fields(self):
            setattr(self, field.name, getattr(other, field.name))
