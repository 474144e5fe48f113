"""How a share becomes a batch: its samples are read, transformed one by one and put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate

from dist_ai.core.randomness import Draw, borrowed_generators, sample_keys
from dist_ai.core.transform import Pipeline
from dist_ai.data.collate import collate as stack
from dist_ai.data.plan import Share
from dist_ai.errors import BadSampleError, ConfigError, DataError

__all__ = ["Fetcher"]


@dataclass
class Fetcher:
    """Makes the batch of a share, in this process or a worker: all that must be sent to a worker, and no device."""

    dataset: Any
    item_tfms: Pipeline
    collate: Callable[[list[Any]], Any]
    seed: int
    split_idx: int

    def __post_init__(self) -> None:
        by_sample = len(self.item_tfms) > 0 or self.collate not in (stack, default_collate)
        self.whole_batches = hasattr(self.dataset, "fetch") and not by_sample
        if by_sample and not hasattr(self.dataset, "__getitem__"):
            raise ConfigError(
                f"{type(self.dataset).__name__} gives whole batches only, so neither item_tfms nor collate can work on its "
                "samples; use batch_tfms, or give it [i]"
            )

    def load(self, share: Share) -> Any:
        """Returns the batch.

        Raises:
            BadSampleError: a sample could not be made; names its item.
            DataError: the samples did not make a batch; names some of them.
        """
        if self.whole_batches:
            return self.dataset.fetch(torch.from_numpy(share.indices))
        indices = share.indices.tolist()
        # Data sets and transforms that draw from the global generators (torchvision's v2) draw by sample too.
        keys = sample_keys(seed=self.seed, epoch=share.epoch, samples=share.indices)
        samples = []
        with borrowed_generators() as seed:
            for index, key in zip(indices, keys.tolist(), strict=True):
                seed(key)
                samples.append(self._sample(index, share.epoch))
        try:
            return self.collate(samples)
        except Exception as error:
            what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            raise DataError(f"{what}. The samples are {', '.join(map(self._name, indices[:4]))}") from error

    def _sample(self, index: int, epoch: int) -> Any:
        try:
            sample = self.dataset[index]
            if len(self.item_tfms):
                # Outside training nothing is random: a prediction depends on its sample alone.
                draw = Draw(seed=self.seed, epoch=epoch, samples=index) if self.split_idx == 0 else None
                sample = self.item_tfms(sample, draw and draw.at("item_tfms"), split_idx=self.split_idx)
        except BadSampleError as error:  # it names the file itself
            raise BadSampleError(f"sample {index}: {error}") from error
        except Exception as error:
            raise BadSampleError(f"{self._name(index)}: {type(error).__name__}: {error}") from error
        return sample

    def _name(self, index: int) -> str:
        item = getattr(self.dataset, "item", None)
        return f"sample {index}" if item is None else f"sample {index} ({item(index)})"
