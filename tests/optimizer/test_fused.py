"""When steps run in torch's kernels; that those compute the same is in `test_every_optimizer.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.optimizer import SGD, Adam, Lookahead, Muon, Optimizer, RAdam

KERNELS = ("_fused_adam_", "_fused_adamw_", "_fused_sgd_")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were called, and with how many tensors."""
    log: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        kernel = getattr(torch, name)

        def watched(*args: Any, **kwargs: Any) -> None:
            log.append(f"{name.strip('_')} {len(args[0])}")
            kernel(*args, **kwargs)

        return watched

    for name in KERNELS:
        monkeypatch.setattr(torch, name, watch(name))
    return log


def step(make: Callable[..., Optimizer], *, fused: bool = True, **changes: Any) -> None:
    params = {"matrix": nn.Parameter(torch.ones(2, 3)), "vector": nn.Parameter(torch.ones(3))}
    for p in params.values():
        p.grad = torch.ones_like(p)
    if changes.get("transposed"):
        params["matrix"].grad = torch.ones(3, 2).T
    opt = make(params, wd=0.1, lr=0.1)
    opt.fused = fused
    if "mom" in changes:
        opt.set_hyper("mom", changes["mom"])
    opt.step()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Adam, ["fused_adamw 2"]),
        (lambda p, **h: Adam(p, decouple_wd=False, **h), ["fused_adam 2"]),
        (lambda p, **h: SGD(p, mom=0.9, **h), ["fused_sgd 2"]),
        (lambda p, **h: SGD(p, mom=0.9, nesterov=True, **h), ["fused_sgd 2"]),
        (lambda p, **h: SGD(p, mom=0.9, decouple_wd=False, **h), ["fused_sgd 2"]),
        (lambda p, **h: SGD(p, mom=0.9, nesterov=True, decouple_wd=False, **h), ["fused_sgd 2"]),
        (lambda p, **h: Lookahead(Adam(p, **h)), ["fused_adamw 2"]),
        (Muon, ["fused_adamw 1"]),
        (SGD, []),  # is one pass as it is
        (RAdam, []),
    ],
    ids=["Adam", "L2", "momentum", "Nesterov", "momentum, L2", "Nesterov, L2", "Lookahead", "Muon", "SGD", "RAdam"],
)
def test_steps_run_in_a_kernel_where_there_is_one_unless_they_are_told_not_to(
    make: Callable[..., Optimizer], expected: list[str], calls: list[str]
) -> None:
    step(make)
    assert calls == expected
    step(make, fused=False)
    assert calls == expected


def test_what_a_kernel_would_compute_otherwise_runs_as_it_is_written(calls: list[str]) -> None:
    step(Adam, transposed=True)
    step(lambda p, **h: SGD(p, mom=0.9, **h), mom=0.0)
    assert calls == []
