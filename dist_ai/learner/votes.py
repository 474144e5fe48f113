"""How the ranks decide together in a loop: what one rank's callback cancels is cancelled on all, at the same place.

A cancel is raised where a callback finds a reason, on one rank perhaps; it becomes a vote, the ranks exchange their votes at
the next place where all of them come by, and each does what came back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from dist_ai.callbacks.callback import Callbacks
from dist_ai.callbacks.event import CANCELS, CancelBackward, CancelException
from dist_ai.callbacks.state import TrainState
from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.coordination import Decision, Decisions
from dist_ai.errors import ConfigError
from dist_ai.learner.length import Length
from dist_ai.learner.rhythm import Rhythm

__all__ = ["Votes"]


class Votes:
    """The stages of a loop that are under way, and what its ranks decide about them.

    Args:
        state, events, decisions: of the loop.
        collectives: of its ranks.

    Attributes:
        may_cancel: whether any rank has a callback that may cancel; then all exchange their votes at every step.
        alone: whether there is one rank only.
        on_cancel_backward: says what a cancelled backward is, which depends on the batch: True if it was dealt with.
        on_error: is told of an error in a part of a batch: True if it became a vote, and the batch is to end as a cancelled one.
        out_of_memory: whether a rank had run out of memory when votes were last exchanged.
    """

    def __init__(self, state: TrainState, events: Callbacks, decisions: Decisions, collectives: Collectives) -> None:
        self._state, self._events, self._decisions, self._collectives = state, events, decisions, collectives
        self._stages: list[str] = []  # those under way, outermost first
        self._rhythm = Rhythm()
        self.alone = collectives.world.world_size == 1
        self.may_cancel = True
        self.out_of_memory = False
        self.on_cancel_backward: Callable[[], bool] = lambda: False
        self.on_error: Callable[[Exception], bool] = lambda _: False

    def begin_fit(self, length: Length, progress: float) -> None:
        """Begins to keep the time of a fit."""
        self._rhythm = Rhythm(length.time, progress, keeps_time=self._collectives.world.is_main)

    def begin_validation(self) -> None:
        """Lets a callback that was made for a fit cancel, outside of one, what it cancels there."""
        self._stages = ["fit", "epoch"]

    def agree(self, *, may_overflow: bool) -> None:
        """Finds out whether any rank has a callback that may cancel: then all exchange decisions. Collective."""
        mine = torch.tensor([float(self._events.may_cancel or may_overflow)])
        self.may_cancel = bool(self._collectives.all_reduce(mine, "max", what="callbacks of all ranks"))

    @property
    def pending(self) -> bool:
        """Whether this rank cast a vote that was not exchanged yet."""
        return bool(self._decisions.pending)

    def attempt(self, part: Callable[[], None]) -> None:
        """Runs a part of the batch, unless it is cancelled; a cancel becomes a vote, which all ranks follow."""
        if not self.pending:
            try:
                part()
            except CancelException as cancel:
                self.vote(cancel)
            except Exception as error:
                if not self.on_error(error):
                    raise

    def vote(self, cancel: CancelException) -> None:
        """Turns a cancel into a vote.

        Raises:
            ConfigError: what it cancels is not under way, or the ranks do not exchange votes.
        """
        stage = _stage_of(cancel.decision)
        of_batch = self._state.training and self._stages[-1:] == ["batch"] and stage in ("backward", "step")
        if not of_batch and stage not in self._stages:
            raise ConfigError(
                f"{type(cancel).__name__} cannot be raised here: there is no {stage} under way, only "
                f"{', '.join(self._stages)}; the events of each are drawn in dist_ai.callbacks.event"
            ) from cancel
        if not (self.alone or self.may_cancel or cancel.alike):
            raise ConfigError(
                f"{type(cancel).__name__} was raised by a callback that was attached in the middle of a fit, when the ranks "
                "had agreed that none would cancel; attach it before the fit"
            ) from cancel
        if not (isinstance(cancel, CancelBackward) and self.on_cancel_backward()):
            self._decisions.vote(cancel.decision)

    def decide(self) -> Decision:
        """Exchanges the votes, if it is due or ranks may have cast different ones; what comes back holds on every rank."""
        rhythm, state = self._rhythm, self._state
        if not (rhythm.due() or self.alone or self.may_cancel):
            return self._decisions.take()
        word = self._decisions.exchange(pace_us=rhythm.pace_us(), progress=rhythm.progress())
        rhythm.follow(word.pace_us)
        state.save |= bool(word.save)
        state.leave = state.leave or word.leave
        state.command = max(state.command, word.command)
        self.out_of_memory = bool(word.memory)
        if word.progress:
            state.progress = word.progress / 1e6
        return word.control

    def stage(self, name: str, body: Callable[[], None], cancel: type[CancelException]) -> None:
        """Runs `body` between the stage's events; `cancel` skips to the last of them."""
        self._stages.append(name)
        try:
            try:
                if name != "batch":  # a batch runs its first event itself, as part of what it may cancel
                    self._shared_event(f"before_{name}", self._stages)
                body()
            except cancel:
                self._events(f"after_cancel_{name}", self.vote)
            if name != "fit":  # a fit runs its last event itself, on every way out
                self._shared_event(f"after_{name}", self._stages[:-1])
        finally:
            self._stages.pop()

    def _shared_event(self, event: str, stages: list[str]) -> None:
        """Runs an event after which all ranks do the same: what one votes to cancel is cancelled on all.

        Args:
            event: its name.
            stages: what can still be cancelled then.
        """
        self._events(event, self.vote)
        # Between batches all ranks come here, so they exchange votes only if they may have cast different ones.
        decision = self.decide() if self.alone or self.may_cancel else self._decisions.take()
        if decision and _stage_of(decision) in stages:
            raise CANCELS[decision]


def _stage_of(decision: Decision) -> str:
    return decision.name.removeprefix("CANCEL_").lower()
