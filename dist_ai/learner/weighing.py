"""The weights of a loss that is no mean over samples, such as one with class weights or ignored pixels; see `losses.weighted`.

Such a loss is a sum over a sum: of the samples' losses over their weights. The sum of weights is that of the whole step, over
its batches and all ranks, so the ranks add it up before the loss is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.callbacks.state import LossParts, TrainState
from dist_ai.data.plan import Share
from dist_ai.data.summary import describe
from dist_ai.distributed.strategies import Strategy
from dist_ai.errors import DataError
from dist_ai.learner.length import Steps
from dist_ai.losses import as_weighted, weighted_mean

__all__ = ["Weighing"]


class Weighing:
    """Computes the loss of each batch such that the mean of the shares' losses is that of the whole step.

    Args:
        loss_func: the loss; of one that is a plain mean over samples nothing is weighed.
        steps: how the training batches make up steps.
        targets_of: from a batch to its targets.
        strategy: adds up over the ranks.
    """

    def __init__(
        self,
        loss_func: Callable[..., torch.Tensor],
        steps: Steps,
        targets_of: Callable[[Any], tuple[Any, ...]],
        strategy: Strategy,
    ) -> None:
        self._loss_func, self._weighted = loss_func, as_weighted(loss_func)
        self._is_elementwise = (
            loss_func in _ELEMENTWISE if inspect.isfunction(loss_func) else type(loss_func) in _ELEMENTWISE
        )
        self._steps, self._targets_of, self._strategy = steps, targets_of, strategy
        self._weights: torch.Tensor | None = None  # of this rank's share, where the loss is a weighted mean
        self._of_step: torch.Tensor | None = None  # over all batches and ranks, where it was told of them
        self._sum: Callable[[], torch.Tensor] | None = None  # waits for what the ranks are adding up, where it was not
        self._has_begun = False  # with the batch under way

    @property
    def looks_ahead(self) -> bool:
        """Whether it must be told of all batches of a step before the first."""
        return self._weighted is not None and self._steps.batches > 1

    def begin_step(self, batches: Sequence[tuple[Share, Any]]) -> None:
        """Finds what all batches of a step weigh together, over all ranks. Collective, if the loss is a weighted mean."""
        self._of_step = None
        if self._weighted is not None:
            found = [(self._weigh(self._targets_of(batch)), share.num_local) for share, batch in batches]
            weights = [weight.double() * (num_local > 0) for weight, num_local in found if weight is not None]
            with self._strategy.collectives.waiting():
                self._of_step = self._strategy.begin_total(torch.stack(weights).sum(0))() if weights else None

    def _weigh(self, targets: Sequence[Any]) -> torch.Tensor | None:
        assert self._weighted is not None
        try:
            return self._weighted.weights(*targets)
        except TypeError as error:
            if _fit(self._weighted.weights, targets):
                raise
            raise DataError(
                f"the loss {_name(self._loss_func)} does not take {len(targets)} target(s), and a batch has "
                f"{describe(tuple(targets))} after its inputs; a batch is "
                f"inputs, then targets, and n_inp= of the DataLoaders says how many are inputs. Of a dict "
                'its values are taken in order; a batch transform chooses: batch_tfms=lambda batch: (batch["x"], batch["y"])'
            ) from error

    def next_batch(self) -> None:
        """Forgets the batch before."""
        self._weights = self._sum = None
        self._has_begun = False

    def begin_batch(self, state: TrainState) -> None:
        """Begins to find what a weighted mean is divided by, once the targets are there and before the model runs.

        The ranks add up their weights while they compute. A rank that cancelled takes part too; called again for one batch, it
        does nothing. Collective in training.
        """
        share = state.share
        assert share is not None
        if self._has_begun or self._weighted is None:
            return
        self._has_begun = True
        given = self._weigh(state.yb) if state.yb else None
        if given is not None:
            self._weights = given.double() if share.num_local else given.double() * 0
            if state.training and self._of_step is None:
                self._sum = self._strategy.begin_total(self._weights)

    def _divisors(self, state: TrainState) -> torch.Tensor | None:
        """Returns what the batch's totals are divided by; None where the loss is no weighted mean."""
        if self._weights is None or not state.training:
            return self._weights
        of_step = self._of_step
        if self._sum is not None:
            with self._strategy.collectives.waiting():
                of_step = self._sum()
        assert of_step is not None
        # What this share would weigh if all samples weighed alike. Divided by that, the shares' losses are such that their
        # mean over the samples is the weighted mean of the whole step; so all that follows counts samples.
        assert state.share is not None
        return of_step * state.weight if state.share.num_local else of_step

    def loss(self, state: TrainState) -> None:
        """Sets the batch's loss, and its parts where there are some; of a batch without targets there is none."""
        if self._weighted is not None and self._weights is not None:
            totals = self._weighted.totals(state.pred, *state.yb)
            divisors = self._divisors(state)
            assert divisors is not None
            state.loss = weighted_mean(totals, divisors)
            state.loss_parts = LossParts(totals.detach(), self._weights, state.loss)
        elif state.yb:
            if self._is_elementwise:
                self._require_alike(state.pred, state.yb[0])
            state.loss = self._loss_func(state.pred, *state.yb)

    def _require_alike(self, pred: Any, target: Any) -> None:
        """Refuses a prediction and a target of one size and two shapes, of which torch compares each with each."""
        if pred.shape != target.shape and pred.numel() == target.numel():
            raise DataError(
                f"the loss {_name(self._loss_func)} would compare every prediction with every target: predictions are "
                f"{describe(pred)}, targets {describe(target)}; give loss_func=MSELoss() of dist_ai.losses or another loss from "
                "there, which take them sample by sample, or bring one into the shape of the other"
            )


_ELEMENTWISE = frozenset(
    (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
)
"""torch's losses that broadcast a prediction of (samples, 1) with targets of (samples,), and then warn only."""


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _fit(function: Callable[..., Any], given: Sequence[Any]) -> bool:
    """Whether a function takes as many arguments as are given."""
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        return False
    return True
