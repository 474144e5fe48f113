"""BatchNorm over the global batch, on CPU and GPU, exact for uneven shares.

torch's own `SyncBatchNorm` refuses CPU tensors and counts every row of a rank's batch, also those of a rank that only
runs along. This one weighs each rank by the samples that count, so W ranks normalise as one process would.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from dist_ai.distributed.strategies.replay import Tape

__all__ = ["Replaced", "ShareSize", "SyncBatchNorm", "put_back_batch_norms", "replace_batch_norms"]

Replaced: TypeAlias = list[tuple[nn.Module, str, nn.Module]]
"""Where layers were replaced, and what stood there: (parent, name, layer)."""


class ShareSize:
    """How many samples of the current batch count on this rank; one object is shared by all layers of a model.

    Args:
        group: the ranks that the batch is dealt out to; by default all.

    Attributes:
        num_local: how many.
        tape: counts what the layers exchange in the batch.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.num_local = 1
        self.tape = Tape()

    def begin_batch(self, num_local: int) -> None:
        """Begins a batch of which so many samples count."""
        self.num_local = num_local
        self.tape.begin()


class SyncBatchNorm(_BatchNorm):
    """Normalises over the global batch in training, with the parameters and buffers of `norm` itself.

    Args:
        norm: a BatchNorm layer of 1, 2 or 3 dimensions.
        share: tells how many samples of each batch count on this rank.

    Input and output: (batch, channels, ...), float.
    """

    def __init__(self, norm: _BatchNorm, share: ShareSize) -> None:
        # A `_BatchNorm`, so that whoever looks for BatchNorm layers finds it; none of its own tensors are made.
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = norm.affine, norm.track_running_stats
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.share = share
        self.train(norm.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the normalised input."""
        if not self.training and self.running_mean is not None:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        normal, mean, var, count = _Normalise.apply(x, self.eps, self.share)
        if self.training and not _is_computed_again():
            self._track(mean, var, count)
        if self.weight is not None:
            shape = (1, -1, *[1] * (x.dim() - 2))
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _track(self, mean: torch.Tensor, var: torch.Tensor, count: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked += 1
            new_var = var * count / (count - 1).clamp(min=1)
            seen = self.num_batches_tracked
            for running, new in ((self.running_mean, mean), (self.running_var, new_var)):
                momentum = seen.to(running.dtype).reciprocal() if self.momentum is None else self.momentum
                running.lerp_(new.to(running.dtype), momentum)


def replace_batch_norms(model: nn.Module, share: ShareSize) -> Replaced:
    """Puts a `SyncBatchNorm` in the place of each BatchNorm layer of `model`; returns what `put_back_batch_norms` needs."""
    replaced: Replaced = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # One with a forward of its own (timm's have an activation in it) does more than normalise.
            if isinstance(child, _BatchNorm) and type(child).forward is _BatchNorm.forward:
                replaced.append((parent, name, child))
                setattr(parent, name, SyncBatchNorm(child, share))
    return replaced


def put_back_batch_norms(replaced: Replaced) -> None:
    """Undoes `replace_batch_norms`."""
    for parent, name, norm in reversed(replaced):
        norm.train(getattr(parent, name).training)
        setattr(parent, name, norm)


def _is_computed_again() -> bool:
    """Returns whether this forward runs inside a backward, for activation checkpointing: its batch was tracked before."""
    return torch._C._current_graph_task_id() != -1


class _Normalise(torch.autograd.Function):
    """(x - mean) / std with mean and variance over the counted samples of all ranks; one exchange each way."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float, share: ShareSize) -> tuple[torch.Tensor, ...]:
        dims = [d for d in range(x.dim()) if d != 1]
        wide = x.double() if x.dtype == torch.float64 else x.float()
        var_local, mean_local = torch.var_mean(wide, dims, correction=0)
        count_local = (x.numel() // x.size(1)) * (share.num_local > 0)
        mean, var, count = _combine(mean_local, var_local, count_local, share)
        shape = (1, -1, *[1] * (x.dim() - 2))
        inv_std = torch.rsqrt(var + eps)
        normal = (wide - mean.view(shape)) * inv_std.view(shape)
        ctx.save_for_backward(normal, inv_std, count)
        ctx.counts, ctx.dtype, ctx.share = count_local > 0, x.dtype, share
        ctx.mark_non_differentiable(mean, var, count)
        return normal, mean, var, count

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal, inv_std, count = ctx.saved_tensors
        grad = grads[0]
        dims = [d for d in range(grad.dim()) if d != 1]
        sums = torch.stack([grad.sum(dims), (grad * normal).sum(dims)])
        if ctx.share.tape.is_due():
            dist.all_reduce(sums, group=ctx.share.group)
        shape = (1, -1, *[1] * (grad.dim() - 2))
        sum_grad, sum_grad_normal = (each.view(shape) / count for each in sums)
        grad_x = (grad - sum_grad - normal * sum_grad_normal) * inv_std.view(shape)
        if not ctx.counts:  # this rank's rows are in nobody's statistics, so nothing depends on them
            grad_x = torch.zeros_like(grad_x)
        return grad_x.to(ctx.dtype), None, None


def _combine(
    mean: torch.Tensor, var: torch.Tensor, count: int, share: ShareSize
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns mean, biased variance and count over all ranks (Chan, Golub and LeVeque's parallel formula)."""
    mine = torch.cat([mean, var, mean.new_full((1,), count)])
    if not share.tape.is_due():  # the others have had it before, and this rank's results count for nothing
        return mean, var, mine[-1:].sum()
    received = [torch.empty_like(mine) for _ in range(dist.get_world_size(share.group))]
    dist.all_gather(received, mine, group=share.group)
    rows = torch.stack(received)
    channels = len(mean)
    means, variances, counts = rows[:, :channels], rows[:, channels : 2 * channels], rows[:, -1:]
    total = counts.sum()
    all_mean = (means * counts).sum(0) / total
    all_var = ((variances + (means - all_mean) ** 2) * counts).sum(0) / total
    return all_mean, all_var, total
