"""Tensors of which each rank holds a part (torch's `DTensor`), told apart and made whole.

Plain tensors pass through everything here, so what saves or loads a model need not ask which strategy trains it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

# torch is imported inside the functions that need it: the launchers live in this package, and only start processes.
if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed.tensor import DTensor

__all__ = ["gather", "is_sharded", "local_part", "mesh_axes", "replicated_beside", "sharded_modules", "whole"]


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Returns whether `tensor` is one of which each rank holds a part, without loading what makes them (half a second).

    >>> is_sharded(torch.ones(2))
    False
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def sharded_modules(model: nn.Module) -> list[Any]:
    """Returns the modules of `model` whose parameters torch's `fully_shard` gathers together, outer before inner.

    >>> sharded_modules(torch.nn.Linear(1, 1))
    []
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [] if fsdp is None else [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Returns what this rank holds of `tensor`, in the same memory: all of a plain one.

    >>> local_part(torch.ones(2))
    tensor([1., 1.])
    """
    return tensor.to_local().detach() if is_sharded(tensor) else tensor


def mesh_axes(model: nn.Module) -> dict[str, int]:
    """Returns the axes of ranks that a model is divided among, with their sizes; {} if every rank holds all of it.

    >>> from torch import nn
    >>> mesh_axes(nn.Linear(2, 2))
    {}
    """
    axes: dict[str, int] = {}
    for p in model.parameters():
        if is_sharded(p):
            names = p.device_mesh.mesh_dim_names or [f"axis {i}" for i in range(p.device_mesh.ndim)]
            axes |= dict(zip(names, p.device_mesh.shape, strict=True))
    return axes


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Returns all of `tensor`, on the device that its ranks exchange on. Collective for a sharded one.

    >>> whole(torch.ones(2))
    tensor([1., 1.])
    """
    if not is_sharded(tensor):
        return tensor
    if tensor.device.type != tensor.device_mesh.device_type:  # offloaded to the CPU, while ranks exchange on GPUs
        return tensor.to(tensor.device_mesh.device_type).full_tensor()  # type: ignore[attr-defined]  # a DTensor still
    return tensor.full_tensor()


def replicated_beside(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Returns `tensor`, which is the same on all ranks, as an operation with `other` takes it where that is sharded.

    >>> replicated_beside(torch.ones(2), torch.ones(3))
    tensor([1., 1.])
    """
    if not is_sharded(other):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = other.device_mesh
    return DTensor.from_local(tensor.to(mesh.device_type), mesh, [Replicate()] * mesh.ndim, run_check=False)


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
