"""Sums over the ranks by the group that the gradients take."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

__all__ = ["total_over_ranks"]


def total_over_ranks(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> Callable[[], torch.Tensor]:
    """Begins to add up the ranks' tensors, and returns what waits for the sum, on their device. Collective, between backwards.

    Args:
        tensor: this rank's.
        group: of some ranks; by default all.
    """
    mine = tensor.detach().clone(memory_format=torch.contiguous_format)[None]  # what was given may change meanwhile
    num_ranks = dist.get_world_size(group)
    if num_ranks > _FEW:
        parts = mine
        work: dist.Work | None = dist.all_reduce(parts, group=group, async_op=True)
    else:
        parts = mine.new_empty((num_ranks, *tensor.shape))
        work = _gather(parts, mine, group=group, async_op=True)

    def wait() -> torch.Tensor:
        assert work is not None  # this rank is of the group
        work.wait()
        return parts.sum(0, dtype=parts.dtype)  # torch would make integers of 64 bits

    return wait


_FEW = 8  # so many tell each other in half to two thirds of the time that gloo takes to reduce: one way instead of two
# torch 2.14 calls it so, and warns the user of each run of several processes when it is called by its name of before.
_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
