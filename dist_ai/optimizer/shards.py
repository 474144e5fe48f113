"""Sharded parameters: steps work on the local shard; what needs the whole tensor asks here for it.

Under FSDP2 or tensor parallelism a parameter is a `DTensor`. Element-wise steps need nothing but the shard of this rank,
and run on it with the same kernels as anywhere. Norms and matrix products are over whole tensors: one all-reduce for the
norms of all parameters together, one all-gather for each matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dist_ai.distributed.sharded import is_sharded

__all__ = ["Sharding"]


@dataclass(frozen=True)
class Sharding:
    """How the parameters of a bucket lie on the ranks: a device mesh, and a placement for each of its axes."""

    mesh: Any
    placements: tuple[Any, ...]

    def __deepcopy__(self, memo: object) -> Sharding:
        """A mesh is of processes, and cannot be copied; nor need it be, for it does not change."""
        return self

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Sharding | None:
        """Returns how `tensor` is sharded; None for a plain tensor."""
        return cls(tensor.device_mesh, tuple(tensor.placements)) if is_sharded(tensor) else None

    def local(self, tensor: Any) -> torch.Tensor:
        """Returns this rank's shard of `tensor`: of a `DTensor`, or of a whole tensor that every rank has. Collective."""
        if not is_sharded(tensor):
            from torch.distributed.tensor import distribute_tensor

            # No rank sends its copy to the others: they have the same.
            tensor = distribute_tensor(tensor, self.mesh, self.placements, src_data_rank=None)
        elif tuple(tensor.placements) != self.placements:
            tensor = tensor.redistribute(placements=self.placements)
        return tensor.to_local()

    def wrap(self, local: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Returns the local shard of a tensor with the shape of the parameter `like` as a `DTensor`."""
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            local, self.mesh, self.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def whole(self, local: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Returns the whole of a tensor with the shape of `like`, of which each rank has its shard. Collective."""
        wrapped: Any = self.wrap(local, like)
        return wrapped.full_tensor()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of `values` over the ranks that hold different shards, on all of them. Collective."""
        return self._reduced(values, "sum")

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the largest of `values` over the ranks that hold different shards, on all of them. Collective."""
        return self._reduced(values, "max")

    def _reduced(self, values: torch.Tensor, op: str) -> torch.Tensor:
        from torch.distributed.tensor import DTensor, Partial, Replicate

        axes: Sequence[Any] = [Replicate() if isinstance(each, Replicate) else Partial(op) for each in self.placements]
        return DTensor.from_local(values, self.mesh, axes, run_check=False).full_tensor()
