"""Steps: the pure functions that optimizers are made of.

Each takes `(p, g, s, h)`: the parameters of a group, their gradients, their state and the group's hyper-parameters.
`p` and `g` are lists of tensors, `s["name"]` is such a list too (zeros at first), and `s.step` counts from 1. Steps
change parameters and state in place with torch's multi-tensor (`_foreach_`) operations: one call for a whole group.

LAMB's neighbours read like their papers; a new optimizer is a new step and a line in `recipes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeAlias

import torch

from dist_ai.optimizer.optimizer import ParamState

__all__ = [
    "Step",
    "accumulate_grad",
    "adam_step",
    "average_grad",
    "average_sqr_grad",
    "l2_reg",
    "momentum_step",
    "sgd_step",
    "weight_decay",
]

Tensors: TypeAlias = list[torch.Tensor]
Hypers: TypeAlias = SimpleNamespace
Step: TypeAlias = Callable[[Tensors, Tensors, ParamState, Hypers], None]


def weight_decay(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p *= 1 - lr*wd, apart from the gradient (Loshchilov and Hutter, arXiv:1711.05101), where decay applies."""
    if h.wd and (decaying := s.decaying(p)):
        torch._foreach_mul_(decaying, 1 - h.lr * h.wd)


def l2_reg(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """g += wd*p, the gradient of wd/2 |p|^2, where decay applies."""
    if h.wd and (decaying := s.decaying(p)):
        torch._foreach_add_(s.decaying(g), decaying, alpha=h.wd)


def sgd_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p -= lr*g."""
    torch._foreach_add_(p, g, alpha=-h.lr)


def average_grad(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Moving average of the gradient, the new one weighted 1 - mom: Adam's first moment."""
    torch._foreach_lerp_(s["grad_avg"], g, 1 - h.mom)


def accumulate_grad(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Moving sum of the gradient, the new one weighted 1: the velocity of SGD with momentum."""
    torch._foreach_mul_(s["grad_avg"], h.mom)
    torch._foreach_add_(s["grad_avg"], g)


def average_sqr_grad(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Moving average of the squared gradient, the new one weighted 1 - sqr_mom: Adam's second moment."""
    torch._foreach_mul_(s["sqr_avg"], h.sqr_mom)
    torch._foreach_addcmul_(s["sqr_avg"], g, g, value=1 - h.sqr_mom)


def momentum_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p -= lr*velocity."""
    torch._foreach_add_(p, s["grad_avg"], alpha=-h.lr)


def adam_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Adam with its bias corrections (Kingma and Ba, arXiv:1412.6980).

    m/c1 / (sqrt(v)/c2 + eps) is computed as c2/c1 * m / (sqrt(v) + c2*eps): the same, in one pass less.
    """
    c1, c2 = 1 - h.mom**s.step, (1 - h.sqr_mom**s.step) ** 0.5
    root = torch._foreach_sqrt(s["sqr_avg"])
    torch._foreach_add_(root, h.eps * c2)
    torch._foreach_addcdiv_(p, s["grad_avg"], root, value=-h.lr * c2 / c1)
