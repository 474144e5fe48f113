"""The generic optimizer: its groups, hyper-parameters, and its state by parameter name."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.optimizer import SGD, Adam, Optimizer, ParamGroup
from dist_ai.optimizer.steps import sgd_step, weight_decay

FAMILY: dict[str, Callable[[list[ParamGroup]], Optimizer]] = {
    "SGD": partial(SGD, wd=0.1),
    "SGD with momentum": partial(SGD, mom=0.9, wd=0.1),
    "SGD with L2 decay": partial(SGD, mom=0.9, wd=0.1, decouple_wd=False),
    "Adam": partial(Adam, wd=0.1),
}
every_optimizer = pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY.keys())

SHAPES: dict[str, tuple[int, ...]] = {"body.weight": (3, 4), "body.bias": (3,), "scale": (), "empty": (0, 2)}


def make_params(dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()
    }


def train(opt: Optimizer, params: dict[str, torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        for number, p in enumerate(params.values()):
            p.grad = None if (step + number) % 5 == 0 else (p.detach() * (step + 1)).sin()
        opt.set_hyper("lr", 0.01 + 0.001 * step)
        opt.step()


def through_files(tensors: dict[str, torch.Tensor], plain: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "state.safetensors")
    return load_file(folder / "state.safetensors"), json.loads(json.dumps(plain))


def groupings(params: dict[str, torch.nn.Parameter]) -> dict[str, list[ParamGroup]]:
    names = list(params)
    return {
        "one group": [ParamGroup(params)],
        "two groups": [ParamGroup({n: params[n] for n in names[:1]}), ParamGroup({n: params[n] for n in names[1:]})],
        "the other way round": [ParamGroup({n: params[n]}) for n in reversed(names)],
    }


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grouping", ["one group", "two groups", "the other way round"])
def test_training_goes_on_to_the_same_bits_from_a_state_that_went_through_files(
    make: Any, dtype: torch.dtype, grouping: str, tmp_path: Path
) -> None:
    undisturbed = make_params(dtype)
    opt = make([ParamGroup(undisturbed)])
    train(opt, undisturbed, range(40))

    before = make_params(dtype)
    stopped = make([ParamGroup(before)])
    train(stopped, before, range(17))
    tensors, plain = through_files(*stopped.state(), tmp_path)
    after = {name: torch.nn.Parameter(p.detach().clone()) for name, p in before.items()}
    resumed = make(groupings(after)[grouping])
    resumed.load_state(tensors, plain)
    train(resumed, after, range(17, 40))
    for name, p in undisturbed.items():
        assert torch.equal(after[name], p), name


def test_state_is_named_by_state_and_parameter_and_holds_nothing_for_what_never_learned() -> None:
    params = make_params()
    opt = Adam([ParamGroup(params)])
    for name, p in params.items():
        p.grad = None if name == "scale" else torch.ones_like(p)
    opt.step()
    opt.step()
    tensors, plain = opt.state()
    learned = ["body.weight", "body.bias", "empty"]
    assert sorted(tensors) == sorted(f"{kind}.{name}" for kind in ("grad_avg", "sqr_avg") for name in learned)
    assert plain["steps"] == {"body.weight": 2, "body.bias": 2, "scale": 0, "empty": 2}


def test_what_was_saved_does_not_go_on_changing() -> None:
    params = make_params()
    opt = Adam([ParamGroup(params)], lr=0.5)
    _, plain = opt.state()
    opt.set_hyper("lr", 0.1)
    assert plain["hypers"][0]["lr"] == 0.5


def test_loading_copies_so_that_two_optimizers_never_share_state() -> None:
    params = make_params()
    first, second = Adam([ParamGroup(params)]), Adam([ParamGroup(params)])
    train(first, params, range(3))
    second.load_state(*first.state())
    mine, theirs = first.state()[0], second.state()[0]
    assert mine
    assert all(mine[name].data_ptr() != theirs[name].data_ptr() for name in mine if mine[name].numel())


def test_loading_restores_the_hyper_parameters_of_each_group() -> None:
    params = make_params()
    first = Adam(groupings(params)["two groups"], lr=0.5)
    first.set_hyper("lr", [0.1, 0.2])
    first.set_hyper("mom", 0.7)
    second = Adam(groupings(params)["two groups"])
    second.load_state(*first.state())
    assert second.get_hyper("lr") == [0.1, 0.2]
    assert second.get_hyper("mom") == [0.7, 0.7]


def test_the_state_of_another_model_is_refused() -> None:
    opt = SGD([ParamGroup({"w": torch.nn.Parameter(torch.ones(1))})])
    state = SGD([ParamGroup({"v": torch.nn.Parameter(torch.ones(1))})]).state()
    with pytest.raises(
        ArtifactError, match=r"the optimizer's state has nothing for parameter 'w'; is it another model's\?"
    ):
        opt.load_state(*state)


def test_the_state_of_another_kind_of_optimizer_is_refused() -> None:
    group = [ParamGroup({"w": torch.nn.Parameter(torch.ones(1))})]
    with pytest.raises(ArtifactError) as refused:
        SGD(group, mom=0.9).load_state(*SGD(group).state())
    assert str(refused.value) == (
        "the saved optimizer is of another kind (weight_decay, sgd_step) than this one (weight_decay, accumulate_grad, "
        "momentum_step); use the opt_func that it was saved with, or start afresh"
    )


def test_a_misspelt_hyper_parameter_is_refused_with_a_suggestion() -> None:
    opt = Adam([ParamGroup(make_params())])
    message = (
        r"this optimizer has no hyper-parameter 'sqr_mon'; did you mean 'sqr_mom'\?; "
        r"it has lr, mom, sqr_mom, eps, wd"
    )
    with pytest.raises(ConfigError, match=message):
        opt.set_hyper("sqr_mon", 0.9)
    with pytest.raises(ConfigError, match=message):
        opt.get_hyper("sqr_mon")
    with pytest.raises(ConfigError, match=message):
        Adam([ParamGroup(make_params(), sqr_mon=0.9)])
    assert not opt.has_hyper("sqr_mon")
    assert opt.has_hyper("sqr_mom")


def test_a_hyper_parameter_is_set_for_all_groups_or_for_each_and_a_wrong_number_is_refused() -> None:
    opt = SGD(groupings(make_params())["two groups"])
    opt.set_hyper("lr", 1)
    assert opt.get_hyper("lr") == [1, 1]
    opt.set_hyper("lr", (0.1, 0.2))
    assert opt.get_hyper("lr") == [0.1, 0.2]
    with pytest.raises(ConfigError, match="lr has 3 values for 2 parameter groups; give one number or 2"):
        opt.set_hyper("lr", [0.1, 0.2, 0.3])
    assert opt.get_hyper("lr") == [0.1, 0.2]


def test_a_group_has_hyper_parameters_of_its_own_and_the_optimizers_for_the_rest() -> None:
    names = list(SHAPES)
    params = make_params()
    groups = [
        ParamGroup({n: params[n] for n in names[:2]}, lr=0.5),
        ParamGroup({n: params[n] for n in names[2:]}, wd=0.25),
    ]
    opt = Adam(groups, lr=0.1, wd=0.01)
    assert (opt.get_hyper("lr"), opt.get_hyper("wd")) == ([0.5, 0.1], [0.01, 0.25])


def test_a_parameter_in_two_groups_is_refused() -> None:
    w = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ConfigError, match=r"a parameter is in two groups: \['w'\]"):
        SGD([ParamGroup({"w": w}), ParamGroup({"w": w})])


def test_a_group_may_be_empty() -> None:
    w = torch.nn.Parameter(torch.ones(1))
    opt = Adam([ParamGroup({}), ParamGroup({"w": w})])
    w.grad = torch.ones(1)
    opt.step()
    assert w.item() < 1
    assert len(opt.get_hyper("lr")) == 2


def test_without_any_gradient_a_step_changes_nothing() -> None:
    params = make_params()
    opt = Adam([ParamGroup(params)], wd=0.5)
    opt.step()
    for name, p in make_params().items():
        assert torch.equal(params[name], p)


def test_zero_grad_frees_the_gradients() -> None:
    params = make_params()
    opt = SGD([ParamGroup(params)])
    for p in params.values():
        p.grad = torch.ones_like(p)
    opt.zero_grad()
    assert all(p.grad is None for p in params.values())


def test_a_step_of_ones_own_reads_and_writes_state_by_name() -> None:
    def count_signs(p: Any, g: Any, s: Any, h: Any) -> None:
        torch._foreach_add_(s["signs"], torch._foreach_sign(g))

    w = torch.nn.Parameter(torch.ones(2))
    opt = Optimizer([ParamGroup({"w": w})], [weight_decay, count_signs, sgd_step], lr=1.0, wd=0.0)
    for _ in range(3):
        w.grad = torch.tensor([2.0, -2.0])
        opt.step()
    assert opt.state()[0]["signs.w"].tolist() == [3.0, -3.0]
    assert repr(opt) == "Optimizer([weight_decay, count_signs, sgd_step], 1 group(s), {'lr': 1.0, 'wd': 0.0})"


def test_a_step_may_ask_for_state_at_any_time() -> None:
    def count_later(p: Any, g: Any, s: Any, h: Any) -> None:
        if s.step >= 2:
            torch._foreach_add_(s["count"], 1)
            s.keep("sum", [number + 0.5 for number in s.numbers("sum", 1.0)])

    params = {name: torch.nn.Parameter(torch.ones(1)) for name in "ab"}
    opt = Optimizer(params, [count_later], lr=1.0)
    for step in range(4):
        for name, p in params.items():
            p.grad = torch.ones(1) if name == "a" or step >= 2 else None
        opt.step()
    tensors, plain = opt.state()
    assert {name: tensor.item() for name, tensor in tensors.items()} == {"count.a": 3.0, "count.b": 1.0}
    assert plain["numbers"] == {"sum.a": 2.5, "sum.b": 1.5}
