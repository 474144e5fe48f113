"""Callbacks: how they are attached, checked and called, and what an error in one says."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from toy import Spy, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, CancelBackward, CancelBatch, CancelFit, Phase, on
from dist_ai.errors import ConfigError


class Names(Callback):
    """Writes its name into a list that several share."""

    may_cancel = False

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def before_fit(self) -> None:
        self.log.append(self.name)

    def __repr__(self) -> str:
        return f"Names({self.name!r})"


class Failing(Callback):
    """Raises an error in one event."""

    def __init__(self, event: str, error: BaseException, *, training: bool = True, rank: int = 0) -> None:
        setattr(self, event, self.fail)
        self.error, self.training, self.rank = error, training, rank

    def fail(self) -> None:
        if self.state.training == self.training and self.learn.collectives.world.rank == self.rank:
            raise self.error


def test_a_misspelt_event_is_refused_when_the_callback_is_attached() -> None:
    class Typo(Callback):
        def before_bacth(self) -> None: ...

    with pytest.raises(ConfigError) as refused:
        make_learner(cbs=Typo())
    assert str(refused.value) == (
        "Typo.before_bacth is not an event; did you mean 'before_batch'?; "
        "the events are drawn in dist_ai.callbacks.event"
    )


def test_a_class_in_place_of_an_instance_is_refused() -> None:
    for cbs in (Spy, [Spy]):
        with pytest.raises(ConfigError, match=r"<class 'toy\.Spy'> is not a Callback; did you mean Spy\(\)\?"):
            make_learner(cbs=cbs)
    with pytest.raises(ConfigError, match=r"^5 is not a Callback$"):
        make_learner(cbs=[5])


def test_where_one_callback_is_refused_none_of_its_fit_is_attached() -> None:
    class Typo(Callback):
        def after_stpe(self) -> None: ...

    learn, spy = make_learner(), Spy()
    before = list(learn.callbacks)
    with pytest.raises(ConfigError, match=r"Typo\.after_stpe is not an event; did you mean 'after_step'\?"):
        learn.fit(1, cbs=[spy, Typo()])
    assert list(learn.callbacks) == before
    learn.fit(1)
    assert spy.log == []


def test_a_callback_that_is_attached_already_is_refused() -> None:
    twice = Names("twice", [])
    learn = make_learner(cbs=twice)
    message = r"Names\('twice'\) is attached already, and would run twice at every event; give it once"
    with pytest.raises(ConfigError, match=message):
        learn.fit(1, cbs=twice)
    assert twice in list(learn.callbacks)  # it would otherwise have been taken away after the fit
    with pytest.raises(ConfigError, match=message):
        make_learner(cbs=[twice, twice])


def test_callbacks_run_in_order_of_phase_and_then_of_attachment() -> None:
    log: list[str] = []
    cbs: list[Callback] = []
    for phase in (Phase.SAVE, Phase.CHANGE, Phase.PREPARE, Phase.REPORT, Phase.RECORD):
        for number in (1, 2):
            callback = Names(f"{phase.name} {number}", log)
            callback.phase = phase  # type: ignore[misc]
            cbs.append(callback)
    make_learner(cbs=cbs).fit(1)
    names = ["PREPARE", "CHANGE", "RECORD", "REPORT", "SAVE"]
    assert log == [f"{name} {number}" for name in names for number in (1, 2)]


def test_callbacks_of_a_fit_are_taken_away_after_it_on_every_way_out() -> None:
    learn = make_learner()
    before = list(learn.callbacks)
    ways: list[Callback] = [
        Spy(),
        Failing("before_fit", CancelFit()),
        Failing("after_loss", ValueError("no")),
        Failing("after_loss", KeyboardInterrupt()),
    ]
    for callback in ways:
        error = getattr(callback, "error", None)
        if error is None or isinstance(error, CancelFit):
            learn.fit(1, cbs=callback)
        else:
            with pytest.raises(type(error)):
                learn.fit(1, cbs=[callback])
        assert list(learn.callbacks) == before


def test_callbacks_are_found_by_their_class() -> None:
    spy = Spy()
    learn = make_learner(cbs=spy)
    assert learn.callbacks.find(Spy) is spy
    assert learn.callbacks.find(Failing) is None
    assert len(learn.callbacks) == 3  # the recorder, who counts skipped samples, and the spy


def test_an_error_keeps_its_type_and_traceback_and_says_where_it_was_raised() -> None:
    class Broken(Callback):
        def after_backward(self) -> None:
            if self.state.epoch == 1 and self.state.step == 2:
                raise ZeroDivisionError("a user's own mistake")

    with pytest.raises(ZeroDivisionError) as raised:
        make_learner(cbs=Broken()).fit(3)
    assert str(raised.value) == "a user's own mistake"
    [note] = raised.value.__notes__
    assert note.endswith("Broken.after_backward (event after_backward, epoch 1, step 2, rank 0)")
    assert note.startswith("raised in ")
    assert "after_backward" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]


def fail_on_a_rank() -> tuple[str, list[str]]:
    learn = make_learner(cbs=Failing("before_fit", ValueError("only here"), training=False, rank=1))
    try:
        learn.fit(1)
    except Exception as error:
        return type(error).__name__, error.__notes__ if hasattr(error, "__notes__") else []
    return "", []


def test_an_error_on_one_of_two_ranks_names_that_rank_and_the_other_fails_too(spawn: Any) -> None:
    (other, _), (failed, notes) = spawn(2, fail_on_a_rank)
    assert failed == "ValueError"
    assert notes == ["raised in Failing.fail (event before_fit, epoch 0, step 0, rank 1)"]
    assert other == "CollectiveError"  # it does not wait for ever


def test_an_error_outside_callbacks_names_none_of_them() -> None:
    def loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        make_learner(loss_func=loss).fit(1)
    [note] = raised.value.__notes__
    assert note.startswith("in the loss, ")


WAYS_OUT: dict[str, BaseException | None] = {
    "return": None,
    "cancel": CancelFit(),
    "error": ValueError("no"),
    "interrupt": KeyboardInterrupt(),
}


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("event", ["before_fit", "before_batch", "after_backward", "before_validate", "after_epoch"])
def test_after_fit_runs_on_every_way_out_and_the_learner_is_usable_afterwards(way: str, event: str) -> None:
    class Witness(Callback):
        may_cancel = False
        seen: list[Any]

        def after_fit(self) -> None:
            self.seen.append(self.state.exception)

    error = WAYS_OUT[way]
    witness = Witness()
    witness.seen = []
    learn = make_learner(cbs=witness)
    cbs = [] if error is None else [Failing(event, error, training=event not in ("before_fit", "after_epoch"))]
    if way in ("return", "cancel"):
        learn.fit(1, cbs=cbs)
    else:
        with pytest.raises(type(error)) as raised:  # type: ignore[arg-type]
            learn.fit(1, cbs=cbs)
        assert raised.value is error
    assert witness.seen == [None if way in ("return", "cancel") else error]
    assert not learn.model.training
    assert all(p.grad is None for p in learn.model.parameters())  # nothing of it reaches the next fit
    assert (learn.state.batch, learn.state.xb, learn.state.yb, learn.state.pred, learn.state.loss) == (
        None, (), (), None, None,
    )  # fmt: skip

    # From the same weights, the next fit gives what it gives after a first one that nothing happened to.
    untouched = make_learner()
    untouched.fit(1)
    for each in (learn, untouched):
        each.model.load_state_dict(make_model().state_dict())
        each.fit(2, reset_opt=True)
    assert torch.equal(weights_of(learn.model), weights_of(untouched.model))
    assert [row["train_loss"] for row in learn.recorder.epochs[-2:]] == [
        row["train_loss"] for row in untouched.recorder.epochs[-2:]
    ]


def test_what_a_failed_fit_had_decided_is_not_the_next_ones() -> None:
    learn = make_learner()
    with pytest.raises(ZeroDivisionError):
        learn.fit(
            1,
            cbs=[
                Failing("before_epoch", CancelFit(), training=False),
                Failing("before_epoch", ZeroDivisionError(), training=False),
            ],
        )
    learn.fit(1)
    assert len(learn.recorder.losses) == 3


def test_all_callbacks_get_their_after_fit_even_if_one_of_them_fails_there() -> None:
    log: list[str] = []

    class Last(Callback):
        may_cancel = False

        def after_fit(self) -> None:
            log.append("last")

    failing = Failing("after_fit", ValueError("cannot clean up"), training=False)
    with pytest.raises(ValueError, match="cannot clean up") as raised:
        make_learner(cbs=[failing, Last()]).fit(1)
    assert raised.value.__notes__ == ["raised in Failing.fail (event after_fit, epoch 0, step 2, rank 0)"]
    assert log == ["last"]


def test_an_error_in_after_fit_does_not_hide_the_one_that_ended_the_fit() -> None:
    first = Failing("after_loss", ValueError("the cause"))
    then = Failing("after_fit", TypeError("cannot clean up"))
    with pytest.raises(ValueError, match="the cause") as raised:
        make_learner(cbs=[first, then]).fit(1)
    assert raised.value.__notes__ == [
        "raised in Failing.fail (event after_loss, epoch 0, step 0, rank 0)",
        "then TypeError: cannot clean up, raised in Failing.fail (event after_fit, epoch 0, step 0, rank 0)",
    ]


def test_what_a_callback_saves_in_a_checkpoint_is_nothing_unless_it_says_so() -> None:
    callback = Callback()
    assert callback.state_dict() == {}
    callback.load_state_dict({})
    assert repr(callback) == "Callback()"


@pytest.mark.parametrize(("name", "meant"), [("befor_fit", "before_fit"), ("aftr_step", "after_step")])
def test_another_slip_of_the_pen_is_refused_too(name: str, meant: str) -> None:
    kind = type("Slip", (Callback,), {name: lambda self: None})
    with pytest.raises(ConfigError, match=rf"Slip\.{name} is not an event; did you mean '{meant}'\?"):
        make_learner(cbs=kind())


def test_a_method_of_its_own_may_be_called_as_it_likes() -> None:
    class Own(Callback):
        def batches(self) -> None: ...

        def step(self) -> None: ...

        def fit_on(self) -> None: ...

        def run(self) -> None: ...

    make_learner(cbs=Own())


def test_a_phase_that_is_none_is_refused() -> None:
    class Odd(Callback):
        phase = 60  # type: ignore[assignment]

    with pytest.raises(ConfigError) as refused:
        make_learner(cbs=Odd())
    assert str(refused.value) == (
        "Odd.phase is 60; expected one of Phase.PREPARE, Phase.CHANGE, Phase.RECORD, Phase.REPORT, Phase.SAVE"
    )


def test_a_misspelt_name_in_the_state_is_an_error() -> None:
    class Typo(Callback):
        may_cancel = False

        def after_loss(self) -> None:
            self.state.los = self.state.loss * 2  # type: ignore[attr-defined, operator]

    with pytest.raises(AttributeError, match="los"):
        make_learner(cbs=Typo()).fit(1)


def test_callbacks_are_added_and_removed_for_good_or_for_a_block() -> None:
    learn, log = make_learner(), []
    first, second = Names("first", log), Names("second", log)
    assert learn.add_cb(first) is learn
    learn.fit(1)
    with learn.added_cbs(second):
        learn.fit(1)
        with learn.removed_cbs(Names):
            learn.fit(1)
        assert [each for each in learn.callbacks if isinstance(each, Names)] == [first, second]
    learn.fit(1)
    learn.remove_cb(first)
    learn.fit(1)
    assert log == ["first", "first", "second", "first"]


def test_a_block_gives_its_callbacks_back_after_an_error() -> None:
    learn, log = make_learner(), []
    learn.add_cbs([Names("kept", log)])
    before = list(learn.callbacks)
    with pytest.raises(ZeroDivisionError), learn.added_cbs(Names("gone", log)), learn.removed_cbs(before[-1:]):
        raise ZeroDivisionError
    assert list(learn.callbacks) == before


def test_to_remove_a_callback_that_is_not_attached_is_an_error() -> None:
    with pytest.raises(ConfigError) as refused:
        make_learner().remove_cb(Spy)
    assert str(refused.value) == "Spy is not attached; there are Recorder, SkippedSamples"


class BackwardOfItsOwn(Callback):
    """Runs the backward pass itself, of twice the loss, and cancels the loop's."""

    def before_backward(self) -> None:
        self.learn.backward(self.state.loss * 2)  # type: ignore[operator]
        raise CancelBackward


def fit_with_own_backward() -> list[float]:
    spy = Spy()
    learn = make_learner(cbs=[spy, BackwardOfItsOwn()])
    learn.fit(1)
    assert spy.log[6:12] == [
        "before_backward", "after_cancel_backward", "after_backward", "before_step", "after_step", "after_batch",
    ]  # fmt: skip
    return weights_of(learn.model).tolist()


def test_a_backward_that_a_callback_runs_in_place_of_the_loops_is_what_the_step_takes(spawn: Any) -> None:
    twice = make_learner(lr=0.2)
    twice.fit(1)
    for world_size in (1, 2, 3):
        for rank in spawn(world_size, fit_with_own_backward):
            assert rank == pytest.approx(weights_of(twice.model).tolist(), rel=1e-11)


class Late(Callback):
    """Attaches, in the middle of a fit, a callback that cancels."""

    may_cancel = False

    def after_step(self) -> None:
        if self.state.train_step == 0:
            self.learn.callbacks.add([on("after_loss", cancel_batch)])


def cancel_batch(_: Any) -> None:
    raise CancelBatch


@pytest.mark.world_size(2)
def test_a_callback_that_is_attached_in_a_fit_where_ranks_exchange_nothing_must_not_cancel() -> None:
    with pytest.raises(
        ConfigError, match="CancelBatch was raised by a callback that was attached in the middle of a fit"
    ):
        make_learner(cbs=Late()).fit(1)
