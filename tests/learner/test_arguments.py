"""What a Learner is given by a slip of the pen, and how it introduces itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset
from toy import make_data, make_dls, make_learner, make_model

from dist_ai.errors import ConfigError, DistAIError
from dist_ai.learner import Learner
from dist_ai.metrics import Metric, accuracy
from dist_ai.optimizer import Adam

quiet: dict[str, Any] = {"run_dir": None, "progress": False}


def loader() -> TorchDataLoader[Any]:
    return TorchDataLoader(TensorDataset(*make_data()), batch_size=7, shuffle=True)


def test_one_loader_trains_without_validation() -> None:
    learn = Learner(loader(), make_model(), F.cross_entropy, **quiet)
    learn.fit(1)
    assert len(learn.recorder.losses) == 4
    with pytest.raises(ConfigError, match="there is no validation data"):
        learn.validate()


def test_no_callbacks_may_be_none() -> None:
    learn = make_learner(cbs=None)
    before = [type(each) for each in learn.callbacks]
    for fit in (learn.fit, learn.fit_one_cycle, learn.fit_flat_cos, learn.fine_tune):
        fit(1, cbs=None)
    with learn.added_cbs(None):
        learn.validate(cbs=None)
    assert [type(each) for each in learn.callbacks] == before


wrong: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: make_learner().fit(1, cbs="EarlyStopping"),
        ConfigError,
        "cbs='EarlyStopping' is no callback; give one, such as EarlyStopping(), or a list of them",
    ),
    (lambda: make_learner(cbs=3), ConfigError, "cbs=3 is no callback; give one"),
    (
        lambda: Learner(make_model(), loader()),
        ConfigError,
        "a Sequential is no loader; the data comes first: Learner(dls, model)",
    ),  # type: ignore[arg-type]
    (lambda: Learner((1, 2, 3), make_model()), ConfigError, "dls: a int is no loader"),
    (lambda: Learner([loader()] * 3, make_model()), ConfigError, "dls has 3 loaders; give one for training, or a pair"),
    (lambda: Learner(make_data(), make_model()), ConfigError, "dls: a Tensor is no loader"),
    (lambda: make_learner(model=nn.Linear), ConfigError, "is no torch module: did you mean Linear(...)?"),
    (lambda: make_learner(loss_func="ce"), ConfigError, "loss_func='ce' is no loss; give a function of"),
    (lambda: make_learner(loss_func=nn.MSELoss), ConfigError, "is no loss; did you mean MSELoss()?"),
    (
        lambda: make_learner(opt_func="adam"),
        ConfigError,
        "opt_func='adam' makes no optimizer; give a recipe such as Adam",
    ),
    (
        lambda: make_learner(opt_func=torch.optim.SGD(make_model().parameters(), lr=0.1)),
        ConfigError,
        "opt_func is a SGD that was made already; give what makes one, such as opt_func=torch.optim.AdamW",
    ),
    (lambda: make_learner(metric=accuracy), TypeError, "no argument 'metric'; here it is metrics"),
    (
        lambda: make_learner(optimizer="adam"),
        TypeError,
        "no argument 'optimizer'; here it is opt_func, which makes one",
    ),
    (lambda: make_learner(criterion=F.mse_loss), TypeError, "no argument 'criterion'; here it is loss_func"),
    (
        lambda: make_learner(precison="bf16"),
        TypeError,
        "no argument 'precison'; did you mean 'precision'? There are dls, model",
    ),
    (
        lambda: make_learner(accumulate_grad_batches=4),
        TypeError,
        "no argument 'accumulate_grad_batches'; cbs=GradientAccumulation(batches=...) makes one step of several batches",
    ),
    (lambda: make_learner(mixed_precision="fp16"), TypeError, "no argument 'mixed_precision'; here it is precision"),
    (lambda: make_learner(precision="16-mixed"), ConfigError, "precision='16-mixed'; here it is 'fp16'; expected fp32"),
    (
        lambda: make_learner(precision=32),
        ConfigError,
        "precision=32; here it is 'fp32'; expected fp32, tf32, bf16, fp16",
    ),
    (lambda: make_learner().fit("3"), ConfigError, "n_epoch='3': a fit's length is a whole number"),
    (lambda: make_learner().fit(1, "0.1"), ConfigError, "lr='0.1': a learning rate is a number, such as 1e-3"),
]


@pytest.mark.parametrize(("make", "error", "text"), wrong, ids=[text[:40] for *_, text in wrong])
def test_a_slip_of_the_pen_is_named(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)
    assert isinstance(raised.value, DistAIError) == (error is ConfigError)


def test_a_learner_introduces_itself() -> None:
    learn = make_learner(metrics=accuracy, opt_func=partial(torch.optim.SGD, momentum=0.9))
    assert repr(learn) == (
        "Learner\n"
        "  model: Sequential with 51 parameters, on cpu, in fp32\n"
        "  data: train: 17 samples in 3 batches of 8, shuffled; valid: 11 samples in 3 batches of 5\n"
        "  loss: CrossEntropyLoss\n"
        "  optimizer: SGD\n"
        "  metrics: accuracy\n"
        "  callbacks: Recorder, SkippedSamples\n"
        "  run directory: none"
    )
    before = repr(learn)
    learn.fit(1)
    assert repr(learn) == before  # also with an optimizer at work
    learn.opt = Adam(learn.model.parameters())
    assert "optimizer: weight_decay, average_grad" in repr(learn)
    learn.model[0].requires_grad_(False)
    assert "51 parameters, 30 of them frozen" in repr(learn)
    assert "valid: none" in repr(make_learner(dls=[make_dls().train]))


class BasicOptim:
    """A loop's own optimizer, as a book has it."""

    def __init__(self, params: Any, lr: float) -> None:
        self.params, self.lr = list(params), lr


def test_an_optimizer_that_is_none_is_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigError) as refused:
        make_learner(opt_func=BasicOptim).fit(1)
    assert str(refused.value) == (
        "opt_func made a BasicOptim, which is no optimizer of dist_ai.optimizer or of torch; make a class of your own a "
        "torch.optim.Optimizer, or write its step as a function: partial(Optimizer, steps=[step])"
    )


class Nameless(Metric):
    """A metric in another library's way."""

    def reset(self) -> None:
        """Forgets."""


def test_a_metric_without_a_name_is_refused_when_it_is_given() -> None:
    with pytest.raises(ConfigError) as refused:
        make_learner(metrics=Nameless())
    assert str(refused.value) == (
        "the metric Nameless has no name, which is its column in the epoch's row; set one in its class: name = 'nameless'. "
        "A Metric has name, reset, update, statistics and value"
    )
