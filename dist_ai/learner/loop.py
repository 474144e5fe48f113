"""The training loop. `dist_ai.callbacks.event` draws it with its events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dist_ai.callbacks.callback import Callbacks
from dist_ai.callbacks.event import (
    CANCELS,
    CancelBatch,
    CancelEpoch,
    CancelException,
    CancelFit,
    CancelTrain,
    CancelValidate,
)
from dist_ai.callbacks.state import LossParts, TrainState
from dist_ai.core.randomness import sample_keys
from dist_ai.core.types import plain
from dist_ai.data.device import to_device
from dist_ai.data.loader import Loader
from dist_ai.data.loaders import DataLoaders
from dist_ai.data.plan import Share
from dist_ai.distributed.coordination import Decision, Decisions
from dist_ai.distributed.strategies import Strategy
from dist_ai.errors import ConfigError, DataError
from dist_ai.layers.dropout import seed_dropout, seeded_layers
from dist_ai.losses import as_weighted, weighted_mean
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = ["Cursor", "Loop"]


@dataclass(frozen=True)
class Cursor:
    """The next training batch: its epoch and its step in the epoch."""

    epoch: int = 0
    step: int = 0


class Loop:
    """Runs epochs of training and validation over a model, with callbacks at every event.

    All collaborators are given; the loop owns none. World size 1 and many run the same code: the strategy, the
    collectives and the decisions know which it is.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        dls: DataLoaders,
        loss_func: Callable[..., torch.Tensor],
        opt: AnyOptimizer,
        strategy: Strategy,
        state: TrainState,
        events: Callbacks,
        decisions: Decisions,
        seed: int,
        epochs_before: int = 0,
    ) -> None:
        self.model, self.dls, self.loss_func, self.opt = model, dls, loss_func, opt
        self.strategy, self.state, self.events, self.decisions = strategy, state, events, decisions
        self.seed = seed
        self.epochs_before = epochs_before  # of earlier fits: each epoch of a program has an order and draws of its own
        self.module = model  # what forward is called on: the model, or what the strategy wraps it in
        self._alone = strategy.collectives.world.world_size == 1
        self._seeded = seeded_layers(model)
        self._weighted_loss = as_weighted(loss_func)
        self._weights: torch.Tensor | None = None  # of this rank's share, where the loss is a weighted mean
        self._divisors: torch.Tensor | None = None  # what its totals are divided by
        self._position = Cursor()
        self._output: Any = None  # what the model returned for this batch, whatever callbacks make of `state.pred`
        self._stages: list[str] = []  # those under way, outermost first
        self._may_cancel = True
        self._checked = False  # whether a backward of this fit showed gradients for all parameters

    def fit(self, n_epoch: int, start: Cursor) -> None:
        """Trains from `start` to the end of epoch `n_epoch` - 1."""
        state = self.state
        state.n_epoch, state.num_steps = n_epoch, len(self.dls.train)
        state.exception, state.save = None, False
        try:
            self._agree()
            self.module = self.strategy.wrap(self.model)
            self._stage("fit", lambda: self._epochs(start), CancelFit)
        except BaseException as error:
            state.exception = error
            raise
        finally:
            self.strategy.unwrap()
            self.module = self.model
            try:
                self.events.finish("after_fit", state.exception)  # callbacks give back here what they took
            finally:
                seed_dropout(self._seeded, None)
                self.opt.zero_grad()  # an error may have come between backward and step
                self.decisions.clear()
                state.drop_batch()
                self.model.eval()

    def _epochs(self, start: Cursor) -> None:
        for epoch in range(start.epoch, self.state.n_epoch):
            self._position = Cursor(epoch, start.step if epoch == start.epoch else 0)
            self.state.epoch, self.state.step = epoch, self._position.step
            self._stage("epoch", self._epoch, CancelEpoch)

    def _epoch(self) -> None:
        self._stage("train", self._train, CancelTrain)
        self._evaluate(self.dls.valid)

    def validate(self, loader: Loader) -> None:
        """Runs the model over `loader` without training it, outside a fit."""
        self._stages = ["fit", "epoch"]  # so that a callback made for a fit may cancel here what it cancels there
        try:
            self._agree()
            with contextlib.suppress(CancelEpoch, CancelFit):
                self._evaluate(loader)
        finally:
            self.decisions.clear()
            self.state.drop_batch()

    def _evaluate(self, loader: Loader) -> None:
        self.state.num_valid_steps = len(loader)
        self._stage("validate", lambda: self._validate(loader), CancelValidate)

    def _agree(self) -> None:
        """Finds out whether any rank has a callback that may cancel: then all exchange decisions. Collective."""
        mine = torch.tensor([float(self.events.may_cancel)])
        self._may_cancel = bool(self.strategy.collectives.all_reduce(mine, "max", what="callbacks of all ranks"))

    def _train(self) -> None:
        self.model.train()
        self.state.training = True
        epoch = self.epochs_before + self._position.epoch
        for share, batch in self.dls.train.batches(epoch, self._position.step):
            self._begin_batch(share, batch)
            self._stage("batch", self._train_batch, CancelBatch)

    def _validate(self, loader: Loader) -> None:
        self.model.eval()
        self.strategy.sync_buffers(self.model)
        self.state.training = False
        with torch.no_grad():
            for share, batch in loader.batches():
                self._begin_batch(share, batch)
                self._stage("batch", self._valid_batch, CancelBatch)

    def _train_batch(self) -> None:
        self._attempt(self._forward)
        self._weigh()
        self._attempt(self._loss)
        self._backward()
        self._attempt(self._before_step)
        # A checkpoint by the clock is agreed on here too, at the next of these steps.
        decision = self._decide(due=self.state.step % _EXCHANGE_EVERY == 0)
        if decision in (Decision.CANCEL_BACKWARD, Decision.CANCEL_STEP):
            stage = "backward" if decision == Decision.CANCEL_BACKWARD else "step"
            self.events(f"after_cancel_{stage}", self._vote)
        elif decision:
            self.opt.zero_grad()
            raise CANCELS[decision]
        else:
            self.opt.step()
        self.events("after_step", self._vote)
        self.opt.zero_grad()

    def _valid_batch(self) -> None:
        self._attempt(self._forward)
        self._weigh()
        self._attempt(self._loss)
        if decision := self._decide():
            raise CANCELS[decision]

    def _forward(self) -> None:
        state = self.state
        self.events("before_batch")
        state.pred = self._output = (self.module if state.training else self.model)(*state.xb)
        self.events("after_pred")

    def _weigh(self) -> None:
        """Finds what a weighted mean is divided by. Collective in training: a rank that cancelled takes part too."""
        state, share = self.state, self.state.share
        assert share is not None
        self._weights = self._divisors = None
        if self._weighted_loss is not None and state.yb:
            given = self._weighted_loss.weights(*state.yb)
            if given is not None:
                self._weights = self._divisors = given * (share.num_local > 0)
        if self._weights is not None and state.training:
            if self._output is None:  # cancelled before the forward, which comes first on the others and exchanges too
                self._output = self.module(*state.xb)
            # What this share would weigh if all samples weighed alike. Divided by that, the shares' losses are such that
            # their mean over the samples is the weighted mean of the whole batch; so all that follows counts samples.
            of_batch = self.strategy.total(self._weights)
            self._divisors = of_batch * share.weight if share.num_local else of_batch

    def _loss(self) -> None:
        state = self.state
        if self._weighted_loss is not None and self._weights is not None and self._divisors is not None:
            totals = self._weighted_loss.totals(state.pred, *state.yb)
            state.loss = weighted_mean(totals, self._divisors)
            state.loss_parts = LossParts(totals.detach(), self._weights, state.loss)
        elif state.yb:
            state.loss = self.loss_func(state.pred, *state.yb)
        self.events("after_loss")
        if state.training:
            self.events("before_backward")

    def _before_step(self) -> None:
        self.events("after_backward")
        self.events("before_step")

    def _backward(self) -> None:
        """Back-propagates this rank's part of the global batch's mean loss."""
        state, share = self.state, self.state.share
        assert share is not None
        if not self.decisions.pending:
            if state.loss is None:
                raise DataError("a training batch has no targets, so there is no loss; check n_inp of the DataLoaders")
            weight = self.strategy.weight(num_local=share.num_local, num_global=share.num_global)
            (state.loss if weight == 1 else state.loss * weight).backward()
            if not self._checked:
                self._checked = True
                self.strategy.check_gradients(self.model)
        elif not self._alone:
            # This rank cancelled, but the others wait for its gradients: it takes part with zeros.
            output = self.module(*state.xb) if self._output is None else self._output
            (torch.stack([tensor.sum().float() for tensor in _tensors(output)]).sum() * 0.0).backward()

    def _attempt(self, part: Callable[[], None]) -> None:
        """Runs a part of the batch, unless it is cancelled; a cancel becomes a vote, which all ranks follow."""
        if not self.decisions.pending:
            try:
                part()
            except CancelException as cancel:
                self._vote(cancel)

    def _vote(self, cancel: CancelException) -> None:
        """Turns a cancel into a vote.

        Raises:
            ConfigError: what it cancels is not under way.
        """
        stage = cancel.decision.name.removeprefix("CANCEL_").lower()
        of_batch = self.state.training and self._stages[-1:] == ["batch"] and stage in ("backward", "step")
        if not of_batch and stage not in self._stages:
            raise ConfigError(
                f"{type(cancel).__name__} cannot be raised here: there is no {stage} under way, only "
                f"{', '.join(self._stages)}; the events of each are drawn in dist_ai.callbacks.event"
            ) from cancel
        self.decisions.vote(cancel.decision)

    def _decide(self, *, due: bool = False) -> Decision:
        """Exchanges the votes, if it is due or a callback may have cast one; what comes back holds on every rank."""
        if due or self._alone or self._may_cancel:
            decision, save = self.decisions.exchange()
            self.state.save |= save
            return decision
        return Decision.NOTHING

    def _begin_batch(self, share: Share, batch: Any) -> None:
        state = self.state
        state.share, state.step, state.batch = share, share.step, batch
        state.pred = state.loss = state.loss_parts = self._output = None
        values = tuple(plain(value) for value in batch) if isinstance(batch, tuple | list) else (plain(batch),)
        state.xb, state.yb = values[: self.dls.n_inp], values[self.dls.n_inp :]
        self.strategy.begin_step(num_local=share.num_local)
        if state.training and self._seeded:
            keys = sample_keys(seed=self.seed, epoch=share.epoch, samples=share.keys)
            seed_dropout(self._seeded, to_device(torch.from_numpy(keys.view("int64")), self.dls.device))

    def _stage(self, name: str, body: Callable[[], None], cancel: type[CancelException]) -> None:
        """Runs `body` between the stage's events; `cancel` skips to the last of them."""
        self._stages.append(name)
        try:
            try:
                if name != "batch":  # a batch runs its first event itself, as part of what it may cancel
                    self._shared_event(f"before_{name}")
                body()
            except cancel:
                self.events(f"after_cancel_{name}", self._vote)
            if name != "fit":  # `fit` runs its last event itself, on every way out
                self._shared_event(f"after_{name}", too_late=cancel.decision)
        finally:
            self._stages.pop()

    def _shared_event(self, event: str, too_late: Decision = Decision.NOTHING) -> None:
        """Runs an event after which all ranks do the same: what one votes to cancel is cancelled on all.

        Args:
            event: its name.
            too_late: what can no longer be cancelled; only what is above it still can.
        """
        self.events(event, self._vote)
        if (decision := self._decide()) > too_late:
            raise CANCELS[decision]


# An exchange costs two processes about a quarter of a millisecond on a busy CPU: more than a tiny model's step.
_EXCHANGE_EVERY = 16


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
