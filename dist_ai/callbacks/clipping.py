"""Gradient clipping, by the norm of all gradients together or by value."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.distributed.sharded import local_part
from dist_ai.errors import ConfigError
from dist_ai.optimizer.shards import Sharding

__all__ = ["GradientClip", "clip_grad_norm"]


class GradientClip(Callback):
    """Limits the gradients before every step: those of the global batch, once they have their own size (fp16).

    Args:
        max_norm: the norm over all gradients that is not exceeded: they are scaled down together (Pascanu et al.,
            arXiv:1211.5063).
        max_value: the absolute value that no element exceeds, instead.
        norm_type: which norm; ``inf`` is the largest absolute value.

    Attributes:
        norm: the norm before the last clipping, a scalar on the device; None if nothing was clipped by norm yet.

    Raises:
        ConfigError: a limit or the norm's type is not more than 0, or both limits are given.
    """

    phase: ClassVar[Phase] = Phase.CHANGE
    may_cancel: ClassVar[bool] = False
    # Sharded gradients have one norm over all ranks.
    exchanges_in: ClassVar[frozenset[str]] = frozenset({"before_step"})

    def __init__(
        self, max_norm: float | None = None, *, max_value: float | None = None, norm_type: float = 2.0
    ) -> None:
        if max_norm is not None and max_value is not None:
            raise ConfigError(f"GradientClip(max_norm={max_norm}, max_value={max_value}): give one of them")
        for name, limit in (("max_norm", max_norm), ("max_value", max_value), ("norm_type", norm_type)):
            if limit is not None and not limit > 0:
                raise ConfigError(f"GradientClip({name}={limit}): expected more than 0")
        self.max_norm = 1.0 if max_norm is None and max_value is None else max_norm
        self.max_value, self.norm_type = max_value, norm_type
        self.norm: torch.Tensor | None = None

    def before_step(self) -> None:
        """Clips the gradients."""
        params = [p for group in self.learn.opt.groups for p in group.params if p.grad is not None]
        if not params:
            return
        if self.max_norm is not None:
            self.norm = clip_grad_norm(params, self.max_norm, self.norm_type)
        else:
            assert self.max_value is not None
            grads = [local_part(p.grad) for p in params if p.grad is not None]
            torch._foreach_clamp_min_(grads, -self.max_value)
            torch._foreach_clamp_max_(grads, self.max_value)

    def __repr__(self) -> str:
        limit = f"{self.max_norm}" if self.max_norm is not None else f"max_value={self.max_value}"
        return f"GradientClip({limit})"


@torch.no_grad()
def clip_grad_norm(params: list[nn.Parameter], max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
    """Scales the gradients of `params` so that their common norm is at most `max_norm`; returns what it was.

    Never waits for the device. A sharded parameter's gradient counts whole, whatever part of it this rank holds.

    >>> p = nn.Parameter(torch.zeros(2)); p.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm([p], 2.5).item(), round(p.grad.norm().item(), 4)
    (5.0, 2.5)
    """
    parts: dict[Sharding | None, list[torch.Tensor]] = {}
    for p in params:
        if p.grad is not None:
            parts.setdefault(Sharding.of(p.grad), []).append(local_part(p.grad))
    # Those that lie alike have one norm over the ranks that hold different parts of them.
    norms = []
    for sharding, grads in parts.items():
        norm = nn.utils.get_total_norm(grads, norm_type)
        if sharding is not None and math.isinf(norm_type):
            norm = sharding.max(norm)
        elif sharding is not None:
            norm = sharding.sum(norm**norm_type) ** (1 / norm_type)
        norms.append(norm)
    if not norms:
        return torch.tensor(0.0)
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), norm_type)
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)  # as torch's `clip_grads_with_norm_`
    for grads in parts.values():
        torch._foreach_mul_(grads, scale)
    return total
