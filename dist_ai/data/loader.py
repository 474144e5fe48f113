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
from typing import Any, Protocol, Self

import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler, TensorDataset, default_collate

from dist_ai.core.randomness import Draw, borrowed_generators, sample_keys
from dist_ai.core.show import show_batch
from dist_ai.core.transform import Pipeline, Transform
from dist_ai.data.collate import collate as stack
from dist_ai.data.datasets import Datasets, TensorData
from dist_ai.data.device import DeviceStage
from dist_ai.data.plan import EpochPlan, Share
from dist_ai.data.recipe import SampleRecipe
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
            `torch.utils.data.TensorDataset` is fetched by whole batches too. With `item_tfms` or a `collate` of your
            own, samples are taken one by one.
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
        collate: Callable[[list[Any]], Any] = stack,
        seed: int = 0,
        split_idx: int | None = None,
        device: torch.device | str | None = None,
        world: World | None = None,
    ) -> None:
        if bs < 1:
            raise ConfigError(f"bs={bs}: a batch has at least 1 sample")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"num_workers={num_workers}: expected 0 (load in this process) or more")
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ConfigError(
                f"{type(dataset).__name__} has no length and no samples by number, so it cannot be dealt out to ranks; "
                "give a map-style data set: one with len() and [i]"
            )
        self.dataset = TensorData(*dataset.tensors) if isinstance(dataset, TensorDataset) else dataset
        self.world = current_world(world)
        self.bs, self.shuffle, self.drop_last, self.seed = bs, shuffle, drop_last, seed
        self.split_idx: int = getattr(dataset, "split_idx", 1 - shuffle) if split_idx is None else split_idx
        self.device = self.world.device if device is None else torch.device(device)
        self.stage = DeviceStage(self.device, _listed(batch_tfms), seed=seed, split_idx=self.split_idx)
        self.fetcher = _Fetcher(self.dataset, Pipeline(_listed(item_tfms)), collate, seed, self.split_idx)
        self.num_workers = self._default_workers() if num_workers is None else num_workers
        self._epoch = 0
        self._workers: _Workers | None = None
        self._check()

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
            and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
            and not getattr(sampler, "replacement", False)
        )
        if loader.batch_size is None or not every_sample_once:
            given = "an IterableDataset" if isinstance(loader.dataset, IterableDataset) else type(sampler).__name__
            raise ConfigError(
                f"a torch DataLoader with {given} and batch_size={loader.batch_size} cannot be "
                "dealt out to ranks; give one with a map-style data set, batch_size and shuffle=True or False"
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

    def _fetch_here(self, plan: EpochPlan, start: int) -> Iterator[tuple[Share, Any]]:
        load = self.fetcher.load
        for share in plan.shares(start):
            yield share, load(share)

    def _fetch_in_workers(self, plan: EpochPlan, start: int) -> Iterator[tuple[Share, Any]]:
        if self._workers is None or self._workers.ended:
            self._workers = _Workers(self.fetcher, self.num_workers, pin_memory=self.device.type == "cuda")
        return self._workers.run(plan.shares(start))

    def _default_workers(self) -> int:
        if self.fetcher.whole_batches:
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
        train, valid: the loaders; `torch.utils.data.DataLoader`s are taken over by `DataLoader.from_torch`.
        recipe: how an item becomes part of a batch; with it new items can be loaded and results shown and exported.
        n_inp: how many elements of a batch are the model's inputs; the rest are targets.
    """

    def __init__(
        self,
        train: DataLoader | TorchDataLoader[Any],
        valid: DataLoader | TorchDataLoader[Any],
        *,
        recipe: SampleRecipe | None = None,
        n_inp: int = 1,
    ) -> None:
        self.train, self.valid = (
            DataLoader.from_torch(loader) if isinstance(loader, TorchDataLoader) else loader
            for loader in (train, valid)
        )
        self._recipe = recipe
        self.n_inp = n_inp

    @classmethod
    def from_datasets(
        cls,
        datasets: Datasets,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        drop_last: bool | None = None,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        num_workers: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        n_inp: int = 1,
    ) -> Self:
        """Returns loaders of the training part (shuffled) and the validation part (in order) of `datasets`.

        Args:
            datasets: the two parts.
            bs: samples in a global batch.
            val_bs: the same for validation; by default `bs`.
            drop_last: leave out the last training batch when it is not full; by default only when it has a single
                sample, which BatchNorm cannot normalise.
            item_tfms, batch_tfms, num_workers, seed, device: see `DataLoader`.
            n_inp: how many elements of a sample are inputs.
        """
        recipe = SampleRecipe(
            inputs=datasets.pipelines[:n_inp],
            targets=datasets.pipelines[n_inp:],
            item_tfms=Pipeline(_listed(item_tfms)),
            batch_tfms=Pipeline(_listed(batch_tfms)),
        )
        if drop_last is None:
            drop_last = bs > 1 and len(datasets.train) % bs == 1 and len(datasets.train) > bs
        train, valid = (
            DataLoader(
                subset,
                size,
                shuffle=subset.split_idx == 0,
                drop_last=drop_last and subset.split_idx == 0,
                num_workers=num_workers,
                item_tfms=recipe.item_tfms.tfms,
                batch_tfms=recipe.batch_tfms.tfms,
                seed=seed,
                device=device,
            )
            for subset, size in ((datasets.train, bs), (datasets.valid, val_bs or bs))
        )
        return cls(train, valid, recipe=recipe, n_inp=n_inp)

    @classmethod
    def without_data(cls, recipe: SampleRecipe) -> DataLoaders:
        """Returns loaders that only know how to load new items: those of a learner that was loaded from an export."""
        loaders = cls.__new__(cls)
        loaders._recipe, loaders.n_inp = recipe, len(recipe.inputs)
        return loaders

    def __getattr__(self, name: str) -> Any:
        if name in ("train", "valid"):
            raise DataError(
                f"there is no {name} loader: this was loaded from an export; set learn.dls to train on data"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def has_data(self) -> bool:
        """Whether there are loaders to train with."""
        return "train" in vars(self)

    @property
    def has_recipe(self) -> bool:
        """Whether it is known how an item becomes part of a batch."""
        return self._recipe is not None

    @property
    def recipe(self) -> SampleRecipe:
        """How an item becomes part of a batch.

        Raises:
            DataError: these loaders were made from ready samples.
        """
        if self._recipe is None:
            raise DataError(
                "these loaders were made from ready samples, so it is not known how an item becomes one; "
                "give new samples a DataLoader of their own, or make the loaders with DataLoaders.from_datasets"
            )
        return self._recipe

    @property
    def vocab(self) -> list[str]:
        """The classes; see `SampleRecipe.vocab`."""
        return self.recipe.vocab

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.train.device

    @property
    def seed(self) -> int:
        """The seed of the order and the draws."""
        return self.train.seed

    def one_batch(self) -> Any:
        """Returns the first training batch."""
        return self.train.one_batch()

    def show_batch(self, max_n: int = 9) -> Any:
        """Returns a figure of the first training samples, as the model sees them but for what can be undone.

        Raises:
            DataError: there is no picture for these types.
        """
        batch = self.train.one_batch()
        inputs, targets = batch[: self.n_inp], batch[self.n_inp :]
        if len(inputs) != 1 or len(targets) != 1 or show_batch.find(type(inputs[0]), type(targets[0])) is None:
            kinds = ", ".join(type(each).__name__ for each in batch)
            raise DataError(
                f"there is no picture for samples of ({kinds}); add one with dist_ai.core.show.show_batch.register"
            )
        few = tuple(each[:max_n] for each in batch)
        shown, labels = self.recipe.decode_inputs(few[:1])[0], self.recipe.decode_targets(few[1:])[0]
        return show_batch(inputs[0], targets[0], list(zip(shown, labels, strict=True)))

    def test_dl(
        self, items: Sequence[Any], *, bs: int = 64, num_workers: int | None = None, world: World | None = None
    ) -> DataLoader:
        """Returns a loader of new items without targets, transformed as the validation samples are.

        Args:
            items: what the items of the training data were: files, rows.
            bs, num_workers, world: see `DataLoader`.
        """
        recipe = self.recipe
        return DataLoader(
            recipe.samples(items),
            bs,
            num_workers=num_workers,
            item_tfms=recipe.item_tfms.tfms,
            batch_tfms=recipe.batch_tfms.tfms,
            world=world,
        )

    def add_batch_tfms(self, tfms: Tfms) -> None:
        """Adds batch transforms to both loaders and the recipe, in their order among those there are."""
        added = Pipeline(_listed(tfms))
        for loader in (self.train, self.valid):
            loader.stage.pipeline = loader.stage.pipeline + added
        if self._recipe is not None:
            self._recipe.batch_tfms = self._recipe.batch_tfms + added

    def __iter__(self) -> Iterator[DataLoader]:
        return iter((self.train, self.valid))


@dataclass
class _Fetcher:
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


@dataclass
class _Failure:
    """An error on its way from a worker to the training process, without the worker's stack around it."""

    kind: type[DistAIError]
    message: str


class _Feed:
    """The shares that are sent to workers, and those `under_way`. Apart from `_Workers`, which a loader's going then ends."""

    def __init__(self) -> None:
        self.begin(iter(()))

    def begin(self, shares: Iterator[Share]) -> None:
        """Sends these from now on."""
        self.shares = shares
        self.under_way: deque[Share] = deque()

    def __iter__(self) -> Iterator[Share]:
        for share in self.shares:
            self.under_way.append(share)
            yield share


class _Workers:
    """Worker processes that live as long as the loader and are fed shares.

    `ended` is True when one of them was killed; new ones must be made then.

    torch's `DataLoader` runs them: its sampler yields shares, its data set makes a batch of one.
    """

    def __init__(self, fetcher: _Fetcher, num_workers: int, *, pin_memory: bool) -> None:
        self._feed = _Feed()
        self._num_runs = 0
        self.ended = False
        self._loader = TorchDataLoader(
            _ShareDataset(fetcher),
            batch_size=None,
            sampler=self._feed,  # any iterable of what the data set takes is a sampler
            num_workers=num_workers,
            collate_fn=_as_is,
            persistent_workers=True,
            pin_memory=pin_memory,
            # Each epoch draws a seed for the workers: from the global generator, it would change the model's dropout.
            generator=torch.Generator().manual_seed(fetcher.seed & 0x7FFF_FFFF_FFFF_FFFF),
        )

    def run(self, shares: Iterator[Share]) -> Iterator[tuple[Share, Any]]:
        """Yields each share with its batch, in order.

        Raises:
            ConfigError: another run was begun in the meantime; the workers serve one at a time.
            DataError: a worker was killed.
        """
        self._num_runs += 1
        number = self._num_runs
        self._feed.begin(shares)
        batches: Iterator[Any] | None = None
        while True:
            if number != self._num_runs:
                raise ConfigError(
                    "another pass over this loader began while this one was under way, and its workers serve one at a time; "
                    "make a second loader, or give num_workers=0"
                )
            try:
                batches = iter(self._loader) if batches is None else batches
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                self.ended = True
                raise DataError(
                    f"a loader process ended before its work was done: {str(error).strip()}. The system ends one when memory "
                    "runs out: use fewer num_workers or a smaller bs; num_workers=0 loads in the training process itself"
                ) from error
            if isinstance(batch, _Failure):
                raise batch.kind(batch.message)
            yield self._feed.under_way.popleft(), batch


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
