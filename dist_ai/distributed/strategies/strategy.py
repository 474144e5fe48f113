"""What a strategy does: spread a model over the ranks of a world for training, and put it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from dist_ai.distributed.collectives import Collectives

__all__ = ["Strategy"]


class Strategy(Protocol):
    """Spreads a model over the ranks; its parameters keep their names throughout.

    The order of things: `prepare` the model, build the optimizer, and for each fit `wrap`, train, `unwrap`. A training
    step is, for each of its batches: `begin_batch`, forward through what `wrap` returned, `loss * weight(...)`, backward.
    After the last of them every rank holds the gradients of the mean loss of the step's samples: all of them, or those
    of the part of the model that it holds. Before it, each rank holds its own.

    Attributes:
        collectives: the ranks.
        data_collectives: the ranks that batches are dealt out to: all, but where some compute a batch together, one of each such
            group: those at this rank's place in theirs. What is summed over samples is summed over these.
        why: why this strategy was chosen, in a sentence.
        forward_is_collective: all ranks must call the model together, in evaluation too.
        forward_waits: ranks may wait for each other in a training batch's forward pass.
    """

    collectives: Collectives
    data_collectives: Collectives
    why: str
    forward_is_collective: bool

    @property
    def forward_waits(self) -> bool: ...  # noqa: D102  # told above

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Puts the model on this rank's device, with rank 0's parameters and buffers. Collective.

        Parameters may become other objects, that hold this rank's part (torch's `DTensor`): the optimizer is built
        afterwards. A model that is prepared already is left alone.

        Raises:
            ConfigError: the ranks built different models; names the first difference.
        """
        ...

    def wrap(self, model: nn.Module, *, can_fail: bool = False) -> nn.Module:
        """Returns the module to call in training. Collective.

        Args:
            model: the model, prepared.
            can_fail: a rank may fail in the middle of a forward or backward and go on: then gradients are exchanged where the
                exchange can be left out, in `exchange_gradients`, or `begin_over` lets the rank join in again.

        Raises:
            ConfigError: `can_fail`, and an option of the strategy does not allow for it.
        """
        ...

    def unwrap(self) -> None:
        """Undoes what `wrap` changed in the model. Collective, if all is well; does nothing without a `wrap`."""
        ...

    def begin_batch(self, *, num_local: int, exchange: bool = True) -> None:
        """Announces how many samples of a batch count on this rank (0: it only runs along).

        Args:
            num_local: how many.
            exchange: whether its backward pass exchanges the gradients; once a step is enough.
        """
        ...

    def begin_over(self) -> bool:
        """Prepares to do a batch over that failed on this rank; returns whether the others wait for it to do so."""
        ...

    def exchange_gradients(self, model: nn.Module) -> None:
        """Averages the step's gradients over the ranks, if the backward did not. Collective."""
        ...

    def drop_gradients(self) -> None:
        """Forgets the gradients of a step that is left out, where parameters do not hold them yet."""
        ...

    def check_gradients(self, model: nn.Module) -> None:
        """Checks, after the first backward of a fit, that every rank's gradients came together.

        Raises:
            ConfigError: a parameter did not take part in the loss, and the strategy was not told to expect it.
        """
        ...

    def weight(self, *, num_local: int, num_global: int) -> float:
        """Returns what to multiply this rank's mean loss by.

        Args:
            num_local: samples of this rank's share that count.
            num_global: samples in the step, over all ranks and all its batches.
        """
        ...

    def begin_total(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begins to add up the ranks' tensors, and returns what waits for the sum. Collective, between backwards.

        What is computed in between costs no time beside it. On a GPU the device waits, and not the host.
        """
        ...

    def sync_buffers(self, model: nn.Module) -> None:
        """Gives all ranks rank 0's buffers (BatchNorm's running statistics), before they are used or saved. Collective."""
        ...
