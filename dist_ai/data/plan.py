"""The epoch plan: which rank sees which sample in which batch.

One pure function of (number of samples, seed, epoch, global batch size, world size, rank). Loaders, progress bars,
schedules, resume and metrics all ask it, so they cannot disagree; and because the order of the samples does not depend
on the number of ranks, neither do the numbers of a training run.

The shuffle is a keyed permutation evaluated where it is needed: no rank ever holds the whole order, so ten billion
samples cost as much memory as ten. Other orders (weighted, by length, by row group) are in `dist_ai.data.orders`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dist_ai.core.randomness import mix64_int
from dist_ai.errors import ConfigError

__all__ = ["Dealt", "EpochPlan", "Indices", "Order", "Permutation", "Share", "epoch_key"]

Indices: TypeAlias = npt.NDArray[np.int64]
Dealt: TypeAlias = Literal["cards", "blocks"]


def epoch_key(seed: int, epoch: int) -> int:
    """Returns the 64-bit key of an epoch's order."""
    return mix64_int(mix64_int(seed + 1) + epoch)


@dataclass(frozen=True)
class Permutation:
    """A keyed random bijection of 0..n-1 (n below 2**62), evaluated at any positions without building the rest.

    A Feistel network on a grid of `rows` x `columns` cells, just large enough for n: each round turns one coordinate by
    a hash of the other (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Fewer than `rows` cells are
    too many; who lands on one walks on.

    >>> sorted(Permutation(10, key=1)(np.arange(10)).tolist()) == list(range(10))
    True
    """

    n: int
    key: int

    _ROUNDS = 12  # for n = 4, 5 and 6 all orders come equally often (chi-square) from 12 on; with 8 they visibly do not

    def __call__(self, positions: Indices) -> Indices:
        """Returns the element at each position; int64 in, int64 out, any shape."""
        result = np.atleast_1d(positions).astype(np.uint64)
        if self.n > 1:
            shape, result = result.shape, self._network(result.ravel())
            outside = np.flatnonzero(result >= self.n)
            while len(outside):
                result[outside] = self._network(result[outside])
                outside = outside[result[outside] >= self.n]
            result = result.reshape(shape)
        return result.view(np.int64)

    def _network(self, cells: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        columns, rounds = self._rounds
        one = cells // columns  # the row
        other = cells - one * columns  # the column
        # In place: a batch is small enough for the cost to lie in the calls and their memory, not in the arithmetic.
        turn, high = np.empty_like(cells), np.empty_like(cells)
        for size, factor, summand in rounds:
            np.multiply(other, factor, out=turn)
            np.add(turn, summand, out=turn)
            np.right_shift(turn, _HALF, out=high)
            np.bitwise_xor(turn, high, out=turn)
            np.multiply(turn, _MIX, out=turn)
            np.right_shift(turn, _HALF, out=turn)
            np.multiply(turn, size, out=turn)
            np.right_shift(turn, _HALF, out=turn)  # 32 random bits times size, over 2**32: 0..size-1
            np.add(one, turn, out=one)
            np.subtract(one, size, out=turn)
            np.minimum(one, turn, out=one)  # the remainder: what was below size has become huge by wrapping around
            one, other = other, one
        return one * columns + other

    @cached_property
    def _rounds(self) -> tuple[np.uint64, list[tuple[np.uint64, np.uint64, np.uint64]]]:
        """The grid's columns, and for each round the size of the coordinate that is turned, a factor and a summand."""
        rows = math.isqrt(self.n - 1) + 1
        rows += rows % 2  # turning an odd circle is an even permutation: with two of them half the orders never come
        columns = -(-self.n // rows)
        start = mix64_int(self.key)
        return np.uint64(columns), [
            (
                np.uint64(columns if number % 2 else rows),
                np.uint64(mix64_int(start + 2 * number) | 1),
                np.uint64(mix64_int(start + 2 * number + 1)),
            )
            for number in range(self._ROUNDS)
        ]


_HALF = np.uint64(32)
_MIX = np.uint64(0x94D0_49BB_1331_11EB)  # SplitMix64's


class Share(NamedTuple):
    """One rank's part of one global batch.

    Attributes:
        epoch, step: the batch's coordinates; steps count from 0 within the epoch.
        indices: which samples, as indices in the data set. Never empty: a rank that has none in this batch gets the
            batch's first sample, to run along with weight zero, so that every rank takes part in every exchange.
        positions: where those samples stand in the epoch's order.
        keys: what random draws for those samples are keyed with: their indices, or their positions in an order in which a
            sample may come twice, so that it is not augmented twice alike.
        num_local: how many samples of this share count: len(indices), or 0 for a rank that only runs along.
        num_global: how many samples the batch has over all ranks.
    """

    # A named tuple because one is made for each step: a frozen dataclass takes four times as long.
    epoch: int
    step: int
    indices: Indices
    positions: Indices
    keys: Indices
    num_local: int
    num_global: int

    @property
    def weight(self) -> float:
        """What the mean loss of this share counts in the mean loss of the global batch."""
        return self.num_local / self.num_global


class Order(Protocol):
    """Which sample stands where in an epoch; a plan deals it out. See `dist_ai.data.orders` for those there are.

    Attributes:
        shuffle: whether it is random, as the order of training samples is.
        repeats: whether a sample may come more than once in an epoch.
        dealt: how a batch is dealt to the ranks: like cards, where neighbours go to different ranks, or in blocks, where
            they go to the same one.
    """

    @property
    def shuffle(self) -> bool: ...  # noqa: D102

    @property
    def repeats(self) -> bool: ...  # noqa: D102

    @property
    def dealt(self) -> Dealt: ...  # noqa: D102

    def __len__(self) -> int:
        """Number of positions in an epoch."""
        ...

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of one epoch: a function from positions (int64, any shape) to samples; it alone decides."""
        ...


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The batches of one epoch for one rank.

    Args:
        num_samples: samples in the epoch; those of the data set, unless `order` says otherwise.
        batch_size: samples in a global batch, over all ranks.
        epoch: the epoch, from 0; with the seed it decides the order.
        seed: the run's seed.
        shuffle: whether the order is random; otherwise it is the data set's.
        order: another order than these two.
        drop_last: leave out the last batch when it is not full.
        world_size, rank: among how many ranks the batches are dealt out, and which one this is.
        in_pairs: neighbours in a batch (its first and second sample, third and fourth, ...) go to the same rank, in this
            order, for what combines samples (`dist_ai.callbacks.MixUp`).

    Global batch k holds positions k*batch_size and on of the order, dealt to the ranks like cards: rank r gets every
    world_size-th from the r-th on. An order may ask for blocks instead: rank r gets the r-th of world_size equal parts.

    >>> plan = EpochPlan(num_samples=5, batch_size=2, epoch=0, seed=0, shuffle=False, world_size=2, rank=1)
    >>> len(plan), [share.indices.tolist() for share in plan], plan.share(2).num_local
    (3, [[1], [3], [4]], 0)
    """

    num_samples: int
    batch_size: int
    epoch: int = 0
    seed: int = 0
    shuffle: bool = False
    order: Order | None = None
    drop_last: bool = False
    world_size: int = 1
    rank: int = 0
    in_pairs: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"bs={self.batch_size}: a batch has at least 1 sample")
        if self.num_samples < 0:
            raise ConfigError(f"num_samples={self.num_samples} is negative")
        if self.order is not None and len(self.order) != self.num_samples:
            raise ConfigError(f"num_samples={self.num_samples}, and the order has {len(self.order)}; give it that many")
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank={self.rank} is outside 0..{self.world_size - 1}")

    def __len__(self) -> int:
        """Number of global batches, the same on every rank."""
        if self.drop_last:
            return self.num_samples // self.batch_size
        return -(-self.num_samples // self.batch_size)

    def share(self, step: int) -> Share:
        """Returns this rank's part of batch `step`."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is outside 0..{len(self) - 1}")
        return next(self._evaluate(range(step, step + 1)))

    def __iter__(self) -> Iterator[Share]:
        return self.shares()

    def shares(self, start: int = 0) -> Iterator[Share]:
        """Yields this rank's part of every batch from `start` on. Beginning in the middle costs nothing."""
        if start < 0:
            raise IndexError(f"start={start}: steps count from 0")
        per_batch = max(1, -(-self.batch_size // self.world_size))
        batches_at_once = max(1, _EVALUATED_AT_ONCE // per_batch)
        for first in range(start, len(self), batches_at_once):
            yield from self._evaluate(range(first, min(first + batches_at_once, len(self))))

    def _evaluate(self, steps: range) -> Iterator[Share]:
        # The order is evaluated for many batches in one call: a few us a batch instead of 200.
        num_full = self.num_samples // self.batch_size
        full, rest = steps[: max(0, num_full - steps.start)], steps[max(0, num_full - steps.start) :]
        for steps_of_one_size, size in ((full, self.batch_size), (rest, self.num_samples % self.batch_size)):
            if not steps_of_one_size:
                continue
            places, num_local = self._places(size)
            begins = np.arange(steps_of_one_size.start, steps_of_one_size.stop, dtype=np.int64) * self.batch_size
            positions = begins[:, None] + places
            indices = self._ordered(positions)
            keys = positions if self.order is not None and self.order.repeats else indices
            for step, row, at, key in zip(steps_of_one_size, indices, positions, keys, strict=True):
                yield Share(self.epoch, step, row, at, key, num_local, size)

    def _places(self, size: int) -> tuple[Indices, int]:
        """Returns this rank's places in a batch of `size` samples, and how many of them count."""
        unit = 2 if self.in_pairs else 1  # samples that stay together
        if self.order is not None and self.order.dealt == "blocks":
            begin, end = (-(-size // unit) * rank // self.world_size * unit for rank in (self.rank, self.rank + 1))
            places = np.arange(begin, min(end, size), dtype=np.int64)
        else:
            places = np.arange(self.rank * unit, size, self.world_size * unit, dtype=np.int64)
            if self.in_pairs:
                places = np.stack([places, places + 1], axis=1).ravel()
                places = places[places < size]
        return (places, len(places)) if len(places) else (np.zeros(1, dtype=np.int64), 0)

    @cached_property
    def _ordered(self) -> Callable[[Indices], Indices]:
        if self.order is not None:
            return self.order.of_epoch(self.epoch, seed=self.seed, batch_size=self.batch_size)
        if self.shuffle:
            return Permutation(self.num_samples, key=epoch_key(self.seed, self.epoch))
        return np.asarray


_EVALUATED_AT_ONCE = 8192  # samples; 64 KiB of indices
