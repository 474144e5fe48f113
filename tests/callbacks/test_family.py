"""What holds for every callback that ships, on one process and on three. A new one gets a line in `FAMILY`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Stop, StopAt, give_back_run_directories, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import (
    EMA,
    SWA,
    ActivationStats,
    AutoMicrobatch,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
    CollectData,
    Compile,
    EarlyStopping,
    FetchPreds,
    FreezeBatchNorm,
    GradientAccumulation,
    GradientClip,
    MCDropout,
    MemoryMonitor,
    MixUp,
    ParameterStats,
    ParamScheduler,
    ProgressBar,
    ReduceLROnPlateau,
    SaveBest,
    ShortEpoch,
    SkipNaN,
    TerminateOnNaN,
    Throughput,
    on,
)
from dist_ai.learner import Learner
from dist_ai.optimizer import Adam, cosine

FAMILY: dict[str, Callable[[], Callback]] = {
    "nothing": Callback,
    "ActivationStats": lambda: ActivationStats(every=1),
    "AutoMicrobatch": lambda: AutoMicrobatch(2),
    "CollectData": CollectData,
    "Compile": lambda: Compile(backend="eager"),
    "EMA": lambda: EMA(0.5),
    "EarlyStopping": lambda: EarlyStopping(patience=1, min_delta=0.05),
    "FetchPreds": FetchPreds,
    "FreezeBatchNorm": lambda: FreezeBatchNorm(all_layers=True),
    "GradientAccumulation": lambda: GradientAccumulation(batches=2),
    "GradientClip": lambda: GradientClip(0.1),
    "MCDropout": MCDropout,
    "MixUp": MixUp,
    "MemoryMonitor": MemoryMonitor,
    "ParamScheduler": lambda: ParamScheduler({"lr": cosine(0.1, 0.01)}),
    "ParameterStats": lambda: ParameterStats(every=1),
    "ProgressBar": ProgressBar,
    "ReduceLROnPlateau": lambda: ReduceLROnPlateau(min_delta=1.0),
    "SWA": lambda: SWA(0.2, every=1),
    "SaveBest": lambda: SaveBest("train_loss", lower=False),
    "ShortEpoch": lambda: ShortEpoch(0.6),
    "SkipNaN": SkipNaN,
    "TerminateOnNaN": TerminateOnNaN,
    "Throughput": Throughput,
    "on": lambda: on("after_loss", double_the_loss, every=2, training=True),
    "those of a run directory": Callback,  # Checkpointer, RunLog and TensorBoard, which the Learner attaches itself
}

SETS_THE_RATE = ("ParamScheduler", "ReduceLROnPlateau")

# An event and what is cancelled there: each point of the loop, and each cancel.
CANCELS: dict[str, type[Exception]] = {
    "before_fit": CancelFit,
    "before_epoch": CancelEpoch,
    "before_train": CancelTrain,
    "before_batch": CancelBatch,
    "after_pred": CancelEpoch,
    "after_loss": CancelStep,
    "before_backward": CancelFit,
    "after_backward": CancelBatch,
    "before_step": CancelStep,
    "after_step": CancelTrain,
    "after_batch": CancelFit,
    "after_train": CancelEpoch,
    "before_validate": CancelValidate,
    "after_validate": CancelFit,
    "after_epoch": CancelFit,
}


def double_the_loss(learn: Any) -> None:
    learn.state.loss = learn.state.loss * 2


def learner(name: str, run_dir: Path | None = None, *cbs: Callback) -> Learner:
    """Returns a learner with the callback."""
    return make_learner(
        dls=make_dls(bs=6), opt_func=Adam, run_dir=run_dir, checkpoint_every_s=None, checkpoint_every_steps=1,
        cbs=[FAMILY[name](), *cbs],
    )  # fmt: skip


def raising(event: str, error: type[BaseException], rank: int = 0) -> Callback:
    """Returns a callback that raises in an event of the second training step, or the first time that it comes."""
    raised = []

    def act(learn: Any) -> None:
        here = learn.state.train_step >= 1 or event in ("before_fit", "before_epoch", "before_train")
        if here and not raised and learn.collectives.world.rank == rank:
            raised.append(event)
            raise error

    return on(event, act)


def cancelled(name: str, rank: int, run_dir: str = "") -> dict[str, Any]:
    """Returns what comes of a fit for each point at which `rank` cancels."""
    results = {}
    for event, cancel in CANCELS.items():
        learn = learner(name, Path(run_dir) / event if run_dir else None, raising(event, cancel, rank))
        learn.fit(2)
        results[event] = [learn.state.train_step, learn.recorder.losses, weights_of(learn.model).tolist()]
    return results


@pytest.mark.parametrize("name", FAMILY)
def test_a_cancel_at_any_point_on_one_of_three_ranks_ends_all_at_the_same_step(
    spawn: Any, tmp_path: Path, name: str
) -> None:
    alone = cancelled(name, rank=0)
    run_dir = str(tmp_path) if name == "those of a run directory" else ""
    for rank in spawn(3, cancelled, name=name, rank=1, run_dir=run_dir):
        for event, (step, losses, weights) in alone.items():
            assert rank[event][0] == step, event
            assert rank[event][1] == pytest.approx(losses, rel=1e-9), event
            assert rank[event][2] == pytest.approx(weights, rel=1e-7, abs=1e-10), event


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_in_any_event_the_learner_is_what_it_would_be_without_that_fit(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    for event in [*CANCELS, "after_fit"]:
        if event == "after_fit" and error is KeyboardInterrupt:
            continue  # nothing can be promised to who interrupts the cleaning up
        directory = tmp_path / event if name == "those of a run directory" else None
        learn = learner(name, directory)
        callbacks = list(learn.callbacks)
        with pytest.raises(error):
            learn.fit(1, cbs=raising(event, error))
        assert list(learn.callbacks) == callbacks
        untouched = learner(name, None if directory is None else directory / "untouched")
        untouched.fit(1)
        for each in (learn, untouched):
            each.model.load_state_dict(make_model().state_dict())
            each.fit(1, reset_opt=True)
        assert torch.equal(weights_of(learn.model), weights_of(untouched.model)), event
        assert not learn.model.training
    give_back_run_directories()


@pytest.mark.parametrize("name", FAMILY)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    def program(folder: str, *cbs: Callback) -> list[Any]:
        learn = learner(name, tmp_path / folder, *cbs)
        epochs = 3 if name == "ShortEpoch" else 2  # with the batch to stop at in one of them
        learn.fit(epochs) if name in SETS_THE_RATE else learn.fit_one_cycle(epochs, 0.05)
        state, plain = learn.opt.state()
        give_back_run_directories()
        return [
            learn.recorder.losses,
            learn.recorder.lrs,
            weights_of(learn.model).tolist(),
            {k: v.tolist() for k, v in state.items()},
            plain,
        ]

    expected = program("undisturbed")
    for batch in (1, 3, 5):
        with pytest.raises(Stop):
            program(f"stopped {batch}", StopAt(batch))
        give_back_run_directories()
        assert program(f"stopped {batch}") == expected


@pytest.mark.parametrize("name", FAMILY)
def test_looking_for_a_learning_rate_changes_nothing(name: str) -> None:
    looked, untouched = learner(name), learner(name)
    looked.lr_find(num_it=5)
    for each in (looked, untouched):
        each.fit(1)
    assert torch.equal(weights_of(looked.model), weights_of(untouched.model))
    assert looked.recorder.losses == untouched.recorder.losses
