"""Orders: which sample stands where in an epoch, where shuffling alone is not enough.

Each is a pure function of (seed, epoch, batch size, position) that knows nothing of ranks; an `EpochPlan` deals it out.
So what holds for plain shuffling holds here: the same batches on any number of ranks, exact last batches, and an epoch
that begins at any step at no cost.

```python
DataLoader(dataset, bs=64, order=WeightedOrder(balanced_weights(labels)))
```
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from dist_ai.core.randomness import Draw, mix64_int, name_key
from dist_ai.data.plan import Dealt, Indices, Order, Permutation, epoch_key
from dist_ai.errors import ConfigError

__all__ = [
    "GroupOrder",
    "LengthOrder",
    "PartialEpochs",
    "RearrangedOrder",
    "ShuffledOrder",
    "WeightedOrder",
    "balanced_weights",
]


class ShuffledOrder:
    """A new random order each epoch: what `shuffle=True` gives, for orders that build on another.

    Args:
        num_samples: samples in the data set.
    """

    shuffle = True
    repeats = False
    dealt: Dealt = "cards"

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of an epoch; see `Order`."""
        return Permutation(self.num_samples, key=epoch_key(seed, epoch))


class PartialEpochs:
    """Epochs of `num_samples` samples that go through another order bit by bit, each beginning where the last one ended.

    No sample comes again before all have come. An epoch may also be longer than the data set.

    Args:
        order: the order of all samples.
        num_samples: samples in an epoch.

    Raises:
        ConfigError: `num_samples` or the order is empty.

    >>> from dist_ai.data.plan import EpochPlan
    >>> thirds = PartialEpochs(ShuffledOrder(6), num_samples=2)
    >>> epochs = [EpochPlan(num_samples=2, batch_size=2, epoch=epoch, order=thirds).share(0).indices for epoch in range(3)]
    >>> sorted(np.concatenate(epochs).tolist())
    [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, order: Order, num_samples: int) -> None:
        if num_samples < 1 or len(order) < 1:
            raise ConfigError(
                f"epochs of {num_samples} of {len(order)} samples: expected at least 1 of at least 1; "
                "leave the order away for whole epochs"
            )
        self.order = order
        self.num_samples = num_samples
        self.shuffle = order.shuffle
        self.dealt: Dealt = order.dealt
        self.repeats = (
            order.repeats or len(order) % num_samples > 0
        )  # an epoch may hold the end of one round and the next

    def __len__(self) -> int:
        return self.num_samples

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of an epoch; see `Order`."""
        rounds: dict[int, Callable[[Indices], Indices]] = {}

        def samples(positions: Indices) -> Indices:
            round_of, position = np.divmod(positions + epoch * self.num_samples, len(self.order))
            result = np.empty_like(position)
            for number in np.unique(round_of).tolist():
                if number not in rounds:
                    rounds[number] = self.order.of_epoch(number, seed=seed, batch_size=batch_size)
                here = round_of == number
                result[here] = rounds[number](position[here])
            return result

        return samples


class RearrangedOrder:
    """Another order, of samples that are numbered otherwise: number i of `order` is sample `samples[i]`. Holds 8 bytes a sample.

    Args:
        order: the order.
        samples: each sample once, int64.

    Raises:
        ConfigError: they are not as many.
    """

    def __init__(self, order: Order, samples: npt.ArrayLike) -> None:
        self.order = order
        self.samples = np.asarray(samples, dtype=np.int64)
        if len(self.samples) != len(order):
            raise ConfigError(f"{len(self.samples)} samples for an order of {len(order)}: expected as many")
        self.shuffle, self.repeats = order.shuffle, order.repeats
        self.dealt: Dealt = order.dealt

    def __len__(self) -> int:
        return len(self.order)

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of an epoch; see `Order`."""
        numbers = self.order.of_epoch(epoch, seed=seed, batch_size=batch_size)
        return lambda positions: self.samples[numbers(positions)]


class WeightedOrder:
    """Samples drawn with replacement: each position holds sample i with probability weights[i] / sum(weights).

    A sample that comes twice in an epoch is augmented in two ways. Holds 8 bytes a sample.

    Args:
        weights: one a sample, 0 or more.
        num_samples: samples in an epoch; by default as many as there are weights.

    Raises:
        ConfigError: a weight is negative or not finite, or all are 0.

    >>> order = WeightedOrder([0, 3, 1], num_samples=4000)
    >>> counts = np.bincount(order.of_epoch(0, seed=0, batch_size=8)(np.arange(4000)), minlength=3)
    >>> [round(count / 1000, 1) for count in counts.tolist()]
    [0.0, 3.0, 1.0]
    """

    shuffle = True
    repeats = True
    dealt: Dealt = "cards"

    def __init__(self, weights: npt.ArrayLike, num_samples: int | None = None) -> None:
        given = np.asarray(weights, dtype=np.float64)
        if given.ndim != 1 or not np.isfinite(given).all() or (given < 0).any() or not given.sum() > 0:
            strange = given[~(np.isfinite(given) & (given >= 0))] if given.ndim == 1 else given.shape
            what = f"shape {strange}" if given.ndim != 1 else f"{strange[0]}" if len(strange) else "all 0"
            raise ConfigError(f"weights: {what}; expected one finite number a sample, 0 or more, and some above 0")
        if num_samples is not None and num_samples < 1:
            raise ConfigError(f"num_samples={num_samples}: an epoch has at least 1 sample")
        self._until = np.cumsum(given)
        self._last = int(np.flatnonzero(given)[-1])
        self.num_samples = len(given) if num_samples is None else num_samples

    def __len__(self) -> int:
        return self.num_samples

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of an epoch; see `Order`."""
        total = float(self._until[-1])

        def samples(positions: Indices) -> Indices:
            at = Draw(seed=seed, epoch=epoch, samples=positions).at("weighted order").uniform(0, total)
            # Rounding may give the total itself, which lies behind the last sample.
            return np.minimum(np.searchsorted(self._until, at, side="right"), self._last).astype(np.int64)

        return samples


def balanced_weights(labels: Iterable[Hashable]) -> npt.NDArray[np.float64]:
    """Returns a weight for each sample, such that every class is drawn equally often.

    Args:
        labels: each sample's class.

    >>> balanced_weights(["cat", "cat", "dog", "cat"]).round(2).tolist()
    [0.17, 0.17, 0.5, 0.17]
    """
    numbers: dict[Hashable, int] = {}
    classes = np.fromiter((numbers.setdefault(label, len(numbers)) for label in labels), dtype=np.int64)
    return 1.0 / (np.bincount(classes)[classes] * max(1, len(numbers)))


class LengthOrder:
    """Batches of samples of similar length, so that little is padded.

    The samples are shuffled, cut into pools of many batches, and sorted by length within a pool; then the batches are
    shuffled. Within a batch the longest comes first, so ranks, to which it is dealt like cards, get the same amount of work.
    Holds 16 bytes a sample in an epoch.

    Args:
        lengths: of the samples; whole numbers or not.
        shuffle: otherwise all samples are sorted by length, the longest first.
        longest_first: begin an epoch with the batch that has the longest sample: what does not fit in memory fails at once.
        pool_batches: batches in a pool. More pad less and make likelier that samples of the same lengths meet again.

    Raises:
        ConfigError: a length is missing, or a pool is empty.

    >>> order = LengthOrder([3, 9, 1, 8, 2, 7], shuffle=False)
    >>> order.of_epoch(0, seed=0, batch_size=2)(np.arange(6)).tolist()
    [1, 3, 5, 0, 4, 2]
    """

    repeats = False
    dealt: Dealt = "cards"

    def __init__(
        self,
        lengths: Sequence[float] | npt.NDArray[np.generic],
        *,
        shuffle: bool = True,
        longest_first: bool = True,
        pool_batches: int = 50,
    ) -> None:
        given = np.asarray(lengths)
        if given.ndim != 1 or given.dtype.kind not in "iuf" or not np.isfinite(given).all():
            raise ConfigError(f"lengths of shape {given.shape} and dtype {given.dtype}: expected one number a sample")
        if pool_batches < 1:
            raise ConfigError(f"pool_batches={pool_batches}: a pool has at least 1 batch")
        self._longer = -given.astype(np.int64 if given.dtype.kind in "iu" else np.float64)  # sorts the longest first
        self.shuffle = shuffle
        self.longest_first = longest_first
        self.pool_batches = pool_batches

    def __len__(self) -> int:
        return len(self._longer)

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of an epoch; see `Order`. Sorts all samples: about 0.3 s for a million."""
        if not self.shuffle:
            return np.argsort(self._longer, kind="stable").__getitem__
        key = epoch_key(seed, epoch)
        shuffled = Permutation(len(self), key=key)(np.arange(len(self)))
        num_full = len(self) // batch_size
        # The rest of the shuffled samples is the last batch: sorted along, it would always be the shortest ones.
        full, rest = shuffled[: num_full * batch_size], shuffled[num_full * batch_size :]
        pools = np.arange(len(full)) // (self.pool_batches * batch_size)
        batches = full[np.lexsort((self._longer[full], pools))].reshape(num_full, batch_size)
        batches = batches[Permutation(num_full, key=mix64_int(key + _BATCHES))(np.arange(num_full))]
        if self.longest_first and num_full:
            longest = int(self._longer[batches[:, 0]].argmin())
            batches[[0, longest]] = batches[[longest, 0]]
        rest = rest[np.argsort(self._longer[rest], kind="stable")]
        return np.concatenate([batches.ravel(), rest]).__getitem__


class GroupOrder:
    """A random order whose neighbours are cheap to read: the samples lie in groups that are read as a whole.

    Groups are the row groups of a Parquet file, shards, files. Their order is shuffled, and put end to end they are cut into
    lanes; each batch takes an equal part of every lane, and the samples of a group come in random order. So a batch mixes
    samples of `num_lanes` groups, and at any time only about that many are in use. A batch is dealt to the ranks in blocks:
    with W ranks each reads the groups of its own lanes, all of them together read little more than one would alone. Holds
    about 50 bytes a group.

    Args:
        sizes: samples in each group; sample indices count through them.
        num_lanes: groups that a batch mixes. A multiple of the ranks that will be reads least; fewer than ranks, and several
            ranks read each group. At most a quarter of the groups are useful: lanes begin and end within a group.
        num_tracks: batch k belongs to track k modulo this, and each track has `num_lanes` lanes of its own. As many as there
            are loader workers, which take turns, let each worker read groups of its own.

    Raises:
        ConfigError: there is no lane or track, or a size is negative.

    >>> first_batch = GroupOrder([4, 4, 4, 4], num_lanes=2).of_epoch(0, seed=0, batch_size=4)(np.arange(4))
    >>> len(set((first_batch // 4).tolist()))
    2
    """

    shuffle = True
    repeats = False
    dealt: Dealt = "blocks"

    def __init__(
        self, sizes: Sequence[int] | npt.NDArray[np.int64], *, num_lanes: int = 8, num_tracks: int = 1
    ) -> None:
        for name, number in (("num_lanes", num_lanes), ("num_tracks", num_tracks)):
            if number < 1:
                raise ConfigError(f"{name}={number}: expected at least 1")
        self.sizes = np.asarray(sizes, dtype=np.int64)
        if (self.sizes < 0).any():
            raise ConfigError(f"a group of {self.sizes.min()} samples; sizes are 0 or more")
        self.num_lanes = num_lanes
        self.num_tracks = num_tracks

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of an epoch; see `Order`."""
        key = epoch_key(seed, epoch)
        groups = Permutation(len(self.sizes), key=key)(np.arange(len(self.sizes)))
        sizes = self.sizes[groups]
        ends = np.cumsum(sizes)
        first_sample = (np.cumsum(self.sizes) - self.sizes)[groups]
        # Lanes begin anywhere on the circle of groups: at a group's begin, samples of small groups would come there too often.
        begin = mix64_int(key + _BEGIN) % max(1, len(self))

        def samples(positions: Indices) -> Indices:
            along = (self._along(positions, batch_size) + begin) % len(self)
            number = np.searchsorted(ends, along, side="right")  # which group, in the shuffled order
            result = np.empty_like(along)
            for each in np.unique(number).tolist():
                here = number == each
                within = Permutation(int(sizes[each]), key=mix64_int(key + _GROUPS + each))
                result[here] = first_sample[each] + within(along[here] - (ends[each] - sizes[each]))
            return result

        return samples

    def _along(self, positions: Indices, batch_size: int) -> Indices:
        """Returns where along the groups, put end to end, each position reads."""
        lanes, tracks = self.num_lanes, self.num_tracks
        num_full = len(self) // batch_size
        batch, place = np.divmod(positions, batch_size)
        turn, track = np.divmod(batch, tracks)
        # Batches of the track, and of those before it.
        num_turns = (num_full - track + tracks - 1) // tracks
        before = track * (num_full // tracks) + np.minimum(track, num_full % tracks)
        # Lane l has the places from l * batch_size // lanes on; the last l that begins at this place or before it.
        lane = ((place + 1) * lanes - 1) // batch_size
        begin, end = lane * batch_size // lanes, (lane + 1) * batch_size // lanes
        along = before * batch_size + num_turns * begin + turn * (end - begin) + (place - begin)
        return np.where(batch < num_full, along, positions)  # what fills no batch stays at the end


_BEGIN = name_key("begin of a group order")
_BATCHES = name_key("batches of a length order")
_GROUPS = name_key("groups of a group order")
