"""The strategy of a world of one: the model as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.strategies.blocks import Blocks, recompute_in_backward

__all__ = ["Single"]


class Single:
    """Trains the model as it is, in one process.

    Args:
        collectives: this process alone.
        recompute: compute the activations of these blocks again in backward; none by default.
    """

    forward_is_collective = forward_waits = False
    why = "one process holds the whole model"

    def __init__(self, collectives: Collectives, *, recompute: Blocks | None = None) -> None:
        self.collectives = self.data_collectives = collectives
        self.recompute = recompute

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Moves the model to the device."""
        model.to(device)
        if self.recompute is not None:
            recompute_in_backward(model, self.recompute)

    def wrap(self, model: nn.Module, *, can_fail: bool = False) -> nn.Module:
        """Returns `model`."""
        return model

    def unwrap(self) -> None:
        """Does nothing."""

    def begin_batch(self, *, num_local: int, exchange: bool = True) -> None:
        """Does nothing."""

    def begin_over(self) -> bool:
        """Returns False: nobody waits."""
        return False

    def exchange_gradients(self, model: nn.Module) -> None:
        """Does nothing."""

    def drop_gradients(self) -> None:
        """Does nothing."""

    def check_gradients(self, model: nn.Module) -> None:
        """Does nothing: alone, parameters without a gradient are simply not updated."""

    def weight(self, *, num_local: int, num_global: int) -> float:
        """Returns the batch's part of the step: 1 for a whole one."""
        return num_local / num_global

    def begin_total(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Returns what returns `tensor`."""
        return lambda: tensor

    def sync_buffers(self, model: nn.Module) -> None:
        """Does nothing."""
