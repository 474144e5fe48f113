"""Lets a rank that failed in the middle of a forward or backward join in again where the others wait for it.

Some layers exchange with the other ranks while they compute: a sharded model gathers its parameters, BatchNorm adds up its
statistics. A rank that runs out of memory has made some of these exchanges and not the others. It does the batch over with
one sample, leaves out as many exchanges as it had made, and makes the rest. What it computes then is of no use to anybody,
and all ranks drop it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from dist_ai.distributed.sharded import sharded_modules

__all__ = ["Tape", "count_exchanges", "forget_unsharded_gradients"]


class Tape:
    """Counts the exchanges of a batch.

    >>> tape = Tape()
    >>> [tape.is_due(), tape.is_due()]
    [True, True]
    >>> tape.rewind()
    >>> [tape.is_due(), tape.is_due(), tape.is_due()]
    [False, False, True]
    """

    def __init__(self) -> None:
        self._done = self._skip = 0

    def begin(self) -> None:
        """Begins a batch."""
        self._done = self._skip = 0

    def rewind(self) -> None:
        """Begins the batch over."""
        self._skip, self._done = self._done, 0

    def is_due(self) -> bool:
        """Returns whether the next exchange is to be made: not if it was before the batch was begun over."""
        if self._skip:
            self._skip -= 1
            return False
        self._done += 1
        return True


def count_exchanges(modules: Iterable[Any], tape: Tape) -> None:
    """Lets modules that are sharded by torch's `fully_shard` note on `tape` what they exchange."""
    # Where torch has what a custom exchange is built of; its public interface takes one, and has no default to extend.
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

    class Gathers(DefaultAllGather):
        def __call__(
            self,
            output_tensor: torch.Tensor,
            input_tensor: torch.Tensor,
            group: dist.ProcessGroup,
            async_op: bool = False,
        ) -> dist.Work | None:
            return super().__call__(output_tensor, input_tensor, group, async_op) if tape.is_due() else None

    class Scatters(DefaultReduceScatter):
        def __call__(
            self,
            output_tensor: torch.Tensor,
            input_tensor: torch.Tensor,
            group: dist.ProcessGroup,
            op: Any,
            async_op: bool = False,
        ) -> dist.Work | None:
            return super().__call__(output_tensor, input_tensor, group, op, async_op) if tape.is_due() else None

    gathers, scatters = Gathers(), Scatters()
    for module in modules:
        module.set_custom_all_gather(gathers)
        module.set_custom_reduce_scatter(scatters)


def forget_unsharded_gradients(model: nn.Module) -> None:
    """Drops what a model that is sharded by `fully_shard` has accumulated without exchanging it.

    The optimizer's parameters do not hold it: they are the shards, which get gradients in the exchange.
    """
    for module in sharded_modules(model):
        # torch has no public way but to gather all parameters, which all ranks must do together.
        for group in module._get_fsdp_state()._fsdp_param_groups:
            for param in group.fsdp_params:
                param.unsharded_accumulated_grad = None
                if hasattr(param, "_unsharded_param"):
                    param._unsharded_param.grad = None
