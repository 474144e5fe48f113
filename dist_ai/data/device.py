"""The device stage: a batch goes to its rank's device, and the batch transforms run there, vectorised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch

from dist_ai.core.nested import map_tensors
from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Pipeline, Transform
from dist_ai.data.plan import Share
from dist_ai.errors import ConfigError

__all__ = ["DeviceStage", "to_device", "usable"]


def usable(device: torch.device | str) -> torch.device:
    """Returns the device, with its number if it is one of several of its kind.

    Raises:
        ConfigError: it is not here, or torch knows no such device.

    >>> usable("cpu")
    device(type='cpu')
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        raise ConfigError(
            f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}; use 'cpu', or leave it out"
        ) from error


def to_device(value: Any, device: torch.device) -> Any:
    """Returns `value` with every tensor in it on `device`; see `map_tensors`. Copies only what is elsewhere.

    The copy to a GPU does not wait for the work that is queued there, also from memory that is not pinned. That to the CPU waits:
    what comes from a GPU is read next.
    """
    non_blocking = device.type != "cpu"
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), value)


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
            draw = Draw(seed=self.seed, epoch=share.epoch, samples=share.keys).at("batch_tfms")
        return self.pipeline(batch, draw, split_idx=self.split_idx)

    def run(self, batches: Iterator[tuple[Share, Any]]) -> Iterator[tuple[Share, Any]]:
        """Yields each share with its batch as the model shall see it.

        On a GPU one batch ahead, on a stream of its own: copies and transforms overlap with the training step.
        """
        return self.ahead(batches) if self.device.type == "cuda" else ((s, self(batch, s)) for s, batch in batches)

    def ahead(self, batches: Iterator[tuple[Share, Any]]) -> Iterator[tuple[Share, Any]]:
        """Yields as `run` does on a GPU; on the CPU, where streams do nothing, it only reads one batch ahead."""
        device = torch.get_device_module(self.device)
        side = device.Stream() if self.device.type == "cpu" else device.Stream(self.device)
        main = device.current_stream(self.device)
        waiting = None
        for share, batch in chain(batches, [(None, None)]):
            if (ready := waiting) is not None:  # it was queued while the step before it ran
                main.wait_stream(side)
                _keep_until_used(ready[1], main)
            if share is not None:
                with device.stream(side):  # from memory that is not pinned the host waits for what the stream has to do
                    batch = to_device(batch, self.device)
                side.wait_stream(main)  # for data sets that live on the GPU
                _keep_until_used(batch, side)
                with device.stream(side):
                    waiting = share, self(batch, share)
            if ready is not None:
                yield ready


def _keep_until_used(value: Any, stream: Any) -> None:
    """Tells the allocator that `stream` uses the tensors in `value`, so that their memory is not given away too early."""
    map_tensors(lambda tensor: tensor.record_stream(stream) if tensor.is_cuda else None, value)
