"""What is decided by a metric: stopping early, keeping the best weights, lowering the rate."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Stop, give_back_run_directories, make_dls, make_learner, weights_of

from dist_ai.callbacks import Callback, Checkpointer, EarlyStopping, ReduceLROnPlateau, SaveBest, on
from dist_ai.callbacks.callback import Phase
from dist_ai.errors import ConfigError
from dist_ai.metrics import accuracy

VALUES = [3.0, 2.0, 2.5, 2.0, 1.0, 4.0]


class Pretend(Callback):
    """Writes values of our own into the rows, as if they had been measured."""

    phase = Phase.RECORD
    may_cancel = False

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def after_epoch(self) -> None:
        self.learn.recorder.epochs[-1]["valid_loss"] = self.values[self.state.epoch]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "options", "num_epochs"),
    [
        (VALUES, {"patience": 1}, 3),
        (VALUES, {"patience": 2}, 4),  # 2.0 again is no better
        (VALUES, {"patience": 3}, 6),
        (VALUES, {"patience": 2, "min_delta": 1.0}, 3),  # 2.0 is not better than 3.0 by more than 1
        (VALUES, {"patience": 2, "lower": False}, 3),
        ([math.nan, math.nan, 1.0], {"patience": 2}, 2),
        ([math.nan, 1.0, 0.5], {"patience": 2}, 3),
    ],
)
def test_a_fit_stops_after_so_many_validations_without_a_better_value(
    values: list[float], options: dict[str, Any], num_epochs: int
) -> None:
    learn = make_learner(cbs=[Pretend(values), EarlyStopping(**options)])
    learn.fit(len(values))
    assert len(learn.recorder.epochs) == num_epochs


def test_validations_in_the_middle_of_an_epoch_count_too() -> None:
    learn = make_learner(dls=make_dls(bs=2), cbs=EarlyStopping(min_delta=100.0, patience=2))
    learn.fit(5, valid_every=3)
    assert [row["step"] for row in learn.recorder.epochs] == [3, 6, 9]


def test_a_second_fit_begins_to_count_anew() -> None:
    learn = make_learner(cbs=EarlyStopping(min_delta=100.0, patience=2))
    learn.fit(9)
    learn.fit(9)
    assert [row["epoch"] for row in learn.recorder.epochs] == [0, 1, 2, 0, 1, 2]


def stopped_early() -> list[Any]:
    learn = make_learner(metrics=accuracy, lr=0.5, cbs=[EarlyStopping("accuracy", 2), SaveBest("accuracy")])
    learn.fit(30)
    return [[row["accuracy"] for row in learn.recorder.epochs], weights_of(learn.model).tolist()]


def test_all_ranks_stop_at_the_same_epoch_with_the_weights_of_one_process(spawn: Any) -> None:
    accuracies, weights = stopped_early()
    assert len(accuracies) < 30
    for rank in spawn(3, stopped_early):
        assert rank[0] == pytest.approx(accuracies)
        assert rank[1] == pytest.approx(weights, rel=1e-8)


def num_exchanges(*cbs: Callback) -> int:
    """Returns how often ranks exchange decisions in a fit that is stopped after its second epoch."""
    learn = make_learner(cbs=cbs)
    calls, exchange = [], learn.decisions.exchange

    def counted(**options: Any) -> Any:
        calls.append(1)
        return exchange(**options)

    learn.decisions.exchange = counted  # type: ignore[method-assign]
    learn.fit(9 if cbs else 2)
    assert len(learn.recorder.epochs) == 2
    return len(calls)


def stopped_without_exchanges() -> list[int]:
    return [
        num_exchanges(),
        num_exchanges(EarlyStopping(min_delta=100.0)),
        num_exchanges(SometimesCancels(), EarlyStopping(min_delta=100.0)),
    ]


class SometimesCancels(Callback):
    """May cancel on one rank alone, and never does."""


def test_a_callback_that_decides_alike_on_all_ranks_costs_no_exchange(spawn: Any) -> None:
    for without, alike, alone in spawn(2, stopped_without_exchanges):
        assert abs(alike - without) <= 1  # an exchange is due by the clock too
        assert alone > without + 6  # once a batch


def test_a_run_that_was_killed_after_it_decided_to_stop_stops_again(tmp_path: Path) -> None:
    def program(*cbs: Callback) -> list[Any]:
        stop = EarlyStopping(min_delta=100.0, patience=2)
        learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, keep_best=None, cbs=[stop, *cbs])
        learn.callbacks.find(Checkpointer).every_epoch = True
        learn.fit(9)
        return [len(learn.recorder.epochs), weights_of(learn.model).tolist()]

    def killed(_: object) -> None:
        raise Stop

    with pytest.raises(Stop):  # the checkpoint of the epoch is written, and the fit's end is not
        program(on("after_cancel_fit", killed))
    give_back_run_directories()
    epochs, weights = program()
    assert epochs == 3
    undisturbed = make_learner(cbs=EarlyStopping(min_delta=100.0, patience=2))
    undisturbed.fit(9)
    assert weights == weights_of(undisturbed.model).tolist()


def test_a_fit_ends_with_the_weights_of_its_best_epoch() -> None:
    kept: list[torch.Tensor] = []
    keep = on("after_epoch", lambda learn: kept.append(weights_of(learn.model)))
    learn = make_learner(cbs=[keep, Pretend(VALUES), SaveBest()])
    learn.fit(len(VALUES))
    assert torch.equal(weights_of(learn.model), kept[4])
    assert not torch.equal(kept[4], kept[5])


def test_after_an_error_the_weights_are_those_of_the_last_step() -> None:
    learn = make_learner(cbs=[Pretend(VALUES), SaveBest()])
    last: list[torch.Tensor] = []

    def fail(learner: Any) -> None:
        last.append(weights_of(learner.model))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learn.fit(6, cbs=on("before_epoch", fail, once=6))
    assert torch.equal(weights_of(learn.model), last[0])


def test_the_rate_is_lowered_when_nothing_gets_better() -> None:
    rates: list[float] = []
    look = on("before_epoch", lambda learn: rates.append(learn.opt.get_hyper("lr")[0]))
    learn = make_learner(cbs=[look, Pretend(VALUES), ReduceLROnPlateau(patience=1, factor=0.5, min_lr=0.03)])
    learn.fit(len(VALUES), 0.1)
    assert rates == [0.1, 0.1, 0.1, 0.05, 0.03, 0.03]
    before = copy.copy(rates)
    learn.fit(1, 0.1)
    assert rates == [*before, 0.1]


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            lambda: EarlyStopping("acuracy"),
            "monitor='acuracy' is no column of the epoch's row; did you mean 'accuracy'?; there are train_loss, valid_loss, "
            "accuracy",
        ),
        (
            lambda: SaveBest("f1"),
            "monitor='f1' is no column of the epoch's row; there are train_loss, valid_loss, accuracy",
        ),
    ],
)
def test_an_unknown_metric_is_an_error_when_the_fit_begins(callback: Any, message: str) -> None:
    learn = make_learner(metrics=accuracy)
    with pytest.raises(ConfigError) as refused:
        learn.fit(1, cbs=callback())
    assert str(refused.value) == message
    assert learn.recorder.losses == []


def test_without_validation_data_only_the_training_loss_can_be_followed() -> None:
    from dist_ai.data import DataLoaders

    learn = make_learner(dls=DataLoaders(make_dls().train))
    learn.fit(1, cbs=SaveBest("train_loss"))
    with pytest.raises(ConfigError, match="there is no validation data to compute it on"):
        learn.fit(1, cbs=SaveBest())


def test_lowering_the_rate_beside_a_schedule_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"a schedule sets the learning rate at every step; use learn\.fit"):
        make_learner().fit_one_cycle(1, 0.1, cbs=ReduceLROnPlateau())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(patience=0), "EarlyStopping(patience=0): expected 1 or more"),
        (lambda: ReduceLROnPlateau(patience=0), "ReduceLROnPlateau(patience=0): expected 1 or more"),
        (
            lambda: ReduceLROnPlateau(factor=10),
            "ReduceLROnPlateau(factor=10): the rate is multiplied by it; expected between 0 and 1",
        ),
        (
            lambda: SaveBest(min_delta=-1.0),
            "min_delta=-1.0: expected 0 or more; `lower` says which way is better",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make()
    assert str(refused.value) == message


def best_of_a_shared_model(run_dir: str, stop: bool) -> list[float]:
    def leave(_: object) -> None:
        raise Stop

    rising = Pretend([1.0, 2.0, 3.0])  # the first epoch's weights are the best
    learn = make_learner(
        strategy="fsdp", run_dir=run_dir, checkpoint_every_s=None, checkpoint_every_steps=1, cbs=[rising, SaveBest()]
    )
    if stop:
        try:
            learn.fit(3, cbs=on("before_epoch", leave, once=3))
        except Stop:
            return []
    learn.fit(3)
    from dist_ai.distributed.sharded import gather

    return torch.cat([t.flatten() for t in gather(learn.model.state_dict()).values()]).tolist()


def test_the_best_weights_of_a_shared_model_outlive_a_kill(spawn: Any, tmp_path: Path) -> None:
    alone = make_learner()
    alone.fit(1)
    spawn(2, best_of_a_shared_model, run_dir=str(tmp_path), stop=True)
    for rank in spawn(2, best_of_a_shared_model, run_dir=str(tmp_path), stop=False):
        assert rank == pytest.approx(weights_of(alone.model).tolist(), rel=1e-9)
