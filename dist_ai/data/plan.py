"""The epoch plan: which rank sees which sample in which batch.

One pure function of (number of samples, seed, epoch, global batch size, world size, rank). Loaders, progress bars,
schedules, resume and metrics all ask it, so they cannot disagree; and because the order of the samples does not depend
on the number of ranks, neither do the numbers of a training run.

The shuffle is a keyed permutation evaluated where it is needed: no rank ever holds the whole order, so ten billion
samples cost as much memory as ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dist_ai.core.randomness import mix64, mix64_int
from dist_ai.errors import ConfigError

__all__ = ["EpochPlan", "Permutation", "Share"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Permutation:
    """A keyed random bijection of 0..n-1, evaluated at any positions without building the rest.

    A Feistel network on the smallest power of two that holds n, walked until it lands below n (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002): at most two tries on average, as the power is below 2n.

    >>> sorted(Permutation(10, key=1)(np.arange(10)).tolist()) == list(range(10))
    True
    """

    n: int
    key: int

    _ROUNDS = 16  # for n = 5 and 6 all orders come equally often (chi-square) from 16 on; with 8 they visibly do not

    def __call__(self, positions: Indices) -> Indices:
        """Returns the element at each position; int64 in, int64 out, any shape."""
        result = np.atleast_1d(positions).astype(np.uint64)
        shape, result = result.shape, result.ravel()
        if self.n > 1:
            result = self._network(result)
            outside = np.flatnonzero(result >= self.n)
            while len(outside):
                result[outside] = self._network(result[outside])
                outside = outside[result[outside] >= self.n]
        return result.astype(np.int64).reshape(shape)

    def _network(self, x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        bits = (self.n - 1).bit_length()
        low_bits = bits // 2
        high_bits = bits - low_bits
        high, low = x >> np.uint64(low_bits), x & np.uint64((1 << low_bits) - 1)
        # Halves of unequal width alternate: each round hashes one half onto the other, which keeps it a bijection.
        for round_key in self._round_keys:
            high = (high ^ mix64(low ^ np.uint64(round_key))) & np.uint64((1 << high_bits) - 1)
            low = (low ^ mix64(high ^ np.uint64(mix64_int(round_key)))) & np.uint64((1 << low_bits) - 1)
        return (high << np.uint64(low_bits)) | low

    @cached_property
    def _round_keys(self) -> list[int]:
        return [mix64_int(self.key + i) for i in range(self._ROUNDS // 2)]


@dataclass(frozen=True)
class Share:
    """One rank's part of one global batch.

    Attributes:
        epoch, step: the batch's coordinates; steps count from 0 within the epoch.
        indices: which samples, as indices in the data set. Never empty: a rank that has none in this batch gets the
            batch's first sample, to run along with weight zero, so that every rank takes part in every exchange.
        positions: where those samples stand in the epoch's order.
        num_local: how many samples of this share count: len(indices), or 0 for a rank that only runs along.
        num_global: how many samples the batch has over all ranks.
    """

    epoch: int
    step: int
    indices: Indices
    positions: Indices
    num_local: int
    num_global: int

    @property
    def weight(self) -> float:
        """What the mean loss of this share counts in the mean loss of the global batch."""
        return self.num_local / self.num_global


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The batches of one epoch for one rank.

    Args:
        num_samples: samples in the data set.
        batch_size: samples in a global batch, over all ranks.
        epoch: the epoch, from 0; with the seed it decides the order.
        seed: the run's seed.
        shuffle: whether the order is random; otherwise it is the data set's.
        drop_last: leave out the last batch when it is not full.
        world_size, rank: among how many ranks the batches are dealt out, and which one this is.

    Global batch k holds positions k*batch_size and on of the order, dealt to the ranks like cards: rank r gets every
    world_size-th from the r-th on.

    >>> plan = EpochPlan(num_samples=5, batch_size=2, epoch=0, seed=0, shuffle=False, world_size=2, rank=1)
    >>> len(plan), [share.indices.tolist() for share in plan], plan.share(2).num_local
    (3, [[1], [3], [4]], 0)
    """

    num_samples: int
    batch_size: int
    epoch: int = 0
    seed: int = 0
    shuffle: bool = False
    drop_last: bool = False
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"bs={self.batch_size}: a batch has at least 1 sample")
        if self.num_samples < 0:
            raise ConfigError(f"num_samples={self.num_samples} is negative")
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
        # The permutation is evaluated for many batches in one call: about 1 us a batch instead of 100.
        begins = [step * self.batch_size for step in steps]
        ends = [min(begin + self.batch_size, self.num_samples) for begin in begins]
        positions = [
            np.arange(begin + self.rank, end, self.world_size, dtype=np.int64)
            if begin + self.rank < end
            else np.array([begin], dtype=np.int64)
            for begin, end in zip(begins, ends, strict=True)
        ]
        indices = self._order(np.concatenate(positions))
        offset = 0
        for step, begin, end, at in zip(steps, begins, ends, positions, strict=True):
            yield Share(
                epoch=self.epoch,
                step=step,
                indices=indices[offset : offset + len(at)],
                positions=at,
                num_local=len(at) if begin + self.rank < end else 0,
                num_global=end - begin,
            )
            offset += len(at)

    def _order(self, positions: Indices) -> Indices:
        return self._permutation(positions) if self.shuffle else positions

    @cached_property
    def _permutation(self) -> Permutation:
        return Permutation(self.num_samples, key=mix64_int(mix64_int(self.seed + 1) + self.epoch))


_EVALUATED_AT_ONCE = 8192  # samples; 64 KiB of indices
