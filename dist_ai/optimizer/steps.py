"""Steps: the pure functions that optimizers are made of.

Each takes `(p, g, s, h)`: some parameters, their gradients, their state and the group's hyper-parameters. `p` and `g`
are lists of tensors, `s["name"]` is such a list too (zeros at first), `s.step` counts from 1, and `s.decays` says
whether weight decay applies. Steps change parameters and state in place with torch's multi-tensor (`_foreach_`)
operations, one call for all of them. Gradients belong to the caller: a step that changes them puts other tensors in
their places in the list `g`. Of a sharded parameter they get this rank's shard; what is over whole tensors asks for
it (`s.norms`, `s.whole`).

A new optimizer is a new step and a few lines in `recipes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TypeAlias

import torch

from dist_ai.optimizer.state import ParamState, Tensors

__all__ = [
    "Step",
    "accumulate_grad",
    "adam_step",
    "adan_step",
    "average_grad",
    "average_sqr_grad",
    "l2_reg",
    "lamb_step",
    "larc_rate",
    "lars_rate",
    "lion_step",
    "lookahead_begin",
    "lookahead_step",
    "momentum_step",
    "nesterov_step",
    "qhadam_step",
    "radam_step",
    "rms_prop_momentum_step",
    "rms_prop_step",
    "schedule_free_average",
    "schedule_free_step",
    "sgd_step",
    "weight_decay",
]

Hypers: TypeAlias = SimpleNamespace
Step: TypeAlias = Callable[[Tensors, Tensors, ParamState, Hypers], None]

# ------------------------------------------------------------------------------------ decay


def weight_decay(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p *= 1 - lr*wd, apart from the gradient (Loshchilov and Hutter, arXiv:1711.05101), where decay applies."""
    if h.wd and s.decays:
        torch._foreach_mul_(p, 1 - h.lr * h.wd)


def l2_reg(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """g + wd*p, the gradient of wd/2 |p|^2, takes the place of g, where decay applies."""
    if h.wd and s.decays:
        g[:] = torch._foreach_add(g, p, alpha=h.wd)


# ------------------------------------------------------------------------------------ statistics of the gradient


def accumulate_grad(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Moving sum of the gradient, the new one weighted 1: the velocity of SGD with momentum."""
    torch._foreach_mul_(s["grad_avg"], h.mom)
    torch._foreach_add_(s["grad_avg"], g)


def average_grad(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Moving average of the gradient, the new one weighted 1 - mom: Adam's first moment."""
    torch._foreach_lerp_(s["grad_avg"], g, 1 - h.mom)


def average_sqr_grad(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Moving average of the squared gradient, the new one weighted 1 - sqr_mom: Adam's second moment."""
    torch._foreach_mul_(s["sqr_avg"], h.sqr_mom)
    torch._foreach_addcmul_(s["sqr_avg"], g, g, value=1 - h.sqr_mom)


def _root(s: ParamState, eps: float, correction: float = 1.0) -> Tensors:
    """Returns sqrt(second moment) / correction + eps."""
    root = torch._foreach_sqrt(s["sqr_avg"])
    if correction != 1.0:
        torch._foreach_div_(root, correction)
    torch._foreach_add_(root, eps)
    return list(root)


def _corrections(s: ParamState, h: Hypers) -> tuple[float, float]:
    """Returns what undoes the zeros that the moments began with: m/c1 and sqrt(v)/c2 have no bias."""
    return 1 - h.mom**s.step, (1 - h.sqr_mom**s.step) ** 0.5


# ------------------------------------------------------------------------------------ SGD and RMSProp


def sgd_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p -= lr*g."""
    torch._foreach_add_(p, g, alpha=-h.lr)


def momentum_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p -= lr*velocity."""
    torch._foreach_add_(p, s["grad_avg"], alpha=-h.lr)


def nesterov_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p -= lr*(g + mom*velocity): looks one step ahead along the velocity (Sutskever et al., 2013, as torch has it)."""
    torch._foreach_add_(p, g, alpha=-h.lr)
    torch._foreach_add_(p, s["grad_avg"], alpha=-h.lr * h.mom)


def rms_prop_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p -= lr * g / (sqrt(v) + eps), without bias correction."""
    torch._foreach_addcdiv_(p, g, _root(s, h.eps), value=-h.lr)


def rms_prop_momentum_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """The velocity of g / (sqrt(v) + eps), then p -= lr*velocity."""
    torch._foreach_mul_(s["velocity"], h.mom)
    torch._foreach_addcdiv_(s["velocity"], g, _root(s, h.eps))
    torch._foreach_add_(p, s["velocity"], alpha=-h.lr)


# ------------------------------------------------------------------------------------ Adam and its family


def adam_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Adam with its bias corrections (Kingma and Ba, arXiv:1412.6980).

    m/c1 / (sqrt(v)/c2 + eps) is computed as c2/c1 * m / (sqrt(v) + c2*eps): the same, in one pass less.
    """
    c1, c2 = _corrections(s, h)
    torch._foreach_addcdiv_(p, s["grad_avg"], _root(s, h.eps * c2), value=-h.lr * c2 / c1)


def radam_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Rectified Adam (Liu et al., arXiv:1908.03265): the plain momentum until the variance of 1/sqrt(v) can be known."""
    c1, c2 = _corrections(s, h)
    longest = 2 / (1 - h.sqr_mom) - 1
    length = longest - 2 * s.step * (1 - c2**2) / c2**2
    if length > 5:
        rect = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
        torch._foreach_addcdiv_(p, s["grad_avg"], _root(s, h.eps), value=-h.lr * rect * c2 / c1)
    else:
        torch._foreach_add_(p, s["grad_avg"], alpha=-h.lr / c1)


def qhadam_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Quasi-hyperbolic Adam (Ma and Yarats, arXiv:1810.06801): both moments are mixed with the new gradient's."""
    c1, c2 = _corrections(s, h)
    above = torch._foreach_mul(s["grad_avg"], h.nu_1 / c1)
    torch._foreach_add_(above, g, alpha=1 - h.nu_1)
    below = torch._foreach_mul(s["sqr_avg"], h.nu_2 / c2**2)
    torch._foreach_addcmul_(below, g, g, value=1 - h.nu_2)
    torch._foreach_sqrt_(below)
    torch._foreach_add_(below, h.eps)
    torch._foreach_addcdiv_(p, above, below, value=-h.lr)


def lion_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """p -= lr * sign(mom*m + (1-mom)*g), then m is averaged with `avg_mom` (Chen et al., arXiv:2302.06675)."""
    update = torch._foreach_lerp(s["grad_avg"], g, 1 - h.mom)
    torch._foreach_sign_(update)
    torch._foreach_add_(p, update, alpha=-h.lr)
    torch._foreach_lerp_(s["grad_avg"], g, 1 - h.avg_mom)


def adan_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Adan (Xie et al., arXiv:2208.06677): Nesterov's look ahead by the difference of gradients, and proximal decay."""
    change = torch._foreach_sub(g, s.begin("prev_grad", g))
    torch._foreach_copy_(s["prev_grad"], g)
    torch._foreach_lerp_(s["grad_avg"], g, 1 - h.mom)
    torch._foreach_lerp_(s["diff_avg"], change, 1 - h.diff_mom)
    ahead = torch._foreach_add(g, change, alpha=h.diff_mom)
    torch._foreach_mul_(s["sqr_avg"], h.sqr_mom)
    torch._foreach_addcmul_(s["sqr_avg"], ahead, ahead, value=1 - h.sqr_mom)
    c1, c2, c3 = (1 - mom**s.step for mom in (h.mom, h.diff_mom, h.sqr_mom))
    root = _root(s, h.eps, c3**0.5)
    torch._foreach_addcdiv_(p, s["grad_avg"], root, value=-h.lr / c1)
    torch._foreach_addcdiv_(p, s["diff_avg"], root, value=-h.lr * h.diff_mom / c2)
    if h.wd and s.decays:
        torch._foreach_div_(p, 1 + h.lr * h.wd)


# ------------------------------------------------------------------------------------ a rate for each layer


def _ratios(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Returns above / below, and 1 where either is 0: what begins at zero must be able to leave it."""
    return torch.where((above > 0) & (below > 0), above / below, torch.ones_like(above))


def lamb_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """LAMB (You et al., arXiv:1904.00962): Adam's step and decay, as long as |p| in each layer."""
    c1, c2 = _corrections(s, h)
    update = torch._foreach_div(s["grad_avg"], _root(s, h.eps, c2))
    torch._foreach_div_(update, c1)
    if h.wd and s.decays:
        torch._foreach_add_(update, p, alpha=h.wd)
    trust = _ratios(s.norms(p), s.norms(list(update)))
    _scale(update, trust)
    torch._foreach_add_(p, update, alpha=-h.lr)


def lars_rate(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """rate * (g + wd*p) takes the place of g, rate = trust*|p| / (|g| + wd*|p|) (You et al., arXiv:1708.03888)."""
    _layer_rate(p, g, s, h, clip=False)


def larc_rate(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """As `lars_rate`, but no rate times lr is more than lr."""
    _layer_rate(p, g, s, h, clip=True)


def _layer_rate(p: Tensors, g: Tensors, s: ParamState, h: Hypers, *, clip: bool) -> None:
    wd = h.wd if s.decays else 0.0
    size = s.norms(p)
    rate = _ratios(h.trust * size, s.norms(g) + wd * size + h.eps)
    g[:] = torch._foreach_add(g, p, alpha=wd)
    _scale(g, rate.clamp(max=1.0) if clip else rate)


def _scale(tensors: Tensors | tuple[torch.Tensor, ...], by: torch.Tensor) -> None:
    """Multiplies each tensor by its number, without waiting for the device to say what those are."""
    torch._foreach_mul_(tensors, list(by.unbind()))


# ------------------------------------------------------------------------------------ two sets of weights


def lookahead_begin(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """The slow weights begin where the parameters do; stands before the steps that Lookahead wraps."""
    s.begin("slow", p)


def lookahead_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Every k steps the slow weights go a part of the way to the parameters, which go there too (arXiv:1907.08610)."""
    if s.step % h.k == 0:
        torch._foreach_lerp_(s["slow"], p, h.alpha)
        torch._foreach_copy_(p, s["slow"])


def schedule_free_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Schedule-free AdamW (Defazio et al., arXiv:2405.15682): z takes the steps, x is their average, p lies between.

    x is not kept: it is p - (1-mom)*z, over mom, with the `mom` that p was made with.
    """
    z, total = s.begin("z", p), [kept + h.lr**2 for kept in s.numbers("weight_sum", 0.0)]
    x = schedule_free_average(p, s, h)
    update = torch._foreach_div(g, _root(s, h.eps, _corrections(s, h)[1]))
    if h.wd and s.decays:
        torch._foreach_add_(update, p, alpha=h.wd)
    torch._foreach_add_(z, update, alpha=-h.lr)
    torch._foreach_lerp_(x, z, [h.lr**2 / each if each else 0.0 for each in total])
    torch._foreach_copy_(p, torch._foreach_lerp(x, z, 1 - h.mom))
    s.keep("weight_sum", total)
    s.keep("made_with", [h.mom] * len(p))


def schedule_free_average(p: Tensors, s: ParamState, h: Hypers) -> Tensors:
    """Returns x, the average of all z: the weights to evaluate with."""
    return list(torch._foreach_lerp(p, s["z"], [1 - 1 / mom for mom in s.numbers("made_with", h.mom)]))
