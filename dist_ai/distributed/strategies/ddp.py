"""Data parallel: every rank holds the whole model, and gradients are averaged during backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.strategies.accelerate import prepare_data_parallel
from dist_ai.distributed.strategies.sync_batch_norm import ShareSize, SyncBatchNorm
from dist_ai.errors import ConfigError

__all__ = ["DDP"]


class DDP:
    """torch's `DistributedDataParallel`, with gradients exact for uneven shares.

    Args:
        collectives: the ranks.
        sync_bn: BatchNorm layers normalise over the global batch, so that the numbers do not depend on the number of
            ranks. Costs one small exchange per layer in forward and one in backward.
        find_unused_parameters: look in every step for parameters that have no part in the loss; without it, there may
            be none. Costs a walk over the graph and one small exchange a step.
    """

    def __init__(self, collectives: Collectives, *, sync_bn: bool = True, find_unused_parameters: bool = False) -> None:
        self.collectives = collectives
        self.sync_bn = sync_bn
        self.find_unused_parameters = find_unused_parameters
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []
        self._share_size = ShareSize()
        self._wrapped: Any = None

    def wrap(self, model: nn.Module) -> nn.Module:
        """Returns `model` in a `DistributedDataParallel`; see `Strategy`."""
        if self.sync_bn:
            self._replace_batch_norms(model)
        self.sync(model)  # torch's DDP would leave out the buffers, and all of a model without gradients
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        self._wrapped = prepare_data_parallel(
            model, self.collectives.world, find_unused_parameters=self.find_unused_parameters
        )
        return self._wrapped

    def unwrap(self) -> None:
        """Puts the BatchNorm layers back; see `Strategy`."""
        self._wrapped = None
        for parent, name, norm in reversed(self._replaced):
            norm.train(getattr(parent, name).training)
            setattr(parent, name, norm)
        self._replaced.clear()

    def begin_batch(self, *, num_local: int, exchange: bool = True) -> None:
        """Tells the BatchNorm layers how many samples count, and DDP whether to exchange; see `Strategy`."""
        self._share_size.num_local = num_local
        if self._wrapped is not None:
            # What DDP's own `no_sync` sets around its block; a loop that is not a block needs the switch itself.
            self._wrapped.require_backward_grad_sync = exchange

    def check_gradients(self, model: nn.Module) -> None:
        """Checks that every parameter took part in the loss; see `Strategy`."""
        if self.find_unused_parameters:
            return
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if unused:  # torch's DDP would say so too, a step later, by number and with its own options
            raise ConfigError(
                f"{len(unused)} parameter(s) have no part in the loss, so several workers would wait for their gradients: "
                f"{', '.join(unused[:3])}{' ...' * (len(unused) > 3)}; freeze them with requires_grad_(False), or give "
                "Learner(find_unused_parameters=True), which costs one small exchange a step"
            )

    def weight(self, *, num_local: int, num_global: int) -> float:
        """Returns the share's part of the step, times the world size that DDP's averaging divides by."""
        return num_local * self.collectives.world.world_size / num_global

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the sum over the ranks, by the group that the gradients take; see `Strategy`."""
        result = tensor.detach().clone()
        dist.all_reduce(result)
        return result

    def sync(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's parameters and buffers; see `Strategy`."""
        self._take_rank_0s(model.named_parameters(), "parameter")
        self.sync_buffers(model)

    def sync_buffers(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's buffers; see `Strategy`."""
        self._take_rank_0s(model.named_buffers(), "buffer")

    @torch.no_grad()
    def _take_rank_0s(self, tensors: Iterable[tuple[str, torch.Tensor]], kind: str) -> None:
        for name, tensor in tensors:
            tensor.copy_(self.collectives.broadcast(tensor, what=f"{kind} {name}"))

    def _replace_batch_norms(self, model: nn.Module) -> None:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                # One with a forward of its own (timm's have an activation in it) does more than normalise.
                if isinstance(child, _BatchNorm) and type(child).forward is _BatchNorm.forward:
                    self._replaced.append((parent, name, child))
                    setattr(parent, name, SyncBatchNorm(child, self._share_size))
