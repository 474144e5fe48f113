"""Tensors of which each rank holds a part (torch's `DTensor`), made whole and taken apart again.

Plain tensors pass through everything here, so what saves or loads a model need not ask which strategy trains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

# torch is imported inside the functions that need it: the launchers live in this package, and only start processes.
if TYPE_CHECKING:
    import torch
    from torch.distributed.tensor import DTensor

__all__ = ["gather", "part_like", "whole"]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Returns all of `tensor`, on the device that its ranks exchange on. Collective for a sharded one.

    >>> whole(torch.ones(2))
    tensor([1., 1.])
    """
    parts = _sharded(tensor)
    if parts is None:
        return tensor
    if parts.device.type != parts.device_mesh.device_type:  # offloaded to the CPU, while ranks exchange on GPUs
        return parts.to(parts.device_mesh.device_type).full_tensor()  # type: ignore[attr-defined]
    return parts.full_tensor()


def gather(tensors: Mapping[str, torch.Tensor], *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Returns all of `tensors` on the CPU, one at a time, so a device needs room for one of them only. Collective.

    What is whole and on the CPU already is not copied.

    Args:
        tensors: by name, the same names on all ranks: a state dict, say.
        keep: whether this rank wants the result; where it is False it takes part and returns nothing.
    """
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if keep:
            kept[name] = value.cpu()
    return kept


def part_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns `tensor`, of which every rank holds all, sharded over the ranks as `like` is; no exchange.

    One of another shape than `like` is returned as it is.

    >>> part_like(torch.ones(2), torch.zeros(2))
    tensor([1., 1.])
    """
    parts = _sharded(like)
    if parts is None or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    on_device = tensor.to(parts.device_mesh.device_type)
    # src_data_rank=None: each rank cuts its part out of its own copy.
    cut = distribute_tensor(on_device, parts.device_mesh, parts.placements, src_data_rank=None)
    return cut.to(like.device)


def _sharded(tensor: torch.Tensor) -> DTensor | None:
    if not hasattr(tensor, "placements"):  # spares importing DTensor, which takes a while, where there is none
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None
