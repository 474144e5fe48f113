"""A loader of what can only be iterated over: its end tells how many samples there are.

```python
train = IterableLoader(stream, bs=64, shuffle_buffer=10_000, num_samples=100_000, item_tfms=tfms)
learn = Learner(DataLoaders(train, valid), model)
```

Each rank goes through the same stream, reads whole global batches and keeps its part of each; only that part goes through
the transforms. So what holds for other loaders holds here, without a word between the ranks: the same batches on any
number of ranks and loader workers, an exact last batch, an end that all find at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.core.names import known_arguments
from dist_ai.core.randomness import OwnGenerators, borrowed_generators, mix64_int, name_key, seed_generators
from dist_ai.core.transform import VALID, Pipeline
from dist_ai.data.base_loader import BaseLoader, Tfms
from dist_ai.data.collate import collate as stack
from dist_ai.data.fetcher import Excerpt, Fetched, Fetcher, received
from dist_ai.data.own_workers import OwnWorkers
from dist_ai.data.plan import EpochPlan, Indices, Permutation, Share, epoch_key
from dist_ai.data.workers import Workers, default_num_workers
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError, UnknownLengthError

__all__ = ["IterableLoader", "first_of"]

_Task = tuple[Share, dict[int, Any], tuple[int, ...]]  # a rank's part of a batch, its samples by number, and spare ones


class IterableLoader(BaseLoader):
    """Loads what can only be iterated over in global batches dealt out to the ranks.

    Args:
        source: gives the same samples on every rank each time it is iterated over: a `torch.utils.data.IterableDataset`, a
            streamed Hugging Face data set, a generator function. Its `set_epoch(epoch)` is called if it has one, and
            its `skip(n)`, which returns the stream without its first n samples, makes it cheap to begin in the middle.
            What it draws from Python's, NumPy's and torch's generators is decided by `seed` and the epoch.
        bs: samples in a global batch, over all ranks.
        shuffle_buffer: how many samples are read and mixed at a time; 0 keeps their order.
        num_samples: samples in an epoch. The stream goes on from one epoch to the next, and begins again at its end. By
            default an epoch is the whole stream, and its length is not known unless the source has one.
        drop_last: leave out the last batch when it is not full.
        num_workers: processes that run `item_tfms` and `collate`; see `DataLoader`. The stream itself is gone through in this
            process, so what takes long belongs into transforms.
        pipelines: from what the source gives to each element of a sample, as a `Datasets` has them; by default it gives samples.
        item_tfms, batch_tfms, collate, bad_samples, seed, device, world: see `DataLoader`. In training another sample of the
            same global batch takes the place of a bad one.
        split_idx: 0 if training transforms run, 1 if validation ones; by default 0 with `shuffle_buffer` or `num_samples`.

    Attributes:
        recipe, n_inp: of the `DataLoaders` that it is one of, for `show_batch`.
        skipped: how often each bad sample was skipped on this rank, by its message.

    Raises:
        ConfigError: an argument that cannot work, such as an iterator, which can be gone through only once.

    >>> loader = IterableLoader(lambda: (n * n for n in range(5)), bs=2, num_workers=0)
    >>> [batch.tolist() for batch in loader]
    [[0, 1], [4, 9], [16]]
    """

    @known_arguments()
    def __init__(
        self,
        source: Any,
        bs: int = 64,
        *,
        shuffle_buffer: int = 0,
        num_samples: int | None = None,
        drop_last: bool = False,
        num_workers: int | None = None,
        pipelines: Sequence[Pipeline] = (),
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        collate: Callable[[list[Any]], Any] = stack,
        bad_samples: Literal["raise", "skip"] = "raise",
        seed: int | None = 0,
        split_idx: int | None = None,
        device: torch.device | str | None = None,
        world: World | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        _check(source, shuffle_buffer, num_samples)
        super().__init__(given, split_idx=int(not (shuffle_buffer or num_samples)) if split_idx is None else split_idx)
        self.source, self.shuffle_buffer = source, shuffle_buffer
        nothing = Excerpt({}, pipelines=tuple(pipelines), split_idx=self.split_idx)
        self.fetcher = Fetcher(
            nothing, self.item_tfms, collate, self.seed, self.split_idx, skip_bad=bad_samples == "skip", alike=True
        )
        self.num_workers = default_num_workers(self.world) if num_workers is None else num_workers
        self._per_epoch = num_samples
        self._workers: OwnWorkers[_Task] = OwnWorkers()
        self._places: dict[int, Share] = {}  # by the size of a batch: how it is dealt out
        self._lengths: dict[int, int] = {}  # of the rounds through the stream that were gone through to the end
        self._going: _Samples | None = None  # where the last epoch ended, for the next one to go on

    def in_order(self) -> IterableLoader:
        """Returns a loader of the whole stream as validation sees it: in its order and not augmented."""
        return self.new(shuffle_buffer=0, num_samples=None, drop_last=False, split_idx=VALID)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_going": None}  # an iterator cannot be copied; a copy goes through the source anew

    @classmethod
    def from_torch(cls, loader: TorchDataLoader[Any], *, seed: int = 0) -> IterableLoader:
        """Returns a loader with the iterable data set, batch size, workers and collation of a torch `DataLoader`.

        Its batch size becomes the global one. Each worker of a torch loader goes through a copy of the data set, which must
        give each its own part by `get_worker_info()`; here it is gone through once, and need not.

        Raises:
            ConfigError: its data set makes the batches itself.
        """
        if loader.batch_size is None:
            raise ConfigError(
                "a torch DataLoader with batch_size=None, whose data set makes the batches itself, cannot be dealt out to "
                "ranks; give one of single samples, with a batch_size"
            )
        return cls(
            loader.dataset,
            loader.batch_size,
            drop_last=loader.drop_last,
            num_workers=loader.num_workers,
            collate=loader.collate_fn,
            seed=seed,
        )

    @property
    def shuffle(self) -> bool:
        """Whether samples come in another order than the stream's."""
        return self.shuffle_buffer > 1

    @property
    def num_samples(self) -> int | None:
        """Number of samples in an epoch, over all ranks; None if only the end tells."""
        given = _length_of(self.source) if self._per_epoch is None else self._per_epoch
        return given if given is None or not self.drop_last else given // self.bs * self.bs

    def __len__(self) -> int:
        """Number of global batches in an epoch.

        Raises:
            UnknownLengthError: only the end tells.
        """
        if (num_samples := self.num_samples) is None:
            raise UnknownLengthError(
                f"how many batches there are is not known: {_name(self.source)} is only iterated over, and has no len(). "
                "IterableLoader(num_samples=...) makes epochs of so many samples"
            )
        return -(-num_samples // self.bs)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Share, Any]]:
        """Yields (share, batch) for this rank, from global batch `start` of the epoch on.

        The samples before it are iterated over but not transformed; at no cost if the source can `skip`.

        Raises:
            BadSampleError: a sample could not be transformed; names it.
            DataError: the source failed, gave nothing, or not as many samples as its len() says.
        """
        tasks = self._tasks(epoch, start)
        fetched = self._fetch_here(tasks) if self.num_workers == 0 else self._fetch_in_workers(tasks)
        return self.stage.run(received((share, batch), self.skipped) for (share, *_), batch in fetched)

    def one_batch(self) -> Any:
        """Returns the first batch of epoch 0, made in this process."""
        (share, *_), fetched = next(self._fetch_here(self._tasks(0, 0)))
        share, batch = received((share, fetched), self.skipped)
        return self.stage(batch, share)

    def _fetch_here(self, tasks: Iterator[_Task]) -> Iterator[tuple[_Task, Fetched]]:
        return ((task, _load(self.fetcher, task)) for task in tasks)

    def _fetch_in_workers(self, tasks: Iterator[_Task]) -> Iterator[tuple[_Task, Fetched]]:
        workers = self._workers.get(
            lambda: Workers(
                partial(_load, self.fetcher), self.num_workers, seed=self.seed, pin_memory=self.device.type == "cuda"
            )
        )
        return workers.run(tasks)

    def _tasks(self, epoch: int, start: int) -> Iterator[_Task]:
        """Yields this rank's part of every batch from `start` on, with the samples that it needs."""
        samples = self._of_epoch(epoch, start * self.bs)
        left = None if self._per_epoch is None else self._per_epoch - start * self.bs
        for step in count(start):
            batch = samples.take(self.bs if left is None else max(0, min(self.bs, left)))
            if self.drop_last and len(batch) < self.bs:
                batch = []
            if not batch:
                if step == 0:
                    raise DataError(
                        f"{_name(self.source)} gave no batch of bs={self.bs} in epoch {epoch}; check what it reads"
                    )
                break
            left = None if left is None else left - len(batch)
            yield self._dealt(epoch, step, batch)
        if left is not None:
            self._going = samples

    def _of_epoch(self, epoch: int, position: int) -> _Samples:
        """Returns the samples of an epoch from a position on."""
        if self._per_epoch is None:
            return _Samples(self._round(epoch, position))
        position += epoch * self._per_epoch
        if self._going is not None and self._going.position == position:
            going, self._going = self._going, None
            return going
        return _Samples(self._rounds(position), position)

    def _rounds(self, position: int) -> Iterator[tuple[int, Any]]:
        """Yields the samples of all rounds through the stream, one after the other, with numbers that count on."""
        before = 0  # samples of earlier rounds
        for number in count():
            length = self._lengths.get(number)
            if length is None or before + length > position:
                for index, sample in self._round(number, max(0, position - before)):
                    yield before + index, sample
                length = self._lengths[number]
            if length == 0:
                raise DataError(f"{_name(self.source)} has no samples; check what it reads")
            before += length

    def _round(self, number: int, position: int) -> Iterator[tuple[int, Any]]:
        """Yields (number in the stream, sample) of one round through the stream, in its order, from a position on.

        Shuffled, the stream is cut into windows and each window is permuted: unlike in a buffer that is refilled one by one,
        where a sample stands is a function of its window alone, so the middle is found without the samples before it.
        """
        if not self.shuffle:
            yield from enumerate(self._raw(number, position), position)
            return
        key = mix64_int(epoch_key(self.seed, number) + _WINDOWS)
        # The first window is of any size: the next epoch's windows end elsewhere, and mix what these keep apart.
        begin, size = 0, mix64_int(key) % self.shuffle_buffer + 1
        if position >= size:
            begin = size + (position - size) // self.shuffle_buffer * self.shuffle_buffer
            size = self.shuffle_buffer
        raw = self._raw(number, begin)
        while window := list(islice(raw, size)):
            order = Permutation(len(window), key=mix64_int(key + begin))(np.arange(len(window)))
            for place in order[max(0, position - begin) :].tolist():
                yield begin + place, window[place]
            begin, size = begin + len(window), self.shuffle_buffer

    def _raw(self, number: int, position: int) -> Iterator[Any]:
        """Yields the samples of one round as the source gives them, from a position on."""
        seed_generators(mix64_int(epoch_key(self.seed, number) + _DRAWS))
        source: Any = self.source
        if hasattr(source, "set_epoch"):
            source.set_epoch(number)
        skipped = position if hasattr(source, "skip") else 0
        index = skipped
        try:
            for sample in _iterable(source.skip(skipped) if skipped else source):
                if index >= position:
                    yield sample
                index += 1
        except Exception as error:
            raise DataError(
                f"{_name(source)} failed after {index} samples: {type(error).__name__}: {error}. A stream cannot go on "
                "behind an error: let it give what cannot be read too, and read it in item_tfms, where bad_samples='skip' works"
            ) from error
        if index == skipped > 0:  # skipped to the end or behind it
            index = sum(1 for _ in source)
        claimed = _length_of(source)
        if claimed not in (None, index):
            raise DataError(
                f"{_name(source)} gave {index} samples, and its len() is {claimed}; progress and schedules count on "
                "len(): make it right, or take it away"
            )
        self._lengths[number] = index

    def _dealt(self, epoch: int, step: int, batch: list[tuple[int, Any]]) -> _Task:
        """Returns this rank's part of a global batch."""
        size, world = len(batch), self.world
        if size not in self._places:
            plan = EpochPlan(num_samples=size, batch_size=size, world_size=world.world_size, rank=world.rank)
            self._places[size] = plan.share(0)
        places = self._places[size]
        numbers: Indices = np.fromiter((batch[i][0] for i in places.indices.tolist()), dtype=np.int64)
        needed = {number: batch[i][1] for i, number in zip(places.indices.tolist(), numbers.tolist(), strict=True)}
        num_spares = min(size, _NUM_SPARES) if self.fetcher.skip_bad else 0
        spares = [batch[i * size // num_spares] for i in range(num_spares)]  # the same ones on every rank
        needed.update(spares)
        share = Share(
            epoch, step, numbers, step * self.bs + places.positions, numbers, places.num_local, places.num_global
        )
        return share, needed, tuple(number for number, _ in spares)


class _Samples:
    """The rest of a stream, at a `position`; what it draws is its own, whatever is drawn elsewhere between two batches."""

    def __init__(self, samples: Iterator[tuple[int, Any]], position: int = 0) -> None:
        self._samples = samples
        self._generators = OwnGenerators()
        self.position = position

    def take(self, num: int) -> list[tuple[int, Any]]:
        """Returns the next samples, fewer at the end."""
        with self._generators.lent():
            taken = list(islice(self._samples, num))
        self.position += len(taken)
        return taken


def _load(fetcher: Fetcher, task: _Task) -> Fetched:
    share, samples, spares = task
    return replace(fetcher, dataset=replace(fetcher.dataset, samples=samples, spares=spares)).load(share)


def _check(source: Any, shuffle_buffer: int, num_samples: int | None) -> None:
    if shuffle_buffer < 0:
        raise ConfigError(f"shuffle_buffer={shuffle_buffer}: expected 0 (keep the order) or more")
    if num_samples is not None and num_samples < 1:
        raise ConfigError(f"num_samples={num_samples}: an epoch has at least 1 sample")
    if isinstance(source, Iterator):
        raise ConfigError(
            f"{_name(source)} can be gone through only once, and each epoch does so again; give the function that makes it, "
            "or an object whose __iter__ does"
        )
    if not isinstance(source, Iterable) and not callable(source):
        raise ConfigError(
            f"{_name(source)} cannot be iterated over; expected an iterable, or a function that returns one"
        )


def _iterable(source: Any) -> Iterable[Any]:
    return source if isinstance(source, Iterable) else source()


def _length_of(source: Any) -> int | None:
    try:
        return len(source)
    except (TypeError, NotImplementedError):  # of those that have a __len__ and no length
        return None


def first_of(source: Any, num: int) -> list[Any]:
    """Returns the first items of what an `IterableLoader` takes; what it draws leaves no trace.

    Raises:
        DataError: there are none.
    """
    with borrowed_generators():
        first = list(islice(_iterable(source), num))
    if not first:
        raise DataError(f"{_name(source)} has no samples; check what it reads")
    return first


def _name(source: Any) -> str:
    return getattr(source, "__name__", type(source).__name__)


_NUM_SPARES = 8
_WINDOWS = name_key("windows of a stream")
_DRAWS = name_key("draws of a stream")
