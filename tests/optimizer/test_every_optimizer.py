"""What holds for every optimizer of this room: the paper's formula, and all that happens to optimizers in training."""

from __future__ import annotations

import ast
import copy
import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import formulas
import numpy as np
import pytest
import torch
from formulas import Formula, coupled, decoupled
from safetensors.torch import load_file, save_file
from torch import nn

from dist_ai.distributed.collectives import join
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.optimizer import (
    LAMB,
    LARC,
    LARS,
    SGD,
    Adam,
    AdamW,
    Adan,
    Lion,
    Lookahead,
    Muon,
    Optimizer,
    ParamGroup,
    QHAdam,
    RAdam,
    Ranger,
    RMSProp,
    ScheduleFreeAdamW,
)
from dist_ai.optimizer.steps import lamb_step

Params = dict[str, nn.Parameter]


@dataclass
class Case:
    """An optimizer, and its formula with one parameter at a time."""

    make: Callable[..., Optimizer]
    formula: Formula
    tol: float = 1e-11


CASES = {
    "SGD": Case(partial(SGD, wd=0.1), decoupled(formulas.sgd)),
    "SGD, L2": Case(partial(SGD, wd=0.1, decouple_wd=False), coupled(formulas.sgd)),
    "momentum": Case(partial(SGD, mom=0.9, wd=0.1), decoupled(formulas.momentum)),
    "momentum, L2": Case(partial(SGD, mom=0.9, wd=0.1, decouple_wd=False), coupled(formulas.momentum)),
    "Nesterov": Case(partial(SGD, mom=0.9, wd=0.1, nesterov=True), decoupled(formulas.nesterov)),
    "Nesterov, L2": Case(partial(SGD, mom=0.9, wd=0.1, nesterov=True, decouple_wd=False), coupled(formulas.nesterov)),
    "RMSProp": Case(partial(RMSProp, wd=0.1), decoupled(formulas.rms_prop)),
    "RMSProp, momentum, L2": Case(
        partial(RMSProp, mom=0.9, wd=0.1, decouple_wd=False), coupled(formulas.rms_prop_momentum)
    ),
    "Adam": Case(partial(Adam, wd=0.1), decoupled(formulas.adam)),
    "Adam, L2": Case(partial(Adam, wd=0.1, decouple_wd=False), coupled(formulas.adam)),
    "AdamW": Case(partial(AdamW, wd=0.1), decoupled(formulas.adam)),
    "RAdam": Case(partial(RAdam, wd=0.1), decoupled(formulas.radam)),
    "QHAdam": Case(partial(QHAdam, nu_2=0.9, wd=0.1), decoupled(formulas.qhadam)),
    "LARS": Case(partial(LARS, trust=0.5, wd=0.1), formulas.lars),
    "LARC": Case(partial(LARC, trust=0.5, wd=0.1), formulas.larc),
    "LAMB": Case(partial(LAMB, wd=0.1), formulas.lamb),
    "Lion": Case(partial(Lion, wd=0.1), decoupled(formulas.lion)),
    "Adan": Case(partial(Adan, wd=0.1), formulas.adan),
    "schedule-free AdamW": Case(partial(ScheduleFreeAdamW, wd=0.1), formulas.schedule_free),
    "Muon": Case(partial(Muon, wd=0.1), decoupled(formulas.muon), tol=2e-3),  # its products are in bfloat16
    "Ranger": Case(partial(Ranger, wd=0.1), formulas.lookahead(decoupled(formulas.radam))),
    "Lookahead of momentum": Case(
        lambda params, **h: Lookahead(SGD(params, mom=0.9, wd=0.1, **h), k=3, alpha=0.8),
        formulas.lookahead(decoupled(formulas.momentum)),
    ),
}
every_optimizer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

# Scalars and empty parameters are there because models have them: temperatures, and heads with no outputs.
SHAPES: dict[str, tuple[int, ...]] = {
    "body.weight": (3, 4),
    "body.bias": (3,),
    "filters": (4, 2, 3, 3),
    "scale": (),
    "empty": (0, 2),
    "zeros": (3, 2),
    "late": (2, 2),
}
EXEMPT = {"body.bias", "scale"}


def make_params(dtype: torch.dtype = torch.float64, names: Iterable[str] = SHAPES) -> Params:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    drawn["zeros"].zero_()
    return {name: nn.Parameter(drawn[name].to(dtype)) for name in names}


def gradient(p: torch.Tensor, name: str, step: int) -> torch.Tensor:
    """Depends on the parameter, so that any difference between two walks grows; never quite 0, where signs jump."""
    number = list(SHAPES).index(name)
    return p**3 / 10 + (p * (step + 1)).sin() + 0.1 * (number + 1)


def is_missing(name: str, step: int) -> bool:
    return (name == "late" and step < 5) or (step + list(SHAPES).index(name)) % 7 == 3


def set_grads(params: Params, step: int, *, missing: bool = True) -> None:
    for name, p in params.items():
        p.grad = None if missing and is_missing(name, step) else gradient(p.detach(), name, step).to(p.dtype)


def lr_of(step: int) -> float:
    return 0.002 + 0.001 * (step % 5)


def walk(opt: Optimizer, params: Params, steps: range, *, missing: bool = True) -> None:
    for step in steps:
        set_grads(params, step, missing=missing)
        opt.set_hyper("lr", lr_of(step))
        opt.step()


def exempting(params: Params) -> list[ParamGroup]:
    return [ParamGroup(params, no_decay=EXEMPT & set(params))]


def assert_same(got: Params, expected: Params, tol: float = 0.0) -> None:
    for name, p in expected.items():
        torch.testing.assert_close(
            got[name], p, rtol=tol, atol=tol, equal_nan=False, msg=lambda text, name=name: f"{name}: {text}"
        )


def through_files(tensors: dict[str, torch.Tensor], plain: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "state.safetensors")
    return load_file(folder / "state.safetensors"), json.loads(json.dumps(plain))


def copies(params: Params) -> Params:
    return {name: nn.Parameter(p.detach().clone()) for name, p in params.items()}


# ------------------------------------------------------------------------------------ the formula


@every_optimizer
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "as written"])
def test_it_walks_by_its_papers_formula_while_the_rate_changes_and_gradients_are_missing(
    case: Case, fused: bool
) -> None:
    params = make_params()
    opt = case.make(exempting(params))
    opt.fused = fused
    expected = {name: p.detach().numpy().copy() for name, p in params.items()}
    kept: dict[str, dict[str, Any]] = {name: {} for name in params}
    ages = dict.fromkeys(params, 0)
    for step in range(40):
        walk(opt, params, range(step, step + 1))
        for name, p in params.items():
            if not is_missing(name, step):
                ages[name] += 1
                h = SimpleNamespace(**{**opt.hypers[0], "wd": 0.0 if name in EXEMPT else opt.hypers[0]["wd"]})
                g = gradient(torch.tensor(expected[name]), name, step).numpy()
                expected[name] = case.formula(expected[name], np.asarray(g), kept[name], ages[name], h)
            np.testing.assert_allclose(
                p.detach().numpy(), expected[name], rtol=case.tol, atol=case.tol, err_msg=f"{name}, step {step}"
            )


@every_optimizer
def test_momentum_may_be_scheduled(case: Case) -> None:
    params = make_params(names=["body.weight", "body.bias"])
    opt = case.make(exempting(params))
    expected = {name: p.detach().numpy().copy() for name, p in params.items()}
    kept: dict[str, dict[str, Any]] = {name: {} for name in params}
    for step in range(20):
        if any(opt.get_hyper("mom") if opt.has_hyper("mom") else [0]):
            opt.set_hyper("mom", 0.95 - 0.01 * (step % 10))
        walk(opt, params, range(step, step + 1), missing=False)
        for name, p in params.items():
            h = SimpleNamespace(**{**opt.hypers[0], "wd": 0.0 if name in EXEMPT else opt.hypers[0]["wd"]})
            g = gradient(torch.tensor(expected[name]), name, step).numpy()
            expected[name] = case.formula(expected[name], g, kept[name], step + 1, h)
            np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=case.tol, atol=case.tol, err_msg=name)


@every_optimizer
def test_it_learns(case: Case) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    target = x @ torch.randn(8, 4) + 1
    model = nn.Linear(8, 4)
    opt = case.make(model.named_parameters(), lr=0.03)
    losses = []
    for _ in range(200):
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_lamb_fits_in_a_dozen_lines() -> None:
    [function] = ast.parse(inspect.getsource(lamb_step)).body
    assert isinstance(function, ast.FunctionDef)
    code = function.body[1:]  # without its docstring
    assert code[-1].end_lineno - code[0].lineno + 1 <= 12  # type: ignore[operator]


# ------------------------------------------------------------------------------------ saving


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("regrouped", [False, True], ids=["the same groups", "a group each, the other way round"])
def test_training_goes_on_to_the_same_bits_from_a_state_that_went_through_files(
    case: Case, dtype: torch.dtype, regrouped: bool, tmp_path: Path
) -> None:
    undisturbed = make_params(dtype)
    walk(case.make(exempting(undisturbed)), undisturbed, range(30))
    before = make_params(dtype)
    stopped = case.make(exempting(before))
    walk(stopped, before, range(4))  # "late" has no state yet
    after = copies(before)
    groups = (
        [ParamGroup({name: after[name]}, no_decay=EXEMPT & {name}) for name in reversed(after)]
        if regrouped
        else exempting(after)
    )
    resumed = case.make(groups)
    walk(resumed, after, range(8))  # what it had before must not shine through
    with torch.no_grad():
        for name, p in after.items():
            p.copy_(before[name])
    resumed.load_state(*through_files(*stopped.state(), tmp_path))
    walk(resumed, after, range(4, 30))
    assert_same(after, undisturbed)


@every_optimizer
def test_state_has_the_dtype_and_shape_of_its_parameter_and_is_not_shared(case: Case) -> None:
    params = make_params(torch.bfloat16)
    first, second = case.make(exempting(params)), case.make(exempting(params))
    walk(first, params, range(8))
    tensors, plain = first.state()
    for key, tensor in tensors.items():
        p = params[key.split(".", 1)[1]]
        assert (tensor.shape, tensor.dtype) == (p.shape, p.dtype), key
    second.load_state(tensors, plain)
    theirs = second.state()[0]
    assert theirs.keys() == tensors.keys()
    assert all(tensors[key].data_ptr() != theirs[key].data_ptr() for key in tensors if tensors[key].numel())


@every_optimizer
def test_clear_state_makes_it_begin_anew(case: Case) -> None:
    params, fresh = make_params(), make_params()
    opt = case.make(exempting(params))
    walk(opt, params, range(8))
    opt.clear_state()
    assert opt.state()[0] == {}
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(fresh[name])
    walk(opt, params, range(8))
    walk(case.make(exempting(fresh)), fresh, range(8))
    assert_same(params, fresh)


# ------------------------------------------------------------------------------------ groups


@every_optimizer
def test_each_group_has_its_own_rate_as_if_it_had_an_optimizer_of_its_own(case: Case) -> None:
    names = list(SHAPES)
    together, apart = make_params(), make_params()
    parts = [names[:2], names[2:]]
    opt = case.make([ParamGroup({n: together[n] for n in part}) for part in parts])
    alone = [case.make([ParamGroup({n: apart[n] for n in part})]) for part in parts]
    for step in range(12):
        opt.set_hyper("lr", slice(lr_of(step), 3 * lr_of(step)))
        for each, factor in zip(alone, (1, 3), strict=True):
            each.set_hyper("lr", float(f"{factor * lr_of(step):.12g}"))
        for params in (together, apart):
            set_grads(params, step)
        for each in (opt, *alone):
            each.step()
    assert_same(together, apart, tol=1e-14)


@every_optimizer
def test_the_order_of_groups_and_of_parameters_does_not_matter(case: Case) -> None:
    names = list(SHAPES)
    one, other = make_params(), make_params()
    walk(case.make([ParamGroup({n: one[n] for n in part}) for part in (names[:3], names[3:])]), one, range(12))
    reverse = [ParamGroup({n: other[n] for n in reversed(part)}) for part in (names[3:], names[:3])]
    walk(case.make(reverse), other, range(12))
    assert_same(one, other)


@every_optimizer
def test_a_frozen_group_stays_and_goes_on_with_its_state_when_it_is_unfrozen(case: Case) -> None:
    frozen, expected = make_params(), make_params()
    names = list(SHAPES)
    groups = [ParamGroup({n: frozen[n] for n in part}) for part in (names[:3], names[3:])]
    opt, plain = case.make(groups), case.make([ParamGroup(expected)])
    walk(opt, frozen, range(5), missing=False)
    walk(plain, expected, range(5), missing=False)
    opt.freeze()
    assert [p.requires_grad for p in frozen.values()] == [False] * 3 + [True] * 4
    assert all(frozen[name].grad is None for name in names[:3])
    for step in range(5, 10):
        for params in (frozen, expected):
            set_grads(params, step, missing=False)
            for name in names[:3]:
                params[name].grad = None
        for each in (opt, plain):
            each.set_hyper("lr", lr_of(step))
            each.step()
    opt.unfreeze()
    assert all(p.requires_grad for p in frozen.values())
    walk(opt, frozen, range(10, 15), missing=False)
    walk(plain, expected, range(10, 15), missing=False)
    assert_same(frozen, expected)


def test_freeze_to_can_leave_some_learning_and_refuses_more_groups_than_there_are() -> None:
    params = make_params()
    opt = SGD([ParamGroup({name: p}) for name, p in params.items()])
    opt.freeze_to(-1, always=["scale"])
    assert [name for name, p in params.items() if p.requires_grad] == ["scale", "late"]
    with pytest.raises(ConfigError, match=r"freeze_to\(7\) of 7 group\(s\): expected -6 to 6"):
        opt.freeze_to(7)


# ------------------------------------------------------------------------------------ kinds of parameters and gradients


@every_optimizer
def test_bfloat16_parameters_keep_their_type_and_stay_near_the_walk_in_float64(case: Case) -> None:
    low, high = (
        make_params(torch.bfloat16),
        {n: nn.Parameter(p.detach().bfloat16().double()) for n, p in make_params().items()},
    )
    walk(case.make(exempting(low)), low, range(10))
    walk(case.make(exempting(high)), high, range(10))
    assert {p.dtype for p in low.values()} == {torch.bfloat16}
    for name, p in high.items():
        torch.testing.assert_close(
            low[name].double(), p, rtol=0.05, atol=0.05, msg=lambda text, name=name: f"{name}: {text}"
        )


@every_optimizer
def test_parameters_of_several_dtypes_go_together(case: Case) -> None:
    names = list(SHAPES)
    dtypes = {name: (torch.float32, torch.float64, torch.bfloat16)[i % 3] for i, name in enumerate(names)}
    mixed, apart = make_params(), make_params()
    mixed = {name: nn.Parameter(p.detach().to(dtypes[name])) for name, p in mixed.items()}
    apart = copies(mixed)
    walk(case.make(exempting(mixed)), mixed, range(10))
    for dtype in set(dtypes.values()):
        part = {name: p for name, p in apart.items() if p.dtype == dtype}
        walk(case.make(exempting(part)), part, range(10))
    assert_same(mixed, apart)


@every_optimizer
@pytest.mark.parametrize("params_lie", ["in order", "transposed", "with gaps"])
@pytest.mark.parametrize("grads_lie", ["in order", "transposed", "with gaps"])
def test_it_does_not_matter_how_parameters_and_gradients_lie_in_memory(
    case: Case, params_lie: str, grads_lie: str
) -> None:
    def lay(tensor: torch.Tensor, how: str) -> torch.Tensor:
        larger = tensor.new_zeros(tensor.shape[0], tensor.shape[1] + 1, *tensor.shape[2:])[:, :-1]
        return {
            "in order": tensor.clone(),
            "transposed": tensor.mT.contiguous().mT,
            "with gaps": larger.copy_(tensor),
        }[how]

    plain = make_params(names=["body.weight", "filters"])
    odd = {name: nn.Parameter(lay(p.detach(), params_lie)) for name, p in plain.items()}
    opts = [case.make(exempting(params)) for params in (plain, odd)]
    for step in range(10):
        for params, opt in zip((plain, odd), opts, strict=True):
            set_grads(params, step, missing=False)
            opt.set_hyper("lr", lr_of(step))
        for p in odd.values():
            assert p.grad is not None
            p.grad = lay(p.grad, grads_lie)
        for opt in opts:
            opt.step()
    assert_same(odd, plain, tol=1e-12)


@every_optimizer
def test_state_from_a_file_lies_in_memory_as_its_parameter_does(case: Case, tmp_path: Path) -> None:
    def transposed() -> Params:
        return {n: nn.Parameter(p.detach().mT.contiguous().mT) for n, p in make_params(names=["body.weight"]).items()}

    undisturbed, before = transposed(), transposed()
    walk(case.make(undisturbed), undisturbed, range(9))
    stopped = case.make(before)
    walk(stopped, before, range(5))
    resumed = case.make(before)
    resumed.load_state(*through_files(*stopped.state(), tmp_path))
    walk(resumed, before, range(5, 9))
    assert_same(before, undisturbed)


@every_optimizer
def test_a_complex_parameter_walks_as_its_real_and_imaginary_parts_do(case: Case) -> None:
    generator = torch.Generator().manual_seed(0)
    z = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.complex128))
    pair = nn.Parameter(torch.view_as_real(z.detach()).reshape(-1).clone())  # one vector: no matrix for Muon
    opts = [case.make({"z": p}) for p in (z, pair)]
    for step in range(10):
        z.grad = z.detach() * (step % 3) + (0.3 - 0.1j)
        pair.grad = torch.view_as_real(z.grad).reshape(-1).clone()
        for opt in opts:
            opt.step()
    torch.testing.assert_close(torch.view_as_real(z.detach()).reshape(-1), pair.detach(), rtol=1e-12, atol=1e-12)


@every_optimizer
def test_sparse_gradients_are_taken_or_refused_by_name_before_anything_changes(case: Case) -> None:
    def embedding(sparse: bool) -> nn.Embedding:
        torch.manual_seed(0)
        return nn.Embedding(6, 3, sparse=sparse)

    dense, sparse = embedding(False), embedding(True)
    opts = [case.make({"table": module.weight}, lr=0.1) for module in (dense, sparse)]
    before = sparse.weight.detach().clone()
    for module in (dense, sparse):
        module(torch.tensor([1, 4, 1])).square().sum().backward()
    opts[0].step()
    if opts[1].sparse:
        opts[1].step()
        torch.testing.assert_close(sparse.weight, dense.weight)
    else:
        with pytest.raises(
            ConfigError, match=r"the gradient of 'table' is sparse, which \[.*\] cannot take; make the "
        ):
            opts[1].step()
        assert torch.equal(sparse.weight, before)


def test_only_plain_sgd_with_decoupled_decay_takes_sparse_gradients() -> None:
    taking = [name for name, case in CASES.items() if case.make(make_params()).sparse]
    assert taking == ["SGD"]


# ------------------------------------------------------------------------------------ weights to evaluate with


@every_optimizer
def test_evaluating_in_between_does_not_change_the_walk(case: Case) -> None:
    watched, alone = make_params(), make_params()
    opt, plain = case.make(exempting(watched)), case.make(exempting(alone))
    opt.eval()  # before the first step there is nothing to evaluate but the parameters themselves
    assert_same(watched, alone)
    opt.train()
    for step in range(12):
        walk(opt, watched, range(step, step + 1))
        walk(plain, alone, range(step, step + 1))
        trained = copies(watched)
        opt.eval()
        opt.eval()
        with pytest.raises(ConfigError, match=r"the model has the weights to evaluate with, .* call opt.train\(\)"):
            opt.step()
        opt.train()
        assert_same(watched, trained)
    assert_same(watched, alone)


def test_schedule_free_evaluates_the_average() -> None:
    params = make_params()
    opt = ScheduleFreeAdamW(exempting(params))
    expected: dict[str, Any] = {name: p.detach().numpy().copy() for name, p in params.items()}
    kept: dict[str, dict[str, Any]] = {name: {} for name in params}
    for step in range(10):
        walk(opt, params, range(step, step + 1), missing=False)
        for name in params:
            g = gradient(torch.tensor(expected[name]), name, step).numpy()
            h = SimpleNamespace(**opt.hypers[0])
            expected[name] = formulas.schedule_free(expected[name], np.asarray(g), kept[name], step + 1, h)
    opt.eval()
    for name, p in params.items():
        np.testing.assert_allclose(p.detach().numpy(), kept[name]["x"], rtol=1e-11, atol=1e-11, err_msg=name)


@every_optimizer
def test_what_is_saved_while_evaluating_goes_on_as_if_it_had_been_saved_while_training(
    case: Case, tmp_path: Path
) -> None:
    undisturbed, before = make_params(), make_params()
    walk(case.make(exempting(undisturbed)), undisturbed, range(16))
    opt = case.make(exempting(before))
    walk(opt, before, range(9))
    opt.eval()
    after = copies(before)
    resumed = case.make(exempting(after))
    resumed.load_state(*through_files(*opt.state(), tmp_path))
    assert not resumed.training
    resumed.train()
    walk(resumed, after, range(9, 16))
    assert_same(after, undisturbed)


# ------------------------------------------------------------------------------------ sharded


def _sharded(params: Params, mesh: Any) -> Params:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    return {
        name: nn.Parameter(
            distribute_tensor(p.detach().clone(), mesh, [Shard(0) if p.ndim else Replicate()], src_data_rank=None)
        )
        for name, p in params.items()
    }


def _walk_sharded(opt: Optimizer, params: Params, steps: range) -> None:
    from torch.distributed.tensor import distribute_tensor

    for step in steps:
        for name, p in params.items():
            whole: Any = p.detach()
            g = gradient(whole.full_tensor(), name, step)
            p.grad = None
            if not is_missing(name, step):
                p.grad = distribute_tensor(g, whole.device_mesh, whole.placements, src_data_rank=None)
        opt.set_hyper("lr", lr_of(step))
        opt.step()


def _whole(tensors: Any) -> dict[str, Any]:
    return {name: tensor.detach().full_tensor() for name, tensor in tensors.items()}


@pytest.mark.world_size(2)
def test_sharded_parameters_walk_as_whole_ones_do_and_read_each_others_state() -> None:
    from torch.distributed.device_mesh import init_device_mesh

    join()
    mesh = init_device_mesh("cpu", (2,))
    for name, case in CASES.items():
        tol = 1e-4 if name == "Muon" else 1e-12  # the last bit of a float64 may decide how a bfloat16 is rounded
        whole, shards = make_params(), _sharded(make_params(), mesh)
        opt, sharded = case.make(exempting(whole)), case.make(exempting(shards))
        walk(opt, whole, range(9))
        _walk_sharded(sharded, shards, range(9))
        assert_same(_whole(shards), whole, tol)
        assert shards["body.weight"].to_local().numel() < whole["body.weight"].numel()
        tensors, plain = sharded.state()
        for key, tensor in tensors.items():
            assert tensor.placements == shards[key.split(".", 1)[1]].placements, (name, key)
            torch.testing.assert_close(tensor.full_tensor(), opt.state()[0][key], rtol=tol, atol=tol)
        if opt.average is not None:
            opt.eval()
            sharded.eval()
            assert_same(_whole(shards), whole, tol)
            opt.train()
            sharded.train()

        # One goes on from the state of the other.
        whole_later, shards_later = copies(_whole(shards)), _sharded(whole, mesh)
        from_shards, from_whole = case.make(exempting(whole_later)), case.make(exempting(shards_later))
        from_shards.load_state(_whole(tensors), copy.deepcopy(plain))
        from_whole.load_state(*opt.state())
        walk(opt, whole, range(9, 15))
        walk(from_shards, whole_later, range(9, 15))
        _walk_sharded(from_whole, shards_later, range(9, 15))
        assert_same(whole_later, whole, tol)
        assert_same(_whole(shards_later), whole, tol)


@pytest.mark.world_size(2)
def test_a_model_under_fsdp_walks_as_the_whole_one_does() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def make_model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    join()
    mesh = init_device_mesh("cpu", (2,))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, case in CASES.items():
        whole, sharded = make_model(), make_model()
        fully_shard(sharded[0], mesh=mesh)  # type: ignore[index]
        fully_shard(sharded, mesh=mesh)
        opts = [case.make(model.named_parameters(), lr=0.01) for model in (whole, sharded)]
        for _ in range(5):
            for model, opt in zip((whole, sharded), opts, strict=True):
                model(x).square().sum().backward()  # of the same data on both ranks, whose gradients are averaged
                opt.step()
                opt.zero_grad()
        for opt in opts:
            opt.eval()
        for (key, p), q in zip(whole.named_parameters(), sharded.parameters(), strict=True):
            tol = 1e-4 if name == "Muon" else 1e-11
            got: Any = q.detach()
            torch.testing.assert_close(
                got.full_tensor(), p.detach(), rtol=tol, atol=tol, msg=lambda text, at=(name, key): f"{at}: {text}"
            )


@pytest.mark.world_size(2)
def test_a_complex_parameter_that_is_sharded_is_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh

    join()
    mesh = init_device_mesh("cpu", (2,))
    opt = SGD(_sharded({"z": nn.Parameter(torch.ones(4, dtype=torch.complex64))}, mesh))
    with pytest.raises(ConfigError, match="parameter 'z' is complex and sharded, which no optimizer here can do; keep"):
        opt.step()


# ------------------------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_the_kernels_and_the_steps_as_written_walk_as_on_a_cpu(case: Case, dtype: torch.dtype) -> None:
    walks = []
    for device, fused in (("cpu", False), ("cuda", False), ("cuda", True)):
        params = {name: nn.Parameter(p.detach().to(device)) for name, p in make_params(dtype).items()}
        opt = case.make(exempting(params))
        opt.fused = fused
        walk(opt, params, range(10))
        walks.append({name: p.detach().float().cpu() for name, p in params.items()})
    tol = 0.05 if dtype == torch.bfloat16 or case.tol > 1e-6 else 1e-4
    for got in walks[1:]:
        for name, p in walks[0].items():
            torch.testing.assert_close(got[name], p, rtol=tol, atol=tol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.gpu
@every_optimizer
def test_on_a_gpu_no_step_waits_for_the_device(case: Case) -> None:
    params = {name: nn.Parameter(p.detach().cuda()) for name, p in make_params(torch.float32).items()}
    opt = case.make(exempting(params))
    walk(opt, params, range(8))  # state is there
    set_grads(params, 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        opt.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------------------------ errors


def test_state_of_another_shape_is_refused() -> None:
    first, second = ({"w": nn.Parameter(torch.ones(n))} for n in (2, 3))
    opt = Adam(first)
    first["w"].grad = torch.ones(2)
    opt.step()
    with pytest.raises(ArtifactError) as refused:
        Adam(second).load_state(*opt.state())
    assert str(refused.value) == (
        "the optimizer's state 'grad_avg.w' has shape (2,) and its parameter (3,); is it another model's?"
    )


def test_parameters_that_are_none_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"the optimizer was given no parameters; an iterator such as model.parameters"
    ):
        Adam([])
    with pytest.raises(
        ConfigError, match=r"the optimizer was given a str; expected ParamGroups, model.named_parameters"
    ):
        Adam(["weight"])  # type: ignore[list-item]


def test_parameters_may_come_by_name_or_alone() -> None:
    model = nn.Linear(2, 1)
    assert Adam(model.named_parameters()).groups[0].names == ["weight", "bias"]
    assert Adam(dict(model.named_parameters())).groups[0].names == ["weight", "bias"]
    assert Adam(model.parameters()).groups[0].names == ["0", "1"]


def test_what_a_recipe_cannot_do_is_refused_when_it_is_made() -> None:
    params = make_params()
    with pytest.raises(ConfigError, match=r"SGD\(nesterov=True\) looks ahead along the velocity, and mom=0 has none"):
        SGD(params, nesterov=True)
    with pytest.raises(ConfigError, match=r"ScheduleFreeAdamW\(mom=1.0\): expected more than 0 and less than 1"):
        ScheduleFreeAdamW(params, mom=1.0)
    opt = SGD(params)
    walk(opt, params, range(1))
    with pytest.raises(
        ConfigError, match="Lookahead wraps an optimizer that has taken no step; wrap it when it is made"
    ):
        Lookahead(opt)
    with pytest.raises(ConfigError, match="Lookahead wraps an optimizer made of steps, and a SGD is none"):
        Lookahead(torch.optim.SGD(params.values()))  # type: ignore[arg-type]


def test_hyper_parameters_are_read_and_set_together() -> None:
    opt = Adam([ParamGroup({"a": nn.Parameter(torch.ones(1))}), ParamGroup({"b": nn.Parameter(torch.ones(1))})])
    opt.set_hypers(lr=slice(1e-3, 1e-1), mom=0.8, wd=[0.0, 0.1])
    assert [(h["lr"], h["mom"], h["wd"]) for h in opt.hypers] == [(0.001, 0.8, 0.0), (0.1, 0.8, 0.1)]
    assert [group["lr"] for group in opt.param_groups] == [0.001, 0.1]
    with pytest.raises(ConfigError, match=r"wd=slice.* the values of wd of a slice are more than 0"):
        opt.set_hyper("wd", slice(0.0, 0.1))


def test_a_gradient_is_not_changed_by_decay() -> None:
    w = nn.Parameter(torch.ones(2))
    for fused in (True, False):
        opt = SGD([w], wd=0.5, mom=0.9, decouple_wd=False)
        opt.fused = fused
        w.grad = torch.ones(2)
        opt.step()
        assert torch.equal(w.grad, torch.ones(2))
