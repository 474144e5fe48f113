"""Optimizers that train other weights than they evaluate with: what validation, exports and later fits see."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import image_folder, small_learner, small_loaders
from torch import nn
from toy import NUM_STEPS, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback
from dist_ai.export import load_export
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.optimizer import ScheduleFreeAdamW

opt_func = partial(ScheduleFreeAdamW, wd=0.1)


class Stop(Exception):
    """The end of a process."""


class Doing(Callback):
    """Does something after a training step, counted over the fit."""

    may_cancel = False

    def __init__(self, what: Any, step: int) -> None:
        self.what, self.step, self.seen = what, step, -1

    def after_batch(self) -> None:
        self.seen += self.state.training
        if self.state.training and self.seen == self.step:
            self.what(self.learn)


def by_hand(n_epoch: int) -> tuple[nn.Module, list[float]]:
    """Returns the model of a hand-written loop with the weights to evaluate with, and each epoch's validation loss."""
    model, dls, losses = make_model(), make_dls(), []
    decayed = dict(model.named_parameters())
    opt = ScheduleFreeAdamW(decayed, wd=0.1, lr=0.1)
    for epoch in range(n_epoch):
        opt.train()
        for _, (x, y) in dls.train.batches(epoch):
            CrossEntropyLoss()(model(torch.as_tensor(x)), torch.as_tensor(y)).backward()
            opt.step()
            opt.zero_grad()
        opt.eval()
        with torch.no_grad():
            sums = [(CrossEntropyLoss()(model(x), y).item() * len(x), len(x)) for _, (x, y) in dls.valid.batches()]
        losses.append(sum(loss for loss, _ in sums) / sum(num for _, num in sums))
    return model, losses


def learner(**options: Any) -> Learner:
    return make_learner(opt_func=opt_func, wd_bn_bias=True, **options)


class ValidLosses(Callback):
    """Writes down each epoch's validation loss."""

    may_cancel = False

    def __init__(self) -> None:
        self.values: list[float] = []

    def after_epoch(self) -> None:
        self.values.append(self.learn.recorder.final[0])


def test_every_validation_and_the_fitted_model_have_the_average() -> None:
    seen = ValidLosses()
    learn = learner(cbs=seen)
    learn.fit(3)
    model, losses = by_hand(3)
    assert torch.equal(weights_of(learn.model), weights_of(model))
    assert seen.values == pytest.approx(losses, rel=1e-12)
    assert learn.validate()[0] == pytest.approx(losses[-1], rel=1e-12)


def test_a_later_fit_goes_on_from_the_weights_that_were_trained() -> None:
    once, twice = learner(), learner()
    once.fit(2)
    twice.fit(1)
    twice.validate()
    twice.get_preds()
    twice.fit(1)
    assert torch.equal(weights_of(once.model), weights_of(twice.model))


def test_what_is_exported_within_a_fit_is_the_average_and_the_fit_goes_on_undisturbed(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images")
    expected: list[torch.Tensor] = []

    def look(learn: Learner) -> None:
        trained = weights_of(learn.model)
        learn.opt.eval()
        expected.append(weights_of(learn.model))
        learn.opt.train()
        assert not torch.equal(trained, expected[0])
        learn.export(tmp_path / "export")
        assert torch.equal(weights_of(learn.model), trained)

    learn, plain = (small_learner(small_loaders(images), opt_func=opt_func, cbs=cbs) for cbs in ([Doing(look, 2)], []))
    learn.fit(2, 1e-2)
    plain.fit(2, 1e-2)
    assert torch.equal(weights_of(learn.model), weights_of(plain.model))
    assert torch.equal(weights_of(load_export(tmp_path / "export").model), expected[0])
    assert torch.equal(weights_of(load_export(learn.export(tmp_path / "end")).model), weights_of(learn.model))


@pytest.mark.parametrize("step", [1, NUM_STEPS, NUM_STEPS + 2])
def test_a_run_that_was_killed_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path, step: int) -> None:
    def run(directory: str, stop_at: int | None) -> torch.Tensor:
        def stop(_: Learner) -> None:
            raise Stop

        cbs = [] if stop_at is None else [Doing(stop, stop_at)]
        learn = learner(run_dir=tmp_path / directory, checkpoint_every_s=None, checkpoint_every_steps=1, cbs=cbs)
        learn.fit(2)
        learn.fit(1)
        return weights_of(learn.model)

    undisturbed = run("undisturbed", None)
    with pytest.raises(Stop):
        run("killed", step)
    assert torch.equal(run("killed", None), undisturbed)
    assert torch.equal(run("killed", None), undisturbed)  # all fits are done: their result is restored


def train_on_ranks() -> tuple[list[float], list[float], list[float]]:
    """Returns the fitted weights, the losses of the steps and the last validation."""
    learn = learner()
    learn.fit(3)
    return weights_of(learn.model).tolist(), learn.recorder.losses, learn.validate()


def test_one_process_and_two_have_the_same_average(spawn: Any) -> None:
    [alone] = spawn(1, train_on_ranks)
    for rank in spawn(2, train_on_ranks):
        for got, expected in zip(rank, alone, strict=True):
            assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)
