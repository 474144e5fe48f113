"""What is recorded of a fit: every step's loss, and an exact row for every epoch."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toy import BS, NUM_TRAIN, make_data, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, CancelBatch, CancelEpoch, CancelFit, CancelTrain, CancelValidate
from dist_ai.checkpoint import Growing
from dist_ai.distributed import join
from dist_ai.errors import ConfigError
from dist_ai.metrics import Mean, accuracy, error_rate


class CancelAt(Callback):
    """Raises a cancel in `after_loss` of one training step, or in `before_validate`."""

    def __init__(self, cancel: type[Exception], *, epoch: int, step: int | None = None) -> None:
        self.cancel, self.epoch, self.step = cancel, epoch, step

    def after_loss(self) -> None:
        if self.state.training and (self.state.epoch, self.state.step) == (self.epoch, self.step):
            raise self.cancel

    def before_validate(self) -> None:
        if self.step is None and self.state.epoch == self.epoch:
            raise self.cancel


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_losses_of_one_process_are_those_of_a_plain_loop_to_the_last_bit(dtype: torch.dtype) -> None:
    from toy import make_dls

    learn = make_learner(dls=make_dls(dtype=dtype), model=make_model(dtype), metrics=accuracy)
    learn.fit(3, 0.1)

    dls, model = make_dls(dtype=dtype), make_model(dtype)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, train_losses, valid_losses, accuracies = [], [], [], []
    x, y = make_data(dtype)
    for _ in range(3):
        each = []
        for xb, yb in dls.train:
            pred = model(xb)
            loss = F.cross_entropy(pred, yb)
            losses.append(loss.item())
            each.append(F.cross_entropy(pred.detach().double(), yb, reduction="none"))
            loss.backward()
            opt.step()
            opt.zero_grad()
        train_losses.append(torch.cat(each).mean().item())
        pred = model(x[NUM_TRAIN:]).detach()
        valid_losses.append(F.cross_entropy(pred.double(), y[NUM_TRAIN:]).item())
        accuracies.append((pred.argmax(1) == y[NUM_TRAIN:]).double().mean().item())
    assert learn.recorder.losses == losses
    assert torch.equal(weights_of(learn.model), weights_of(model))
    rel = 1e-12 if dtype == torch.float64 else 1e-6
    rows = learn.recorder.epochs
    assert [row["train_loss"] for row in rows] == pytest.approx(train_losses, rel=rel)
    assert [row["valid_loss"] for row in rows] == pytest.approx(valid_losses, rel=rel)
    assert [row["accuracy"] for row in rows] == accuracies
    assert [(row["fit"], row["epoch"]) for row in rows] == [(1, 0), (1, 1), (1, 2)]
    assert learn.recorder.final == [rows[-1]["valid_loss"], rows[-1]["accuracy"]]


def record_a_fit() -> dict[str, Any]:
    learn = make_learner(metrics=[accuracy, error_rate])
    learn.fit_one_cycle(2, 0.1)
    recorder = learn.recorder
    names = ("train_loss", "valid_loss", "accuracy", "error_rate")
    return {
        "losses": recorder.losses,
        "sizes": recorder.sizes,
        "lrs": recorder.lrs,
        "rows": [[row[name] for name in names] for row in recorder.epochs],
    }


def test_three_ranks_record_what_one_does_and_all_of_them_the_same(spawn: Any) -> None:
    alone = record_a_fit()
    assert alone["sizes"] == [BS, BS, 1] * 2
    ranks = spawn(3, record_a_fit)
    assert ranks[0] == ranks[1] == ranks[2]
    assert ranks[0]["losses"] == pytest.approx(alone["losses"], rel=1e-13)
    assert (ranks[0]["sizes"], ranks[0]["lrs"]) == (alone["sizes"], alone["lrs"])
    for got, expected in zip(ranks[0]["rows"], alone["rows"], strict=True):
        assert got[:2] == pytest.approx(expected[:2], rel=1e-13)
        assert got[2:] == expected[2:]  # counts: equal to the last bit


def test_losses_are_read_from_the_device_only_so_often() -> None:
    learn = make_learner()
    read: list[int] = []
    ranks, all_reduce = learn.collectives, learn.collectives.all_reduce

    class Counting(Callback):
        may_cancel = False

        def after_step(self) -> None:
            read.append(len(learn.recorder.losses))

    exchanged: list[int] = []

    def counted(tensor: torch.Tensor, op: Any = "sum", *, what: str = "") -> torch.Tensor:
        if what == "losses":
            exchanged.append(len(tensor))
        return all_reduce(tensor, op, what=what)

    learn.recorder.flush_every = 2
    ranks.all_reduce = counted  # type: ignore[method-assign]
    try:
        learn.fit(2, cbs=Counting())
    finally:
        del ranks.all_reduce  # type: ignore[method-assign]
    assert ranks is join()
    assert exchanged == [1, 2, 2, 1]  # the first at once, then every second step and what is left at an epoch's end
    assert read == [0, 1, 1, 3, 3, 5]


def test_a_cancelled_batch_is_not_recorded() -> None:
    learn = make_learner(cbs=CancelAt(CancelBatch, epoch=0, step=1))
    learn.fit(1)
    assert (len(learn.recorder.losses), learn.recorder.sizes) == (2, [8, 1])
    assert learn.recorder.lrs == [0.1, 0.1]


def test_a_cancelled_epoch_has_a_row_of_what_there_was() -> None:
    learn = make_learner(metrics=accuracy, cbs=CancelAt(CancelEpoch, epoch=1, step=2))
    learn.fit(3)
    first, second, third = learn.recorder.epochs
    losses = learn.recorder.losses
    assert len(losses) == 3 + 2 + 3
    assert second["train_loss"] == pytest.approx((losses[3] + losses[4]) / 2, rel=1e-14)
    assert math.isnan(second["valid_loss"])  # and not the first epoch's
    assert "accuracy" not in second
    assert third["train_loss"] == pytest.approx((8 * losses[5] + 8 * losses[6] + losses[7]) / 17, rel=1e-14)
    assert third["valid_loss"] < first["valid_loss"]
    assert second["samples_per_s"] != second["samples_per_s"] or second["samples_per_s"] > 0


def test_an_epoch_cancelled_before_it_began_has_an_empty_row() -> None:
    class Skip(Callback):
        def before_epoch(self) -> None:
            raise CancelEpoch

    learn = make_learner(metrics=accuracy, cbs=Skip())
    learn.fit(1)
    [row] = learn.recorder.epochs
    assert math.isnan(row["train_loss"])
    assert math.isnan(row["valid_loss"])
    assert learn.recorder.losses == []


def test_a_training_cut_short_is_validated_and_counts_what_there_was() -> None:
    learn = make_learner(cbs=CancelAt(CancelTrain, epoch=0, step=1))
    learn.fit(1)
    [row] = learn.recorder.epochs
    assert row["train_loss"] == learn.recorder.losses[0]
    assert row["valid_loss"] == learn.validate()[0]


def test_a_cancelled_validation_is_nan_and_never_the_last_ones_number() -> None:
    learn = make_learner(metrics=accuracy, cbs=CancelAt(CancelValidate, epoch=1))
    learn.fit(2)
    first, second = learn.recorder.epochs
    assert first["valid_loss"] > 0
    assert math.isnan(second["valid_loss"])
    assert math.isnan(second["accuracy"])


def test_the_losses_before_a_cancelled_fit_are_kept_and_the_next_fits_rows_are_its_own() -> None:
    learn = make_learner()
    learn.fit(1, cbs=CancelAt(CancelFit, epoch=0, step=2))
    assert len(learn.recorder.losses) == 2
    learn.fit(1)
    losses = learn.recorder.losses
    assert len(losses) == 5
    [row] = learn.recorder.epochs
    assert row["fit"] == 2
    assert row["train_loss"] == pytest.approx((8 * losses[2] + 8 * losses[3] + losses[4]) / 17, rel=1e-14)


def test_after_an_error_losses_rates_and_sizes_belong_together_and_the_next_fits_rows_are_its_own() -> None:
    class Fail(Callback):
        may_cancel = False

        def after_loss(self) -> None:
            if self.state.step == 2:
                raise ZeroDivisionError

    learn = make_learner()
    learn.recorder.flush_every = 1
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, cbs=Fail())
    assert len(learn.recorder.losses) == len(learn.recorder.lrs) == len(learn.recorder.sizes) == 2
    learn.fit(1)
    losses = learn.recorder.losses
    assert learn.recorder.epochs[-1]["train_loss"] == pytest.approx(
        (8 * losses[2] + 8 * losses[3] + losses[4]) / 17, rel=1e-14
    )


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        make_learner(metrics=[accuracy, accuracy])
    assert str(refused.value) == (
        "two columns of the epoch's row are called 'accuracy': epoch, train_loss, valid_loss, accuracy, accuracy, "
        "samples_per_s, time; give one metric another name, as in metrics={'name': metric, ...}"
    )
    with pytest.raises(ConfigError, match="two columns of the epoch's row are called 'time'"):
        make_learner(metrics=Mean(accuracy, "time"))


def test_the_smooth_loss_is_an_average_that_forgets() -> None:
    recorder = make_learner().recorder
    assert math.isnan(recorder.smooth_loss)
    recorder.losses = [4.0, 2.0]
    assert recorder.smooth_loss == pytest.approx((0.98 * 4 + 2) / 1.98, rel=1e-15)


def test_the_clock_gives_seconds_and_samples_per_second() -> None:
    learn = make_learner()
    learn.fit(1)
    [row] = learn.recorder.epochs
    assert 0 < row["time"] < 60
    assert row["samples_per_s"] > NUM_TRAIN / row["time"]  # training alone is shorter than the whole epoch


def test_what_was_recorded_is_growing_rows_and_plain_data_and_comes_back() -> None:
    learn = make_learner(metrics=accuracy)
    learn.fit(2)
    state = learn.recorder.state_dict()
    assert {name for name, value in state.items() if isinstance(value, Growing)} == {"losses", "lrs", "sizes"}
    saved = {
        name: torch.tensor(value.rows, dtype=value.dtype)
        if isinstance(value, Growing)
        else json.loads(json.dumps(value))
        for name, value in state.items()
    }
    other = make_learner(metrics=accuracy)
    other.recorder.load_state_dict(saved)
    for name in ("losses", "lrs", "sizes", "epochs", "final"):
        assert getattr(other.recorder, name) == getattr(learn.recorder, name)
    assert saved["spent"] == 0.0
