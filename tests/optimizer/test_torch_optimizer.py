"""`torch.optim` optimizers under our names, with their state by parameter name."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import make_learner, make_model, weights_of

from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.optimizer import SGD, ParamGroup, TorchOptimizer
from dist_ai.optimizer.torch_optimizer import as_opt_func

FAMILY: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=0.01),
    "SGD with momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "RMSprop": partial(torch.optim.RMSprop, momentum=0.5),
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Adafactor": torch.optim.Adafactor,
    "Adamax": torch.optim.Adamax,
    "ASGD": torch.optim.ASGD,
    "NAdam": torch.optim.NAdam,
    "RAdam": partial(torch.optim.RAdam, decoupled_weight_decay=True),
    "AMSGrad": partial(torch.optim.Adam, amsgrad=True),
    "fused AdamW": partial(torch.optim.AdamW, fused=True),
}
every_optimizer = pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY.keys())


def make_params() -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"body.weight": (3, 4), "body.bias": (3,), "head.weight": (2, 3), "scale": ()}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def set_grads(params: dict[str, torch.nn.Parameter], step: int) -> None:
    for number, p in enumerate(params.values()):
        p.grad = None if (step + number) % 5 == 0 else (p.detach() * (step + 1)).sin()


def two_groups(params: dict[str, torch.nn.Parameter]) -> list[ParamGroup]:
    return [
        ParamGroup({n: p for n, p in params.items() if n.startswith("body")}, no_decay={"body.bias"}),
        ParamGroup({n: p for n, p in params.items() if not n.startswith("body")}, no_decay={"scale"}),
    ]


def one_group(params: dict[str, torch.nn.Parameter]) -> list[ParamGroup]:
    return [ParamGroup(params, no_decay={"body.bias", "scale"})]


@every_optimizer
def test_every_torch_optimizer_walks_as_it_does_alone(make: Any) -> None:
    mine, theirs = make_params(), make_params()
    ours = TorchOptimizer(make, two_groups(mine), lr=0.01, wd=0.1)
    decay = [theirs["body.weight"], theirs["head.weight"]]
    alone = make(
        [{"params": decay, "weight_decay": 0.1}, {"params": [theirs["body.bias"], theirs["scale"]], "weight_decay": 0}]
    )
    for step in range(20):
        set_grads(mine, step)
        set_grads(theirs, step)
        ours.set_hyper("lr", 0.01 * (step + 1))
        for group in alone.param_groups:
            group["lr"] = 0.01 * (step + 1)
        ours.step()
        alone.step()
    for name, p in theirs.items():
        assert torch.equal(mine[name], p), name


@every_optimizer
@pytest.mark.parametrize("grouping", [two_groups, one_group], ids=["the same groups", "one group"])
def test_training_goes_on_to_the_same_bits_from_a_state_that_went_through_files(
    make: Any, grouping: Any, tmp_path: Path
) -> None:
    def train(opt: TorchOptimizer, params: dict[str, torch.nn.Parameter], steps: range) -> None:
        for step in steps:
            set_grads(params, step)
            opt.set_hyper("lr", 0.01 * (step + 1))
            opt.step()

    undisturbed = make_params()
    train(TorchOptimizer(make, two_groups(undisturbed), wd=0.1), undisturbed, range(20))
    before = make_params()
    stopped = TorchOptimizer(make, two_groups(before), wd=0.1)
    train(stopped, before, range(9))
    tensors, plain = stopped.state()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "state.safetensors")
    after = {name: torch.nn.Parameter(p.detach().clone()) for name, p in before.items()}
    resumed = TorchOptimizer(make, grouping(after))
    resumed.load_state(load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(plain)))
    train(resumed, after, range(9, 20))
    for name, p in undisturbed.items():
        assert torch.equal(after[name], p), name


@every_optimizer
def test_loading_copies_so_that_two_optimizers_never_share_state(make: Any) -> None:
    params = make_params()
    first, second = TorchOptimizer(make, one_group(params)), TorchOptimizer(make, one_group(params))
    set_grads(params, 1)
    first.step()
    second.load_state(*first.state())
    mine, theirs = first.state()[0], second.state()[0]
    assert mine.keys() == theirs.keys()
    assert all(mine[name].data_ptr() != theirs[name].data_ptr() for name in mine)


@pytest.mark.parametrize(
    ("make", "places"),
    [
        (torch.optim.SGD, {"lr": "lr", "wd": "weight_decay", "mom": "momentum"}),
        (torch.optim.Adam, {"lr": "lr", "wd": "weight_decay", "mom": ("betas", 0), "sqr_mom": ("betas", 1)}),
        (torch.optim.AdamW, {"lr": "lr", "wd": "weight_decay", "mom": ("betas", 0), "sqr_mom": ("betas", 1)}),
        (torch.optim.RMSprop, {"lr": "lr", "wd": "weight_decay", "mom": "momentum", "sqr_mom": "alpha", "eps": "eps"}),
    ],
)
def test_our_names_reach_torchs_places(make: Any, places: dict[str, Any]) -> None:
    opt = TorchOptimizer(make, two_groups(make_params()))
    for number, (name, place) in enumerate(places.items()):
        assert opt.has_hyper(name)
        values = [0.1 + 0.01 * number, 0.2 + 0.01 * number]
        opt.set_hyper(name, values)
        assert opt.get_hyper(name) == values
        for torch_group, value in zip(opt.torch.param_groups[::2], values, strict=True):
            got = torch_group[place] if isinstance(place, str) else torch_group[place[0]][place[1]]
            assert got == value
    for torch_group in opt.torch.param_groups[1::2]:
        assert torch_group["weight_decay"] == 0.0  # body.bias and scale are exempt


def test_torchs_own_default_decay_does_not_reach_what_is_exempt() -> None:
    opt = TorchOptimizer(torch.optim.AdamW, one_group(make_params()))
    assert [group["weight_decay"] for group in opt.torch.param_groups] == [0.01, 0.0]
    assert opt.get_hyper("wd") == [0.01]


@every_optimizer
def test_a_group_may_be_empty_or_exempt_altogether(make: Any) -> None:
    w = torch.nn.Parameter(torch.ones(2))
    opt = TorchOptimizer(make, [ParamGroup({}), ParamGroup({"w": w}, no_decay={"w"})], lr=0.5)
    opt.set_hyper("wd", [0.1, 0.2])
    assert opt.get_hyper("wd") == [0.1, 0.2]
    w.grad = torch.ones(2)
    opt.step()
    undecayed = torch.nn.Parameter(torch.ones(2))
    undecayed.grad = torch.ones(2)
    make([undecayed], lr=0.5, weight_decay=0).step()
    assert torch.equal(w, undecayed)


def test_a_misspelt_hyper_parameter_is_refused_with_a_suggestion() -> None:
    opt = TorchOptimizer(torch.optim.SGD, one_group(make_params()))
    with pytest.raises(ConfigError) as refused:
        opt.set_hyper("momentm", 0.9)
    assert str(refused.value) == "torch.optim.SGD has no hyper-parameter 'momentm'; did you mean 'momentum'?"
    with pytest.raises(ConfigError, match=r"torch\.optim\.SGD has no hyper-parameter 'sqr_mom'"):
        opt.get_hyper("sqr_mom")
    assert not opt.has_hyper("sqr_mom")
    with pytest.raises(ConfigError, match="lr has 2 values for 1 parameter groups; give one number or 1"):
        opt.set_hyper("lr", [0.1, 0.2])


def test_a_hyper_parameter_that_there_is_not_is_not_suggested() -> None:
    opt = TorchOptimizer(torch.optim.SparseAdam, one_group(make_params()))
    with pytest.raises(ConfigError) as refused:
        opt.set_hyper("wd", 0.1)
    assert str(refused.value) == "torch.optim.SparseAdam has no hyper-parameter 'wd'"


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.SGD, weight_decay=0.1)], ids=["Adam", "decay"])
def test_a_sparse_gradient_that_cannot_be_taken_is_named(make: Any) -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    opt = TorchOptimizer(make, one_group({"table": table.weight}), lr=0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(
        ConfigError, match=r"the gradient of 'table' is sparse, which torch.optim.\w+ as it is set cannot take"
    ):
        opt.step()


def test_the_state_of_another_optimizer_is_refused() -> None:
    params = make_params()
    adam = TorchOptimizer(torch.optim.Adam, one_group(params))
    with pytest.raises(
        ArtifactError,
        match=r"the saved optimizer is of another kind \(torch.optim.Adam\) than this one \(torch.optim.SGD\)",
    ):
        TorchOptimizer(torch.optim.SGD, one_group(params)).load_state(*adam.state())
    with pytest.raises(ArtifactError, match=r"of another kind \(weight_decay, sgd_step\)"):
        adam.load_state(*SGD(one_group(params)).state())


def test_zero_grad_frees_the_gradients() -> None:
    params = make_params()
    opt = TorchOptimizer(torch.optim.SGD, one_group(params))
    set_grads(params, 1)
    opt.zero_grad()
    assert all(p.grad is None for p in params.values())


def test_an_opt_func_may_be_a_recipe_a_torch_class_or_a_partial_of_either() -> None:
    groups = one_group(make_params())
    assert as_opt_func(SGD) is SGD
    half = partial(SGD, mom=0.5)
    assert as_opt_func(half) is half
    assert isinstance(as_opt_func(torch.optim.AdamW)(groups, lr=0.1), TorchOptimizer)
    opt = as_opt_func(partial(torch.optim.SGD, momentum=0.5))(groups, lr=0.1)
    assert (opt.get_hyper("mom"), opt.get_hyper("lr")) == ([0.5], [0.1])


def test_an_optimizer_that_was_made_already_trains_a_learner_with_its_groups() -> None:
    learn, plain = make_learner(), make_model()
    opt = torch.optim.Adamax(
        [{"params": learn.model[0].parameters()}, {"params": learn.model[2].parameters(), "eps": 1e-3}]
    )
    learn.opt = TorchOptimizer.around(opt, learn.model.named_parameters())
    learn.fit(2, [0.1, 0.2])
    theirs = torch.optim.Adamax(
        [{"params": plain[0].parameters(), "lr": 0.1}, {"params": plain[2].parameters(), "lr": 0.2, "eps": 1e-3}]
    )
    for epoch in range(2):
        for _, (x, y) in learn.dls.train.batches(epoch):
            theirs.zero_grad()
            torch.nn.functional.cross_entropy(plain(x), y).backward()
            theirs.step()
    assert torch.equal(weights_of(learn.model), weights_of(plain))


def test_an_optimizer_of_another_model_is_refused() -> None:
    opt = torch.optim.SGD(torch.nn.Linear(2, 3).parameters())
    with pytest.raises(
        ConfigError, match=r"group 0 of the optimizer has a parameter of shape \(3, 2\) that is not among"
    ):
        TorchOptimizer.around(opt, torch.nn.Linear(2, 3).named_parameters())


def test_an_optimizer_whose_step_takes_anything_trains() -> None:
    class Own(torch.optim.SGD):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return super().step(*args, **kwargs)

    one, other = (make_learner(opt_func=kind, lr=0.1) for kind in (Own, torch.optim.SGD))
    for learn in (one, other):
        learn.fit(1)
    assert torch.equal(weights_of(one.model), weights_of(other.model))


def test_an_optimizer_that_needs_a_closure_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"torch\.optim\.LBFGS computes the loss several times a step, by a function that"
    ):
        TorchOptimizer(torch.optim.LBFGS, one_group(make_params())[0].params)


def test_sparse_adam_takes_sparse_gradients() -> None:
    table = torch.nn.Embedding(5, 2, sparse=True)
    before = table.weight.detach().clone()
    opt = TorchOptimizer(torch.optim.SparseAdam, table.named_parameters(), lr=0.1)
    table(torch.tensor([3])).sum().backward()
    opt.step()
    assert (table.weight != before).any(1).tolist() == [False, False, False, True, False]


class Averaging(torch.optim.SGD):
    """Has two sets of weights, as those of the schedulefree package have."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self.calls: list[str] = []

    def train(self) -> None:
        self.calls.append("train")

    def eval(self) -> None:
        self.calls.append("eval")


def test_a_torch_optimizer_with_weights_to_evaluate_with_is_told_when() -> None:
    opt = TorchOptimizer(Averaging, make_params())
    for change in (opt.train, opt.eval, opt.eval, opt.train):
        change()
    assert opt.torch.calls == ["eval", "train"]  # type: ignore[attr-defined]
