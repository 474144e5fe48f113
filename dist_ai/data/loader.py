"""Loaders: each rank's part of every global batch, made by worker processes, finished on the rank's device.

A `DataLoader` works in a hand-written loop:

```python
for xb, yb in DataLoader(dataset, bs=64, shuffle=True):  # bs counts over all ranks
    ...
```

and gives each of W ranks its W-th of the same 64 samples. Who gets what is the epoch plan's business
(`dist_ai.data.plan`); the work is done by `torch.utils.data.DataLoader`, whose "index" is here a whole `Share`, so
that a worker makes a complete batch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Pipeline, Transform
from dist_ai.data.collate import collate as default_collate
from dist_ai.data.datasets import Datasets, Subset, TensorData
from dist_ai.data.device import DeviceStage
from dist_ai.data.plan import EpochPlan, Share
from dist_ai.distributed.environment import World, current_world
from dist_ai.errors import BadSampleError, ConfigError, DataError, DistAIError

__all__ = ["DataLoader", "DataLoaders", "Loader"]

Tfms = Iterable[Transform | type[Transform] | Callable[[Any], Any]] | Transform


class Loader(Protocol):
    """What a Learner needs of a loader."""

    def __len__(self) -> int:
        """Number of global batches in an epoch."""
        ...

    @property
    def num_samples(self) -> int:
        """Number of samples in an epoch, over all ranks."""
        ...

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Share, Any]]:
        """Yields (share, batch) for this rank, from global batch `start` of the epoch on."""
        ...


class DataLoader:
    """Loads a map-style data set in global batches dealt out to the ranks.

    Args:
        dataset: has `len()` and either `[i]` (a sample) or `fetch(indices)` (a batch; int64 indices). A
            `torch.utils.data.TensorDataset` is fetched by whole batches too.
        bs: samples in a global batch, over all ranks.
        shuffle: a new random order each epoch; otherwise the data set's order.
        drop_last: leave out the last batch when it is not full.
        num_workers: processes that make batches; by default the machine's cores dealt to its ranks, less one for the
            training itself, and none for a data set that is fetched by whole batches.
        item_tfms: transforms of one sample, run in the workers.
        batch_tfms: transforms of a batch, run on the device.
        collate: makes a batch of a list of samples.
        seed: decides the order and all random draws.
        split_idx: 0 if training transforms run, 1 if validation ones; by default the data set's own, else by `shuffle`.
        device: where batches go; by default this rank's device.
        world: who this process is; by default `current_world()`.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: no samples, or fewer training samples than ranks.
    """

    def __init__(
        self,
        dataset: Any,
        bs: int = 64,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        num_workers: int | None = None,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        collate: Callable[[Sequence[Any]], Any] = default_collate,
        seed: int = 0,
        split_idx: int | None = None,
        device: torch.device | str | None = None,
        world: World | None = None,
    ) -> None:
        if bs < 1:
            raise ConfigError(f"bs={bs}: a batch has at least 1 sample")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"num_workers={num_workers}: expected 0 (load in this process) or more")
        self.dataset = TensorData(*dataset.tensors) if isinstance(dataset, TensorDataset) else dataset
        self.world = current_world(world)
        self.bs, self.shuffle, self.drop_last, self.seed = bs, shuffle, drop_last, seed
        self.split_idx: int = getattr(dataset, "split_idx", 1 - shuffle) if split_idx is None else split_idx
        self.num_workers = self._default_workers() if num_workers is None else num_workers
        self.device = self.world.device if device is None else torch.device(device)
        self.stage = DeviceStage(self.device, _listed(batch_tfms), seed=seed, split_idx=self.split_idx)
        self.fetcher = _Fetcher(self.dataset, Pipeline(_listed(item_tfms)), collate, seed, self.split_idx)
        self._epoch = 0
        self._workers: _Workers | None = None
        self._check()

    @property
    def num_samples(self) -> int:
        """Number of samples in an epoch, over all ranks."""
        return len(self) * self.bs if self.drop_last else len(self.dataset)

    def plan(self, epoch: int) -> EpochPlan:
        """Returns who gets what in an epoch."""
        return EpochPlan(
            num_samples=len(self.dataset),
            batch_size=self.bs,
            epoch=epoch,
            seed=self.seed,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            world_size=self.world.world_size,
            rank=self.world.rank,
        )

    def __len__(self) -> int:
        """Number of global batches in an epoch, the same on every rank."""
        return len(self.plan(0))

    def __iter__(self) -> Iterator[Any]:
        """Yields this rank's batches of the next epoch, on the device."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        return (batch for _, batch in self.batches(epoch))

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Share, Any]]:
        """Yields (share, batch) for this rank, from global batch `start` of the epoch on; beginning there costs nothing.

        Raises:
            BadSampleError: a sample could not be read; names it.
        """
        plan = self.plan(epoch)
        fetched = self._fetch_here(plan, start) if self.num_workers == 0 else self._fetch_in_workers(plan, start)
        for share, batch in fetched:
            yield share, self.stage(batch, share)

    def one_batch(self) -> Any:
        """Returns the first batch of epoch 0, made in this process."""
        share = self.plan(0).share(0)
        return self.stage(self.fetcher.load(share), share)

    def decode(self, batch: Any) -> Any:
        """Returns `batch` with the batch transforms undone, then the item transforms."""
        return self.fetcher.item_tfms.decode(self.stage.pipeline.decode(batch))

    def _fetch_here(self, plan: EpochPlan, start: int) -> Iterator[tuple[Share, Any]]:
        load = self.fetcher.load
        for share in plan.shares(start):
            yield share, load(share)

    def _fetch_in_workers(self, plan: EpochPlan, start: int) -> Iterator[tuple[Share, Any]]:
        if self._workers is None:
            self._workers = _Workers(self.fetcher, self.num_workers, pin_memory=self.device.type == "cuda")
        return self._workers.run(plan.shares(start))

    def _default_workers(self) -> int:
        if hasattr(self.dataset, "fetch"):
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return max(0, min(16, cores // self.world.local_world_size - 1))

    def _check(self) -> None:
        if len(self.dataset) == 0:
            raise DataError("the data set has no samples; a loader needs at least 1")
        if self.split_idx == 0 and len(self.dataset) < self.world.world_size:
            raise DataError(
                f"{len(self.dataset)} training sample(s) for {self.world.world_size} workers: a worker without a sample "
                f"only waits for the others; start at most {len(self.dataset)}"
            )
        if len(self) == 0:
            raise DataError(
                f"drop_last=True leaves no batch: {len(self.dataset)} samples are fewer than bs={self.bs}; "
                "use a smaller bs or drop_last=False"
            )


class DataLoaders:
    """The loaders of a training run.

    Args:
        train, valid: the loaders; any `Loader`, such as `DataLoader`.
        datasets: what the loaders read, if it is a `Datasets`: then `test_dl` can load new items the same way.
        n_inp: how many elements of a sample are the model's inputs; the rest are targets.
    """

    def __init__(self, train: DataLoader, valid: DataLoader, *, datasets: Datasets | None = None, n_inp: int = 1) -> None:
        self.train = train
        self.valid = valid
        self.datasets = datasets
        self.n_inp = n_inp

    @classmethod
    def from_datasets(
        cls,
        datasets: Datasets,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        num_workers: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        n_inp: int = 1,
    ) -> DataLoaders:
        """Returns loaders of the training part (shuffled) and the validation part (in order) of `datasets`.

        Args:
            datasets: the two parts.
            bs: samples in a global batch; all samples are used, an uneven last batch included.
            val_bs: the same for validation; by default `bs`.
            item_tfms, batch_tfms, num_workers, seed, device: see `DataLoader`.
            n_inp: how many elements of a sample are inputs.
        """
        item_tfms, batch_tfms = _listed(item_tfms), _listed(batch_tfms)
        train, valid = (
            DataLoader(
                subset,
                size,
                shuffle=subset.split_idx == 0,
                num_workers=num_workers,
                item_tfms=item_tfms,
                batch_tfms=batch_tfms,
                seed=seed,
                device=device,
            )
            for subset, size in ((datasets.train, bs), (datasets.valid, val_bs or bs))
        )
        return cls(train, valid, datasets=datasets, n_inp=n_inp)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.train.device

    @property
    def seed(self) -> int:
        """The seed of the order and the draws."""
        return self.train.seed

    @property
    def world(self) -> World:
        """Who this process is."""
        return self.train.world

    @property
    def vocab(self) -> list[str]:
        """The classes, from the target's transforms.

        Raises:
            DataError: no transform of the target has a vocabulary.
        """
        for pipeline in self.datasets.pipelines[self.n_inp :] if self.datasets else ():
            for tfm in pipeline.tfms:
                if hasattr(tfm, "vocab"):
                    return tfm.vocab
        raise DataError("these loaders have no classes: no transform of the target has a vocabulary; say how many (n_out)")

    def one_batch(self) -> Any:
        """Returns the first training batch."""
        return self.train.one_batch()

    def test_dl(self, items: Sequence[Any], *, bs: int | None = None, num_workers: int | None = None) -> DataLoader:
        """Returns a loader of new items without targets, transformed as the validation samples are.

        Raises:
            DataError: these loaders were not made from items (`datasets` is None).
        """
        if self.datasets is None:
            raise DataError("these loaders were made from ready samples; give the new samples a DataLoader of their own")
        inputs = Subset(items, range(len(items)), self.datasets.pipelines[: self.n_inp], split_idx=1)
        return DataLoader(
            inputs,
            bs or self.valid.bs,
            num_workers=num_workers,
            item_tfms=self.valid.fetcher.item_tfms.tfms,
            batch_tfms=self.valid.stage.pipeline.tfms,
            seed=self.seed,
            device=self.device,
            world=self.world,
        )

    def add_batch_tfms(self, tfms: Tfms) -> None:
        """Adds batch transforms to both loaders, in their order among those there are."""
        added = Pipeline(_listed(tfms))
        for loader in (self.train, self.valid):
            loader.stage.pipeline = loader.stage.pipeline + added

    def __iter__(self) -> Iterator[DataLoader]:
        return iter((self.train, self.valid))


@dataclass
class _Fetcher:
    """Makes the batch of a share, in this process or a worker: all that must be sent to a worker, and no device."""

    dataset: Any
    item_tfms: Pipeline
    collate: Callable[[Sequence[Any]], Any]
    seed: int
    split_idx: int

    def __post_init__(self) -> None:
        self._fetch = getattr(self.dataset, "fetch", None)

    def load(self, share: Share) -> Any:
        """Returns the batch.

        Raises:
            BadSampleError: a sample could not be made; names its item.
        """
        if self._fetch is not None:
            return self._fetch(torch.from_numpy(share.indices))
        samples = [self._sample(index, share.epoch) for index in share.indices.tolist()]
        try:
            return self.collate(samples)
        except DataError as error:
            raise DataError(f"{error}. The samples are {', '.join(map(self._name, share.indices.tolist()[:4]))}") from error

    def _sample(self, index: int, epoch: int) -> Any:
        try:
            sample = self.dataset[index]
            if len(self.item_tfms):
                draw = Draw(seed=self.seed, epoch=epoch, samples=index).at("item_tfms")
                sample = self.item_tfms(sample, draw, split_idx=self.split_idx)
        except Exception as error:
            raise BadSampleError(f"{self._name(index)}: {type(error).__name__}: {error}") from error
        return sample

    def _name(self, index: int) -> str:
        item = getattr(self.dataset, "item", None)
        return f"sample {index}" if item is None else f"sample {index} ({item(index)})"


@dataclass
class _Failure:
    """An error on its way from a worker to the training process, without the worker's stack around it."""

    kind: type[DistAIError]
    message: str


class _Workers:
    """Worker processes that live as long as the loader and are fed shares.

    torch's `DataLoader` runs them: its sampler yields shares, its data set makes a batch of one.
    """

    def __init__(self, fetcher: _Fetcher, num_workers: int, *, pin_memory: bool) -> None:
        self._shares: Iterator[Share] = iter(())
        self._under_way: deque[Share] = deque()
        self._loader = TorchDataLoader(
            _ShareDataset(fetcher),
            batch_size=None,
            sampler=self,  # type: ignore[arg-type]  # any iterable of what the data set takes is a sampler
            num_workers=num_workers,
            collate_fn=_as_is,
            persistent_workers=True,
            pin_memory=pin_memory,
        )

    def __iter__(self) -> Iterator[Share]:
        for share in self._shares:
            self._under_way.append(share)
            yield share

    def run(self, shares: Iterator[Share]) -> Iterator[tuple[Share, Any]]:
        """Yields each share with its batch, in order."""
        self._shares = shares
        self._under_way.clear()
        for batch in self._loader:
            if isinstance(batch, _Failure):
                raise batch.kind(batch.message)
            yield self._under_way.popleft(), batch


@dataclass
class _ShareDataset(torch.utils.data.Dataset[Any]):
    fetcher: _Fetcher

    def __getitem__(self, share: Share) -> Any:
        try:
            return self.fetcher.load(share)
        except DistAIError as error:
            return _Failure(type(error), str(error))


def _as_is(batch: Any) -> Any:
    return batch


def _listed(tfms: Tfms) -> list[Any]:
    return [tfms] if isinstance(tfms, Transform) or callable(tfms) else list(tfms)
