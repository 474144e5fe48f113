"""The loop does what a plain PyTorch loop does, and lets callbacks change it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from toy import make_data, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, CancelBatch, GradientAccumulation, GradientClip, on
from dist_ai.data import DataLoaders
from dist_ai.distributed import join
from dist_ai.distributed.strategies.sync_batch_norm import SyncBatchNorm
from dist_ai.errors import ConfigError, DataError
from dist_ai.layers import SeededDropout
from dist_ai.layers.dropout import seeded_layers
from dist_ai.losses import CrossEntropyLoss, FocalDiceLoss
from dist_ai.optimizer import SGD, Adam

# ------------------------------------------------------------------------ against a plain loop

DLS = partial(make_dls, bs=7, dtype=torch.float32)  # 7, 7 and 3: BatchNorm needs more than one sample


def plain_loop(
    model: nn.Module, make: Callable[..., torch.optim.Optimizer], wd: float
) -> tuple[torch.Tensor, list[float]]:
    """Returns the weights and the losses of the loop that a user would have written."""
    dls = DLS()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    opt = make([{"params": decayed, "weight_decay": wd}, {"params": others, "weight_decay": 0.0}])
    losses = []
    for _ in range(3):
        model.train()
        for x, y in dls.train:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            for x, _y in dls.valid:
                model(x)
    return weights_of(model), losses


def dropout_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": partial(make_model, torch.float32),
    "BatchNorm": partial(make_model, torch.float32, batch_norm=True),
    "Dropout": dropout_model,
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("opt_func", "make", "wd"),
    [
        (SGD, partial(torch.optim.SGD, lr=0.1), 0.0),
        (partial(SGD, mom=0.9), partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True), 0.0),
        (partial(SGD, decouple_wd=False), partial(torch.optim.SGD, lr=0.1), 0.1),
        (torch.optim.SGD, partial(torch.optim.SGD, lr=0.1), 0.0),
        (partial(torch.optim.SGD, momentum=0.9), partial(torch.optim.SGD, lr=0.1, momentum=0.9), 0.1),
        (torch.optim.AdamW, partial(torch.optim.AdamW, lr=0.1), 0.1),
        (torch.optim.RMSprop, partial(torch.optim.RMSprop, lr=0.1), 0.1),
    ],
    ids=["SGD", "momentum", "L2 decay", "torch SGD", "torch momentum", "torch AdamW", "torch RMSprop"],
)
def test_a_fit_gives_the_bits_of_a_plain_loop(kind: str, opt_func: Any, make: Any, wd: float) -> None:
    learn, plain_model = make_learner(dls=DLS(), model=MODELS[kind](), opt_func=opt_func), MODELS[kind]()
    torch.manual_seed(5)  # of nn.Dropout's masks
    learn.fit(3, 0.1, wd)
    torch.manual_seed(5)
    weights, losses = plain_loop(plain_model, make, wd)
    assert torch.equal(weights_of(learn.model), weights)
    assert learn.recorder.losses == losses


# ------------------------------------------------------------------------ callbacks that change the batch


class Change(Callback):
    """Writes to the state in one event, in training and in validation."""

    may_cancel = False

    def __init__(self, what: str) -> None:
        self.what = what

    def before_batch(self) -> None:
        if self.what == "xb":
            self.state.xb = (self.state.xb[0] * 2,)
        if self.what == "yb":
            self.state.yb = (2 - self.state.yb[0],)

    def after_pred(self) -> None:
        if self.what == "pred":
            self.state.pred = self.state.pred * 3

    def after_loss(self) -> None:
        if self.what == "loss":
            self.state.loss = self.state.loss * 5

    def after_backward(self) -> None:
        if self.what == "gradients":
            for p in self.learn.model.parameters():
                assert p.grad is not None
                p.grad.clamp_(-0.01, 0.01)


CHANGES = ("xb", "yb", "pred", "loss", "gradients")


def fit_changed() -> dict[str, Any]:
    """Returns the weights and the last validation loss for each change."""
    results = {}
    for what in CHANGES:
        learn = make_learner(cbs=Change(what))
        learn.fit(2)
        results[what] = [*weights_of(learn.model).tolist(), *learn.recorder.final, *learn.recorder.losses]
    return results


def fit_as_if(what: str) -> list[float]:
    """Does by hand what the callback changes."""
    model, dls = make_model(), make_dls()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pred = model(x * 2 if what == "xb" else x) * (3 if what == "pred" else 1)
        return F.cross_entropy(pred, 2 - y if what == "yb" else y) * (5 if what == "loss" else 1)

    losses = []
    for _ in range(2):
        for x, y in dls.train:
            loss = loss_of(x, y)
            loss.backward()
            if what == "gradients":
                torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    x, y = make_data()
    return [*weights_of(model).tolist(), loss_of(x[17:], y[17:]).item(), *losses]


def test_what_callbacks_write_to_the_state_is_what_is_trained_on_on_one_process_and_on_three(spawn: Any) -> None:
    expected = {what: fit_as_if(what) for what in CHANGES}
    assert len({tuple(numbers) for numbers in expected.values()}) == len(CHANGES)  # each change makes a difference
    for rank in (fit_changed(), *spawn(3, fit_changed)):
        for what, numbers in expected.items():
            assert rank[what] == pytest.approx(numbers, rel=1e-10), what


class DetachAndCancel(Callback):
    """On one rank makes the prediction useless for a backward, and cancels."""

    def after_pred(self) -> None:
        if self.state.training and self.learn.collectives.world.rank == 0:
            self.state.pred = {"detached": self.state.pred.detach()}
            raise CancelBatch


@pytest.mark.world_size(2)
def test_a_rank_that_cancels_runs_along_whatever_it_made_of_the_prediction() -> None:
    learn = make_learner(cbs=DetachAndCancel())
    before = weights_of(learn.model)
    learn.fit(1)
    assert torch.equal(weights_of(learn.model), before)
    assert learn.recorder.losses == []


# ------------------------------------------------------------------------ the model during and after a fit


class LookAtModel(Callback):
    """Checks the model's names and layers in every fit, and fails if asked to."""

    may_cancel = False

    def __init__(self, fail: bool) -> None:
        self.fail = fail
        self.synced = 0

    def after_backward(self) -> None:
        self.synced = sum(isinstance(module, SyncBatchNorm) for module in self.learn.model.modules())
        assert list(self.learn.model.state_dict()) == list(make_model(batch_norm=True).state_dict())
        if self.fail:
            raise ZeroDivisionError


@pytest.mark.world_size(2)
def test_the_model_gets_its_own_batch_norms_back_after_a_fit_also_after_an_error() -> None:
    learn = make_learner(model=make_model(batch_norm=True), dls=make_dls(bs=7))
    modules = dict(learn.model.named_modules())
    for fail in (False, True, False):
        look = LookAtModel(fail)
        if fail:
            with pytest.raises(ZeroDivisionError):
                learn.fit(1, cbs=look)
        else:
            learn.fit(1, cbs=look)
        assert look.synced == 1
        assert dict(learn.model.named_modules()) == modules
        assert not any(module.training for module in learn.model.modules())
    assert learn.recorder.epochs[-1]["fit"] == 3


def fit_without_statistics() -> list[float]:
    """A BatchNorm without running statistics normalises validation batches too, over all ranks."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    model = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3)).double()
    learn = make_learner(
        model=model, dls=make_dls(bs=5, val_bs=4)
    )  # one of three ranks only runs along in the last batch of 2
    learn.fit(2)
    return [row["valid_loss"] for row in learn.recorder.epochs]


def test_batches_of_a_validation_are_normalised_over_all_ranks_where_there_are_no_statistics(spawn: Any) -> None:
    alone = fit_without_statistics()
    for rank in spawn(3, fit_without_statistics):
        assert rank == pytest.approx(alone, rel=1e-11)


def test_seeded_dropout_is_told_the_samples_of_each_training_batch_and_forgets_them_after_the_fit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), SeededDropout(0.5), nn.Linear(6, 3)).double()
    [layer] = seeded_layers(model)
    seen = []

    class Look(Callback):
        may_cancel = False

        def after_pred(self) -> None:
            if self.state.training:
                assert layer.sample_keys is not None
                seen.append(tuple(layer.sample_keys.tolist()))

    make_learner(model=model, cbs=Look()).fit(2)
    assert len(set(seen)) == 6  # other samples or another epoch, other keys
    assert [len(keys) for keys in seen] == [8, 8, 1] * 2
    assert layer.sample_keys is None
    assert layer.name == "1"


def test_a_training_batch_without_targets_is_refused() -> None:
    from dist_ai.data import DataLoader, TensorData

    x, _ = make_data()
    loader = DataLoader(TensorData(x), 8)
    learn = make_learner(dls=DataLoaders(loader, loader))
    with pytest.raises(DataError) as refused:
        learn.fit(1)
    assert str(refused.value) == "a training batch has no targets, so there is no loss; check n_inp of the DataLoaders"


@pytest.mark.parametrize("loss_func", [torch.nn.MSELoss(), torch.nn.functional.mse_loss, torch.nn.functional.l1_loss])
def test_a_loss_that_would_compare_each_prediction_with_each_target_is_refused(loss_func: Any) -> None:
    from dist_ai.data import DataLoader, TensorData
    from dist_ai.losses import MSELoss

    x, _ = make_data()
    loader = DataLoader(TensorData(x, x[:, 0]), 8)
    model = torch.nn.Linear(x.shape[1], 1).double()
    learn = make_learner(model=model, dls=DataLoaders(loader, loader), loss_func=loss_func)
    for refuse in (lambda: learn.fit(1), learn.validate):
        with pytest.raises(DataError) as refused:
            refuse()
        assert str(refused.value) == (
            f"the loss {getattr(loss_func, '__name__', 'MSELoss')} would compare every prediction with every target: predictions "
            "are Tensor float64 (8, 1), targets Tensor float64 (8,); give loss_func=MSELoss() of dist_ai.losses or another loss "
            "from there, which take them sample by sample, or bring one into the shape of the other"
        )
    make_learner(model=model, dls=DataLoaders(loader, loader), loss_func=MSELoss()).fit(1)


@pytest.mark.parametrize("loss_func", [torch.nn.CrossEntropyLoss(), torch.nn.functional.cross_entropy])
def test_a_batch_with_more_targets_than_the_loss_takes_is_refused_by_what_it_holds(loss_func: Any) -> None:
    from dist_ai.data import DataLoader, TensorData

    x, y = make_data()
    loader = DataLoader(
        TensorData(x, y), 8, batch_tfms=lambda batch: {"x": batch[0], "size": batch[0][:, 0], "y": batch[1]}
    )
    learn = make_learner(dls=DataLoaders(loader, loader), loss_func=loss_func)
    with pytest.raises(DataError) as refused:
        learn.fit(1)
    name = getattr(loss_func, "__name__", "CrossEntropyLoss")
    assert str(refused.value).startswith(
        f"the loss {name} does not take 2 target(s), and a batch has (Tensor float64 (8,), Tensor int64 (8,)) after its inputs; "
    )
    assert 'batch_tfms=lambda batch: (batch["x"], batch["y"])' in str(refused.value)


def test_an_error_of_the_model_or_the_loss_names_both_sides_of_what_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught:
        make_learner(model=nn.Linear(3, 2).double()).fit(1)
    assert caught.value.__notes__ == ["in the model, Linear; given (Tensor float64 (8, 4),)"]
    with pytest.raises(ValueError, match="must be the same") as caught:
        make_learner(loss_func=F.binary_cross_entropy_with_logits).validate()
    (note,) = caught.value.__notes__
    assert note == (
        "in the loss, binary_cross_entropy_with_logits; prediction Tensor float64 (5, 3), targets (Tensor int64 (5,),)"
    )


def test_a_model_whose_parameters_are_all_frozen_is_refused() -> None:
    model = make_model()
    model.requires_grad_(False)
    learn = make_learner(model=model)
    for fit in (learn.fit, learn.fit_one_cycle):
        with pytest.raises(ConfigError) as refused:
            fit(1)
        assert str(refused.value) == (
            f"{fit.__name__}: all parameters of the model are frozen; learn.unfreeze() lets them learn"
        )
    assert len(learn.validate()) == 1
    assert join().world.world_size == 1


# ------------------------------------------------------------------------ waiting for the device


class CountReads(TorchDispatchMode):
    """Counts the operations that a GPU would have to be waited for: a tensor's number is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def reads_of_a_fit(**options: Any) -> tuple[int, int]:
    """Returns how many numbers are read from the device in an epoch of training, and its steps."""
    loaders = make_dls(bs=1, dtype=torch.float32)
    learn = make_learner(dls=DataLoaders(loaders.train), model=make_model(torch.float32), **options)
    learn.fit(1)  # the first fit may look at more
    with CountReads() as counted:
        learn.fit_one_cycle(1)
    # One is what the ranks agree on as a fit begins, which is on the CPU.
    return counted.reads - 1, learn.state.num_steps


@pytest.mark.parametrize("opt_func", [SGD, Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(precision: str, opt_func: Any) -> None:
    cbs = [GradientClip(1.0), Callback()]
    assert reads_of_a_fit(precision=precision, opt_func=opt_func, cbs=cbs, progress=True) == (0, 17)
    assert reads_of_a_fit(precision=precision, opt_func=opt_func, cbs=[GradientAccumulation(batches=2)]) == (0, 9)


@pytest.mark.parametrize(
    "loss", [CrossEntropyLoss(weight=[1, 2, 3], ignore_index=0), F.cross_entropy, FocalDiceLoss(ignore_index=0)]
)
def test_no_step_of_a_weighted_loss_waits_for_the_device(loss: Any) -> None:
    assert reads_of_a_fit(loss_func=loss) == (0, 17)
    assert reads_of_a_fit(loss_func=loss, cbs=[GradientAccumulation(batches=2)]) == (0, 9)


def test_a_step_in_fp16_reads_one_flag() -> None:
    assert reads_of_a_fit(precision="fp16", cbs=[GradientClip(1.0)]) == (17, 17)


def test_what_counts_the_reads_sees_them() -> None:
    assert reads_of_a_fit(cbs=on("after_loss", lambda learn: learn.state.loss.item(), training=True)) == (17, 17)
