"""How much memory training takes, before it begins."""

from __future__ import annotations

import os

import torch
from torch import nn

from dist_ai.distributed.environment import World

__all__ = ["device_memory", "state_bytes"]


def state_bytes(model: nn.Module, *, averages: int = 2) -> int:
    """Returns the bytes of all that a rank keeps from step to step, if it holds the whole model.

    Args:
        model: a model, also on the meta device.
        averages: tensors of a parameter's size that the optimizer keeps for each: Adam 2, SGD with momentum 1.

    Counted are parameters and buffers, and for those that learn a gradient and the optimizer's averages.

    >>> state_bytes(nn.Linear(10, 10, bias=False))
    1600
    """
    kept = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers()))
    return kept + (1 + averages) * sum(_bytes(p) for p in model.parameters() if p.requires_grad)


def device_memory(world: World) -> int:
    """Returns the bytes of memory of this rank's device; on a CPU its share of the machine's."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_properties(world.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world.local_world_size


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
