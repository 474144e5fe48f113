"""Lets convolutions run on images whose channels lie next to each other."""

from __future__ import annotations

from typing import ClassVar

import torch

from dist_ai.callbacks.callback import Callback
from dist_ai.core.nested import map_tensors

__all__ = ["ChannelsLast"]


class ChannelsLast(Callback):
    """Lays images out as (batch, height, width, channels) in memory; their shapes stay as they are.

    On GPUs with tensor cores convolutions in half precision are faster so. They take after their input and lay their weights
    out for themselves, at the cost of a copy of the weights a step; so parameters, and what is saved, stay as they are.
    """

    may_cancel: ClassVar[bool] = False

    def before_batch(self) -> None:
        """Lays the images out."""
        self.state.xb = map_tensors(_channels_last, self.state.xb)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
