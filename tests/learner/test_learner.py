"""What users call: fits, freezing, validation and predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset
from toy import BS, NUM_TRAIN, NUM_VALID, make_data, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, GradientAccumulation
from dist_ai.core import Transform
from dist_ai.core.types import TensorCategory
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.data.plan import Share
from dist_ai.distributed import join
from dist_ai.errors import ConfigError
from dist_ai.learner import Learner
from dist_ai.losses import CompositeLoss, CrossEntropyLoss, FocalLoss, loss_metrics
from dist_ai.metrics import accuracy, error_rate
from dist_ai.optimizer import SGD, Adam


class Hypers(Callback):
    """Writes down the hyper-parameters of every training step, and what learns in it."""

    may_cancel = False

    def __init__(self) -> None:
        self.steps: list[dict[str, list[float]]] = []
        self.learning: list[list[str]] = []

    def before_step(self) -> None:
        opt = self.learn.opt
        names = [name for name in ("lr", "mom", "wd") if opt.has_hyper(name)]
        self.steps.append({name: opt.get_hyper(name) for name in names})
        self.learning.append([name for name, p in self.learn.model.named_parameters() if p.grad is not None])

    def of(self, name: str) -> list[list[float]]:
        return [step[name] for step in self.steps]


def in_two(model: Any) -> list[list[nn.Parameter]]:
    body = list(model[:-1].parameters())
    return [body, list(model[-1].parameters())]


# ------------------------------------------------------------------------ fits


def test_fit_trains_at_the_rate_and_decay_it_is_given_or_else_the_learners() -> None:
    hypers = Hypers()
    learn = make_learner(lr=0.1, wd=0.25, cbs=hypers)
    learn.fit(1)
    learn.fit(1, 0.2, wd=0.5)
    learn.fit(1)
    assert hypers.of("lr") == [[0.1]] * 3 + [[0.2]] * 3 + [[0.1]] * 3
    assert hypers.of("wd") == [[0.25]] * 3 + [[0.5]] * 3 + [[0.25]] * 3


def test_without_a_decay_the_optimizers_own_is_kept() -> None:
    hypers = Hypers()
    make_learner(opt_func=Adam, cbs=hypers).fit(1)
    assert hypers.of("wd") == [[0.01]] * 3


def test_learning_rates_go_to_the_groups() -> None:
    hypers = Hypers()
    learn = make_learner(splitter=in_two, cbs=hypers)
    for lr in (slice(1e-3), slice(1e-4, 1e-2), [0.3, 0.4], 0.5):
        learn.fit(1, lr)  # type: ignore[arg-type]
    assert hypers.of("lr")[::3] == [[1e-4, 1e-3], [1e-4, 1e-2], [0.3, 0.4], [0.5, 0.5]]
    with pytest.raises(ConfigError, match="lr has 3 values for 2 parameter groups; give a number, a slice or 2 values"):
        learn.fit(1, [0.1, 0.2, 0.3])


def test_fit_of_no_epochs_changes_nothing_and_of_less_is_refused() -> None:
    learn = make_learner()
    learn.fit(0)
    assert torch.equal(weights_of(learn.model), weights_of(make_model()))
    assert learn.recorder.epochs == []
    with pytest.raises(ConfigError, match="n_epoch=-1: a fit's length is a whole number, 0 or more"):
        learn.fit_one_cycle(-1)


def fastais_cos(start: float, end: float, pos: float) -> float:
    return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


def fastais_one_cycle(low: float, high: float, final: float, pct_start: float, pos: float) -> float:
    if pos < pct_start:
        return fastais_cos(low, high, pos / pct_start)
    return fastais_cos(high, final, (pos - pct_start) / (1 - pct_start))


@pytest.mark.parametrize("opt_func", [Adam, torch.optim.AdamW])
def test_one_cycle_gives_fastais_rates_and_momenta_at_every_step(opt_func: Any) -> None:
    hypers = Hypers()
    learn = make_learner(splitter=in_two, cbs=hypers, opt_func=opt_func)
    learn.fit_one_cycle(2, slice(1e-3, 1e-2), div=10, div_final=1e3, pct_start=0.3, moms=(0.9, 0.8, 0.95))
    for step in range(6):
        pos = step / 6
        rates = [fastais_one_cycle(lr / 10, lr, lr / 1e3, 0.3, pos) for lr in (1e-3, 1e-2)]
        assert hypers.of("lr")[step] == pytest.approx(rates, rel=1e-12)
        assert hypers.of("mom")[step] == pytest.approx([fastais_one_cycle(0.9, 0.8, 0.95, 0.3, pos)] * 2, rel=1e-12)


def test_one_cycles_defaults_are_fastais() -> None:
    hypers = Hypers()
    make_learner(lr=0.1, opt_func=Adam, cbs=hypers).fit_one_cycle(1)
    for step in range(3):
        [rate], [mom] = hypers.of("lr")[step], hypers.of("mom")[step]
        assert rate == pytest.approx(fastais_one_cycle(0.1 / 25, 0.1, 0.1 / 1e5, 0.25, step / 3), rel=1e-12)
        assert mom == pytest.approx(fastais_one_cycle(0.95, 0.85, 0.95, 0.25, step / 3), rel=1e-12)


@pytest.mark.parametrize("opt_func", [SGD, torch.optim.SGD, torch.optim.RMSprop])
def test_one_cycle_leaves_an_optimizer_without_momentum_as_it_is_unless_momenta_are_given(opt_func: Any) -> None:
    hypers = Hypers()
    learn = make_learner(opt_func=opt_func, cbs=hypers)
    learn.fit_one_cycle(1, 0.01)
    assert hypers.of("mom") == [[0.0]] * 3
    learn.fit_one_cycle(1, 0.01, moms=(0.9, 0.8, 0.9), reset_opt=True)
    assert all(mom >= 0.8 for [mom] in hypers.of("mom")[3:])


def test_the_optimizers_moments_go_on_in_the_next_fit_unless_it_is_reset() -> None:
    def fit(*n_epochs: int, reset_opt: bool = False) -> torch.Tensor:
        learn = make_learner(opt_func=Adam, dls=make_dls(shuffle=False))
        for n_epoch in n_epochs:
            learn.fit(n_epoch, 0.01, reset_opt=reset_opt)
        return weights_of(learn.model)

    assert torch.equal(fit(1, 1), fit(2))
    assert not torch.equal(fit(1, 1, reset_opt=True), fit(2))


@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_any_torch_optimizer_trains(opt_func: Any) -> None:
    learn = make_learner(opt_func=opt_func, splitter=in_two, metrics=accuracy)
    before = learn.validate()[0]
    lr = 0.002 if opt_func is torch.optim.RMSprop else 0.05
    learn.fit(3, slice(lr / 2, lr))
    learn.fit_one_cycle(3, lr)
    assert learn.validate()[0] < before


# ------------------------------------------------------------------------ freezing


def test_frozen_groups_keep_their_weights_and_their_batch_norms_learn() -> None:
    hypers = Hypers()
    learn = make_learner(model=make_model(batch_norm=True), dls=make_dls(bs=7), splitter=in_two, cbs=hypers)
    learn.freeze()
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    learn.fit(1)
    after = learn.model.state_dict()
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert same == ["0.weight", "0.bias"]  # BatchNorm's weight, bias and statistics, and the head, have learnt
    assert hypers.learning == [["1.weight", "1.bias", "3.weight", "3.bias"]] * 3
    learn.unfreeze()
    learn.fit(1)
    assert hypers.learning[-1] == [name for name, _ in learn.model.named_parameters()]


def test_batch_norms_stay_frozen_where_that_is_wanted() -> None:
    hypers = Hypers()
    learn = make_learner(
        model=make_model(batch_norm=True), dls=make_dls(bs=7), splitter=in_two, cbs=hypers, train_bn=False
    )
    learn.freeze_to(1)
    learn.fit(1)
    assert hypers.learning == [["3.weight", "3.bias"]] * 3


def test_freezing_begins_with_a_fresh_optimizer() -> None:
    learn = make_learner(splitter=in_two, opt_func=Adam)
    learn.fit(1)
    first = learn.opt
    learn.freeze()
    learn.fit(1)
    assert learn.opt is not first
    _, plain = learn.opt.state()
    assert plain["steps"] == {"0.weight": 0, "0.bias": 0, "2.weight": 3, "2.bias": 3}


def test_a_model_of_one_group_has_nothing_to_freeze() -> None:
    learn = make_learner()
    learn.freeze()
    assert all(p.requires_grad for p in learn.model.parameters())


def fit_frozen() -> list[float]:
    learn = make_learner(model=make_model(batch_norm=True), dls=make_dls(bs=7), splitter=in_two)
    learn.fine_tune(1, 0.05)
    return weights_of(learn.model).tolist()


def test_fine_tuning_on_three_ranks_gives_the_weights_of_one_process(spawn: Any) -> None:
    alone = fit_frozen()
    for rank in spawn(3, fit_frozen):
        assert rank == pytest.approx(alone, rel=1e-9, abs=1e-11)


def test_fine_tune_is_two_one_cycle_fits_frozen_and_then_unfrozen() -> None:
    hypers = Hypers()
    learn = make_learner(splitter=in_two, opt_func=Adam)
    learn.fine_tune(2, 0.04, freeze_epochs=1, lr_mult=100, pct_start=0.3, div=5.0, wd=0.125, cbs=hypers)
    assert [(row["fit"], row["epoch"]) for row in learn.recorder.epochs] == [(1, 0), (2, 0), (2, 1)]
    assert hypers.learning == [["2.weight", "2.bias"]] * 3 + [["0.weight", "0.bias", "2.weight", "2.bias"]] * 6
    for step in range(3):
        rates = [fastais_one_cycle(lr / 25, lr, lr / 1e5, 0.99, step / 3) for lr in (0.004, 0.04)]
        assert hypers.of("lr")[step] == pytest.approx(rates, rel=1e-9)
    for step in range(6):
        rates = [fastais_one_cycle(lr / 5, lr, lr / 1e5, 0.3, step / 6) for lr in (0.02 / 100, 0.02)]
        assert hypers.of("lr")[3 + step] == pytest.approx(rates, rel=1e-9)
    assert hypers.of("wd") == [[0.125, 0.125]] * 9


# ------------------------------------------------------------------------ evaluation


def test_validate_gives_the_exact_loss_and_metrics_of_uneven_batches() -> None:
    learn = make_learner(metrics=[accuracy, error_rate])
    x, y = make_data()
    pred = make_model()(x[NUM_TRAIN:])
    loss, hits, misses = learn.validate()
    assert loss == pytest.approx(F.cross_entropy(pred, y[NUM_TRAIN:]).item(), rel=1e-14)
    assert hits == (pred.argmax(1) == y[NUM_TRAIN:]).sum().item() / NUM_VALID
    assert misses == (pred.argmax(1) != y[NUM_TRAIN:]).sum().item() / NUM_VALID


def test_validate_takes_another_loader_and_leaves_the_weights_alone() -> None:
    learn = make_learner(model=make_model(batch_norm=True))
    before = weights_of(learn.model)
    x, y = make_data()
    [loss] = learn.validate(DataLoader(TensorData(x[:5], y[:5]), 2))
    assert loss == pytest.approx(F.cross_entropy(learn.model(x[:5]), y[:5]).item(), rel=1e-14)
    assert torch.equal(weights_of(learn.model), before)
    assert learn.state.batch is None  # no tensors are held on to


def predict(num: int, bs: int = 4) -> dict[str, Any]:
    """Returns predictions of the first samples, on however many ranks."""
    x, y = make_data()
    learn = make_learner(dls=DataLoaders(make_dls().train, DataLoader(TensorData(x[:num], y[:num]), bs)))
    preds, targets, decoded, losses = learn.get_preds(with_decoded=True, with_loss=True)
    [loss] = learn.validate()
    return {
        "preds": preds.tolist(),
        "targets": targets.tolist(),
        "decoded": decoded.tolist(),
        "losses": losses.tolist(),
        "dtypes": [str(each.dtype) for each in (preds, targets, decoded, losses)],
        "validate": loss,
    }


@pytest.mark.parametrize("num", [28, 4, 2, 1])
def test_get_preds_keeps_the_order_of_the_data_on_1_2_and_3_ranks(spawn: Any, num: int) -> None:
    x, y = make_data()
    pred = make_model()(x[:num]).detach()
    each = F.cross_entropy(pred, y[:num], reduction="none")
    for results in ([predict(num)], spawn(2, predict, num=num), spawn(3, predict, num=num)):
        for got in results:
            assert got["targets"] == y[:num].tolist()
            assert got["decoded"] == pred.argmax(1).tolist()
            torch.testing.assert_close(torch.tensor(got["preds"], dtype=torch.float64), pred.softmax(1))
            torch.testing.assert_close(torch.tensor(got["losses"], dtype=torch.float64), each)
            assert got["dtypes"] == ["torch.float64", "torch.int64", "torch.int64", "torch.float64"]
            assert got["validate"] == pytest.approx(each.mean().item(), rel=1e-13)


def test_get_preds_takes_data_without_targets() -> None:
    x, _ = make_data()
    learn = make_learner()
    preds, targets = learn.get_preds(DataLoader(TensorData(x), 5))
    assert targets is None
    torch.testing.assert_close(preds, learn.model(x).softmax(1).detach())


def test_get_preds_refuses_a_loader_that_shuffles() -> None:
    learn = make_learner()
    with pytest.raises(ConfigError) as refused:
        learn.get_preds(learn.dls.train)
    assert str(refused.value) == (
        "get_preds keeps the order of the data, and this loader shuffles it; give one with shuffle=False"
    )


def parts_of_the_data() -> list[Any]:
    """Returns what get_preds and validate say of the training data, on however many ranks."""
    learn = make_learner(metrics=accuracy)
    inputs, preds, targets, decoded, losses = learn.get_preds(
        ds_idx=0, with_input=True, with_decoded=True, with_loss=True, act=lambda raw: raw
    )
    return [each.tolist() for each in (inputs, preds, targets, decoded, losses)] + [learn.validate(ds_idx=0)]


def test_the_training_data_is_predicted_in_order_with_its_inputs_on_1_and_2_ranks(spawn: Any) -> None:
    x, y = (each[:NUM_TRAIN] for each in make_data())
    logits = make_model()(x).detach()
    each = F.cross_entropy(logits, y, reduction="none")
    for inputs, preds, targets, decoded, losses, final in [parts_of_the_data(), *spawn(2, parts_of_the_data)]:
        assert (inputs, targets, decoded) == (x.tolist(), y.tolist(), logits.argmax(1).tolist())
        torch.testing.assert_close(torch.tensor(preds, dtype=torch.float64), logits)
        torch.testing.assert_close(torch.tensor(losses, dtype=torch.float64), each)
        assert final == pytest.approx([each.mean().item(), (logits.argmax(1) == y).double().mean().item()])


def test_the_training_data_is_evaluated_whole_and_without_augmentation() -> None:
    class Doubled(Transform):
        split_idx = 0

        def encodes(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    x, y = make_data()
    train = DataLoader(TensorData(x, y), 5, shuffle=True, drop_last=True, batch_tfms=[Doubled()], split_idx=0)
    learn = make_learner(dls=DataLoaders(train))
    inputs, _, targets = learn.get_preds(ds_idx=0, with_input=True)
    assert torch.equal(inputs, x)
    assert torch.equal(targets, y)


def test_callbacks_of_a_prediction_or_a_validation_are_there_for_it_alone() -> None:
    class Opposite(Callback):
        may_cancel = False

        def after_pred(self) -> None:
            self.state.pred = -self.state.pred

    learn = make_learner()
    opposite, usual = learn.get_preds(cbs=Opposite(), act=lambda raw: raw)[0], learn.get_preds(act=lambda raw: raw)[0]
    assert torch.equal(opposite, -usual)
    assert learn.validate(cbs=[Opposite()]) != learn.validate()
    assert learn.callbacks.find(Opposite) is None


def test_a_part_of_the_data_that_there_is_not_is_refused() -> None:
    learn = make_learner()
    with pytest.raises(ConfigError, match="ds_idx=2: expected 0 for the training data or 1 for the validation data"):
        learn.validate(ds_idx=2)
    with pytest.raises(ConfigError, match="dl: a int is no loader; the parts of the data are ds_idx=0; of new items"):
        learn.get_preds(0)  # type: ignore[arg-type]


class Own:
    """A loader of a user's own: what the loop asks for, and nothing else."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self.num_samples = loader.num_samples

    def __len__(self) -> int:
        return len(self._loader)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Share, Any]]:
        return self._loader.batches(epoch, start)


def test_a_loader_of_ones_own_is_validated_and_predicted_by_what_the_loop_asks_for() -> None:
    learn = make_learner(metrics=accuracy)
    own: Any = Own(learn.dls.valid)
    assert learn.validate(own) == learn.validate()
    assert torch.equal(learn.get_preds(own)[0], learn.get_preds()[0])


def test_metrics_may_be_assigned() -> None:
    learn = make_learner()
    learn.metrics = accuracy
    learn.fit(1)
    assert [metric.name for metric in learn.metrics] == ["accuracy"]
    assert len(learn.recorder.final) == 2
    with pytest.raises(ConfigError, match="two columns of the epoch's row are called 'accuracy'"):
        learn.metrics = [accuracy, accuracy]


def test_metrics_that_were_returned_may_be_given_again_with_the_parts_of_the_loss() -> None:
    learn = make_learner(metrics=accuracy, loss_func=CompositeLoss({"ce": CrossEntropyLoss(), "focal": FocalLoss()}))
    names, before = learn.recorder.names, learn.validate()
    learn.metrics = list(learn.metrics)
    assert (learn.recorder.names, learn.validate()) == (names, before)
    learn.metrics = [accuracy, *loss_metrics(CompositeLoss({"flat": CrossEntropyLoss(label_smoothing=0.1)}))]
    assert [metric.name for metric in learn.metrics] == ["accuracy", "flat", "ce", "focal"]


def test_predictions_of_a_loss_without_activation_are_as_the_model_gives_them() -> None:
    learn = make_learner(loss_func=F.cross_entropy)
    x, _ = make_data()
    preds, _, decoded = learn.get_preds(with_decoded=True)
    torch.testing.assert_close(preds, learn.model(x[NUM_TRAIN:]).detach())
    assert torch.equal(decoded, preds)


# ------------------------------------------------------------------------ what a Learner is made of


def test_the_default_loss_is_the_targets_types() -> None:
    x, y = make_data()
    categories = DataLoader(TensorData(x, TensorCategory(y)), 8)
    learn = Learner(DataLoaders(categories, categories), make_model(), run_dir=None, progress=False)
    assert isinstance(learn.loss_func, CrossEntropyLoss)
    learn.fit(1)
    with pytest.raises(ConfigError) as refused:
        Learner(make_dls(), make_model(), run_dir=None)
    assert str(refused.value) == (
        "no loss_func was given, and targets of type Tensor have no default one; give Learner(..., loss_func=...)"
    )


@pytest.mark.parametrize(
    "loss_func", [torch.nn.CrossEntropyLoss(reduction="sum"), partial(F.cross_entropy, reduction="sum")]
)
def test_a_loss_that_is_no_mean_is_refused_when_the_learner_is_made(loss_func: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        make_learner(loss_func=loss_func)
    assert str(refused.value) == (
        "the loss function has reduction='sum'; training needs the mean over the samples, which is the same on any number of "
        "workers: give one with reduction='mean'"
    )


def test_a_pair_of_plain_torch_loaders_trains_and_validates() -> None:
    x, y = make_data()
    train = TorchDataLoader(TensorDataset(x[:NUM_TRAIN], y[:NUM_TRAIN]), BS, shuffle=True)
    valid = TorchDataLoader(TensorDataset(x[NUM_TRAIN:], y[NUM_TRAIN:]), 4)
    learn = make_learner(dls=(train, valid), metrics=accuracy)
    learn.fit(2)
    pred = learn.model(x[NUM_TRAIN:]).detach()
    row = learn.recorder.epochs[-1]
    assert row["valid_loss"] == pytest.approx(F.cross_entropy(pred, y[NUM_TRAIN:]).item(), rel=1e-14)
    assert row["accuracy"] == (pred.argmax(1) == y[NUM_TRAIN:]).double().mean().item()
    assert learn.recorder.sizes == [8, 8, 1] * 2
    preds, targets = learn.get_preds()
    assert torch.equal(targets, y[NUM_TRAIN:])
    torch.testing.assert_close(preds, pred.softmax(1))


def test_targets_may_be_several() -> None:
    x, y = make_data()
    data = TensorData(x, y, x.sum(1))

    def loss(pred: torch.Tensor, kind: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(pred, kind) + (pred.sum(1) - size).square().mean()

    learn = make_learner(dls=DataLoaders(DataLoader(data, 8), DataLoader(data, 8)), loss_func=loss, metrics=loss)
    learn.fit(1, 0.01)
    row = learn.recorder.epochs[0]
    assert row["loss"] == row["valid_loss"] == pytest.approx(loss(learn.model(x), y, x.sum(1)).item(), rel=1e-13)


def test_an_argument_that_is_none_of_a_learners_is_refused() -> None:
    with pytest.raises(TypeError, match="Learner has no argument 'metric'; here it is metrics"):
        Learner(make_dls(), make_model(), CrossEntropyLoss(), metric=accuracy)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": nn.Linear}, "is no torch module: did you mean Linear(...)?"),
        ({"model": "resnet18"}, "model='resnet18' is no torch module; give the module itself"),
        ({"opt_func": "adam"}, "opt_func='adam' makes no optimizer; give a recipe such as Adam of dist_ai.optimizer"),
    ],
)
def test_a_model_or_an_optimizer_that_is_none_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_learner(**options)
    assert message in str(refused.value)


def test_a_fit_says_what_is_misspelt_before_it_trains() -> None:
    learn = make_learner(opt_func=SGD)
    with pytest.raises(TypeError, match=r"Learner\.fit has no argument 'n_epochs'; here it is n_epoch"):
        learn.fit(n_epochs=1)  # type: ignore[call-arg]
    assert learn.recorder.losses == []


@pytest.mark.world_size(2)
def test_ranks_with_different_data_or_fits_are_told_the_first_difference_at_set_up() -> None:
    rank = join().world.rank
    remedy = "; every rank runs the same program on the same files, and it is the loaders that give each its share"
    with pytest.raises(ConfigError) as refused:
        make_learner(dls=make_dls(val_bs=5 + rank))
    assert str(refused.value) == (
        "rank 1 and rank 0 disagree on the data: the validation batch size is 6 there and 5 on rank 0" + remedy
    )
    x, y = make_data()
    one_other = x.clone()
    one_other[-1] += rank
    for loader, message in (
        (
            DataLoader(TensorData(x, y), 8, shuffle=rank == 0),
            'the training order is "shuffle=False" there and "shuffle=True"',
        ),
        (DataLoader(TensorData(one_other, y), 8), f'training sample {len(x) - 1} is "(float64 (4,) of mean '),
        (DataLoader([(f"{rank}.jpg", 0)] * 3, 3), 'training sample 0 is "(1.jpg, 0)" there and "(0.jpg, 0)" on rank 0'),
    ):
        with pytest.raises(ConfigError) as refused:
            make_learner(dls=DataLoaders(loader, None))
        assert f"rank 1 and rank 0 disagree on the data: {message}" in str(refused.value)
    for options, message in (
        (
            {"opt_func": SGD if rank else Adam},
            'optimizer is "weight_decay, sgd_step" there and "weight_decay, average_',
        ),
        ({"metrics": accuracy if rank else []}, 'metrics is ["accuracy"] there and [] on rank 0'),
        ({"cbs": [GradientAccumulation(16)] if rank else []}, "batches a step is 2 there and 1 on rank 0"),
    ):
        with pytest.raises(ConfigError) as refused:
            make_learner(**options).fit(1)
        assert f"rank 1 and rank 0 disagree on the fit: {message}" in str(refused.value)
        assert str(refused.value).endswith(remedy)
    learn = make_learner()
    with pytest.raises(ConfigError) as refused:
        learn.fit(1 + rank)
    assert str(refused.value) == "rank 1 and rank 0 disagree on the fit: n_epoch is 2 there and 1 on rank 0" + remedy
    learn.fit(1)
