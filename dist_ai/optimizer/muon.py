"""Muon's step: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math

import torch

from dist_ai.optimizer.state import ParamState, Tensors
from dist_ai.optimizer.steps import Hypers

__all__ = ["is_matrix", "muon_step", "orthogonalize"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Keller Jordan's: the steepest at zero of those that stay bounded


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Returns about U V^T of `matrix` = U S V^T: all its singular values are brought near 1 (0.7 to 1.2).

    Five Newton-Schulz steps X -> aX + (bA + cA^2)X with A = X X^T, in bfloat16, as torch's Muon has them: only
    matrix products, at the speed of the device, and rounding does not matter.

    Args:
        matrix: shape (rows, columns).
        steps: how often the polynomial is applied.

    Source: https://kellerjordan.github.io/posts/muon/

    >>> orthogonalize(torch.diag(torch.tensor([3.0, 0.5]))).diagonal().float().round(decimals=1).tolist()
    [0.699999988079071, 1.0]
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.bfloat16()
    x = x.T if tall else x  # the Gram matrix is over the shorter side
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def muon_step(p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
    """Nesterov's momentum of the gradient, made orthogonal, takes the place of the gradient's own direction.

    A filter of a convolution is a row of its matrix. The update is as long as AdamW's usually is (0.2 for each number),
    so the same learning rate serves both (Liu et al., arXiv:2502.16982).
    """
    torch._foreach_lerp_(s["grad_avg"], g, 1 - h.mom)
    ahead = torch._foreach_lerp(g, s["grad_avg"], h.mom)
    updates = []
    for whole in s.whole(list(ahead)):
        rows, columns = whole.shape[0], math.prod(whole.shape[1:])
        made = orthogonalize(whole.reshape(rows, columns))
        updates.append(made.to(whole.dtype).mul_(0.2 * max(rows, columns) ** 0.5).reshape(whole.shape))
    torch._foreach_add_(p, s.shards(updates), alpha=-h.lr)


def is_matrix(name: str, p: torch.Tensor) -> bool:
    """Returns whether a parameter is real and has two dims or more, and more than one row and column."""
    return p.ndim >= 2 and p.shape[0] > 1 and p.shape[1:].numel() > 1 and not p.is_complex()
