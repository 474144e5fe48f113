"""The optimizers walk the same way as torch's, where `torch.optim` has the same algorithm; in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.optimizer import SGD, Adam, AdamW, Muon, Optimizer, ParamGroup, RAdam, RMSProp

NUM_STEPS = 50

# Scalars and empty parameters are there because models have them: temperatures, and heads with no outputs.
SHAPES: dict[str, tuple[int, ...]] = {"matrix": (3, 4), "vector": (5,), "scalar": (), "empty": (0, 3), "late": (2, 2)}


def make_params(dtype: torch.dtype = torch.float64) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in SHAPES.items()
    }


def set_grads(params: dict[str, torch.nn.Parameter], step: int) -> None:
    """Gives gradients that depend on the parameters, so that any difference between two walks grows."""
    for number, (name, p) in enumerate(params.items()):
        missing = (name == "late" and step < 20) or (step + number) % 7 == 3
        p.grad = None if missing else (p.detach() ** 3 + (p.detach() * (step + 1)).sin() + 0.1 * number).to(p.dtype)


def hypers(step: int) -> dict[str, float]:
    """Returns hyper-parameters that change at every step."""
    return {"lr": 0.002 + 0.001 * (step % 5), "mom": 0.85 + 0.002 * (step % 11), "sqr_mom": 0.98 + 0.001 * (step % 7)}


@dataclass
class Case:
    """An optimizer of ours, torch's equal, and how torch's gets a step's hyper-parameters."""

    ours: Callable[[list[ParamGroup]], Optimizer]
    torchs: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    names: tuple[str, ...]
    set_torchs: Callable[[dict[str, Any], dict[str, float]], None]
    decay_apart: float = 0.0  # torch's SGD has no decoupled decay: then the test multiplies by 1 - lr*wd itself


def _sgd(group: dict[str, Any], h: dict[str, float]) -> None:
    group.update(lr=h["lr"], momentum=h["mom"])


def _plain_sgd(group: dict[str, Any], h: dict[str, float]) -> None:
    group.update(lr=h["lr"])


def _adam(group: dict[str, Any], h: dict[str, float]) -> None:
    group.update(lr=h["lr"], betas=(h["mom"], h["sqr_mom"]))


def _rms_prop(group: dict[str, Any], h: dict[str, float]) -> None:
    group.update(lr=h["lr"], alpha=h["sqr_mom"])


CASES = {
    "SGD": Case(SGD, lambda p: torch.optim.SGD(p), ("lr",), _plain_sgd),
    "SGD with L2 decay": Case(
        lambda g: SGD(g, wd=0.1, decouple_wd=False),
        lambda p: torch.optim.SGD(p, weight_decay=0.1),
        ("lr",),
        _plain_sgd,
    ),
    "SGD with decoupled decay": Case(
        lambda g: SGD(g, wd=0.1), lambda p: torch.optim.SGD(p), ("lr",), _plain_sgd, decay_apart=0.1
    ),
    "SGD with momentum": Case(lambda g: SGD(g, mom=0.9), lambda p: torch.optim.SGD(p), ("lr", "mom"), _sgd),
    "SGD with momentum and L2 decay": Case(
        lambda g: SGD(g, mom=0.9, wd=0.1, decouple_wd=False),
        lambda p: torch.optim.SGD(p, weight_decay=0.1),
        ("lr", "mom"),
        _sgd,
    ),
    "SGD with momentum and decoupled decay": Case(
        lambda g: SGD(g, mom=0.9, wd=0.1), lambda p: torch.optim.SGD(p), ("lr", "mom"), _sgd, decay_apart=0.1
    ),
    "Nesterov and L2 decay": Case(
        lambda g: SGD(g, mom=0.9, wd=0.1, nesterov=True, decouple_wd=False),
        lambda p: torch.optim.SGD(p, weight_decay=0.1, momentum=0.9, nesterov=True),
        ("lr", "mom"),
        _sgd,
    ),
    "RMSProp and L2 decay": Case(
        lambda g: RMSProp(g, wd=0.1, decouple_wd=False),
        lambda p: torch.optim.RMSprop(p, weight_decay=0.1),
        ("lr", "sqr_mom"),
        _rms_prop,
    ),
    "RMSProp with momentum and L2 decay": Case(
        lambda g: RMSProp(g, mom=0.8, wd=0.1, decouple_wd=False),
        lambda p: torch.optim.RMSprop(p, weight_decay=0.1, momentum=0.8),
        ("lr", "sqr_mom"),
        _rms_prop,
    ),
    "RAdam": Case(
        lambda g: RAdam(g, wd=0.1),
        lambda p: torch.optim.RAdam(p, weight_decay=0.1, eps=1e-5, decoupled_weight_decay=True),
        ("lr", "mom", "sqr_mom"),
        _adam,
    ),
    "RAdam with L2 decay": Case(
        lambda g: RAdam(g, wd=0.1, decouple_wd=False),
        lambda p: torch.optim.RAdam(p, weight_decay=0.1, eps=1e-5),
        ("lr", "mom", "sqr_mom"),
        _adam,
    ),
    "Adam": Case(lambda g: Adam(g, wd=0.0), lambda p: torch.optim.Adam(p, eps=1e-5), ("lr", "mom", "sqr_mom"), _adam),
    "Adam with L2 decay": Case(
        lambda g: Adam(g, wd=0.1, decouple_wd=False),
        lambda p: torch.optim.Adam(p, eps=1e-5, weight_decay=0.1),
        ("lr", "mom", "sqr_mom"),
        _adam,
    ),
    "AdamW": Case(
        lambda g: Adam(g, wd=0.1, eps=1e-8),
        lambda p: torch.optim.AdamW(p, eps=1e-8, weight_decay=0.1),
        ("lr", "mom", "sqr_mom"),
        _adam,
    ),
}

every_optimizer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def step_torchs(opt: torch.optim.Optimizer, case: Case, h: dict[str, float], exempt: bool = False) -> None:
    for group in opt.param_groups:
        case.set_torchs(group, h)
        if case.decay_apart and not group.get("exempt"):
            for p in group["params"]:
                if p.grad is not None:
                    p.data *= 1 - h["lr"] * case.decay_apart
    opt.step()


def assert_same(
    got: dict[str, torch.nn.Parameter], expected: dict[str, torch.nn.Parameter], tol: float = 1e-12
) -> None:
    for name, p in expected.items():
        torch.testing.assert_close(got[name], p, rtol=tol, atol=tol, msg=lambda text, name=name: f"{name}: {text}")


@every_optimizer
def test_every_optimizer_walks_as_torchs_does_while_its_hyper_parameters_change_at_every_step(case: Case) -> None:
    mine, theirs = make_params(), make_params()
    ours, torchs = case.ours([ParamGroup(mine)]), case.torchs([{"params": list(theirs.values())}])
    for step in range(NUM_STEPS):
        set_grads(mine, step)
        set_grads(theirs, step)
        h = hypers(step)
        for name in case.names:
            ours.set_hyper(name, h[name])
        ours.step()
        step_torchs(torchs, case, h)
        assert_same(mine, theirs)  # at every step: a difference that is made good later would go unseen at the end


@every_optimizer
def test_every_optimizer_leaves_undecayed_what_is_exempt(case: Case) -> None:
    exempt = {"vector", "scalar"}
    mine, theirs = make_params(), make_params()
    ours = case.ours([ParamGroup(mine, no_decay=exempt)])
    torchs = case.torchs(
        [
            {"params": [p for name, p in theirs.items() if name not in exempt]},
            {"params": [p for name, p in theirs.items() if name in exempt], "weight_decay": 0.0, "exempt": True},
        ]
    )
    for step in range(NUM_STEPS):
        set_grads(mine, step)
        set_grads(theirs, step)
        h = hypers(step)
        for name in case.names:
            ours.set_hyper(name, h[name])
        ours.step()
        step_torchs(torchs, case, h)
    assert_same(mine, theirs)


@every_optimizer
def test_every_optimizer_gives_each_group_its_own_learning_rate(case: Case) -> None:
    mine, theirs = make_params(), make_params()
    names = list(mine)
    ours = case.ours([ParamGroup({n: mine[n] for n in names[:2]}), ParamGroup({n: mine[n] for n in names[2:]}, lr=0.5)])
    assert ours.get_hyper("lr") == [1e-3, 0.5]
    torchs = [case.torchs([{"params": [theirs[n] for n in part]}]) for part in (names[:2], names[2:])]
    for step in range(10):
        set_grads(mine, step)
        set_grads(theirs, step)
        h = hypers(step)
        for name in case.names:
            ours.set_hyper(name, h[name])
        ours.set_hyper("lr", [h["lr"], h["lr"] / 3])
        ours.step()
        step_torchs(torchs[0], case, h)
        step_torchs(torchs[1], case, {**h, "lr": h["lr"] / 3})
    assert_same(mine, theirs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=12))
@pytest.mark.parametrize("name", ["Adam", "SGD with momentum and decoupled decay"])
def test_the_state_of_each_parameter_ages_only_when_it_has_a_gradient(
    name: str, pattern: list[tuple[bool, bool, bool]]
) -> None:
    case = CASES[name]
    mine = {str(i): torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for i in range(3)}
    theirs = {str(i): torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for i in range(3)}
    ours, torchs = case.ours([ParamGroup(mine)]), case.torchs([{"params": list(theirs.values())}])
    for step, present in enumerate(pattern):
        for params in (mine, theirs):
            for p, has_grad in zip(params.values(), present, strict=True):
                p.grad = p.detach().sin() + step if has_grad else None
        for hyper in case.names:
            ours.set_hyper(hyper, hypers(step)[hyper])
        ours.step()
        step_torchs(torchs, case, hypers(step))
    assert_same(mine, theirs)


@every_optimizer
def test_every_optimizer_trains_bfloat16_parameters_and_keeps_their_type(case: Case) -> None:
    mine, theirs = make_params(torch.bfloat16), make_params(torch.bfloat16)
    ours, torchs = case.ours([ParamGroup(mine)]), case.torchs([{"params": list(theirs.values())}])
    for step in range(10):
        set_grads(mine, step)
        set_grads(theirs, step)
        h = hypers(step)
        for name in case.names:
            ours.set_hyper(name, h[name])
        ours.step()
        step_torchs(torchs, case, h)
    assert {p.dtype for p in mine.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in ours.state()[0].values()} <= {torch.bfloat16}
    assert_same(mine, theirs, tol=0.03)  # 8 bits of mantissa; ours rounds once less per step than torch's


def test_the_defaults_are_fastais() -> None:
    p = {"w": torch.nn.Parameter(torch.ones(1))}
    assert vars(SGD([ParamGroup(p)]).groups[0].h) == {"lr": 1e-3, "mom": 0.0, "wd": 0.0}
    adam = vars(Adam([ParamGroup(p)]).groups[0].h)
    assert adam == {"lr": 1e-3, "mom": 0.9, "sqr_mom": 0.99, "eps": 1e-5, "wd": 0.01}


def test_adamw_has_torchs_defaults() -> None:
    mine, theirs = make_params(), make_params()
    ours, torchs = AdamW(mine), torch.optim.AdamW(theirs.values())
    for step in range(NUM_STEPS):
        set_grads(mine, step)
        set_grads(theirs, step)
        ours.step()
        torchs.step()
    assert_same(mine, theirs)


def test_muon_walks_as_torchs_does_on_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = {str(n): torch.randn(shape, generator=generator) for n, shape in enumerate([(4, 6), (6, 4), (5, 5)])}
    mine, theirs = ({name: torch.nn.Parameter(p.clone()) for name, p in drawn.items()} for _ in range(2))
    ours = Muon(mine, lr=0.01)
    torchs = torch.optim.Muon(theirs.values(), lr=0.01, adjust_lr_fn="match_rms_adamw")
    for step in range(10):
        for params in (mine, theirs):
            for p in params.values():
                p.grad = (p.detach() * (step + 1)).sin()
        ours.step()
        torchs.step()
        # Later a difference in the last bit of a float32 may decide how a bfloat16 is rounded.
        assert_same(mine, theirs, tol=1e-6 if step == 0 else 1e-3)
