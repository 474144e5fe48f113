"""The device stage: a batch goes to its rank's device, and the batch transforms run there, vectorised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Pipeline, Transform
from dist_ai.data.plan import Share

__all__ = ["DeviceStage", "to_device"]


def to_device(value: Any, device: torch.device) -> Any:
    """Returns `value` with every tensor in it on `device`; containers keep their type. Copies only what is elsewhere.

    The copy to a GPU does not wait for the work that is queued there, also from memory that is not pinned.
    """
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        parts = [to_device(each, device) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


class DeviceStage:
    """Moves batches to a device and transforms them there.

    Args:
        device: where to.
        tfms: batch transforms; their draws are per sample, and in training only.
        seed: the run's seed.
        split_idx: 0 for training, 1 for validation.
    """

    def __init__(
        self,
        device: torch.device,
        tfms: Iterable[Transform | type[Transform] | Callable[[Any], Any]] = (),
        *,
        seed: int = 0,
        split_idx: int = 0,
    ) -> None:
        self.device = device
        self.pipeline = Pipeline(tfms)
        self.seed = seed
        self.split_idx = split_idx

    def __call__(self, batch: Any, share: Share) -> Any:
        """Returns the batch of `share` as the model shall see it."""
        batch = to_device(batch, self.device)
        if not len(self.pipeline):
            return batch
        draw = None
        if self.split_idx == 0:
            draw = Draw(seed=self.seed, epoch=share.epoch, samples=share.indices).at("batch_tfms")
        return self.pipeline(batch, draw, split_idx=self.split_idx)
