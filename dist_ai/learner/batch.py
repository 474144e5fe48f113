"""What happens to a batch in the loop: forward, loss, backward, and the step it may end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dist_ai.callbacks.auto_microbatch import AutoMicrobatch
from dist_ai.callbacks.callback import Callbacks
from dist_ai.callbacks.event import CANCELS
from dist_ai.callbacks.state import TrainState
from dist_ai.core.nested import parts, tensors_in
from dist_ai.core.randomness import sample_keys
from dist_ai.core.types import plain
from dist_ai.data.device import to_device
from dist_ai.data.loaders import DataLoaders
from dist_ai.data.plan import Share
from dist_ai.data.summary import describe
from dist_ai.distributed.coordination import Decision, Decisions
from dist_ai.distributed.strategies import Precision, Strategy
from dist_ai.errors import DataError
from dist_ai.layers.dropout import seed_dropout, seeded_layers
from dist_ai.learner.length import Steps
from dist_ai.learner.memory import ShortMemory
from dist_ai.learner.microbatches import Microbatch, Microbatches, cut
from dist_ai.learner.votes import Votes
from dist_ai.learner.weighing import Weighing
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = ["BatchRunner", "Collaborators", "back_propagate"]


@dataclass(frozen=True)
class Collaborators:
    """What a loop works with; it owns none of it.

    World size 1 and many are the same to it: the strategy, the collectives and the decisions know which it is.
    """

    model: nn.Module
    dls: DataLoaders
    loss_func: Callable[..., torch.Tensor]
    opt: AnyOptimizer
    strategy: Strategy
    precision: Precision
    state: TrainState
    events: Callbacks
    decisions: Decisions
    seed: int
    auto_microbatch: AutoMicrobatch | None = None


class BatchRunner:
    """Runs batches one by one. A rank that cancels takes part, with nothing, in what the others exchange.

    Args:
        given: what it works with.
        steps: how the training batches make up steps.
        votes: how the ranks decide together.

    Attributes:
        module: what forward is called on in training: the model, or what the strategy wraps it in.
    """

    def __init__(self, given: Collaborators, steps: Steps, votes: Votes) -> None:
        self.given, self.steps, self.votes = given, steps, votes
        self.state, self.events = given.state, given.events
        self.strategy, self.precision = given.strategy, given.precision
        self.module = given.model
        self.seeded = seeded_layers(given.model)
        self.weighing = Weighing(given.loss_func, steps, lambda batch: self._values(batch)[1], given.strategy)
        world_size = given.strategy.data_collectives.world.world_size
        self.microbatches = Microbatches(steps, self.weighing, given.auto_microbatch, given.dls, world_size)
        self.memory = ShortMemory(given.model, self.microbatches, given.state)
        self._output: Any = None  # what the model returned for this batch, whatever callbacks make of `state.pred`
        self._went_back = self._own_backward = False  # in this batch: any backward; a callback's instead of ours
        self._to_come: list[str] = []  # events between backward and step that this batch has not come to
        self._checked = False  # whether a backward of this fit showed gradients for all parameters
        self._waiting = given.strategy.collectives.waiting
        votes.on_cancel_backward = self._cancel_backward
        votes.on_error = self._run_out

    def begin_microbatch(self, micro: Microbatch) -> None:
        """Sets the state for a training batch, which is the step's first or a further one."""
        state, share, step = self.state, micro.share, micro.step
        state.step, state.next_step = step, step + 1
        state.microbatch, state.last_microbatch = micro.position, micro.is_last
        state.num_global = share.num_global if self.steps.batches == 1 else self.steps.num_samples_of(step)
        self.memory.begin_batch(begins_step=not micro.position)
        self._to_come = ["after_backward", "before_step"] if state.last_microbatch else ["after_backward"]
        self._went_back = self._own_backward = False
        if self.seeded:
            keys = sample_keys(seed=self.given.seed, epoch=share.epoch, samples=share.keys)
            # Of the batch a number that is no sample's, so that its draws are not those of one.
            of_batch = sample_keys(seed=self.given.seed, epoch=share.epoch, samples=[-1 - share.step])
            both = torch.from_numpy(np.concatenate([keys, of_batch]).view("int64"))
            both = to_device(both, self.given.dls.device)
            seed_dropout(self.seeded, both[:-1], both[-1])
        self.begin(share, micro.batch)

    def begin(self, share: Share, batch: Any) -> None:
        """Sets the state for any batch."""
        state = self.state
        state.share, state.batch = share, batch
        state.pred = state.loss = state.loss_parts = self._output = None
        self.weighing.next_batch()
        state.xb, state.yb = self._values(batch)
        self.strategy.begin_batch(num_local=share.num_local, exchange=state.last_microbatch)

    def train(self) -> None:
        """Trains on the batch; the last of a step updates the parameters."""
        state, votes = self.state, self.votes
        votes.attempt(self._forward)
        self.weighing.begin_batch(state)  # on a rank that cancelled before it did
        votes.attempt(self._loss)
        self._backward()
        if state.last_microbatch:
            # Where ranks can fail, before gradients are exchanged, and scaled by what they are.
            if self.microbatches.auto is not None and (decision := votes.decide()):
                self._step(decision)
                return
            with self._waiting():
                self.strategy.exchange_gradients(self.given.model)
        parameters = (p for group in self.given.opt.groups for p in group.params)
        if state.last_microbatch and not self.precision.unscale(parameters):
            self.given.decisions.vote(Decision.CANCEL_STEP)
        while self._to_come and not votes.pending:
            votes.attempt(self._event_before_step)
        if not votes.alone:  # this rank cancelled, if any are left; the others may wait for it there
            for event in self._to_come:
                self.events.exchange(event)
        if decision := votes.decide():
            state.last_microbatch = True
        if state.last_microbatch:
            self._step(decision)

    def validate(self) -> None:
        """Runs the model on the batch."""
        self.votes.attempt(self._forward)
        if self.strategy.forward_is_collective and self._output is None:
            # This rank cancelled, but the others wait for its part of the parameters.
            self.precision.forward(self.given.model, self.state.xb)
        self.votes.attempt(self._loss)
        if decision := self.votes.decide():
            raise CANCELS[decision]

    def _values(self, batch: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Returns inputs and targets of a batch."""
        values, n_inp = tuple(map(plain, parts(batch))), self.given.dls.n_inp
        return values[:n_inp], values[n_inp:]

    def _forward(self) -> None:
        state = self.state
        self.events("before_batch")
        self.weighing.begin_batch(state)
        module = self.module if state.training else self.given.model
        try:
            with self._waiting() if self.strategy.forward_waits else contextlib.nullcontext():
                state.pred = self._output = self.precision.forward(module, state.xb)
        except Exception as error:
            _add_note(error, "in the model", self.given.model, given=state.xb)
            raise
        self.events("after_pred")

    def _run_model(self) -> Any:
        """Returns what the model returned for this batch; runs it now if this rank cancelled before."""
        if self._output is None:
            # In its own precision: where ranks compute a layer together they exchange what it has in between.
            self._output = self.precision.forward(self.module, self.state.xb)
        return self._output

    def _loss(self) -> None:
        try:
            self.weighing.loss(self.state)
        except Exception as error:
            _add_note(error, "in the loss", self.given.loss_func, prediction=self.state.pred, targets=self.state.yb)
            raise
        self.events("after_loss")
        if self.state.training:
            if self.votes.may_cancel:
                self._watch_backward()
            self.events("before_backward")

    def _backward(self) -> None:
        """Back-propagates this rank's part of the step's mean loss."""
        if not self._own_backward:
            with self._waiting():
                self.votes.attempt(self._back_propagate)
            if self.votes.pending and not self.votes.alone:
                self._take_part()
        self._went_back = True

    def _back_propagate(self) -> None:
        state = self.state
        if state.loss is None:
            raise DataError("a training batch has no targets, so there is no loss; check n_inp of the DataLoaders")
        back_propagate(state.loss, state, self.strategy, self.precision)
        if not self._checked:
            self._checked = True
            self.strategy.check_gradients(self.given.model)

    def _take_part(self) -> None:
        """Gives the others, on a rank that cancelled or ran out of memory, what they wait for: it takes part with zeros."""
        if self.memory.error is not None:
            if not self.strategy.begin_over():
                return
            state = self.state
            assert state.share is not None
            self._output = None
            first = cut(state.batch, slice(0, 1), num_samples=len(state.share.indices))
            state.xb = self._values(first)[0]
        sums = [tensor.sum().float() for tensor in tensors_in(self._run_model())]
        (torch.stack(sums).sum() * 0.0).backward()

    def _run_out(self, error: Exception) -> bool:
        """Tells the others if this rank ran out of memory; returns whether it did, and the step may be done again."""
        if not self.memory.run_out(error):
            return False
        self._output = None
        self.given.decisions.vote_memory()
        return True

    def _watch_backward(self) -> None:
        """Notes when a callback runs a backward of its own: then the gradients are there, whatever it cancels."""
        for tensor in tensors_in(self._output):
            if tensor.requires_grad:
                tensor.register_hook(self._note_backward)
                return

    def _note_backward(self, _: torch.Tensor) -> None:
        self._went_back = True

    def _cancel_backward(self) -> bool:
        """Takes a cancelled backward for done if a callback ran one of its own; returns whether any was run."""
        if self._went_back and "after_backward" in self._to_come and not self._own_backward:
            self._own_backward = True
            self.events("after_cancel_backward", self.votes.vote)
        return self._went_back

    def _event_before_step(self) -> None:
        self.events(self._to_come.pop(0))

    def _step(self, decision: Decision) -> None:
        """Updates the parameters, unless it was decided otherwise."""
        opt, vote = self.given.opt, self.votes.vote
        self.precision.update()
        if decision:
            self.strategy.drop_gradients()
        if decision not in (Decision.NOTHING, Decision.CANCEL_STEP):
            opt.zero_grad()
        if self.votes.out_of_memory:
            self.memory.put_back_buffers()
            if decision == Decision.CANCEL_BATCH:  # and nothing stronger, which another rank may have voted for
                self.memory.begin_step_over()
        if decision > Decision.CANCEL_STEP:
            raise CANCELS[decision]
        if decision:
            self.events("after_cancel_step" if decision == Decision.CANCEL_STEP else "after_cancel_backward", vote)
            while decision == Decision.CANCEL_BACKWARD and self._to_come:
                self.events(self._to_come.pop(0), vote)
        if decision != Decision.CANCEL_STEP:
            opt.step()
        self.events("after_step", vote)
        opt.zero_grad()


def _add_note(error: Exception, where: str, function: Any, **values: Any) -> None:
    """Adds to an error what went into what raised it: torch names one shape at most, and not whose it is."""
    name = getattr(function, "__name__", type(function).__name__)
    with contextlib.suppress(Exception):  # after some errors a device answers no more
        error.add_note(f"{where}, {name}; " + ", ".join(f"{key} {describe(value)}" for key, value in values.items()))


def back_propagate(loss: torch.Tensor, state: TrainState, strategy: Strategy, precision: Precision) -> None:
    """Back-propagates the mean loss of this rank's share as its part of the step's mean loss."""
    assert state.share is not None
    weight = strategy.weight(num_local=state.share.num_local, num_global=state.num_global)
    precision.backward(loss if weight == 1 else loss * weight)
