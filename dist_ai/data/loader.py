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

import copy
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from dist_ai.core.names import known_arguments
from dist_ai.core.transform import VALID
from dist_ai.data.base_loader import BaseLoader, Tfms
from dist_ai.data.collate import collate as stack
from dist_ai.data.datasets import TensorData
from dist_ai.data.fetcher import BadSamples, Fetched, Fetcher, received
from dist_ai.data.own_workers import OwnWorkers
from dist_ai.data.plan import EpochPlan, Order, Share
from dist_ai.data.workers import Workers, default_num_workers
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError, UnknownLengthError

__all__ = ["DataLoader", "Loader", "known_length"]


class Loader(Protocol):
    """What the loop needs of a loader: `Learner.validate` and `get_preds` take one of your own that has this."""

    def __len__(self) -> int:
        """Number of global batches in an epoch; raises `UnknownLengthError` where only the end tells."""
        ...

    @property
    def num_samples(self) -> int | None:
        """Number of samples in an epoch, over all ranks; None where only the end tells."""
        ...

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Share, Any]]:
        """Yields (share, batch) for this rank, from global batch `start` of the epoch on."""
        ...


def known_length(loader: Loader) -> int | None:
    """Returns the number of global batches in an epoch, or None where only the end tells."""
    try:
        return len(loader)
    except UnknownLengthError:
        return None


class DataLoader(BaseLoader):
    """Loads a map-style data set in global batches dealt out to the ranks.

    Args:
        dataset: has `len()` and either `[i]` (a sample) or `fetch(indices)` (a batch; int64 indices). A
            `torch.utils.data.TensorDataset` is fetched by whole batches too. With `item_tfms` or a `collate` of your
            own, samples are taken one by one. It may have a `loading_order(shuffle)`: the order it is read best in; and an
            `expect(indices)`, which tells it in time what is fetched next in this process.
        bs: samples in a global batch, over all ranks.
        shuffle: a new random order each epoch; otherwise the data set's order.
        order: another order than these two; see `dist_ai.data.orders`.
        drop_last: leave out the last batch when it is not full.
        num_workers: processes that make batches; by default the machine's cores dealt to its ranks, less one for the
            training itself, and none for a data set that is fetched by whole batches.
        item_tfms: transforms of one sample, run in the workers.
        batch_tfms: transforms of a batch, run on the device.
        collate: makes a batch of a list of samples.
        bad_samples: what a sample that cannot be read does: ``"raise"`` an error that names it, or ``"skip"``: it is warned of
            and counted in `skipped`. In training another sample takes its place, in validation it is left out, the same
            on any number of ranks. Where samples are stacked into batches, one of another shape than most is bad too. What
            is found out when loaders are made (a label that is missing, a class that training does not have) is an error
            under both.
        seed: decides the order and all random draws; None is 0, as in `RandomSplitter`.
        split_idx: 0 if training transforms run, 1 if validation ones; by default the data set's own, else by `shuffle`.
        device: where batches go; by default this rank's device.
        world: who this process is; by default `current_world()`.

    Attributes:
        recipe, n_inp: of the `DataLoaders` that it is one of, for `show_batch`.
        skipped: how often each bad sample was skipped on this rank, by its message.
        in_pairs: whether neighbours in a batch go to the same rank; see `EpochPlan`. A callback that combines samples sets it.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: no samples, or fewer training samples than ranks.
    """

    @known_arguments()
    def __init__(
        self,
        dataset: Any,
        bs: int = 64,
        *,
        shuffle: bool = False,
        order: Order | None = None,
        drop_last: bool = False,
        num_workers: int | None = None,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        collate: Callable[[list[Any]], Any] = stack,
        bad_samples: BadSamples = "raise",
        seed: int | None = 0,
        split_idx: int | None = None,
        device: torch.device | str | None = None,
        world: World | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ConfigError(
                f"{type(dataset).__name__} has no length and no samples by number; give what is iterated over to an "
                "IterableLoader, or a map-style data set (with len() and [i]) here"
            )
        if order is not None and shuffle:
            raise ConfigError(
                f"shuffle=True beside order={type(order).__name__}: the order decides alone; leave shuffle away"
            )
        if order is None and hasattr(dataset, "loading_order"):
            order = dataset.loading_order(shuffle)
        self.order, self.shuffle = order, shuffle if order is None else order.shuffle
        if split_idx is None:
            split_idx = getattr(dataset, "split_idx", 1 - self.shuffle)
        super().__init__(given, split_idx=split_idx)
        self.dataset = TensorData(*dataset.tensors) if isinstance(dataset, TensorDataset) else dataset
        self.fetcher = Fetcher(
            self.dataset,
            self.item_tfms,
            collate,
            self.seed,
            self.split_idx,
            skip_bad=bad_samples == "skip",
            alike=order is None,
        )
        if num_workers is None:
            num_workers = 0 if self.fetcher.whole_batches else default_num_workers(self.world)
        self.num_workers = num_workers
        self.in_pairs = False
        self._workers: OwnWorkers[Share] = OwnWorkers()
        self._check()

    def in_order(self) -> DataLoader:
        """Returns a loader of the same samples as validation sees them: in order, all of them and not augmented."""
        dataset: Any = self.dataset
        if getattr(dataset, "split_idx", VALID) != VALID:
            dataset = copy.copy(dataset)
            dataset.split_idx = VALID
        return self.new(dataset=dataset, shuffle=False, order=None, drop_last=False, split_idx=VALID)

    @classmethod
    def from_torch(cls, loader: TorchDataLoader[Any], *, seed: int = 0) -> DataLoader:
        """Returns a loader with the data set, batch size, order, workers and collation of a torch `DataLoader`.

        Its batch size becomes the global one, so the program gives the same numbers on any number of ranks. The random
        order is ours, decided by `seed`; its generator and worker_init_fn are not used.

        Raises:
            ConfigError: it reads an iterable data set or has a sampler of its own, whose order we cannot deal out.
        """
        sampler = loader.sampler
        # Exactly what shuffle=True and False make: others choose samples of their own.
        every_sample_once = (
            type(sampler) in (RandomSampler, SequentialSampler)
            and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]  # a Sized
            and not getattr(sampler, "replacement", False)
        )
        if loader.batch_size is None or not every_sample_once:
            given = "an IterableDataset" if isinstance(loader.dataset, IterableDataset) else type(sampler).__name__
            raise ConfigError(
                f"a torch DataLoader with {given} and batch_size={loader.batch_size} cannot be "
                "dealt out to ranks; give one with a map-style data set, batch_size and shuffle=True or False"
                f"{_INSTEAD.get(type(sampler).__name__, '')}"
            )
        return cls(
            loader.dataset,
            loader.batch_size,
            shuffle=type(sampler) is RandomSampler,
            drop_last=loader.drop_last,
            num_workers=loader.num_workers,
            collate=loader.collate_fn,
            seed=seed,
        )

    def in_words(self) -> str:
        """Returns what an epoch gives, in words: ``32 samples in 4 batches of 8, shuffled``."""
        return super().in_words() + (", shuffled" if self.shuffle else "")

    @property
    def num_samples(self) -> int:
        """Number of samples in an epoch, over all ranks."""
        return len(self) * self.bs if self.drop_last else self._num_ordered

    @property
    def _num_ordered(self) -> int:
        return len(self.dataset if self.order is None else self.order)

    def plan(self, epoch: int) -> EpochPlan:
        """Returns who gets what in an epoch."""
        return EpochPlan(
            num_samples=self._num_ordered,
            batch_size=self.bs,
            epoch=epoch,
            seed=self.seed,
            shuffle=self.shuffle,
            order=self.order,
            drop_last=self.drop_last,
            world_size=self.world.world_size,
            rank=self.world.rank,
            in_pairs=self.in_pairs,
        )

    def __len__(self) -> int:
        """Number of global batches in an epoch, the same on every rank."""
        return len(self.plan(0))

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Share, Any]]:
        """Yields (share, batch) for this rank, from global batch `start` of the epoch on; beginning there costs nothing.

        Raises:
            BadSampleError: a sample could not be read; names it.
        """
        plan = self.plan(epoch)
        fetched = self._fetch_here(plan, start) if self.num_workers == 0 else self._fetch_in_workers(plan, start)
        return self.stage.run(received(came, self.skipped) for came in fetched)

    def one_batch(self) -> Any:
        """Returns the first batch of epoch 0, made in this process."""
        return self.load(self.plan(0).share(0))[1]

    def load(self, share: Share) -> tuple[Share, Any]:
        """Returns any share with its batch, made in this process; bad samples may leave less of it, and are not counted."""
        share, batch = received((share, self.fetcher.load(share)), Counter())
        return share, self.stage(batch, share)

    def _fetch_here(self, plan: EpochPlan, start: int) -> Iterator[tuple[Share, Fetched]]:
        load, expect = self.fetcher.load, self.fetcher.expect
        coming: deque[Share] = deque()
        for share in chain(plan.shares(start), [None] * _AHEAD):
            if share is not None:
                expect(share)
                coming.append(share)
            if coming and (share is None or len(coming) > _AHEAD):
                yield coming[0], load(coming.popleft())

    def _fetch_in_workers(self, plan: EpochPlan, start: int) -> Iterator[tuple[Share, Fetched]]:
        workers = self._workers.get(
            lambda: Workers(self.fetcher.load, self.num_workers, seed=self.seed, pin_memory=self.device.type == "cuda")
        )
        return workers.run(plan.shares(start))

    def _check(self) -> None:
        num_samples = self._num_ordered
        if num_samples == 0:
            raise DataError("the data set has no samples; a loader needs at least 1")
        if self.split_idx == 0 and num_samples < self.world.world_size:
            raise DataError(
                f"{num_samples} training sample(s) for {self.world.world_size} workers: a worker without a sample "
                f"only waits for the others; start at most {num_samples}"
            )
        if len(self) == 0:
            raise DataError(
                f"drop_last=True leaves no batch: {num_samples} samples are fewer than bs={self.bs}; "
                "use a smaller bs or drop_last=False"
            )


_AHEAD = 8  # batches


_INSTEAD = {  # of samplers of torch's
    "DistributedSampler": ": batches are dealt out to the ranks by themselves",
    "WeightedRandomSampler": ", or DataLoader(dataset, bs, order=WeightedOrder(weights)) of dist_ai.data",
}
