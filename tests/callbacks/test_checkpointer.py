"""When checkpoints are written: by count, by rank 0's clock, or when a callback asks."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from toy import make_learner

from dist_ai.callbacks import Callback, CancelBatch, Checkpointer
from dist_ai.distributed import join
from dist_ai.errors import ConfigError


def saved_at(
    every_s: float | None = None,
    every_steps: int | None = None,
    ask: tuple[str, int, int] | None = None,
    cancel_on: int | None = None,
) -> list[int]:
    """Returns the steps of a fit of six after which a checkpoint is written.

    Args:
        every_s, every_steps: of the checkpointer.
        ask: the event, the step and the rank in which a callback asks for one.
        cancel_on: a rank that cancels every batch.
    """
    saved: list[int] = []

    class CancelAll(Callback):
        may_cancel = cancel_on is not None

        def after_pred(self) -> None:
            if self.state.training and self.learn.collectives.world.rank == cancel_on:
                raise CancelBatch

    class Ask(Callback):
        may_cancel = True

        def act(self) -> None:
            assert ask is not None
            here = self.state.train_step == ask[1] and self.learn.collectives.world.rank == ask[2]
            if here and self.state.training:
                self.learn.decisions.vote_save()

    asking = Ask()
    if ask is not None:
        setattr(asking, ask[0], asking.act)
    learn = make_learner(cbs=[Checkpointer(every_s=every_s, every_steps=every_steps), asking, CancelAll()])
    learn.save_checkpoint = lambda *, epoch_ended: saved.append(learn.state.train_step)  # type: ignore[method-assign]
    learn.fit(2)
    return saved


def test_checkpoints_are_written_every_so_many_steps() -> None:
    assert saved_at(every_steps=1) == [0, 1, 2, 3, 4, 5]
    assert saved_at(every_steps=2) == [1, 3, 5]
    assert saved_at(every_steps=7) == []


def test_checkpoints_are_written_every_so_many_seconds() -> None:
    assert saved_at(every_s=0.0) == [0, 1, 2, 3, 4, 5]
    assert saved_at(every_s=3600.0) == []
    assert saved_at() == []


def test_the_first_one_comes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 1.5)  # seconds, each time it is looked at
    monkeypatch.setattr("dist_ai.callbacks.checkpointer.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert saved_at(every_s=30.0) == [3]  # at 0, and before steps at 1.5, 3, 4.5, 6


@pytest.mark.parametrize(("event", "step"), [("before_batch", 3), ("before_step", 3), ("after_batch", 4)])
def test_a_callback_may_ask_for_one_in_any_event(event: str, step: int) -> None:
    assert saved_at(ask=(event, 3, 0)) == [step]


def all_ways() -> list[list[int]]:
    is_main = join().world.is_main
    return [
        saved_at(every_steps=2),
        saved_at(every_s=0.0),
        saved_at(every_s=0.0 if is_main else 3600.0),
        saved_at(every_s=3600.0 if is_main else 0.0),  # rank 0's clock counts, and no other
        saved_at(ask=("after_batch", 3, 1)),
        saved_at(every_steps=2, cancel_on=1),
    ]


def test_all_ranks_write_at_the_same_step(spawn: Any) -> None:
    every = [0, 1, 2, 3, 4, 5]
    assert spawn(3, all_ways) == [[[1, 3, 5], every, every, [], [4], [1, 3, 5]]] * 3


def test_a_number_of_steps_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="every_steps=0: expected 1 or more"):
        Checkpointer(every_steps=0)
