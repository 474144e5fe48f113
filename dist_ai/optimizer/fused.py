"""Kernels of torch that do several of our steps in one pass over memory; the steps stay the reference.

`fuse` finds runs of steps that there is a kernel for, wherever they stand in an optimizer's list: Adam inside Lookahead
is fused too. Each kernel is tested to be equal to its steps up to rounding. They are the operations behind torch's own
`fused=True` (`aten::_fused_adamw_` and neighbours, on CPU since torch 2.4), called without its wrappers, which keep a
step counter in a tensor of each parameter's own.

A step of AdamW on a CPU takes about a tenth of the multi-tensor one's time (`benchmarks/optimizer.py`): one call, and
one pass over memory instead of seven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dist_ai.optimizer.either import Either
from dist_ai.optimizer.state import ParamState, Tensors
from dist_ai.optimizer.steps import (
    Hypers,
    Step,
    accumulate_grad,
    adam_step,
    average_grad,
    average_sqr_grad,
    l2_reg,
    momentum_step,
    nesterov_step,
    weight_decay,
)

__all__ = ["Fused", "fuse"]


@dataclass(frozen=True)
class Fused:
    """A step that does a run of steps by a kernel, where that can, and as they are written where it cannot."""

    kernel: Step
    steps: tuple[Step, ...]

    def __call__(self, p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
        """Runs the kernel or the steps."""
        for step in (self.kernel,) if _can(p, g, s, h) else self.steps:
            step(p, g, s, h)


def _can(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> bool:
    """Returns whether a kernel can take these tensors.

    It walks through memory and does not look at strides: parameters, gradients and state must lie there alike.
    """
    return (
        s.dense
        and p[0].device.type in ("cpu", "cuda")
        and h.mom != 0  # without momentum torch's kernel of SGD would leave the velocity as it is
        and [grad.stride() for grad in g] == [each.stride() for each in p]
        and {grad.dtype for grad in g} == {p[0].dtype}
    )


def fuse(steps: Sequence[Step]) -> list[Step]:
    """Returns `steps` with those runs that there is a kernel for replaced by a `Fused`, the longest first.

    >>> [type(each).__name__ for each in fuse([weight_decay, accumulate_grad, momentum_step])]
    ['function', 'Fused']
    """
    plan: list[Step] = []
    rest = tuple(steps)
    while rest:
        if fitting := [run for run in _KERNELS if rest[: len(run)] == run]:
            run = max(fitting, key=len)
            plan.append(Fused(_KERNELS[run], run))
            rest = rest[len(run) :]
            continue
        step, *others = rest
        if isinstance(step, Either):
            step = replace(step, these=fuse(step.these), those=fuse(step.those))
        plan.append(step)
        rest = tuple(others)
    return plan


def _adam(kernel: Callable[..., None], p: Tensors, g: Tensors, s: ParamState, h: Hypers, wd: float) -> None:
    count = torch.full((), float(s.step), device=p[0].device)  # one for all: the kernel only reads it
    kernel(
        p,
        g,
        s["grad_avg"],
        s["sqr_avg"],
        [],
        [count] * len(p),
        lr=h.lr,
        beta1=h.mom,
        beta2=h.sqr_mom,
        weight_decay=wd if s.decays else 0.0,
        eps=h.eps,
        amsgrad=False,
        maximize=False,
    )


def _adam_alone(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    _adam(torch._fused_adamw_, p, g, s, h, 0.0)


def _adam_decoupled(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    _adam(torch._fused_adamw_, p, g, s, h, h.wd)


def _adam_coupled(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    _adam(torch._fused_adam_, p, g, s, h, h.wd)


def _sgd(p: Tensors, g: Tensors, velocity: Any, h: Hypers, *, wd: float, nesterov: bool = False) -> None:
    torch._fused_sgd_(
        p,
        g,
        velocity,
        weight_decay=wd,
        momentum=h.mom,
        lr=h.lr,
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
    )


def _l2(s: ParamState, h: Hypers) -> float:
    return h.wd if s.decays else 0.0


def _momentum(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    _sgd(p, g, s["grad_avg"], h, wd=0.0)


def _nesterov(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    _sgd(p, g, s["grad_avg"], h, wd=0.0, nesterov=True)


def _momentum_coupled(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    _sgd(p, g, s["grad_avg"], h, wd=_l2(s, h))


def _nesterov_coupled(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    _sgd(p, g, s["grad_avg"], h, wd=_l2(s, h), nesterov=True)


_KERNELS: dict[tuple[Step, ...], Step] = {
    (average_grad, average_sqr_grad, adam_step): _adam_alone,
    (weight_decay, average_grad, average_sqr_grad, adam_step): _adam_decoupled,
    (l2_reg, average_grad, average_sqr_grad, adam_step): _adam_coupled,
    (accumulate_grad, momentum_step): _momentum,
    (accumulate_grad, nesterov_step): _nesterov,
    (l2_reg, accumulate_grad, momentum_step): _momentum_coupled,
    (l2_reg, accumulate_grad, nesterov_step): _nesterov_coupled,
}
