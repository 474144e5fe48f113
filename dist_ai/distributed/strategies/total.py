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
    result = tensor.detach().clone()
    work = dist.all_reduce(result, group=group, async_op=True)

    def wait() -> torch.Tensor:
        work.wait()
        return result

    return wait
