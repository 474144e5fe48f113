"""Handlers that run now and then, and callbacks made of a function."""

from __future__ import annotations

from typing import Any

import pytest
from toy import NUM_STEPS, make_learner

from dist_ai.callbacks import Callback, CancelFit, Phase, on, when
from dist_ai.errors import ConfigError


class Steps(Callback):
    """Writes down where its filtered handlers run."""

    may_cancel = False

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int]] = []

    def note(self, what: str) -> None:
        self.log.append((what, self.state.epoch, self.state.step))

    @when(every=2)
    def after_step(self) -> None:
        self.note("every")

    @when(once=4, training=True)
    def before_batch(self) -> None:
        self.note("once")

    @when(training=False)
    def after_batch(self) -> None:
        self.note("validation")

    @when(every=2)
    def after_epoch(self) -> None:
        self.note("epoch")


def test_a_filter_counts_the_steps_of_the_fit_or_its_epochs() -> None:
    steps = Steps()
    make_learner(cbs=steps).fit(2)
    assert NUM_STEPS == 3
    of = {what: [(epoch, step) for kind, epoch, step in steps.log if kind == what] for what, _, _ in steps.log}
    assert of["every"] == [(0, 1), (1, 0), (1, 2)]  # the 2nd, 4th and 6th step
    assert of["once"] == [(1, 0)]
    assert of["validation"] == [(epoch, batch) for epoch in (0, 1) for batch in range(3)]
    assert [epoch for epoch, _ in of["epoch"]] == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0: expected a whole number, 1 or more"),
        ({"once": 1.5}, "once=1.5: expected a whole number, 1 or more"),
        ({"every": 2, "once": 3}, "every=2 and once=3: give one of them"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        when(**options)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("event", "options", "message"),
    [
        ("after_stpe", {}, "'after_stpe' is not an event; did you mean 'after_step'?; the events are drawn in"),
        ("before_fit", {"every": 2}, "before_fit comes once a fit, so every= and once= have nothing to count"),
        ("after_epoch", {"training": True}, "after_epoch is no event of a batch, so training=True says nothing"),
    ],
)
def test_a_filter_that_does_not_fit_its_event_is_refused_when_it_is_made(
    event: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        on(event, print, **options)
    assert str(refused.value).startswith(message)


def test_a_filter_on_a_method_that_does_not_fit_its_event_is_refused_when_it_is_attached() -> None:
    class Odd(Callback):
        @when(every=3)
        def before_fit(self) -> None: ...

    with pytest.raises(ConfigError, match="before_fit comes once a fit"):
        make_learner(cbs=Odd())


def test_a_function_is_a_callback_that_takes_the_learner() -> None:
    seen: list[int] = []
    learn = make_learner()
    learn.fit(2, cbs=on("after_step", lambda learn: seen.append(learn.state.train_step), every=3))
    assert seen == [2, 5]
    learn.fit(1)
    assert seen == [2, 5]  # it was for that fit


def test_a_function_is_decorated_to_be_a_callback_and_may_write_and_cancel() -> None:
    @on("after_loss", training=True)
    def double(learn: Any) -> None:
        learn.state.loss = learn.state.loss * 2

    @on("after_step", once=2)
    def stop(learn: Any) -> None:
        raise CancelFit

    plainly, doubled = make_learner(), make_learner()
    plainly.fit(1)
    doubled.fit(1, cbs=[double, stop])
    assert doubled.recorder.losses[0] == pytest.approx(2 * plainly.recorder.losses[0])
    assert len(doubled.recorder.losses) == 2
    assert repr(stop).startswith("on('after_step', ")


def test_functions_run_in_order_of_their_phase() -> None:
    log: list[str] = []
    late = on("before_fit", lambda _: log.append("late"), phase=Phase.REPORT)
    early = on("before_fit", lambda _: log.append("early"), phase=Phase.PREPARE)
    make_learner(cbs=[late, early]).fit(1)
    assert log == ["early", "late"]


def test_an_error_in_a_function_names_it_and_where_it_was() -> None:
    def broken(_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        make_learner(cbs=on("after_step", broken, once=2)).fit(1)
    [note] = raised.value.__notes__
    assert note.endswith("broken (event after_step, epoch 0, step 1, rank 0)")
