"""Averages gradients over the ranks after a backward; torch's DDP does it during the backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import nn

from dist_ai.distributed.sharded import local_part

__all__ = ["average_gradients"]


@torch.no_grad()
def average_gradients(
    params: Iterable[nn.Parameter],
    *,
    bucket_bytes: int,
    may_be_unused: bool,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Replaces the gradients of `params` with their averages over the ranks. Collective.

    Args:
        params: parameters that need gradients, the same on all ranks in the same order.
        bucket_bytes: how much is exchanged together.
        may_be_unused: some may have no gradient on any rank, and keep none: costs one small exchange.
        group: ranks that hold the same parts of the parameters; by default all.
    """
    params = list(params)
    if may_be_unused and params:
        used = torch.tensor([p.grad is not None for p in params], dtype=torch.int32, device=params[0].device)
        dist.all_reduce(used, group=group)
        params = [p for p, count in zip(params, used.tolist(), strict=True) if count]
    world_size = dist.get_world_size(group)
    for p in params:
        if p.grad is None:  # this rank had no use for it; another may have
            p.grad = torch.zeros_like(p)
    for bucket in _buckets([local_part(p.grad) for p in params if p.grad is not None], bucket_bytes):
        flat = torch.cat([grad.reshape(-1) for grad in bucket]).div_(world_size)
        dist.all_reduce(flat, group=group)
        parts = flat.split([grad.numel() for grad in bucket])
        torch._foreach_copy_(bucket, [part.view_as(grad) for part, grad in zip(parts, bucket, strict=True)])


def _buckets(grads: list[torch.Tensor], bucket_bytes: int) -> Iterator[list[torch.Tensor]]:
    """Yields gradients of one type and about so many bytes together."""
    bucket: list[torch.Tensor] = []
    size = 0
    for grad in grads:
        if bucket and (size >= bucket_bytes or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.numel() * grad.element_size()
    if bucket:
        yield bucket
