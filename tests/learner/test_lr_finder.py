"""The learning rate finder: the same curve on any number of ranks, and nothing left of it."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy import give_back_run_directories, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, GradientAccumulation, Phase, on
from dist_ai.distributed.environment import how_to_begin_anew
from dist_ai.errors import ConfigError, DataError
from dist_ai.learner.lr_finder import LRFinding
from dist_ai.optimizer import SGD, Adam, Muon, Ranger, ScheduleFreeAdamW


def find(accumulate: int = 1) -> dict[str, Any]:
    cbs = [GradientAccumulation(batches=accumulate)] if accumulate > 1 else []
    model = make_model() if accumulate > 1 else make_model(batch_norm=True)
    learn = make_learner(dls=make_dls(bs=6 // accumulate), model=model, opt_func=Adam, cbs=cbs)
    return vars(learn.lr_find(1e-4, 10.0, 60))


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got["lrs"] == pytest.approx(expected["lrs"], rel=1e-12)
    assert got["losses"] == pytest.approx(expected["losses"], rel=1e-8)
    for rule in ("valley", "slide", "minimum", "steep"):
        assert got[rule] == pytest.approx(expected[rule], rel=1e-12), rule


def test_the_curve_and_the_suggestions_are_the_same_on_1_2_and_3_ranks(spawn: Any) -> None:
    alone = find()
    assert len(alone["lrs"]) > 20
    for world_size in (2, 3):
        for rank in spawn(world_size, find):
            assert_same(rank, alone)


def test_accumulated_batches_give_the_curve_of_one_batch(spawn: Any) -> None:
    learn = make_learner(dls=make_dls(bs=6), opt_func=Adam)
    expected = vars(learn.lr_find(1e-4, 10.0, 60))
    assert_same(find(accumulate=3), expected)
    for rank in spawn(2, find, accumulate=3):
        assert_same(rank, expected)


class Counts(Callback):
    """Has state that a step changes."""

    phase = Phase.PREPARE
    may_cancel = False

    def __init__(self) -> None:
        self.count = torch.zeros(1)

    def after_step(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def generators() -> list[Any]:
    return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]


@pytest.mark.parametrize(
    "opt_func",
    [SGD, Adam, torch.optim.AdamW, Ranger, ScheduleFreeAdamW, Muon],
    ids=["SGD", "Adam", "torch AdamW", "Ranger", "ScheduleFreeAdamW", "Muon"],
)
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_optimizer_randomness_and_callbacks_are_left_to_the_bit(
    opt_func: Any, trained: bool, precision: Any
) -> None:
    def program(look: bool) -> list[Any]:
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        model = make_model(torch.float32, batch_norm=True)
        model.insert(3, nn.Dropout(0.3))
        counts = Counts()
        dls = make_dls(bs=6, dtype=torch.float32)
        learn = make_learner(dls=dls, model=model, opt_func=opt_func, cbs=counts, precision=precision)
        if trained:
            learn.fit(1)
        learn.model.train()
        if look:
            learn.lr_find(num_it=20)
            assert all(module.training for module in learn.model.modules())
        drawn = generators()
        learn.fit(2)
        state, plain = learn.opt.state()
        return [
            drawn, counts.count.tolist(), weights_of(learn.model).tolist(), {k: v.tolist() for k, v in state.items()},
            plain, learn.recorder.losses, learn.recorder.lrs, learn.precision.state(),
        ]  # fmt: skip

    assert program(look=True) == program(look=False)


def test_a_loss_that_diverges_at_once_still_gives_suggestions() -> None:
    learn = make_learner(opt_func=SGD)
    finding = learn.lr_find(10.0, 1e6, 100)
    assert len(finding.lrs) < 40
    for rule in ("valley", "slide", "minimum", "steep"):
        assert math.isfinite(getattr(finding, rule)) and getattr(finding, rule) > 0  # noqa: PT018


@pytest.mark.parametrize("points", [1, 2, 3, 5, 7])
def test_a_curve_of_few_points_has_suggestions(points: int) -> None:
    lrs = [10.0**-i for i in range(points, 0, -1)]
    finding = LRFinding.of(lrs, [5.0 - i for i in range(points)], 100)
    assert lrs[0] / 10 <= finding.valley <= lrs[-1]
    assert lrs[0] / 10 <= finding.minimum <= lrs[-1]
    assert lrs[0] <= finding.steep <= lrs[-1]
    assert lrs[0] <= finding.slide <= lrs[-1]


def test_a_loss_that_is_never_finite_has_no_learning_rate() -> None:
    blow = on("after_loss", lambda learn: setattr(learn.state, "loss", learn.state.loss * math.nan))
    learn = make_learner()
    before = weights_of(learn.model)
    with pytest.raises(DataError, match="lr_find: the loss is not finite at the first step"):
        learn.lr_find(cbs=blow)
    assert torch.equal(weights_of(learn.model), before)


def test_an_error_in_the_middle_leaves_everything_as_it_was() -> None:
    def broken(_: Any) -> None:
        raise ZeroDivisionError

    learn = make_learner(opt_func=Adam)
    learn.fit(1)
    before, opt, callbacks = weights_of(learn.model), learn.opt, list(learn.callbacks)
    with pytest.raises(ZeroDivisionError):
        learn.lr_find(cbs=on("after_step", broken, once=5))
    assert torch.equal(weights_of(learn.model), before)
    assert learn.opt is opt
    assert list(learn.callbacks) == callbacks
    assert len(learn.recorder.losses) == 3


def test_without_stopping_it_goes_on_to_the_end() -> None:
    assert len(make_learner(opt_func=SGD).lr_find(1e-3, 1e4, 50, stop_div=False).lrs) == 50


def test_the_picture_shows_the_curve_and_the_suggestions() -> None:
    finding = make_learner().lr_find(num_it=30)
    [axes] = finding.plot().axes
    assert axes.get_xscale() == "log"
    assert list(axes.lines[0].get_xdata()) == finding.lrs
    assert [text.get_text().split()[0] for text in axes.get_legend().get_texts()] == [
        "valley",
        "slide",
        "minimum",
        "steep",
    ]
    assert repr(finding).startswith("LRFinding(valley=")


def script(run_dir: Path, num_it: int = 20) -> tuple[Any, float, list[float]]:
    learn = make_learner(run_dir=run_dir)
    first = learn.lr_find(num_it=num_it)
    learn.fit(1, first.valley)
    return vars(first), learn.lr_find(num_it=num_it).valley, learn.recorder.losses


def test_a_program_run_again_gets_the_rate_that_it_had_without_looking_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = script(tmp_path)
    give_back_run_directories()
    capsys.readouterr()
    assert script(tmp_path) == expected
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: lr_find is done already; its result is remembered",
        f"{tmp_path}: fit 1 is done already; its result is restored. {how_to_begin_anew()}",
        f"{tmp_path}: lr_find is done already; its result is remembered",
    ]


def test_what_is_looked_for_otherwise_is_looked_for_again(tmp_path: Path) -> None:
    assert len(make_learner(run_dir=tmp_path).lr_find(num_it=20).lrs) == 20
    give_back_run_directories()
    assert len(make_learner(run_dir=tmp_path).lr_find(num_it=30).lrs) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_lr": 1.0, "end_lr": 0.1}, r"lr_find\(1\.0, 0\.1\): expected 0 < start_lr < end_lr"),
        ({"num_it": 1}, r"lr_find\(num_it=1\): expected 2 or more"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_learner().lr_find(**options)
