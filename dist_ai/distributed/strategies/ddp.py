"""Data parallel: every rank holds the whole model, and gradients are averaged during backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import nn

from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.sharded import mesh_axes
from dist_ai.distributed.strategies.average import average_gradients
from dist_ai.distributed.strategies.blocks import Blocks, recompute_in_backward
from dist_ai.distributed.strategies.same_model import (
    divided_otherwise,
    require_same_model,
    take_rank_0s,
    take_rank_0s_buffers,
)
from dist_ai.distributed.strategies.sync_batch_norm import (
    Replaced,
    ShareSize,
    put_back_batch_norms,
    replace_batch_norms,
)
from dist_ai.distributed.strategies.total import total_over_ranks
from dist_ai.errors import ConfigError

__all__ = ["DDP", "DDPStrategy"]

Hook: TypeAlias = Callable[[Any, Any], "torch.futures.Future[torch.Tensor]"]


@dataclass(frozen=True, kw_only=True)
class DDP:
    """Data parallel: every rank holds the whole model.

    Args:
        find_unused_parameters: the model has parameters that take no part in the loss, in some steps at least. Costs a walk
            over the graph and one small exchange a step.
        static_graph: the same parameters take part in every step, in the same way; torch then need not look.
        gradient_as_bucket_view: gradients live in the buffers they are exchanged in, which saves one copy of them.
        bucket_cap_mb: megabytes of gradients that are exchanged together. Fewer begin earlier, more travel faster.
        gradient_compression: exchange gradients as ``"bf16"`` or ``"fp16"``: half the traffic, and the sums are rounded, so
            the numbers depend on the number of ranks beyond float32 rounding.
        communication_hook: what exchanges a bucket of gradients instead: (state, `torch.distributed.GradBucket`) ->
            future of the averaged bucket. See `torch.distributed.algorithms.ddp_comm_hooks` for what torch has.
        hook_state: the hook's first argument.
        activation_checkpointing: keep only the inputs of blocks and compute their activations again in backward: one
            more forward for much less memory.
        blocks: which blocks; see `find_blocks`.

    Raises:
        ConfigError: options that do not go together.
    """

    find_unused_parameters: bool = False
    static_graph: bool = False
    gradient_as_bucket_view: bool = True
    bucket_cap_mb: int = 25
    gradient_compression: Literal["bf16", "fp16"] | None = None
    communication_hook: Hook | None = None
    hook_state: Any = None
    activation_checkpointing: bool = False
    blocks: Blocks = "auto"

    def __post_init__(self) -> None:
        if self.gradient_compression not in (None, "bf16", "fp16"):
            raise ConfigError(
                f"DDP(gradient_compression={self.gradient_compression!r}): expected 'bf16', 'fp16' or None"
            )
        if self.gradient_compression and self.communication_hook:
            raise ConfigError(
                "DDP(gradient_compression=..., communication_hook=...): there is one hook; compress inside yours, or give "
                "one of the two"
            )
        if self.bucket_cap_mb <= 0:
            raise ConfigError(f"DDP(bucket_cap_mb={self.bucket_cap_mb}): expected megabytes, 1 or more")
        if self.static_graph and self.find_unused_parameters:
            raise ConfigError(
                "DDP(static_graph=True, find_unused_parameters=True): a static graph already allows for parameters that "
                "never take part; give find_unused_parameters=True alone if they change from step to step"
            )


class DDPStrategy:
    """torch's `DistributedDataParallel`, with gradients exact for uneven shares.

    Args:
        collectives: the ranks.
        config: the options.
        sync_bn: BatchNorm layers normalise over the global batch, so that the numbers do not depend on the number of
            ranks. Costs one small exchange per layer in forward and one in backward.
        why: why this strategy was chosen.
        group: torch's group of the ranks, where they are some of the world only.
        after_backward: exchange gradients after the backward instead of during it: for parameters of which this rank holds a
            part, which torch's DDP does not take.
    """

    forward_is_collective = False

    def __init__(
        self,
        collectives: Collectives,
        config: DDP | None = None,
        *,
        sync_bn: bool = True,
        why: str = "",
        group: dist.ProcessGroup | None = None,
        after_backward: bool = False,
    ) -> None:
        self.collectives = self.data_collectives = collectives
        self.config = config or DDP()
        self.sync_bn = sync_bn
        self.why = why
        self.after_backward = after_backward
        self._group = group
        self._replaced: Replaced = []
        self._share_size = ShareSize(group)
        self._wrapped: Any = None  # torch's DDP, in a fit
        self._exchanges_late = False

    @property
    def forward_waits(self) -> bool:
        """Whether BatchNorm layers exchange what they normalise by."""
        return bool(self._replaced)

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Puts rank 0's model on every rank; see `Strategy`.

        Raises:
            ConfigError: it was divided for another strategy.
        """
        if not self.after_backward and (axes := mesh_axes(model)):
            raise divided_otherwise("DDP", axes)
        require_same_model(self.collectives, model)
        model.to(device)
        take_rank_0s(self.collectives, model)
        if self.config.activation_checkpointing:
            recompute_in_backward(model, self.config.blocks)

    def wrap(self, model: nn.Module, *, can_fail: bool = False) -> nn.Module:
        """Returns `model` in a `DistributedDataParallel`, or as it is if ranks can fail; see `Strategy`.

        A backward that fails in torch's DDP has exchanged some gradients and not the others, and cannot be taken up again.
        """
        if can_fail and (self.config.gradient_compression or self.config.communication_hook):
            raise ConfigError(
                "AutoMicrobatch exchanges gradients after the backward, without DDP(gradient_compression=...) and "
                "DDP(communication_hook=...), which act during it; leave out the one or the other"
            )
        if self.sync_bn:
            self._replaced = replace_batch_norms(model, self._share_size)
        # Again, for what was changed since on one rank only; and torch's DDP would leave out the buffers, and all of a
        # model without gradients.
        take_rank_0s(self.collectives, model)
        self._exchanges_late = can_fail or self.after_backward
        if self._exchanges_late or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        from dist_ai.distributed.strategies.accelerate import prepare_data_parallel

        config = self.config
        module = prepare_data_parallel(
            model,
            self.collectives.world,
            find_unused_parameters=config.find_unused_parameters,
            static_graph=config.static_graph,
            gradient_as_bucket_view=config.gradient_as_bucket_view,
            bucket_cap_mb=config.bucket_cap_mb,
        )
        if (hook := _hook(config)) is not None:
            # Without annotations: torch refuses those that `from __future__ import annotations` makes strings of.
            module.register_comm_hook(config.hook_state, lambda state, bucket: hook(state, bucket))  # type: ignore[operator]
        self._wrapped = module
        return module

    def unwrap(self) -> None:
        """Puts the BatchNorm layers back; see `Strategy`."""
        put_back_batch_norms(self._replaced)
        self._replaced = []
        self._wrapped = None
        self._exchanges_late = False

    def begin_batch(self, *, num_local: int, exchange: bool = True) -> None:
        """Tells the BatchNorm layers how many samples count, and DDP whether to exchange; see `Strategy`."""
        self._share_size.begin_batch(num_local)
        if self._wrapped is not None:
            # What DDP's own `no_sync` sets around its block; a loop that is not a block needs the switch itself.
            self._wrapped.require_backward_grad_sync = exchange

    def begin_over(self) -> bool:
        """Lets BatchNorm layers that exchange join in again; see `Strategy`."""
        self._share_size.tape.rewind()
        return bool(self._replaced)

    def exchange_gradients(self, model: nn.Module) -> None:
        """Averages the gradients, if torch's DDP did not; see `Strategy`."""
        if self._exchanges_late:
            average_gradients(
                [p for p in model.parameters() if p.requires_grad],
                bucket_bytes=self.config.bucket_cap_mb * 2**20,
                may_be_unused=self.config.find_unused_parameters or self.config.static_graph,
                group=self._group,
            )

    def drop_gradients(self) -> None:
        """Does nothing: parameters hold them all."""

    def check_gradients(self, model: nn.Module) -> None:
        """Checks that every parameter took part in the loss; see `Strategy`."""
        if self.config.find_unused_parameters or self.config.static_graph:
            return
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if unused:  # torch's DDP would say so too, a step later, by number and with its own options
            raise ConfigError(
                f"{len(unused)} parameter(s) have no part in the loss, so several workers would wait for their gradients: "
                f"{', '.join(unused[:3])}{' ...' * (len(unused) > 3)}; freeze them with requires_grad_(False), or give "
                "Learner(strategy=DDP(find_unused_parameters=True)), which costs one small exchange a step"
            )

    def weight(self, *, num_local: int, num_global: int) -> float:
        """Returns the share's part of the batch, times the world size that DDP's averaging divides by."""
        return num_local * self.collectives.world.world_size / num_global

    def begin_total(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begins to add up over the ranks, by the group that the gradients take; see `Strategy`."""
        return total_over_ranks(tensor, self._group)

    def sync_buffers(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's buffers; see `Strategy`."""
        take_rank_0s_buffers(self.collectives, model)


def _hook(config: DDP) -> Hook | None:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    torchs = {"bf16": default_hooks.bf16_compress_hook, "fp16": default_hooks.fp16_compress_hook}
    return torchs[config.gradient_compression] if config.gradient_compression else config.communication_hook
