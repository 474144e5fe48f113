"""The training loop. `dist_ai.callbacks.event` draws it with its events."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dist_ai.callbacks.callback import Callbacks
from dist_ai.callbacks.event import (
    CANCELS,
    CancelBackward,
    CancelBatch,
    CancelEpoch,
    CancelException,
    CancelFit,
    CancelTrain,
    CancelValidate,
)
from dist_ai.callbacks.state import LossParts, TrainState
from dist_ai.core.nested import parts, tensors_in
from dist_ai.core.randomness import sample_keys
from dist_ai.core.types import plain
from dist_ai.data.device import to_device
from dist_ai.data.loader import Loader, known_length
from dist_ai.data.loaders import DataLoaders
from dist_ai.data.plan import Share
from dist_ai.distributed.coordination import Decision, Decisions
from dist_ai.distributed.strategies import Precision, Strategy
from dist_ai.errors import ConfigError, DataError
from dist_ai.layers.dropout import seed_dropout, seeded_layers
from dist_ai.learner.length import Length, Steps
from dist_ai.learner.rhythm import Rhythm
from dist_ai.losses import as_weighted, weighted_mean
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = ["Cursor", "Loop", "back_propagate"]


@dataclass(frozen=True)
class Cursor:
    """The next training step.

    Attributes:
        epoch, step: where it is.
        progress: how much of the fit's time is used up, if it ends by the clock.
        cancel: what was cancelled as the step before it ended, so that it does not come.
    """

    epoch: int = 0
    step: int = 0
    progress: float = 0.0
    cancel: Decision = Decision.NOTHING


class Loop:
    """Runs epochs of training and validation over a model, with callbacks at every event.

    All collaborators are given; the loop owns none. World size 1 and many run the same code: the strategy, the
    collectives and the decisions know which it is.

    Args:
        seed: of the draws of layers.
        epochs_before: epochs of earlier fits: each epoch of a program has an order and draws of its own.
        steps: how the training batches make up steps; for a validation, there is nothing to say.
        valid_every: steps from one validation to the next; by default an epoch's.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        dls: DataLoaders,
        loss_func: Callable[..., torch.Tensor],
        opt: AnyOptimizer,
        strategy: Strategy,
        precision: Precision,
        state: TrainState,
        events: Callbacks,
        decisions: Decisions,
        seed: int,
        epochs_before: int = 0,
        steps: Steps | None = None,
        valid_every: int | None = None,
    ) -> None:
        self.model, self.dls, self.loss_func, self.opt = model, dls, loss_func, opt
        self.strategy, self.precision, self.state, self.events = strategy, precision, state, events
        self.decisions, self.seed, self.epochs_before = decisions, seed, epochs_before
        self.steps = Steps(0, 0, 1) if steps is None else steps
        self.valid_every = valid_every
        self.module = model  # what forward is called on: the model, or what the strategy wraps it in
        self._alone = strategy.collectives.world.world_size == 1
        self._seeded = seeded_layers(model)
        self._weighted_loss = as_weighted(loss_func)
        self._weights: torch.Tensor | None = None  # of this rank's share, where the loss is a weighted mean
        self._divisors: torch.Tensor | None = None  # what its totals are divided by
        self._weights_of_step: torch.Tensor | None = None  # over all batches and ranks, if a step takes several batches
        self._position = Cursor()
        self._output: Any = None  # what the model returned for this batch, whatever callbacks make of `state.pred`
        self._stages: list[str] = []  # those under way, outermost first
        self._may_cancel = True
        self._went_back = self._own_backward = False  # in this batch: any backward; a callback's instead of ours
        self._to_come: list[str] = []  # events between backward and step that this batch has not come to
        self._checked = False  # whether a backward of this fit showed gradients for all parameters
        self._rhythm = Rhythm()

    # ------------------------------------------------------------------------------------------------ stages

    def fit(self, length: Length, start: Cursor) -> None:
        """Trains from `start` to the end of the fit."""
        state = self.state
        state.num_steps, state.progress, state.steps_before = self.steps.num_steps, start.progress, 0
        state.n_epoch, state.total_steps = length.in_epochs(self.steps)
        state.exception, state.save, state.leave, state.fitting = None, False, 0, True
        state.command = 0
        self._rhythm = Rhythm(length.time, start.progress, keeps_time=self.strategy.collectives.world.is_main)
        try:
            self._agree()
            self.module = self.strategy.wrap(self.model)
            with self.precision.active():
                self._stage("fit", lambda: self._epochs(start), CancelFit)
        except BaseException as error:
            state.exception = error
            raise
        finally:
            self.strategy.unwrap()
            self.module = self.model
            try:
                self.opt.eval()  # what is exported, predicted with or saved from here on
                self.events.finish("after_fit", state.exception)  # callbacks give back here what they took
            finally:
                seed_dropout(self._seeded, None)
                self.opt.zero_grad()  # an error may have come between backward and step
                self.decisions.clear()
                state.drop_batch()
                state.fitting = False
                self.model.eval()

    def _epochs(self, start: Cursor) -> None:
        state = self.state
        for epoch in itertools.count(start.epoch):
            if epoch == state.n_epoch or (state.n_epoch is None and state.progress >= 1):
                break
            if state.num_steps is not None:
                state.steps_before = epoch * state.num_steps
            elif epoch > start.epoch:
                state.steps_before += state.next_step
            self._position = start if epoch == start.epoch else Cursor(epoch)
            state.epoch, state.step, state.next_step = epoch, self._position.step, self._position.step
            self._stage("epoch", self._epoch, CancelEpoch)

    def _epoch(self) -> None:
        state = self.state
        self._stage("train", self._train, CancelTrain)
        state.goes_on = False
        if state.num_steps is not None:
            state.next_step = state.num_steps
        after = state.steps_before + state.next_step
        if self.dls.valid is not None and (self._ends_before(after) or after % (self.valid_every or 1) == 0):
            self._evaluate(self.dls.valid)

    def _train(self) -> None:
        state, per_step = self.state, self.steps.batches
        self._train_mode()
        if self._position.cancel:
            raise CANCELS[self._position.cancel]
        before, start = state.steps_before, self._position.step
        state.goes_on = True
        if self._ends_before(before + start):  # a fit that goes on at its very end
            return
        dropped = False
        for share, batch in self._weighed(self.dls.train.batches(self.epochs_before + state.epoch, start * per_step)):
            step, microbatch = divmod(share.step, per_step)
            if microbatch and dropped:  # a cancelled step is cancelled with all its batches
                continue
            if self.valid_every and step and not microbatch and (before + step) % self.valid_every == 0:
                assert self.dls.valid is not None  # the Learner asks for it
                self._evaluate(self.dls.valid)
                self._train_mode()
            self._begin_step(share, step, microbatch)
            self._begin_batch(share, batch)
            self._stage("batch", self._train_batch, CancelBatch)
            dropped = state.last_microbatch
            if dropped and self._ends_before(before + step + 1):
                break

    def validate(self, loader: Loader, epoch: int = 0) -> None:
        """Runs the model over an epoch of `loader` without training it, outside a fit."""
        self.state.fitting = self.state.training = False
        self._stages = ["fit", "epoch"]  # so that a callback made for a fit may cancel here what it cancels there
        try:
            self._agree()
            with contextlib.suppress(CancelEpoch, CancelFit), self.precision.active():
                self._evaluate(loader, epoch)
        finally:
            self.decisions.clear()
            self.state.drop_batch()

    def _evaluate(self, loader: Loader, epoch: int = 0) -> None:
        self.state.num_valid_steps = known_length(loader)
        self._stage("validate", lambda: self._validate(loader, epoch), CancelValidate)
        self.state.share = None

    def _validate(self, loader: Loader, epoch: int) -> None:
        self.model.eval()
        if self.state.fitting:
            self.opt.eval()
        self.strategy.sync_buffers(self.model)
        state = self.state
        state.training, state.microbatch, state.last_microbatch = False, 0, True
        with torch.no_grad():
            for share, batch in loader.batches(epoch):
                state.step, state.num_global = share.step, share.num_global
                self._begin_batch(share, batch)
                self._stage("batch", self._valid_batch, CancelBatch)

    def _train_mode(self) -> None:
        self.model.train()
        self.opt.train()
        self.state.training = True

    def _ends_before(self, step: int) -> bool:
        """Returns whether the fit is over before a step, counted over the whole fit."""
        total = self.state.total_steps
        return step >= total if total is not None else self.state.progress >= 1

    # ------------------------------------------------------------------------------------------------ a batch

    def _begin_step(self, share: Share, step: int, microbatch: int) -> None:
        state, per_step = self.state, self.steps.batches
        state.step, state.next_step, state.microbatch = step, step + 1, microbatch
        state.last_microbatch = microbatch == per_step - 1 or share.step + 1 == self.steps.num_batches
        state.num_global = share.num_global if per_step == 1 else self.steps.num_samples_of(step)
        self._to_come = ["after_backward", "before_step"] if state.last_microbatch else ["after_backward"]
        self._went_back = self._own_backward = False
        if self._seeded:
            keys = sample_keys(seed=self.seed, epoch=share.epoch, samples=share.keys)
            # Of the batch a number that is no sample's, so that its draws are not those of one.
            of_batch = sample_keys(seed=self.seed, epoch=share.epoch, samples=[-1 - share.step])
            both = torch.from_numpy(np.concatenate([keys, of_batch]).view("int64"))
            both = to_device(both, self.dls.device)
            seed_dropout(self._seeded, both[:-1], both[-1])

    def _begin_batch(self, share: Share, batch: Any) -> None:
        state = self.state
        state.share, state.batch = share, batch
        state.pred = state.loss = state.loss_parts = self._output = None
        values = self._values(batch)
        state.xb, state.yb = values[: self.dls.n_inp], values[self.dls.n_inp :]
        self.strategy.begin_batch(num_local=share.num_local, exchange=state.last_microbatch)

    @staticmethod
    def _values(batch: Any) -> tuple[Any, ...]:
        return tuple(map(plain, parts(batch)))

    def _train_batch(self) -> None:
        state = self.state
        self._attempt(self._forward)
        self._weigh()
        self._attempt(self._loss)
        self._backward()
        if state.last_microbatch and not self.precision.unscale(p for group in self.opt.groups for p in group.params):
            self.decisions.vote(Decision.CANCEL_STEP)
        while self._to_come and not self.decisions.pending:
            self._attempt(self._event_before_step)
        if not self._alone:  # this rank cancelled, if any are left; the others may wait for it there
            for event in self._to_come:
                self.events.exchange(event)
        if decision := self._decide():
            state.last_microbatch = True
        if state.last_microbatch:
            self._step(decision)

    def _step(self, decision: Decision) -> None:
        """Updates the parameters, unless it was decided otherwise."""
        self.precision.update()
        if decision not in (Decision.NOTHING, Decision.CANCEL_STEP):
            self.opt.zero_grad()
        if decision > Decision.CANCEL_STEP:
            raise CANCELS[decision]
        if decision:
            self.events(
                "after_cancel_step" if decision == Decision.CANCEL_STEP else "after_cancel_backward", self._vote
            )
            while decision == Decision.CANCEL_BACKWARD and self._to_come:
                self.events(self._to_come.pop(0), self._vote)
        if decision != Decision.CANCEL_STEP:
            self.opt.step()
        self.events("after_step", self._vote)
        self.opt.zero_grad()

    def _valid_batch(self) -> None:
        self._attempt(self._forward)
        if self.strategy.forward_is_collective and self._output is None:
            # This rank cancelled, but the others wait for its part of the parameters.
            self.precision.forward(self.model, self.state.xb)
        self._weigh()
        self._attempt(self._loss)
        if decision := self._decide():
            raise CANCELS[decision]

    def _forward(self) -> None:
        state = self.state
        self.events("before_batch")
        state.pred = self._output = self.precision.forward(self.module if state.training else self.model, state.xb)
        self.events("after_pred")

    def _weigh(self) -> None:
        """Finds what a weighted mean is divided by. Collective in training: a rank that cancelled takes part too."""
        state, share = self.state, self.state.share
        assert share is not None
        self._weights = self._divisors = None
        if self._weighted_loss is not None and state.yb:
            given = self._weighted_loss.weights(*state.yb)
            if given is not None:
                self._weights = self._divisors = given.double() * (share.num_local > 0)
        if self._weights is None or not state.training:
            return
        of_step = self._weights_of_step
        if of_step is None:
            if self._output is None:  # cancelled before the forward, which comes first on the others and exchanges too
                self._output = self.module(*state.xb)
            of_step = self.strategy.total(self._weights)
        # What this share would weigh if all samples weighed alike. Divided by that, the shares' losses are such that their
        # mean over the samples is the weighted mean of the whole step; so all that follows counts samples.
        self._divisors = of_step * state.weight if share.num_local else of_step

    def _weighed(self, batches: Iterable[tuple[Share, Any]]) -> Iterator[tuple[Share, Any]]:
        """Yields the batches; of a weighted mean over several, once the weights of all of a step are known."""
        self._weights_of_step = None
        if self._weighted_loss is None or self.steps.batches == 1:
            yield from batches
            return
        held: list[tuple[Share, Any]] = []
        for share, batch in batches:
            held.append((share, batch))
            if (share.step + 1) % self.steps.batches == 0 or share.step + 1 == self.steps.num_batches:
                found = [
                    (self._weighted_loss.weights(*self._values(b)[self.dls.n_inp :]), s.num_local) for s, b in held
                ]
                weights = [weight.double() * (num_local > 0) for weight, num_local in found if weight is not None]
                self._weights_of_step = self.strategy.total(torch.stack(weights).sum(0)) if weights else None
                yield from held
                held.clear()

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
            if self._may_cancel:
                self._watch_backward()
            self.events("before_backward")

    def _backward(self) -> None:
        """Back-propagates this rank's part of the step's mean loss."""
        state = self.state
        if not self.decisions.pending and not self._own_backward:
            if state.loss is None:
                raise DataError("a training batch has no targets, so there is no loss; check n_inp of the DataLoaders")
            back_propagate(state.loss, state, self.strategy, self.precision)
            if not self._checked:
                self._checked = True
                self.strategy.check_gradients(self.model)
        elif not self._alone and not self._own_backward:
            # This rank cancelled, but the others wait for its gradients: it takes part with zeros.
            output = self.module(*state.xb) if self._output is None else self._output
            (torch.stack([tensor.sum().float() for tensor in tensors_in(output)]).sum() * 0.0).backward()
        self._went_back = True

    def _event_before_step(self) -> None:
        self.events(self._to_come.pop(0))

    def _watch_backward(self) -> None:
        """Notes when a callback runs a backward of its own: then the gradients are there, whatever it cancels."""
        for tensor in tensors_in(self._output):
            if tensor.requires_grad:
                tensor.register_hook(self._note_backward)
                return

    def _note_backward(self, _: torch.Tensor) -> None:
        self._went_back = True

    # ------------------------------------------------------------------------------------------------ decisions

    def _agree(self) -> None:
        """Finds out whether any rank has a callback that may cancel: then all exchange decisions. Collective."""
        mine = torch.tensor([float(self.events.may_cancel or self.precision.may_overflow)])
        self._may_cancel = bool(self.strategy.collectives.all_reduce(mine, "max", what="callbacks of all ranks"))

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
            ConfigError: what it cancels is not under way, or the ranks do not exchange votes.
        """
        stage = _stage_of(cancel.decision)
        of_batch = self.state.training and self._stages[-1:] == ["batch"] and stage in ("backward", "step")
        if not of_batch and stage not in self._stages:
            raise ConfigError(
                f"{type(cancel).__name__} cannot be raised here: there is no {stage} under way, only "
                f"{', '.join(self._stages)}; the events of each are drawn in dist_ai.callbacks.event"
            ) from cancel
        if not (self._alone or self._may_cancel or cancel.alike):
            raise ConfigError(
                f"{type(cancel).__name__} was raised by a callback that was attached in the middle of a fit, when the ranks "
                "had agreed that none would cancel; attach it before the fit"
            ) from cancel
        if not isinstance(cancel, CancelBackward) or not self._went_back:
            self.decisions.vote(cancel.decision)
        elif "after_backward" in self._to_come and not self._own_backward:
            self._own_backward = True
            self.events("after_cancel_backward", self._vote)

    def _decide(self) -> Decision:
        """Exchanges the votes, if it is due or ranks may have cast different ones; what comes back holds on every rank."""
        rhythm = self._rhythm
        if not (rhythm.due() or self._alone or self._may_cancel):
            return self.decisions.take()
        word = self.decisions.exchange(pace_us=rhythm.pace_us(), progress=rhythm.progress())
        rhythm.follow(word.pace_us)
        state = self.state
        state.save |= bool(word.save)
        state.leave = state.leave or word.leave
        state.command = max(state.command, word.command)
        if word.progress:
            state.progress = word.progress / 1e6
        return word.control

    def _stage(self, name: str, body: Callable[[], None], cancel: type[CancelException]) -> None:
        """Runs `body` between the stage's events; `cancel` skips to the last of them."""
        self._stages.append(name)
        try:
            try:
                if name != "batch":  # a batch runs its first event itself, as part of what it may cancel
                    self._shared_event(f"before_{name}", self._stages)
                body()
            except cancel:
                self.events(f"after_cancel_{name}", self._vote)
            if name != "fit":  # `fit` runs its last event itself, on every way out
                self._shared_event(f"after_{name}", self._stages[:-1])
        finally:
            self._stages.pop()

    def _shared_event(self, event: str, stages: list[str]) -> None:
        """Runs an event after which all ranks do the same: what one votes to cancel is cancelled on all.

        Args:
            event: its name.
            stages: what can still be cancelled then.
        """
        self.events(event, self._vote)
        if (decision := self._agreed_now()) and _stage_of(decision) in stages:
            raise CANCELS[decision]

    def _agreed_now(self) -> Decision:
        """Exchanges votes at an event between batches: only if ranks may have cast different ones, for all come here."""
        return self._decide() if self._alone or self._may_cancel else self.decisions.take()


def back_propagate(loss: torch.Tensor, state: TrainState, strategy: Strategy, precision: Precision) -> None:
    """Back-propagates the mean loss of this rank's share as its part of the step's mean loss."""
    assert state.share is not None
    weight = strategy.weight(num_local=state.share.num_local, num_global=state.num_global)
    precision.backward(loss if weight == 1 else loss * weight)


def _stage_of(decision: Decision) -> str:
    return decision.name.removeprefix("CANCEL_").lower()
