"""Sums over the ranks by the group that the gradients take."""

from __future__ import annotations

import torch
import torch.distributed as dist

__all__ = ["total_over_ranks"]


def total_over_ranks(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """Returns the sum of the ranks' tensors, on its device and without waiting for it. Collective, between backwards.

    Args:
        tensor: this rank's.
        group: of some ranks; by default all.
    """
    result = tensor.detach().clone()
    dist.all_reduce(result, group=group)
    return result
