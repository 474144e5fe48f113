"""The optimizers' formulas as their papers print them: one parameter at a time, in NumPy and float64.

Each takes the parameter `p`, its gradient `g`, a dict `s` to keep things in, the number `t` of the step (from 1), and the
hyper-parameters `h` (`h.wd` is 0 for parameters that do not decay); and returns the new parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Formula = Callable[[Array, Array, dict[str, Any], int, SimpleNamespace], Array]


def coupled(formula: Formula) -> Formula:
    """Decay as a part of the gradient."""
    return lambda p, g, s, t, h: formula(p, g + h.wd * p, s, t, h)


def decoupled(formula: Formula) -> Formula:
    """Decay apart from the gradient."""
    return lambda p, g, s, t, h: formula(p * (1 - h.lr * h.wd), g, s, t, h)


def sgd(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    return p - h.lr * g


def momentum(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    s["v"] = h.mom * s.get("v", 0.0) + g
    return p - h.lr * s["v"]


def nesterov(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    s["v"] = h.mom * s.get("v", 0.0) + g
    return p - h.lr * (g + h.mom * s["v"])


def rms_prop(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    s["n"] = h.sqr_mom * s.get("n", 0.0) + (1 - h.sqr_mom) * g**2
    return p - h.lr * g / (np.sqrt(s["n"]) + h.eps)


def rms_prop_momentum(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    s["n"] = h.sqr_mom * s.get("n", 0.0) + (1 - h.sqr_mom) * g**2
    s["v"] = h.mom * s.get("v", 0.0) + g / (np.sqrt(s["n"]) + h.eps)
    return p - h.lr * s["v"]


def moments(g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> tuple[Array, Array]:
    """Adam's two moments, without bias; the betas may change from step to step, as schedules make them."""
    s["m"] = h.mom * s.get("m", 0.0) + (1 - h.mom) * g
    s["n"] = h.sqr_mom * s.get("n", 0.0) + (1 - h.sqr_mom) * g**2
    return s["m"] / (1 - h.mom**t), s["n"] / (1 - h.sqr_mom**t)


def adam(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    m, n = moments(g, s, t, h)
    return p - h.lr * m / (np.sqrt(n) + h.eps)


def radam(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    m, _ = moments(g, s, t, h)
    rho_inf = 2 / (1 - h.sqr_mom) - 1
    rho = rho_inf - 2 * t * h.sqr_mom**t / (1 - h.sqr_mom**t)
    if rho <= 5:
        return p - h.lr * m
    r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return p - h.lr * r * m * np.sqrt(1 - h.sqr_mom**t) / (np.sqrt(s["n"]) + h.eps)  # eps as in torch


def qhadam(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    m, n = moments(g, s, t, h)
    above = (1 - h.nu_1) * g + h.nu_1 * m
    return p - h.lr * above / (np.sqrt((1 - h.nu_2) * g**2 + h.nu_2 * n) + h.eps)


def lars(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace, most: float = np.inf) -> Array:
    size = np.linalg.norm(p)
    rate = h.trust * size / (np.linalg.norm(g) + h.wd * size + h.eps) if size > 0 else 1.0
    s["v"] = h.mom * s.get("v", 0.0) + min(rate, most) * (g + h.wd * p)
    return p - h.lr * s["v"]


def larc(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    return lars(p, g, s, t, h, most=1.0)


def lamb(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    m, n = moments(g, s, t, h)
    u = m / (np.sqrt(n) + h.eps) + h.wd * p
    size, length = np.linalg.norm(p), np.linalg.norm(u)
    return p - h.lr * (size / length if size > 0 and length > 0 else 1.0) * u


def lion(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    m = s.get("m", np.zeros_like(p))
    s["m"] = h.avg_mom * m + (1 - h.avg_mom) * g
    return p - h.lr * np.sign(h.mom * m + (1 - h.mom) * g)


def adan(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    change = g - s.get("g", g)
    s["g"] = g
    s["m"] = h.mom * s.get("m", 0.0) + (1 - h.mom) * g
    s["d"] = h.diff_mom * s.get("d", 0.0) + (1 - h.diff_mom) * change
    s["n"] = h.sqr_mom * s.get("n", 0.0) + (1 - h.sqr_mom) * (g + h.diff_mom * change) ** 2
    m, d, n = (s[key] / (1 - mom**t) for key, mom in (("m", h.mom), ("d", h.diff_mom), ("n", h.sqr_mom)))
    return (p - h.lr * (m + h.diff_mom * d) / (np.sqrt(n) + h.eps)) / (1 + h.lr * h.wd)


def schedule_free(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    """`s["x"]` are the weights to evaluate with."""
    z, x = s.get("z", p), s.get("x", p)
    s["n"] = h.sqr_mom * s.get("n", 0.0) + (1 - h.sqr_mom) * g**2
    z = z - h.lr * (g / (np.sqrt(s["n"] / (1 - h.sqr_mom**t)) + h.eps) + h.wd * p)
    s["sum"] = s.get("sum", 0.0) + h.lr**2
    c = h.lr**2 / s["sum"]
    s["z"], s["x"] = z, (1 - c) * x + c * z
    return (1 - h.mom) * z + h.mom * s["x"]


def muon(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
    if p.ndim < 2 or p.shape[0] < 2 or p[0].size < 2:
        return adam(p, g, s, t, h)
    s["m"] = h.mom * s.get("m", 0.0) + (1 - h.mom) * g
    ahead = (1 - h.mom) * g + h.mom * s["m"]
    u, sigma, v = np.linalg.svd(ahead.reshape(len(p), -1), full_matrices=False)
    sigma = sigma / np.linalg.norm(sigma)
    for _ in range(5):  # what the matrix polynomial does to singular values
        sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    update = (u * sigma) @ v
    return p - h.lr * 0.2 * np.sqrt(max(update.shape)) * update.reshape(p.shape)


def lookahead(formula: Formula) -> Formula:
    def both(p: Array, g: Array, s: dict[str, Any], t: int, h: SimpleNamespace) -> Array:
        slow = s.get("slow", p)
        p = formula(p, g, s, t, h)
        s["slow"] = slow + h.alpha * (p - slow) if t % h.k == 0 else slow
        return s["slow"] if t % h.k == 0 else p

    return both
