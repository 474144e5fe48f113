"""Fully sharded data parallel: each rank holds a part of every parameter, its gradient and its optimizer state.

The parameters of a block are gathered just before the block computes and given back after it. Built on torch's
`fully_shard` (FSDP2) itself, which works on GPUs (NCCL) and on CPUs (gloo) alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.mesh import TENSOR_AXIS, Mesh
from dist_ai.distributed.sharded import mesh_axes, sharded_modules
from dist_ai.distributed.strategies.blocks import Blocks, find_blocks, recompute_in_backward
from dist_ai.distributed.strategies.replay import count_exchanges, forget_unsharded_gradients
from dist_ai.distributed.strategies.same_model import (
    divided_otherwise,
    require_dense,
    require_same_model,
    take_rank_0s,
    take_rank_0s_buffers,
)
from dist_ai.distributed.strategies.sync_batch_norm import ShareSize, replace_batch_norms
from dist_ai.distributed.strategies.total import total_over_ranks
from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["FSDP", "FSDPStrategy"]


@dataclass(frozen=True, kw_only=True)
class FSDP:
    """Fully sharded data parallel: the ranks hold the model, its gradients and the optimizer's state between them.

    Args:
        mesh: how the ranks are arranged; ``Mesh(data_parallel_replicate=2)`` shards over half of them, twice (HSDP).
        blocks, min_block_parameters: what is gathered as one; see `find_blocks`. The rest of the model is one more.
        reshard_after_forward: give a block's parameters back after its forward and gather them again for its backward.
            None does so for all but the outermost; False needs room for the whole model, and saves its second gathering;
            a number keeps them among that many neighbouring ranks.
        compute_dtype: ``"bf16"`` or ``"fp16"``: blocks receive parameters, and compute, in it; the ranks keep float32.
        reduce_dtype: what gradients are summed in; by default float32.
        cpu_offload: keep the parts of parameters, gradients and optimizer state in the CPU's memory, and step there.
        activation_checkpointing: keep only the inputs of blocks and compute their activations again in backward: one
            more forward for much less memory.

    In a world of one there is nothing to shard: of all this only activation checkpointing applies.

    Raises:
        ConfigError: an option that does not exist.
    """

    mesh: Mesh = field(default_factory=Mesh)
    blocks: Blocks = "auto"
    min_block_parameters: int = 1_000_000
    reshard_after_forward: bool | int | None = None
    compute_dtype: Literal["bf16", "fp16"] | None = None
    reduce_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    cpu_offload: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("compute_dtype", (None, "bf16", "fp16")), ("reduce_dtype", ("fp32", "bf16", "fp16"))):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"FSDP({name}={getattr(self, name)!r}): expected one of {', '.join(map(str, choices))}"
                )


class FSDPStrategy:
    """torch's `fully_shard` by blocks, with gradients exact for uneven shares.

    Args:
        collectives: the ranks.
        config: the options.
        sync_bn: BatchNorm layers normalise over the global batch; they are replaced for as long as the model lives.
        why: why this strategy was chosen.
        group, device_mesh: torch's group and mesh of the ranks, where they are some of the world only.

    Raises:
        ConfigError: the mesh does not fit the world.
    """

    forward_is_collective = forward_waits = True

    def __init__(
        self,
        collectives: Collectives,
        config: FSDP | None = None,
        *,
        sync_bn: bool = True,
        why: str = "",
        group: dist.ProcessGroup | None = None,
        device_mesh: DeviceMesh | None = None,
    ) -> None:
        self.collectives = self.data_collectives = collectives
        self.config = config or FSDP()
        self.mesh = self.config.mesh.over(collectives.world.world_size)
        self.sync_bn = sync_bn
        self.why = why
        self._group, self._device_mesh = group, device_mesh
        self._share_size = ShareSize(group)
        self._sharded: Any = None  # the model, in a fit
        self._exchanges = True

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Shards the model in place; see `Strategy`. Blocks move to the device one by one.

        Raises:
            ConfigError: it was divided for another strategy, or has an embedding with ``sparse=True``.
        """
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if self._device_mesh is None and TENSOR_AXIS in (axes := mesh_axes(model)):
            raise divided_otherwise("FSDP", axes)
        if isinstance(model, FSDPModule):
            return
        require_dense("FSDP", dict(model.named_modules()))
        require_same_model(self.collectives, model)
        take_rank_0s(self.collectives, model)
        if self.sync_bn:
            # Now, and not for each fit: once sharded, parameters are tied to the very layers that hold them.
            replace_batch_norms(model, self._share_size)
        config = self.config
        if config.activation_checkpointing:
            recompute_in_backward(model, config.blocks)
        blocks = find_blocks(model, config.blocks, min_parameters=config.min_block_parameters)
        options = self._options()
        for block in reversed(blocks):  # inner before outer
            fully_shard(block, **options)
        fully_shard(model, **options)
        model.register_forward_hook(_GiveBackAfterEvaluation([*blocks, model]))

    def wrap(self, model: nn.Module, *, can_fail: bool = False) -> nn.Module:
        """Returns `model`, which is sharded already; see `Strategy`."""
        if can_fail:
            self._allow_to_fail(model)
        self._sharded = model
        return model

    def unwrap(self) -> None:
        """Leaves the model sharded; see `Strategy`."""
        self.begin_batch(num_local=self._share_size.num_local)
        if hasattr(self._sharded, "reset_iter_state"):  # torch 2.14: forgets what an error left of a backward
            self._sharded.reset_iter_state()
        self._sharded = None

    def begin_batch(self, *, num_local: int, exchange: bool = True) -> None:
        """Tells the BatchNorm layers how many samples count, and the blocks whether to exchange; see `Strategy`.

        Until gradients are exchanged, each rank holds those of the whole model.
        """
        self._share_size.begin_batch(num_local)
        if exchange != self._exchanges and self._sharded is not None:
            self._sharded.set_requires_gradient_sync(exchange)
            self._exchanges = exchange

    def begin_over(self) -> bool:
        """Gives back what the failed batch had gathered, so that the model gathers it again; see `Strategy`."""
        self._sharded.reset_iter_state()
        self._share_size.tape.rewind()
        return True

    def exchange_gradients(self, model: nn.Module) -> None:
        """Does nothing: the backward did, in which also a rank that failed takes part."""

    def drop_gradients(self) -> None:
        """Forgets what was accumulated for the whole model; see `Strategy`."""
        if self._sharded is not None:
            forget_unsharded_gradients(self._sharded)

    def _allow_to_fail(self, model: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule

        if not hasattr(FSDPModule, "reset_iter_state"):
            raise ConfigError(
                f"AutoMicrobatch with FSDP needs torch 2.14 or newer, and this is {torch.__version__}; older ones cannot go on "
                "after an error in the middle of a batch"
            )
        if (replicas := self.mesh.data_parallel_replicate) > 1:
            raise ConfigError(
                f"AutoMicrobatch does not work with FSDP(mesh=Mesh(data_parallel_replicate={replicas})): what is "
                "exchanged between replicas cannot be taken up again; shard over all workers"
            )
        count_exchanges(sharded_modules(model), self._share_size.tape)

    def check_gradients(self, model: nn.Module) -> None:
        """Does nothing: parameters that take no part in the loss on any rank are not updated, as in one process."""

    def weight(self, *, num_local: int, num_global: int) -> float:
        """Returns the share's part of the batch, times the world size that the averaging divides by."""
        return num_local * self.collectives.world.world_size / num_global

    def begin_total(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begins to add up over the ranks, by the group that the gradients take; see `Strategy`."""
        return total_over_ranks(tensor, self._group)

    def sync_buffers(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's buffers; see `Strategy`. Parameters are sharded, buffers are whole on every rank."""
        take_rank_0s_buffers(self.collectives, model)

    def _options(self) -> dict[str, Any]:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy

        config, world = self.config, self.collectives.world
        dtypes = {None: None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        # Only where it computes in less: with float64 parameters, float32 sums would lose what they are there for.
        reduce_dtype = dtypes[config.reduce_dtype] if config.compute_dtype or config.reduce_dtype != "fp32" else None
        precision = MixedPrecisionPolicy(param_dtype=dtypes[config.compute_dtype], reduce_dtype=reduce_dtype)
        on_gpu = world.device.type == "cuda"
        offload = CPUOffloadPolicy(pin_memory=on_gpu) if config.cpu_offload else OffloadPolicy()
        return {
            "mesh": self._device_mesh or self.mesh.build(world),
            "mp_policy": precision,
            "offload_policy": offload,
            "reshard_after_forward": config.reshard_after_forward,
        }


class _GiveBackAfterEvaluation:
    """Gives back the parameters that a forward left gathered for a backward that will not come.

    Else whoever asked the model for its parameters would get other objects than the optimizer holds.
    """

    def __init__(self, modules: list[Any]) -> None:
        self._modules = modules

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            for each in self._modules:
                each.reshard()
