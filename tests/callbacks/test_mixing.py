"""MixUp and CutMix: what is mixed, by how much, and the same on any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, CancelBatch, CutMix, GradientAccumulation, MixUp, Phase, on
from dist_ai.core.randomness import Draw
from dist_ai.data import DataLoader, DataLoaders, IterableLoader, TensorData
from dist_ai.errors import ConfigError, DataError
from dist_ai.losses import CrossEntropyLoss, FocalLoss


def make_images() -> DataLoaders:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(22, 3, 8, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (22,), generator=generator)
    data = TensorData(images[:17], labels[:17]), TensorData(images[17:], labels[17:])
    return DataLoaders(DataLoader(data[0], 8, shuffle=True, seed=1, split_idx=0), DataLoader(data[1], 5))


def convolution() -> nn.Module:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), *pooled).double()


LOSSES = {
    "cross entropy": CrossEntropyLoss,
    "smoothed": lambda: CrossEntropyLoss(label_smoothing=0.1),
    "focal": FocalLoss,
}


def trained(kind: str, loss: str = "cross entropy", batches: int = 1) -> list[Any]:
    accumulation = [GradientAccumulation(batches=batches)] if batches > 1 else []
    if kind == "CutMix":
        data: dict[str, Any] = {"dls": make_images(), "model": convolution(), "cbs": [CutMix(), *accumulation]}
    else:
        data = {"cbs": [MixUp(), *accumulation]}
    learn = make_learner(loss_func=LOSSES[loss](), **data)
    learn.fit(2)
    return [learn.recorder.losses, weights_of(learn.model).tolist()]


@pytest.mark.parametrize(("kind", "loss"), [("MixUp", "cross entropy"), ("MixUp", "focal"), ("CutMix", "smoothed")])
@pytest.mark.parametrize("batches", [1, 2])
def test_the_numbers_are_those_of_one_process(spawn: Any, kind: str, loss: str, batches: int) -> None:
    losses, weights = trained(kind, loss, batches)
    for world_size in (2, 3):
        for rank in spawn(world_size, trained, kind=kind, loss=loss, batches=batches):
            assert rank[0] == pytest.approx(losses, rel=1e-9)
            assert rank[1] == pytest.approx(weights, rel=1e-8, abs=1e-11)


def test_mixup_is_the_formula() -> None:
    model, dls = make_model(), make_dls()
    opt, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for epoch in range(2):
        for share, (x, y) in dls.train.batches(epoch):
            drawn = Draw(seed=1, epoch=epoch, samples=share.keys).at("MixUp").beta(0.4, 0.4)
            part = torch.from_numpy(np.maximum(drawn, 1 - drawn))
            swap = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]) if len(x) == 8 else torch.tensor([0])
            pred = model(part[:, None] * x + (1 - part)[:, None] * x[swap])
            own, other = (F.cross_entropy(pred, target, reduction="none") for target in (y, y[swap]))
            loss = (part * own + (1 - part) * other).mean()
            loss.backward()
            losses.append(loss.item())
            opt.step()
            opt.zero_grad()
    got = trained("MixUp")
    assert got[0] == pytest.approx(losses)
    assert got[1] == pytest.approx(weights_of(model).tolist(), rel=1e-9)


def test_a_cross_entropy_of_mixed_targets_is_the_mixture_of_the_losses() -> None:
    class Unknown(nn.Module):  # the same loss, of which nothing is known
        def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(pred, target)

    fits = []
    for loss in (CrossEntropyLoss(), nn.CrossEntropyLoss(), F.cross_entropy, Unknown()):
        learn = make_learner(loss_func=loss, cbs=MixUp())
        learn.fit(1)
        fits.append(learn.recorder.losses)
    for losses in fits[1:]:
        assert losses == pytest.approx(fits[0])


def test_numbers_as_targets_are_mixed_themselves() -> None:
    x = torch.arange(8.0, dtype=torch.float64)[:, None]
    seen: list[Any] = []
    look = on("after_loss", lambda learn: seen.append((learn.state.xb[0], learn.state.yb[0])), training=True)
    dls = DataLoaders(DataLoader(TensorData(x, 2 * x), 4, split_idx=0))
    make_learner(dls=dls, model=nn.Linear(1, 1).double(), loss_func=nn.MSELoss(), cbs=[MixUp(), look]).fit(1)
    for inputs, targets in seen:
        torch.testing.assert_close(targets, 2 * inputs)
    assert not torch.equal(seen[0][0], x[:4])


def test_cutmix_pastes_a_box_and_counts_its_area() -> None:
    images = torch.arange(8.0)[:, None, None, None].expand(8, 1, 12, 10).contiguous()
    labels = torch.arange(8)
    seen: list[Any] = []

    class Loss(CrossEntropyLoss):
        def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            if target.is_floating_point():
                seen.append((inputs[-1], target))
            return super().forward(pred, target)

    inputs: list[torch.Tensor] = []
    look = on("after_pred", lambda learn: inputs.append(learn.state.xb[0]), training=True)
    dls = DataLoaders(DataLoader(TensorData(images, labels), 8, split_idx=0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(120, 8))
    make_learner(dls=dls, model=model, loss_func=Loss(), cbs=[CutMix(), look]).fit(3)
    areas = []
    assert len(seen) == 3
    for pictures, targets in seen:
        for row, image in enumerate(pictures[:, 0]):
            other = image == (row ^ 1)
            assert bool((other | (image == row)).all())
            area = float(other.float().mean())
            areas.append(area)
            assert targets[row, row].item() == pytest.approx(1 - area)
            assert targets[row, row ^ 1].item() == pytest.approx(area)
            if area:  # a box: as many pixels as its rows times its columns
                assert other.any(1).sum() * other.any(0).sum() == other.sum()
    assert len(set(areas)) > 8


def test_validation_is_not_mixed_and_the_loader_is_as_before() -> None:
    inputs: list[torch.Tensor] = []
    look = on("after_pred", lambda learn: inputs.append(learn.state.xb[0]), training=False)
    learn = make_learner(cbs=[MixUp(), look])
    learn.fit(1)
    for mine, (_, (x, _)) in zip(inputs, learn.dls.valid.batches(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(mine, x)
    assert learn.dls.train.in_pairs is False  # type: ignore[union-attr]


def refused_on_ranks() -> str:
    x = torch.zeros(8, 4, dtype=torch.float64)
    loader = IterableLoader([(row, torch.tensor(0)) for row in x], 4, num_samples=8, num_workers=0)
    learn = make_learner(dls=DataLoaders(loader), cbs=MixUp())
    try:
        learn.fit(1)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_loader_that_cannot_deal_pairs_is_refused_on_several_ranks(spawn: Any) -> None:
    assert refused_on_ranks() == ""
    expected = (
        "MixUp mixes samples that must be on the same rank, and among 2 ranks IterableLoader deals them out one by one; give a "
        "DataLoader over a map-style data set"
    )
    assert spawn(2, refused_on_ranks) == [expected] * 2


@pytest.mark.parametrize(
    ("cbs", "error", "message"),
    [
        (lambda: MixUp(0.0), ConfigError, r"MixUp\(alpha=0.0\): expected more than 0"),
        (lambda: CutMix(-1.0), ConfigError, r"CutMix\(alpha=-1.0\): expected more than 0"),
        (CutMix, DataError, r"CutMix takes one input, images of .*, and the model has \(8, 4\); MixUp mixes others"),
        (
            lambda: [on("before_batch", integers), MixUp()],
            DataError,
            r"MixUp mixes inputs that are numbers, such as pixels, and one here is torch.int64 of shape \(8, 4\)",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(cbs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_learner(cbs=cbs()).fit(1)


def integers(learn: Any) -> None:
    learn.state.xb = (learn.state.xb[0].long(),)


def cancelled_before_mixing(rank: int) -> list[Any]:
    def cancel(learn: Any) -> None:
        if learn.state.training and learn.state.train_step == 1 and learn.collectives.world.rank == rank:
            raise CancelBatch

    learn = make_learner(loss_func=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), cbs=MixUp())
    learn.fit(2, cbs=on("before_batch", cancel, phase=Phase.PREPARE))
    return [learn.recorder.losses, weights_of(learn.model).tolist()]


def test_a_rank_that_cancels_before_it_has_mixed_keeps_nobody_waiting(spawn: Any) -> None:
    losses, weights = cancelled_before_mixing(0)
    for rank in spawn(3, cancelled_before_mixing, rank=1):
        assert rank[0] == pytest.approx(losses, rel=1e-9)
        assert rank[1] == pytest.approx(weights, rel=1e-8)


def test_a_loss_that_leaves_out_targets_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves out targets, and a mixture cannot be left out in part"):
        make_learner(loss_func=CrossEntropyLoss(ignore_index=0), cbs=MixUp()).fit(1)


def test_a_weighted_mean_that_is_no_cross_entropy_is_refused() -> None:
    callback: Callback = MixUp()
    with pytest.raises(ConfigError, match="is a weighted mean, which cannot be mixed by samples"):
        make_learner(loss_func=FocalLoss(weight=[1.0, 2.0, 3.0]), cbs=callback).fit(1)
