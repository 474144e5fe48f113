"""The events of the loop and their order, and what each cancel skips: on one process and on three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from toy import NUM_STEPS, Spy, make_learner, weights_of

from dist_ai.callbacks import (
    EVENTS,
    Callback,
    CancelBackward,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
)
from dist_ai.callbacks.event import CancelException
from dist_ai.errors import ConfigError

# What event.py draws, written down by hand.
TRAIN_BATCH = [
    "before_batch",
    "after_pred",
    "after_loss",
    "before_backward",
    "after_backward",
    "before_step",
    "after_step",
    "after_batch",
]
VALID_BATCH = ["before_batch", "after_pred", "after_loss", "after_batch"]
TRAIN = ["before_train", *TRAIN_BATCH * NUM_STEPS, "after_train"]
VALIDATE = ["before_validate", *VALID_BATCH * 3, "after_validate"]
EPOCH = ["before_epoch", *TRAIN, *VALIDATE, "after_epoch"]
FIT = ["before_fit", *EPOCH, *EPOCH, "after_fit"]

CANCELS = {
    cls.__name__: cls
    for cls in (CancelBackward, CancelStep, CancelBatch, CancelTrain, CancelValidate, CancelEpoch, CancelFit)
}


class Canceller(Callback):
    """Raises a cancel on one rank, once: in the second batch, or the first time that another event comes.

    With `first`, an event and a cancel, it raises that one before, to come to an `after_cancel_...`.
    """

    def __init__(self, cancel: str, event: str, *, training: bool = True, rank: int = 0, first: str = "") -> None:
        self.training, self.rank = training, rank
        self.waiting = {event: CANCELS[cancel]}
        setattr(self, event, lambda: self.act(event))
        if first:
            before, name = first.split()
            self.waiting[before] = CANCELS[name]
            setattr(self, before, lambda: self.act(before))

    def act(self, event: str) -> None:
        in_batch = event in TRAIN_BATCH or event == "after_cancel_batch"
        here = not in_batch or (self.state.step == 1 and self.state.training == self.training)
        if here and self.learn.collectives.world.rank == self.rank and event in self.waiting:
            raise self.waiting.pop(event)


@dataclass(frozen=True)
class Case:
    """A cancel in an event, and the events that then come on the rank that raises it and on the others."""

    cancel: str
    event: str
    log: tuple[str, ...]
    others_log: tuple[str, ...]
    training: bool = True
    first: str = ""

    @property
    def name(self) -> str:
        return f"{self.cancel} in {self.event}" + ("" if self.training else " of validation") + f" {self.first}"


def training_cases() -> list[Case]:
    """Cancels in the second batch of the first epoch."""
    begin = ["before_fit", "before_epoch", "before_train", *TRAIN_BATCH]
    rest_of_train = [*TRAIN_BATCH, "after_train"]
    after_train = [*VALIDATE, "after_epoch", *EPOCH, "after_fit"]
    tails = {
        "CancelBackward": ["after_step", "after_batch", *rest_of_train, *after_train],
        "CancelStep": ["after_cancel_step", "after_step", "after_batch", *rest_of_train, *after_train],
        "CancelBatch": ["after_cancel_batch", "after_batch", *rest_of_train, *after_train],
        "CancelTrain": ["after_cancel_train", "after_train", *after_train],
        "CancelEpoch": ["after_cancel_epoch", "after_epoch", *EPOCH, "after_fit"],
        "CancelFit": ["after_cancel_fit", "after_fit"],
    }
    nothing_left = [*rest_of_train, *after_train]
    cases = []
    for cancel, tail in tails.items():
        for number, event in enumerate(TRAIN_BATCH):
            if event in ("after_step", "after_batch"):  # too late for this batch: what is above it ends after it
                over = cancel in ("CancelBackward", "CancelStep", "CancelBatch")
                log = begin + TRAIN_BATCH + (nothing_left if over else tail)
                cases.append(Case(cancel, event, tuple(log), tuple(log)))
            else:
                log = begin + TRAIN_BATCH[: number + 1] + tail
                others = begin + TRAIN_BATCH[:6] + tail  # they learn of it before the step
                if cancel == "CancelBackward" and number >= 4:  # the backward pass is over: nothing is cancelled
                    log = others = begin + TRAIN_BATCH[:6] + tail
                elif cancel == "CancelBackward":  # the step still runs, with no gradients
                    log = [*begin, *TRAIN_BATCH[: number + 1], "after_cancel_backward", *TRAIN_BATCH[4:6], *tail]
                    others = [*begin, *TRAIN_BATCH[:6], "after_cancel_backward", *tail]
                cases.append(Case(cancel, event, tuple(log), tuple(others)))
    return cases


def validation_cases() -> list[Case]:
    """Cancels in the second validation batch of the first epoch."""
    begin = ["before_fit", "before_epoch", *TRAIN, "before_validate", *VALID_BATCH]
    rest = [*VALID_BATCH, "after_validate", "after_epoch", *EPOCH, "after_fit"]
    tails = {
        "CancelBatch": ["after_cancel_batch", "after_batch", *rest],
        "CancelValidate": ["after_cancel_validate", "after_validate", "after_epoch", *EPOCH, "after_fit"],
        "CancelEpoch": ["after_cancel_epoch", "after_epoch", *EPOCH, "after_fit"],
        "CancelFit": ["after_cancel_fit", "after_fit"],
    }
    cases = []
    for cancel, tail in tails.items():
        for number, event in enumerate(VALID_BATCH):
            if event == "after_batch":
                log = begin + VALID_BATCH + (rest if cancel == "CancelBatch" else tail)
                cases.append(Case(cancel, event, tuple(log), tuple(log), training=False))
            else:
                log, others = begin + VALID_BATCH[: number + 1] + tail, begin + VALID_BATCH[:3] + tail
                cases.append(Case(cancel, event, tuple(log), tuple(others), training=False))
    return cases


def stage_cases() -> list[Case]:
    """Cancels in the events between batches, the first time that they come."""
    end_epoch = ["after_cancel_epoch", "after_epoch", *EPOCH, "after_fit"]
    end_fit = ["after_cancel_fit", "after_fit"]
    second = ["after_epoch", *EPOCH, "after_fit"]
    batch_cancelled = [
        *["before_fit", "before_epoch", "before_train", *TRAIN_BATCH],
        *["before_batch", "after_cancel_batch", "after_batch"],
    ]
    rows: list[tuple[str, str, list[str]]] = [
        ("CancelFit", "before_fit", ["before_fit", *end_fit]),
        ("CancelEpoch", "before_epoch", ["before_fit", "before_epoch", *end_epoch]),
        ("CancelFit", "before_epoch", ["before_fit", "before_epoch", *end_fit]),
        (
            "CancelTrain",
            "before_train",
            [*FIT[:3], "after_cancel_train", "after_train", *VALIDATE, *second],
        ),
        ("CancelEpoch", "before_train", [*FIT[:3], *end_epoch]),
        ("CancelFit", "before_train", [*FIT[:3], *end_fit]),
        ("CancelTrain", "after_train", FIT),
        ("CancelEpoch", "after_train", [*FIT[:2], *TRAIN, *end_epoch]),
        ("CancelFit", "after_train", [*FIT[:2], *TRAIN, *end_fit]),
        (
            "CancelValidate",
            "before_validate",
            [*FIT[:2], *TRAIN, "before_validate", "after_cancel_validate", "after_validate", *second],
        ),
        ("CancelEpoch", "before_validate", [*FIT[:2], *TRAIN, "before_validate", *end_epoch]),
        ("CancelFit", "before_validate", [*FIT[:2], *TRAIN, "before_validate", *end_fit]),
        ("CancelValidate", "after_validate", FIT),
        ("CancelEpoch", "after_validate", [*FIT[:2], *TRAIN, *VALIDATE, *end_epoch]),
        ("CancelFit", "after_validate", [*FIT[:2], *TRAIN, *VALIDATE, *end_fit]),
        ("CancelEpoch", "after_epoch", FIT),
        ("CancelFit", "after_epoch", ["before_fit", *EPOCH, *end_fit]),
        ("CancelFit", "after_fit", FIT),
    ]
    cases = [Case(cancel, event, tuple(log), tuple(log)) for cancel, event, log in rows]
    # And in the events that follow a cancel: what is above it can still be cancelled.
    whole = [*batch_cancelled, *TRAIN_BATCH, "after_train", *VALIDATE, *second]
    after_batch = {
        "CancelBatch": whole,
        "CancelTrain": [*batch_cancelled, "after_cancel_train", "after_train", *VALIDATE, *second],
        "CancelEpoch": [*batch_cancelled, *end_epoch],
        "CancelFit": [*batch_cancelled, *end_fit],
    }
    at = len(batch_cancelled) - 3 + 1
    for cancel, log in after_batch.items():
        others = log[:at] + TRAIN_BATCH[1:6] + log[at:]
        first = "before_batch CancelBatch"
        cases.append(Case(cancel, "after_cancel_batch", tuple(log), tuple(others), first=first))
    cases.append(
        Case(
            "CancelFit",
            "after_cancel_fit",
            ("before_fit", *end_fit),
            ("before_fit", *end_fit),
            first="before_fit CancelFit",
        )
    )
    return cases


CASES = {case.name: case for case in (*training_cases(), *validation_cases(), *stage_cases())}


def fit_with_cancels(names: list[str], rank: int) -> dict[str, dict[str, Any]]:
    """Runs a fit for each case, with the cancel raised on `rank` only; returns what came of it by case."""
    results = {}
    for name in names:
        case = CASES[name]
        spy = Spy()
        canceller = Canceller(case.cancel, case.event, training=case.training, rank=rank, first=case.first)
        learn = make_learner(cbs=[spy, canceller])
        learn.fit(2)
        recorder = learn.recorder
        results[name] = {
            "log": tuple(spy.log),
            "weights": weights_of(learn.model).tolist(),
            "losses": list(recorder.losses),
            "rows": [[row["train_loss"], row["valid_loss"]] for row in recorder.epochs],
            "raised": not canceller.waiting or learn.collectives.world.rank != rank,
        }
    return results


def test_every_event_comes_in_the_order_that_is_drawn() -> None:
    spy = Spy()
    make_learner(cbs=spy).fit(2)
    assert spy.log == FIT


@pytest.mark.world_size(3)
def test_every_event_comes_in_the_order_that_is_drawn_on_every_rank() -> None:
    spy = Spy()
    make_learner(cbs=spy).fit(2)
    assert spy.log == FIT


def test_the_drawing_names_every_event() -> None:
    import dist_ai.callbacks.event as module

    drawing = (module.__doc__ or "").split("```")[1]
    cancelled = {event for event in EVENTS if event.startswith("after_cancel_")}
    assert {event for event in EVENTS if event in drawing} == set(EVENTS) - cancelled
    assert {f"after_cancel_{cls.__name__.removeprefix('Cancel').lower()}" for cls in CANCELS.values()} == cancelled
    assert set(FIT) == set(EVENTS) - cancelled


@pytest.mark.parametrize("name", CASES)
def test_a_cancel_skips_to_the_end_of_its_stage(name: str) -> None:
    result = fit_with_cancels([name], rank=0)[name]
    assert result["raised"]
    assert result["log"] == CASES[name].log


def assert_ranks_are_as_one(spawn: Any, names: list[str]) -> None:
    """Checks that a cancel raised on one of three ranks gives what a process alone gets."""
    alone = fit_with_cancels(names, rank=0)
    ranks = spawn(3, fit_with_cancels, names=names, rank=1)
    for name in names:
        case = CASES[name]
        for number, rank in enumerate(ranks):
            got, expected = rank[name], alone[name]
            assert got["raised"], name
            assert got["log"] == (case.log if number == 1 else case.others_log), name
            for what in ("weights", "losses", "rows"):
                torch.testing.assert_close(
                    torch.tensor(got[what], dtype=torch.float64),
                    torch.tensor(expected[what], dtype=torch.float64),
                    rtol=1e-11,
                    atol=1e-12,
                    equal_nan=True,
                    msg=lambda text, name=name, what=what: f"{name}: {what}: {text}",
                )


def test_a_training_batch_cancelled_on_one_of_three_ranks_is_cancelled_on_all_with_the_weights_of_one_process(
    spawn: Any,
) -> None:
    assert_ranks_are_as_one(spawn, [case.name for case in training_cases()])


def test_a_validation_cancelled_on_one_of_three_ranks_is_cancelled_on_all(spawn: Any) -> None:
    assert_ranks_are_as_one(spawn, [case.name for case in validation_cases()])


def test_a_stage_cancelled_on_one_of_three_ranks_is_cancelled_on_all(spawn: Any) -> None:
    assert_ranks_are_as_one(spawn, [case.name for case in stage_cases()])


@pytest.mark.parametrize(
    ("cancel", "event", "training", "stages"),
    [
        ("CancelValidate", "after_loss", True, "fit, epoch, train, batch"),
        ("CancelTrain", "after_loss", False, "fit, epoch, validate, batch"),
        ("CancelStep", "after_loss", False, "fit, epoch, validate, batch"),
        ("CancelBackward", "before_train", True, "fit, epoch, train"),
        ("CancelBatch", "after_epoch", True, "fit, epoch"),
        ("CancelEpoch", "before_fit", True, "fit"),
    ],
)
def test_to_cancel_what_is_not_under_way_is_an_error(cancel: str, event: str, training: bool, stages: str) -> None:
    learn = make_learner(cbs=Canceller(cancel, event, training=training))
    stage = cancel.removeprefix("Cancel").lower()
    with pytest.raises(ConfigError) as refused:
        learn.fit(1)
    assert str(refused.value) == (
        f"{cancel} cannot be raised here: there is no {stage} under way, only {stages}; "
        "the events of each are drawn in dist_ai.callbacks.event"
    )
    assert isinstance(refused.value.__cause__, CancelException)


def test_a_callback_that_says_it_never_cancels_must_not() -> None:
    class Sure(Callback):
        may_cancel = False

        def after_loss(self) -> None:
            raise CancelBatch

    with pytest.raises(ConfigError) as refused:
        make_learner(cbs=Sure()).fit(1)
    assert str(refused.value) == (
        "Sure raised CancelBatch, but says may_cancel = False, so the ranks do not exchange what it decides; "
        "set Sure.may_cancel = True"
    )


@pytest.mark.parametrize("cancel", ["CancelFit", "CancelEpoch", "CancelValidate"])
def test_what_ends_a_fit_ends_a_validation_on_its_own_quietly(cancel: str) -> None:
    learn = make_learner(cbs=Canceller(cancel, "after_loss", training=False))
    learn.validate()
    assert len(learn.validate()) == 1  # and nothing of it is left for the next


def test_a_cancelled_batch_leaves_no_gradients_to_the_next() -> None:
    """The gradients of a batch cancelled after its backward must not be added to those of the batch after it."""
    alone = fit_with_cancels(["CancelBatch in before_step ", "CancelStep in before_step "], rank=0)
    skipped = make_learner()
    for epoch in range(2):
        batches = [batch for _, batch in skipped.dls.train.batches(epoch)]
        for step, (x, y) in enumerate(batches):
            if (epoch, step) != (0, 1):
                grads = torch.autograd.grad(skipped.loss_func(skipped.model(x), y), list(skipped.model.parameters()))
                for p, grad in zip(skipped.model.parameters(), grads, strict=True):
                    p.data.add_(grad, alpha=-0.1)
    for result in alone.values():
        assert result["weights"] == weights_of(skipped.model).tolist()
