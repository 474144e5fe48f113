"""Weighted means (class weights, ignored targets, padding) are exact on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import BS, NUM_TRAIN, NUM_VALID, make_data, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, CancelBatch, GradientAccumulation
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.errors import ConfigError
from dist_ai.losses import CompositeLoss, CrossEntropyLoss, DiceLoss, FocalDiceLoss, FocalLoss

WEIGHT = [0.2, 3.0, 1.0]
IGNORED = 2


class TokenLoss:
    """A loss of one's own: a mean over the tokens that are not padding."""

    def weights(self, target: torch.Tensor) -> torch.Tensor:
        return (target != IGNORED).sum()[None]

    def totals(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(pred, target, reduction="sum", ignore_index=IGNORED)[None]

    def __call__(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (self.totals(pred, target) / self.weights(target)).sum()


def squared(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (pred[:, 0] - target).square().mean()


LOSSES: dict[str, Callable[[], Any]] = {
    "class weights": lambda: CrossEntropyLoss(weight=WEIGHT),
    "ignored": lambda: CrossEntropyLoss(ignore_index=IGNORED),
    "both": lambda: CrossEntropyLoss(weight=WEIGHT, ignore_index=IGNORED, label_smoothing=0.1),
    "focal": lambda: FocalLoss(weight=WEIGHT, ignore_index=IGNORED),
    "torch module": lambda: nn.CrossEntropyLoss(torch.tensor(WEIGHT).double(), ignore_index=IGNORED),
    "torch function": lambda: partial(F.cross_entropy, weight=torch.tensor(WEIGHT).double(), ignore_index=IGNORED),
    "of one's own": TokenLoss,
    "composite": lambda: CompositeLoss(
        {"ce": CrossEntropyLoss(weight=WEIGHT), "focal": (0.5, FocalLoss(ignore_index=IGNORED)), "sq": (0.1, squared)}
    ),
}


def plain_fit(loss_func: Any) -> tuple[torch.Tensor, list[float]]:
    """Returns the weights and losses of the loop that a user would have written for one process."""
    model = make_model()
    x, y = make_data()
    data = DataLoader(TensorData(x[:NUM_TRAIN], y[:NUM_TRAIN]), BS, shuffle=True, seed=1)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        for xb, yb in data:
            loss = loss_func(model(xb), yb)
            if not loss.isnan():  # nothing counts: torch's loss is NaN
                loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return weights_of(model), losses


def fit(names: list[str]) -> dict[str, Any]:
    """Returns for each loss the weights, the losses of the steps and the last epoch's row."""
    results = {}
    for name in names:
        learn = make_learner(loss_func=LOSSES[name]())
        learn.fit(2)
        row = {key: value for key, value in learn.recorder.epochs[-1].items() if key not in ("time", "samples_per_s")}
        results[name] = {"weights": weights_of(learn.model).tolist(), "losses": learn.recorder.losses, "row": row}
    return results


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return fit(list(LOSSES))


@pytest.mark.parametrize("name", LOSSES)
def test_one_process_trains_as_a_plain_loop_does(alone: dict[str, Any], name: str) -> None:
    weights, losses = plain_fit(LOSSES[name]())
    assert alone[name]["weights"] == pytest.approx(weights.tolist(), rel=1e-12)
    nothing_counts = [value != value for value in losses]
    assert [0.0 if nan else value for value, nan in zip(losses, nothing_counts, strict=True)] == pytest.approx(
        alone[name]["losses"], rel=1e-12
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_validation_loss_is_that_of_all_samples_at_once(alone: dict[str, Any], name: str) -> None:
    model = make_model()
    size = 0
    for parameter in model.parameters():
        values = alone[name]["weights"][size : size + parameter.numel()]
        parameter.data = torch.tensor(values, dtype=torch.float64).view_as(parameter)
        size += parameter.numel()
    x, y = make_data()
    expected = LOSSES[name]()(model(x[NUM_TRAIN:]), y[NUM_TRAIN:]).item()
    assert alone[name]["row"]["valid_loss"] == pytest.approx(expected, rel=1e-12)  # its batches hold 5, 5 and 1


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_several_ranks_train_and_validate_as_one_does(alone: dict[str, Any], spawn: Any, world_size: int) -> None:
    for rank in spawn(world_size, fit, names=list(LOSSES)):
        for name, expected in alone.items():
            assert rank[name]["weights"] == pytest.approx(expected["weights"], rel=1e-10), name
            assert rank[name]["losses"] == pytest.approx(expected["losses"], rel=1e-10), name
            assert rank[name]["row"] == pytest.approx(expected["row"], rel=1e-10), name


def test_a_composite_loss_is_logged_by_its_parts(alone: dict[str, Any]) -> None:
    row = alone["composite"]["row"]
    assert row["valid_loss"] == pytest.approx(row["ce"] + 0.5 * row["focal"] + 0.1 * row["sq"], rel=1e-12)
    with pytest.raises(ConfigError, match="two columns of the epoch's row are called 'time'"):
        make_learner(loss_func=CompositeLoss({"time": squared}))


def fit_pixels() -> dict[str, Any]:
    """Fits pixels of images, of which each holds other numbers of ignored ones, by focal and Dice loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(13, 2, 4, 4, generator=generator, dtype=torch.float64)
    masks = (images[:, 0] > 0.3).long() + (torch.rand(13, 4, 4, generator=generator) < 0.1) * 2
    masks[5:] = masks[5:].where(torch.rand(8, 4, 4, generator=generator) < 0.3, 255)
    masks[7] = 255
    data = TensorData(images, masks)
    torch.manual_seed(0)
    learn = make_learner(
        dls=DataLoaders(DataLoader(data, 6, shuffle=True), DataLoader(data, 5)),
        model=nn.Conv2d(2, 4, 3, padding=1).double(),
        loss_func=FocalDiceLoss(ignore_index=255, dice=0.5),
    )
    learn.fit(2)
    *_, losses = learn.get_preds(with_loss=True)
    return {"weights": weights_of(learn.model).tolist(), "final": learn.recorder.final, "losses": losses.tolist()}


def test_pixels_that_are_ignored_count_nothing_on_any_number_of_ranks(spawn: Any) -> None:
    alone = fit_pixels()
    for rank in spawn(3, fit_pixels):
        for name, value in alone.items():
            assert rank[name] == pytest.approx(value, rel=1e-9), name
    assert alone["losses"][7] == pytest.approx(0.0, abs=1e-12)  # nothing of it counts


class CancelOnOneRank(Callback):
    """Cancels the second batch on the last rank, in an event before the loss or after it."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self._cancel)

    def _cancel(self) -> None:
        world = self.learn.collectives.world
        if self.state.training and self.state.step == 1 and world.rank == world.world_size - 1:
            raise CancelBatch


@pytest.mark.world_size(2)
def test_a_rank_that_cancels_takes_part_in_the_exchange_of_weights() -> None:
    for event in ("before_batch", "after_pred", "after_loss", "before_backward", "after_backward"):
        learn = make_learner(loss_func=CrossEntropyLoss(weight=WEIGHT), cbs=CancelOnOneRank(event))
        learn.fit(2)
        assert learn.recorder.sizes == [8, 1] * 2, event


class Fivefold(Callback):
    may_cancel = False

    def after_loss(self) -> None:
        self.state.loss = self.state.loss * 5


def fit_fivefold() -> list[float]:
    learn = make_learner(loss_func=CrossEntropyLoss(weight=WEIGHT), cbs=Fivefold())
    learn.fit(1, 0.02)
    return [*weights_of(learn.model).tolist(), *learn.recorder.losses]


def test_what_a_callback_writes_to_the_loss_is_what_is_trained_on(spawn: Any) -> None:
    learn = make_learner(loss_func=CrossEntropyLoss(weight=WEIGHT))
    learn.fit(1, 0.1)
    expected = [*weights_of(learn.model).tolist(), *(5 * loss for loss in learn.recorder.losses)]
    assert fit_fivefold() == pytest.approx(expected, rel=1e-12)
    for rank in spawn(3, fit_fivefold):
        assert rank == pytest.approx(expected, rel=1e-10)


def validate_fivefold() -> list[float]:
    return make_learner(loss_func=CrossEntropyLoss(weight=WEIGHT), cbs=Fivefold()).validate()


def test_a_loss_that_a_callback_replaced_in_validation_counts_by_its_samples() -> None:
    model = make_model()
    x, y = (each[NUM_TRAIN:] for each in make_data())
    loss = CrossEntropyLoss(weight=WEIGHT)
    means = [(5 * loss(model(xb), yb).item(), len(xb)) for xb, yb in zip(x.split(5), y.split(5), strict=True)]
    assert validate_fivefold() == pytest.approx([sum(mean * num for mean, num in means) / NUM_VALID], rel=1e-12)


def test_a_mean_over_samples_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged = []
    for loss in (CrossEntropyLoss(), DiceLoss(), CompositeLoss({"a": CrossEntropyLoss(), "b": squared}), squared):
        learn = make_learner(loss_func=loss)
        monkeypatch.setattr(learn.strategy, "begin_total", lambda tensor: exchanged.append(tensor) or (lambda: tensor))
        learn.fit(1)
    assert exchanged == []
    learn = make_learner(loss_func=CrossEntropyLoss(weight=WEIGHT))
    monkeypatch.setattr(learn.strategy, "begin_total", lambda tensor: exchanged.append(tensor) or (lambda: tensor))
    learn.fit(1)
    assert [tensor.shape for tensor in exchanged] == [(1,)] * 3  # one a step


# ------------------------------------------------------------------------ several batches a step


def fit_in_parts(bs: int, batches: int) -> dict[str, list[float]]:
    """Returns each loss's weights and losses with steps of `bs` x `batches` samples."""
    results = {}
    for name, make in LOSSES.items():
        learn = make_learner(loss_func=make(), dls=make_dls(bs=bs), cbs=GradientAccumulation(batches=batches))
        learn.fit(2)
        results[name] = [*weights_of(learn.model).tolist(), *learn.recorder.losses]
    return results


def test_a_step_of_several_batches_is_that_of_one_batch_whatever_counts_in_each(spawn: Any) -> None:
    alone = fit_in_parts(12, 1)
    for found in (fit_in_parts(4, 3), fit_in_parts(3, 4), *spawn(2, fit_in_parts, bs=4, batches=3)):
        for name, expected in alone.items():
            assert found[name] == pytest.approx(expected, rel=1e-10), name


@pytest.mark.world_size(2)
def test_the_weights_of_a_step_of_several_batches_are_exchanged_once() -> None:
    learn = make_learner(
        loss_func=CrossEntropyLoss(weight=WEIGHT), dls=make_dls(bs=4), cbs=GradientAccumulation(batches=3)
    )
    exchanged, begin_total = [], learn.strategy.begin_total
    learn.strategy.begin_total = lambda tensor: exchanged.append(tensor) or begin_total(tensor)
    learn.fit(1)
    assert len(exchanged) == 2  # 17 samples: a step of 12 and one of 5
    for event in ("before_batch", "after_loss"):
        cancelling = make_learner(
            loss_func=CrossEntropyLoss(weight=WEIGHT),
            dls=make_dls(bs=4),
            cbs=[GradientAccumulation(batches=3), CancelOnOneRank(event)],
        )
        cancelling.fit(2)
        assert cancelling.recorder.sizes == [12] * 2, event
