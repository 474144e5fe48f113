"""Losses and gradients that are NaN or infinite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toy import make_learner, weights_of

from dist_ai.callbacks import Callback, CancelStep, GradientClip, SkipNaN, TerminateOnNaN, on
from dist_ai.errors import ConfigError, DataError


def spoil(steps: list[int], rank: int = 0) -> Callback:
    """Returns a callback that makes the loss NaN in some steps, on one rank."""

    def act(learn: Any) -> None:
        state = learn.state
        if state.training and state.train_step in steps and learn.collectives.world.rank == rank:
            state.loss = state.loss * math.nan

    return on("after_loss", act)


def terminated(rank: int) -> list[Any]:
    terminate = TerminateOnNaN()
    learn = make_learner(cbs=[spoil([4], rank), terminate])
    learn.fit(5)
    return [terminate.step, len(learn.recorder.losses)]


def test_a_nan_on_one_rank_ends_the_fit_on_all(spawn: Any, capsys: pytest.CaptureFixture[str]) -> None:
    alone = terminated(0)
    assert alone[0] == 4
    assert alone[1] < 15
    assert "the loss of step 4 is nan: TerminateOnNaN ends the fit" in capsys.readouterr().out
    assert spawn(3, terminated, rank=1) == [alone] * 3


def skipped(rank: int) -> list[Any]:
    skip = SkipNaN()
    learn = make_learner(cbs=[spoil([1, 3, 4], rank), skip, GradientClip(1.0)])
    learn.fit(3)
    return [skip.num_skipped, weights_of(learn.model).tolist()]


def test_steps_that_are_not_finite_are_left_out_on_all_ranks(spawn: Any) -> None:
    left_out = make_learner(cbs=GradientClip(1.0))

    def leave_out(learn: Any) -> None:
        if learn.state.train_step in (1, 3, 4):
            raise CancelStep

    left_out.fit(3, cbs=on("before_step", leave_out))
    num, weights = skipped(0)
    assert num == 3
    assert weights == weights_of(left_out.model).tolist()
    for rank in spawn(3, skipped, rank=1):
        assert rank[0] == 3
        assert rank[1] == pytest.approx(weights, rel=1e-9)


def test_too_many_in_a_row_are_an_error() -> None:
    with pytest.raises(DataError, match=r"the gradients were not finite in 3 steps in a row; lower the learning rate"):
        make_learner(cbs=[spoil([0, 2, 3, 4]), SkipNaN(limit=3)]).fit(3)
    make_learner(cbs=[spoil([0, 1, 3, 4]), SkipNaN(limit=3)]).fit(3)


def test_an_infinite_gradient_of_a_finite_loss_is_left_out_too() -> None:
    learn = make_learner(cbs=SkipNaN())
    before = weights_of(learn.model)

    def blow_up(learner: Any) -> None:
        next(learner.model.parameters()).grad[0, 0] = math.inf

    learn.fit(1, cbs=on("after_backward", blow_up))
    assert torch.equal(weights_of(learn.model), before)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SkipNaN\(limit=0\): expected 1 or more"):
        SkipNaN(0)


def warned(capsys: pytest.CaptureFixture[str], *cbs: Callback) -> list[str]:
    learn = make_learner(cbs=[spoil([4, 5, 6]), *cbs])
    learn.fit(3)
    learn.fit(1)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]


def test_without_a_callback_for_it_the_first_nan_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = warned(capsys)
    assert line.startswith(
        "warning: the loss of step 4 is nan, and training goes on. What may help: a lower learning rate"
    )
    assert "TerminateOnNaN() ends the fit there" in line


@pytest.mark.parametrize("handles", [TerminateOnNaN, SkipNaN])
def test_who_deals_with_nan_is_not_warned(capsys: pytest.CaptureFixture[str], handles: type[Callback]) -> None:
    assert warned(capsys, handles()) == []
