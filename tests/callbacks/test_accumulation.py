"""Gradient accumulation: several batches a step give the numbers of one large batch, on any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy import NUM_TRAIN, Spy, make_dls, make_learner, weights_of

from dist_ai.callbacks import Callback, CancelBatch, Checkpointer, GradientAccumulation, on
from dist_ai.errors import ConfigError
from dist_ai.optimizer import Adam


def train(bs: int, batches: int, opt: str = "Adam") -> dict[str, Any]:
    """Trains for two epochs on a schedule; returns all that must not depend on how a step's samples are cut."""
    cbs = [GradientAccumulation(batches=batches)] if batches > 1 else []
    learn = make_learner(dls=make_dls(bs=bs), opt_func=Adam if opt == "Adam" else torch.optim.SGD, cbs=cbs)
    learn.fit_one_cycle(2, 0.05)
    recorder = learn.recorder
    return {
        "weights": weights_of(learn.model).tolist(),
        "losses": recorder.losses,
        "lrs": recorder.lrs,
        "sizes": recorder.sizes,
        "rows": [[row["train_loss"], row["valid_loss"]] for row in recorder.epochs],
    }


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_batches_that_are_accumulated_are_as_one_batch_on_any_number_of_ranks(spawn: Any, world_size: int) -> None:
    # 17 samples: batches of 2 make steps of 6, 6 and 5, whose last batch has one sample; two of three ranks only run along.
    expected = train(bs=6, batches=1)
    assert NUM_TRAIN == 17
    assert expected["sizes"] == [6, 6, 5] * 2
    for rank in spawn(world_size, train, bs=2, batches=3):
        for name, value in expected.items():
            torch.testing.assert_close(torch.tensor(rank[name]), torch.tensor(value), rtol=1e-10, atol=1e-12)


def test_what_is_left_over_is_a_step_of_its_own(spawn: Any) -> None:
    # 5 batches of 4, 4, 4, 4 and 1 in twos: the last step has the one sample.
    expected = train(bs=8, batches=1, opt="SGD")
    assert expected["sizes"] == [8, 8, 1] * 2
    for world_size in (1, 3):
        for rank in spawn(world_size, train, bs=4, batches=2, opt="SGD"):
            for name, value in expected.items():
                torch.testing.assert_close(torch.tensor(rank[name]), torch.tensor(value), rtol=1e-10, atol=1e-12)


def count_exchanges(batches: int) -> tuple[int, int]:
    """Returns how often DDP exchanged gradients in an epoch, and its steps."""
    import torch.distributed as dist

    learn = make_learner(dls=make_dls(bs=2), cbs=GradientAccumulation(batches=batches))
    exchanged = [0]

    def hook(_, bucket):  # type: ignore[no-untyped-def]  # DDP looks at the annotations, which are text here
        exchanged[0] += bucket.is_last()
        work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    def register(learner: Any) -> None:
        if exchanged[0] == 0 and learner.state.train_step == 0 and learner.state.microbatch == 0:
            learner.strategy._wrapped.register_comm_hook(None, hook)

    learn.fit(1, cbs=on("before_batch", register, training=True))
    return exchanged[0], len(learn.recorder.losses)


@pytest.mark.parametrize(("batches", "steps"), [(1, 9), (3, 3), (4, 3)])
def test_ranks_exchange_gradients_once_a_step(spawn: Any, batches: int, steps: int) -> None:
    for exchanged, num_steps in spawn(2, count_exchanges, batches=batches):
        assert exchanged == num_steps == steps


def test_the_events_of_a_step_come_at_its_last_batch() -> None:
    spy = Spy()
    make_learner(dls=make_dls(bs=6), cbs=[spy, GradientAccumulation(batches=2)]).fit(1)  # 6 and 6, then 5
    part = ["before_batch", "after_pred", "after_loss", "before_backward", "after_backward", "after_batch"]
    whole = [*part[:5], "before_step", "after_step", "after_batch"]
    assert spy.log[3 : 3 + len(part) + 2 * len(whole)] == [*part, *whole, *whole]
    assert spy.log[3 + len(part) + 2 * len(whole)] == "after_train"


class Positions(Callback):
    """Writes down where each batch stands in its step."""

    may_cancel = False

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, bool, int, float]] = []

    def after_batch(self) -> None:
        state = self.state
        if state.training:
            row = (state.step, state.microbatch, state.last_microbatch, state.num_global, state.weight)
            self.seen.append(row)


def test_the_state_says_where_a_batch_stands_in_its_step() -> None:
    positions = Positions()
    make_learner(dls=make_dls(bs=5), cbs=[positions, GradientAccumulation(8)]).fit(1)  # batches of 5, 5, 5 and 2
    assert positions.seen == [
        (0, 0, False, 10, 0.5),
        (0, 1, True, 10, 0.5),
        (1, 0, False, 7, 5 / 7),
        (1, 1, True, 7, 2 / 7),
    ]


def train_without_a_step(cancels: bool) -> dict[str, Any]:
    """Trains for an epoch in which one batch of the second step is cancelled, on rank 0 only."""
    spy = Spy()

    def cancel(learn: Any) -> None:
        here = learn.state.training and learn.state.step == 1 and learn.state.microbatch == 1
        if cancels and here and learn.collectives.world.is_main:
            raise CancelBatch

    cbs = [spy, GradientAccumulation(batches=3), on("after_pred", cancel)]
    learn = make_learner(dls=make_dls(bs=2), cbs=cbs)
    learn.fit(1)
    return {
        "weights": weights_of(learn.model).tolist(),
        "sizes": learn.recorder.sizes,
        "steps": spy.log.count("after_step"),
    }


def test_batches_of_a_step_are_cancelled_together_on_all_ranks(spawn: Any) -> None:
    alone = train_without_a_step(cancels=True)
    assert alone["sizes"] == [6, 5]
    assert alone["steps"] == 2
    for world_size in (2, 3):
        for rank in spawn(world_size, train_without_a_step, cancels=True):
            assert rank["sizes"] == alone["sizes"]
            assert rank["weights"] == pytest.approx(alone["weights"], rel=1e-11)
    assert train_without_a_step(cancels=False)["weights"] != alone["weights"]


def test_a_checkpoint_stands_between_steps_and_not_between_their_batches(tmp_path: Any) -> None:
    saved = []

    class Saves(Callback):
        may_cancel = False

        def after_batch(self) -> None:
            if self.state.training and not self.state.last_microbatch:
                with pytest.raises(ConfigError, match="a checkpoint stands between two training steps"):
                    self.learn.save_checkpoint()

    learn = make_learner(dls=make_dls(bs=2), run_dir=tmp_path, checkpoint_every_s=None, checkpoint_every_steps=1)

    def look(learn: Any) -> None:
        learn.wait_for_checkpoint()  # it is written beside the training
        saved.append(sorted((tmp_path / "checkpoints").glob("*step*")))

    watch = on("after_batch", look, training=True)
    learn.fit(1, cbs=[GradientAccumulation(batches=3), Saves(), watch])
    assert learn.callbacks.find(Checkpointer) is not None
    assert [found[-1].name[-1] if found else "" for found in saved] == ["", "", "", "1", "1", "1", "2", "2", "2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "GradientAccumulation(n_acc=None, batches=None): give n_acc (samples a step) or batches (batches a step)"),
        ({"n_acc": 4, "batches": 4}, "GradientAccumulation(n_acc=4, batches=4): give n_acc (samples a step) or"),
        ({"n_acc": 0}, "GradientAccumulation(n_acc=0): expected a whole number, 1 or more"),
        ({"batches": 2.0}, "GradientAccumulation(batches=2.0): expected a whole number, 1 or more"),
    ],
)
def test_what_cannot_be_accumulated_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        GradientAccumulation(**options)
    assert str(refused.value).startswith(message)


def cancel_in_the_second_of_three_batches(strategy: str) -> list[float]:
    """In the second step the second batch is cancelled; returns the losses."""

    def cancel(_: Any) -> None:
        raise CancelBatch

    learn = make_learner(
        dls=make_dls(bs=2), strategy=strategy,
        cbs=[GradientAccumulation(batches=3), on("before_batch", cancel, once=5, training=True)],
    )  # fmt: skip
    learn.fit(2)
    return learn.recorder.losses


def test_what_a_sharded_model_accumulated_before_a_cancel_is_dropped(spawn: Any) -> None:
    alone = cancel_in_the_second_of_three_batches("ddp")
    for rank in spawn(2, cancel_in_the_second_of_three_batches, strategy="fsdp"):
        assert rank == pytest.approx(alone, rel=1e-9)
