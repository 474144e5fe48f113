"""The training loop. `dist_ai.callbacks.event` draws it with its events; `dist_ai.learner.batch` is what happens to a batch."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass

import torch

from dist_ai.callbacks.event import CANCELS, CancelBatch, CancelEpoch, CancelFit, CancelTrain, CancelValidate
from dist_ai.data.loader import Loader, known_length
from dist_ai.distributed.coordination import Decision
from dist_ai.layers.dropout import seed_dropout
from dist_ai.learner.batch import BatchRunner, Collaborators
from dist_ai.learner.length import Length, Steps
from dist_ai.learner.votes import Votes

__all__ = ["Cursor", "Loop"]


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

    Args:
        given: what it works with.
        epochs_before: epochs of earlier fits: each epoch of a program has an order and draws of its own.
        steps: how the training batches make up steps; for a validation, there is nothing to say.
        valid_every: steps from one validation to the next; by default an epoch's.
    """

    def __init__(
        self,
        given: Collaborators,
        *,
        epochs_before: int = 0,
        steps: Steps | None = None,
        valid_every: int | None = None,
    ) -> None:
        self.given, self.epochs_before, self.valid_every = given, epochs_before, valid_every
        self.steps = Steps(0, 0, 1) if steps is None else steps
        self.state = given.state
        self.votes = Votes(given.state, given.events, given.decisions, given.strategy.collectives)
        self.runner = BatchRunner(given, self.steps, self.votes)
        self.microbatches = self.runner.microbatches
        self._position = Cursor()

    def fit(self, length: Length, start: Cursor) -> None:
        """Trains from `start` to the end of the fit."""
        state, given = self.state, self.given
        state.num_steps, state.progress, state.steps_before = self.steps.num_steps, start.progress, 0
        state.n_epoch, state.total_steps = length.in_epochs(self.steps)
        state.exception, state.save, state.leave, state.fitting = None, False, 0, True
        state.command = 0
        self.votes.begin_fit(length, start.progress)
        try:
            self.votes.agree(may_overflow=given.precision.may_overflow)
            self.runner.module = given.strategy.wrap(given.model, can_fail=given.auto_microbatch is not None)
            with given.precision.active():
                self.votes.stage("fit", lambda: self._epochs(start), CancelFit)
        except BaseException as error:
            state.exception = error
            raise
        finally:
            self._end_fit()

    def _end_fit(self) -> None:
        """Leaves everything usable, on every way out."""
        given, state = self.given, self.state
        given.strategy.unwrap()
        self.runner.module = given.model
        try:
            given.opt.eval()  # what is exported, predicted with or saved from here on
            given.events.finish("after_fit", state.exception)  # callbacks give back here what they took
        finally:
            seed_dropout(self.runner.seeded, None)
            given.opt.zero_grad()  # an error may have come between backward and step
            given.decisions.clear()
            state.drop_batch()
            state.fitting = False
            given.model.eval()

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
            self.votes.stage("epoch", self._epoch, CancelEpoch)

    def _epoch(self) -> None:
        state, valid = self.state, self.given.dls.valid
        self.votes.stage("train", self._train, CancelTrain)
        state.goes_on = False
        if state.num_steps is not None:
            state.next_step = state.num_steps
        after = state.steps_before + state.next_step
        if valid is not None and (self._ends_before(after) or after % (self.valid_every or 1) == 0):
            self._evaluate(valid)

    def _train(self) -> None:
        state, dls = self.state, self.given.dls
        self._train_mode()
        if self._position.cancel:
            raise CANCELS[self._position.cancel]
        before, start = state.steps_before, self._position.step
        state.goes_on = True
        if self._ends_before(before + start):  # a fit that goes on at its very end
            return
        dropped = False
        batches = dls.train.batches(self.epochs_before + state.epoch, start * self.steps.batches)
        for micro in self.microbatches.of(batches):
            if micro.position and dropped:  # a cancelled step is cancelled with all its batches
                continue
            begins = micro.step and not micro.position and not micro.again
            if begins and self.valid_every and (before + micro.step) % self.valid_every == 0:
                assert dls.valid is not None  # the Learner asks for it
                self._evaluate(dls.valid)
                self._train_mode()
            self.runner.begin_microbatch(micro)
            self.votes.stage("batch", self.runner.train, CancelBatch)
            dropped = state.last_microbatch
            if dropped and self._ends_before(before + micro.step + 1):
                break

    def validate(self, loader: Loader, epoch: int = 0) -> None:
        """Runs the model over an epoch of `loader` without training it, outside a fit."""
        given = self.given
        self.state.fitting = self.state.training = False
        self.votes.begin_validation()
        try:
            self.votes.agree(may_overflow=given.precision.may_overflow)
            with contextlib.suppress(CancelEpoch, CancelFit), given.precision.active():
                self._evaluate(loader, epoch)
        finally:
            given.decisions.clear()
            self.state.drop_batch()

    def _evaluate(self, loader: Loader, epoch: int = 0) -> None:
        self.state.num_valid_steps = known_length(loader)
        self.votes.stage("validate", lambda: self._validate(loader, epoch), CancelValidate)
        self.state.share = None

    def _validate(self, loader: Loader, epoch: int) -> None:
        state, given = self.state, self.given
        given.model.eval()
        if state.fitting:
            given.opt.eval()
        given.strategy.sync_buffers(given.model)
        state.training, state.microbatch, state.last_microbatch = False, 0, True
        with torch.no_grad():
            for share, batch in loader.batches(epoch):
                state.step, state.num_global = share.step, share.num_global
                self.runner.begin(share, batch)
                self.votes.stage("batch", self.runner.validate, CancelBatch)

    def _train_mode(self) -> None:
        self.given.model.train()
        self.given.opt.train()
        self.state.training = True

    def _ends_before(self, step: int) -> bool:
        """Returns whether the fit is over before a step, counted over the whole fit."""
        total = self.state.total_steps
        return step >= total if total is not None else self.state.progress >= 1
