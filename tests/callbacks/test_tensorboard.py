"""TensorBoard events, read back with TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy import make_learner

import dist_ai.vision  # how images are drawn
from dist_ai.callbacks import Callback, CancelFit, TensorBoard
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import Categorize, DataLoaders, Datasets
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy

assert dist_ai.vision


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_losses_rates_metrics_and_speed_are_written_at_their_steps(tmp_path: Path) -> None:
    learn = make_learner(metrics=accuracy, run_dir=tmp_path, checkpoint_every_s=None)
    learn.fit_one_cycle(2, 0.1)
    events, recorder = read(tmp_path), learn.recorder
    assert sorted(events.Tags()["scalars"]) == [
        "learning_rate",
        "loss/train",
        "loss/train_step",
        "loss/valid",
        "metrics/accuracy",
        "throughput/samples_per_s",
        "time/epoch_s",
    ]
    single = torch.tensor  # events hold float32
    assert scalars(events, "loss/train_step") == [
        (step, single(loss).item()) for step, loss in enumerate(recorder.losses)
    ]
    assert scalars(events, "learning_rate") == [(step, single(lr).item()) for step, lr in enumerate(recorder.lrs)]
    for tag, name in (("loss/valid", "valid_loss"), ("loss/train", "train_loss"), ("metrics/accuracy", "accuracy")):
        measured = [single(row[name]).item() for row in recorder.epochs]
        assert scalars(events, tag) == [(3, measured[0]), (6, measured[1])]  # after so many steps
    assert all(value > 0 for _, value in scalars(events, "throughput/samples_per_s"))
    assert events.Tags()["images"] == []  # of ready samples it is not known what they are


def test_the_next_fit_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None)
    learn.fit(1)
    learn.fit(1)
    assert [step for step, _ in scalars(read(tmp_path), "loss/train_step")] == list(range(6))
    assert [step for step, _ in scalars(read(tmp_path), "loss/valid")] == [3, 6]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def image_learner(folder: str | Path) -> Any:
    pictures = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    dsets = Datasets(
        list(range(12)), [[lambda i: TensorImage(pictures[i])], [lambda i: "ab"[i % 2], Categorize]],
        splits=(list(range(8)), list(range(8, 12))),
    )  # fmt: skip
    dls = DataLoaders.from_datasets(dsets, bs=4, num_workers=0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 2)
    )
    return make_learner(dls=dls, model=model, loss_func=CrossEntropyLoss(), run_dir=folder, checkpoint_every_s=None)


def test_the_data_are_drawn_before_the_first_fit_and_predictions_after_each(tmp_path: Path) -> None:
    learn = image_learner(tmp_path)
    learn.fit(1)
    learn.fit(1)
    events = read(tmp_path)
    assert events.Tags()["images"] == ["batch", "predictions"]
    assert [picture.step for picture in events.Images("batch")] == [0]
    assert [picture.step for picture in events.Images("predictions")] == [2, 4]
    assert all(picture.encoded_image_string.startswith(b"\x89PNG") for picture in events.Images("predictions"))


def fit_images(folder: str) -> int:
    learn = image_learner(folder)
    learn.fit(1)
    return len(learn.recorder.losses)


def test_on_several_ranks_rank_0_draws_without_waiting_for_the_others(spawn: Any, tmp_path: Path) -> None:
    assert spawn(2, fit_images, folder=str(tmp_path)) == [2, 2]
    assert read(tmp_path).Tags()["images"] == ["batch", "predictions"]


def test_a_fit_that_failed_draws_no_predictions_and_loses_no_step(tmp_path: Path) -> None:
    class Fail(Callback):
        may_cancel = False

        def before_validate(self) -> None:
            raise ZeroDivisionError

    learn = image_learner(tmp_path)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, cbs=Fail())
    events = read(tmp_path)
    assert events.Tags()["images"] == ["batch"]
    assert [step for step, _ in scalars(events, "loss/train_step")] == [0, 1]


def test_the_last_steps_of_a_fit_that_was_cut_short_are_written(tmp_path: Path) -> None:
    class Stop(Callback):
        def before_step(self) -> None:
            if self.state.step == 2:
                raise CancelFit

    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, cbs=Stop())
    learn.fit(1)
    assert [step for step, _ in scalars(read(tmp_path), "loss/train_step")] == [0, 1]


def test_without_pictures_or_before_any_fit_nothing_is_drawn(tmp_path: Path) -> None:
    learn = image_learner(tmp_path / "run")
    learn.validate()
    assert not (tmp_path / "run").exists()
    learn.callbacks.find(TensorBoard).pictures = False
    learn.fit(1)
    assert read(tmp_path / "run").Tags()["images"] == []
