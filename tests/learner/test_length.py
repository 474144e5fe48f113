"""Fits in epochs, steps, samples and seconds; validation every n steps; and the schedules of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import (
    NUM_STEPS,
    NUM_TRAIN,
    Spy,
    Stop,
    StopAt,
    give_back_run_directories,
    make_dls,
    make_learner,
    make_model,
    weights_of,
)

from dist_ai.callbacks import Callback, CancelEpoch, CancelFit, CancelTrain, GradientAccumulation, GradientClip, on
from dist_ai.data import DataLoaders
from dist_ai.errors import ConfigError
from dist_ai.learner import rhythm
from dist_ai.learner.length import Length, Steps
from dist_ai.optimizer import Adam

# ------------------------------------------------------------------------------------------------ lengths


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({"n_epoch": 2}, 2, 6),
        ({"n_epoch": 0}, 0, 0),
        ({"steps": 0}, 0, 0),
        ({"steps": 3}, 1, 3),
        ({"steps": 4}, 2, 4),
        ({"samples": 8}, 1, 1),
        ({"samples": 9}, 1, 2),
        ({"samples": NUM_TRAIN}, 1, 3),
        ({"samples": NUM_TRAIN + 1}, 2, 4),
        ({"time": 1.5}, None, None),
    ],
)
def test_a_length_is_so_many_epochs_and_steps(options: dict[str, Any], epochs: int | None, steps: int | None) -> None:
    assert Length(**options).in_epochs(Steps(num_batches=NUM_STEPS, num_samples=NUM_TRAIN, bs=8)) == (epochs, steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing was given for a fit's length; give one of n_epoch, steps, samples, time (seconds)"),
        ({"n_epoch": 1, "steps": 2}, "n_epoch=1, steps=2 was given for a fit's length; give one of"),
        ({"steps": -1}, "steps=-1: a fit's length is a whole number, 0 or more"),
        ({"n_epoch": 1.5}, "n_epoch=1.5: a fit's length is a whole number, 0 or more"),
        ({"time": -1.0}, "time=-1.0: a fit's length is a number of seconds, 0 or more"),
    ],
)
def test_a_length_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_learner().fit(**options)
    assert str(refused.value).startswith(message)


def test_a_fit_in_steps_or_samples_takes_the_steps_that_as_many_epochs_begin_with() -> None:
    by_epochs, by_steps, by_samples = make_learner(), make_learner(), make_learner()
    by_epochs.fit(2)
    by_steps.fit(steps=5)
    by_samples.fit(samples=NUM_TRAIN + 16)
    assert by_steps.recorder.losses == by_epochs.recorder.losses[:5]
    assert by_samples.recorder.losses == by_epochs.recorder.losses[:5]
    assert [row["step"] for row in by_steps.recorder.epochs] == [3, 5]
    assert not any(math.isnan(row["valid_loss"]) for row in by_steps.recorder.epochs)


def test_the_next_fit_begins_with_an_epoch_of_its_own() -> None:
    seen: list[list[int]] = []
    note = on("before_batch", lambda learn: seen.append(learn.state.share.indices.tolist()), training=True)
    learn = make_learner(cbs=note)
    learn.fit(steps=4)
    learn.fit(steps=3)
    assert sorted(i for batch in seen[4:] for i in batch) == list(range(NUM_TRAIN))
    assert seen[4:] not in (seen[:3], [*seen[3:4], *seen[1:3]])


class Clock(Callback):
    """Lets the fits' clock go on by 0.02 s a training batch, whatever a busy machine does."""

    may_cancel = False

    def __init__(self) -> None:
        self.now = 0.0
        rhythm._now = lambda: self.now

    def before_batch(self) -> None:
        self.now += 0.02 * self.state.training


@pytest.fixture
def the_real_clock_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rhythm, "_now", rhythm._now)


def fit_for(seconds: float) -> tuple[int, list[float], float]:
    learn = make_learner(cbs=Clock())
    learn.fit_one_cycle(time=seconds)
    return len(learn.recorder.losses), learn.recorder.lrs, learn.recorder.epochs[-1]["valid_loss"]


def test_a_fit_ends_by_rank_0s_clock_at_the_same_step_on_all_ranks_and_validates(spawn: Any) -> None:
    # Alone a process looks at the clock after each of its 30 steps; two of them when they exchange, every 16th.
    for world_size, expected in ((1, 30), (2, 33)):
        ranks = spawn(world_size, fit_for, seconds=0.6)
        steps, rates, valid_loss = ranks[0]
        assert steps == expected
        assert all(each[:2] == (steps, rates) for each in ranks)  # the schedule goes by the same clock
        assert math.isfinite(valid_loss)
        assert max(rates) > 5 * rates[0]  # it went up and came down again
        assert rates[-1] < max(rates)


# ------------------------------------------------------------------------------------------------ validation


def test_validation_comes_every_so_many_steps_and_at_the_end() -> None:
    spy = Spy()
    learn = make_learner(cbs=spy)
    learn.fit(3, valid_every=4)  # of 9 steps: after the 4th, the 8th and the 9th
    marks = [event for event in spy.log if event in ("after_step", "before_validate", "after_train", "after_epoch")]
    epoch, step, look, train = "after_epoch", "after_step", "before_validate", "after_train"
    assert marks == [
        *[step] * 3,
        train,
        epoch,
        step,
        look,
        step,
        step,
        train,
        epoch,
        step,
        step,
        look,
        step,
        train,
        look,
        epoch,
    ]
    rows = learn.recorder.epochs
    assert [(row["epoch"], row["step"], math.isfinite(row["valid_loss"])) for row in rows] == [
        (0, 3, False), (1, 4, True), (1, 6, False), (2, 8, True), (2, 9, True),
    ]  # fmt: skip


def test_validating_in_the_middle_of_an_epoch_does_not_change_what_is_learned() -> None:
    plainly, looking = make_learner(), make_learner()
    plainly.fit(2)
    looking.fit(2, valid_every=1)
    assert torch.equal(weights_of(plainly.model), weights_of(looking.model))
    assert plainly.recorder.losses == looking.recorder.losses
    assert looking.recorder.epochs[2]["valid_loss"] == plainly.recorder.epochs[0]["valid_loss"]
    assert [row["step"] for row in looking.recorder.epochs] == [1, 2, 3, 4, 5, 6]


def test_a_validation_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="valid_every=0: expected 1 step or more"):
        make_learner().fit(1, valid_every=0)
    with pytest.raises(ConfigError, match="valid_every=2, and there is no validation data; give DataLoaders"):
        make_learner(dls=DataLoaders(make_dls().train)).fit(1, valid_every=2)


# ------------------------------------------------------------------------------------------------ schedules


def test_flat_cos_stays_and_then_falls() -> None:
    learn = make_learner()
    learn.fit_flat_cos(4, 0.1, pct_start=0.5, div_final=10)
    rates = learn.recorder.lrs
    assert rates[:6] == [0.1] * 6
    expected = [0.1 + (0.01 - 0.1) * (1 - math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert rates[6:] == pytest.approx(expected)


def test_sgdr_begins_anew_in_each_cycle() -> None:
    learn = make_learner()
    learn.fit_sgdr(2, 1, 0.1, cycle_mult=2)  # one epoch of 3 steps, then two of 6
    expected = [0.1 * (1 + math.cos(math.pi * k / 3)) / 2 for k in range(3)]
    expected += [0.1 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert learn.recorder.lrs == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"fit_sgdr\(0, 1, cycle_mult=2\): expected 1 or more of each"):
        learn.fit_sgdr(0, 1)


@pytest.mark.parametrize("method", ["fit_one_cycle", "fit_flat_cos"])
def test_a_schedule_spans_the_steps_of_the_fit(method: str) -> None:
    by_epochs, by_steps = make_learner(), make_learner()
    getattr(by_epochs, method)(2, 0.1)
    getattr(by_steps, method)(steps=6, **{"lr_max" if method == "fit_one_cycle" else "lr": 0.1})
    assert by_steps.recorder.lrs == by_epochs.recorder.lrs


# ------------------------------------------------------------------------------------------------ going on


FITS: dict[str, Callable[[Any], None]] = {
    "steps": lambda learn: learn.fit(steps=8),
    "samples": lambda learn: learn.fit(samples=40),
    "one cycle in steps": lambda learn: learn.fit_one_cycle(steps=8),
    "validation every 2 steps": lambda learn: learn.fit(3, valid_every=2),
    "flat_cos": lambda learn: learn.fit_flat_cos(3),
    "sgdr": lambda learn: learn.fit_sgdr(2, 1),
    "accumulated": lambda learn: learn.fit(3, cbs=[GradientAccumulation(batches=2), GradientClip(0.5)]),
    "fp16": lambda learn: learn.to_fp16().fit_one_cycle(3, 3.0, cbs=on("after_loss", overflow, once=2, training=True)),
    "fine_tune": lambda learn: learn.fine_tune(2),
}


def overflow(learn: Any) -> None:
    learn.state.loss = learn.state.loss * 1e38


def program(run_dir: Path, kind: str, *, cbs: Any = ()) -> list[Any]:
    """Returns all that a program could print."""
    learn = make_learner(
        dls=make_dls(bs=6, dtype=torch.float32), model=make_model(torch.float32), opt_func=Adam, run_dir=run_dir,
        checkpoint_every_s=None, checkpoint_every_steps=1, cbs=cbs,
    )  # fmt: skip
    FITS[kind](learn)
    learn.fit(1)  # the fit after it sees the data that it would have seen
    rows = [
        (row["fit"], row["epoch"], row["step"], row["train_loss"], repr(row["valid_loss"]))
        for row in learn.recorder.epochs
    ]
    return [weights_of(learn.model).tolist(), learn.recorder.losses, learn.recorder.lrs, rows, learn.precision.state()]


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.filterwarnings("ignore:an error was raised")
def test_each_kind_of_fit_goes_on_bit_for_bit_wherever_it_was_stopped(tmp_path: Path, kind: str) -> None:
    expected = program(tmp_path / "undisturbed", kind)
    for step in (1, 2, 4, 7):
        with pytest.raises(Stop):
            program(tmp_path / f"stopped {step}", kind, cbs=StopAt(step))
        give_back_run_directories()
        assert program(tmp_path / f"stopped {step}", kind) == expected
        give_back_run_directories()
        assert program(tmp_path / f"stopped {step}", kind, cbs=StopAt(0)) == expected  # all of it is done
        give_back_run_directories()


@pytest.mark.usefixtures("the_real_clock_afterwards")
def test_a_fit_by_the_clock_goes_on_with_the_time_that_is_left(tmp_path: Path) -> None:
    def run(*cbs: Callback) -> Any:
        learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, checkpoint_every_steps=1, cbs=[Clock(), *cbs])
        learn.fit(time=1.0)
        give_back_run_directories()
        return learn

    steps = []
    with pytest.raises(Stop):
        run(StopAt(20))
    give_back_run_directories()
    learn = run(on("after_step", lambda learn: steps.append(learn.state.train_step)))
    assert steps == list(range(20, 50))  # 0.02 s each, of 1 s
    assert len(learn.recorder.losses) == 50
    again = run(StopAt(0))  # done; and as many epochs count as were begun, so the next fit sees its own data
    assert again._fits.num_epochs == learn._fits.num_epochs == 17


@pytest.mark.parametrize("cancel", [CancelTrain, CancelEpoch, CancelFit])
def test_a_cancel_in_the_step_that_is_saved_is_not_forgotten(tmp_path: Path, cancel: type[Exception]) -> None:
    def run(folder: Path, *cbs: Callback) -> list[Any]:
        @on("after_batch", once=2, training=True)
        def end(_: Any) -> None:
            raise cancel

        learn = make_learner(run_dir=folder, checkpoint_every_s=None, checkpoint_every_steps=1, cbs=[end, *cbs])
        learn.fit(2)
        rows = [(row["epoch"], row["step"], repr(row["valid_loss"])) for row in learn.recorder.epochs]
        give_back_run_directories()
        return [learn.recorder.losses, rows]

    expected = run(tmp_path / "undisturbed")
    # Killed right after that checkpoint: the next event that comes is the cancel's.
    names = {CancelTrain: "after_cancel_train", CancelEpoch: "after_cancel_epoch", CancelFit: "after_cancel_fit"}
    with pytest.raises(Stop):
        run(tmp_path / "stopped", on(names[cancel], stop))
    give_back_run_directories()
    assert run(tmp_path / "stopped") == expected
    assert len(expected[0]) == {CancelTrain: 5, CancelEpoch: 5, CancelFit: 2}[cancel]


def stop(_: Any) -> None:
    raise Stop
