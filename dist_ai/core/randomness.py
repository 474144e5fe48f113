"""Counter-based randomness: what is drawn for a sample depends on (seed, epoch, sample, which transform), nothing else.

There is no generator state to share, save or advance: a draw is a hash of its coordinates. So the same sample gets the
same augmentation on any number of ranks and loader workers, and a resumed run draws what the undisturbed one drew.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014),
written three times because it runs in three places: on Python integers (one sample), NumPy (a batch) and torch
(a layer on any device). The three agree bit for bit.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Draw", "borrowed_generators", "mix64", "mix64_int", "mix64_tensor", "name_key", "sample_keys", "signed"]

UInt64Array: TypeAlias = npt.NDArray[np.uint64]

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15  # 2**64 / golden ratio: consecutive counters land far apart
_M1, _M2 = 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB


def mix64_int(x: int) -> int:
    """Returns a well-mixed 64-bit hash of the integer `x`; a bijection on 0..2**64-1."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * _M1) & _MASK
    x = ((x ^ (x >> 27)) * _M2) & _MASK
    return x ^ (x >> 31)


def mix64(x: UInt64Array) -> UInt64Array:
    """Returns `mix64_int` of every element of the uint64 array `x` (at least 1-d: NumPy scalars warn on wrap-around)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_M1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_M2)
    return x ^ (x >> np.uint64(31))


def mix64_tensor(x: torch.Tensor) -> torch.Tensor:
    """Returns `mix64_int` of every element of the int64 tensor `x`, read as 64 unsigned bits; any device."""
    # torch has no uint64 arithmetic: int64 wraps to the same bits, and the mask undoes the sign that >> pulls in.
    x = (x ^ ((x >> 30) & 0x3_FFFF_FFFF)) * signed(_M1)
    x = (x ^ ((x >> 27) & 0x1F_FFFF_FFFF)) * signed(_M2)
    return x ^ ((x >> 31) & 0x1_FFFF_FFFF)


def name_key(name: str) -> int:
    """Returns a 64-bit key for a name, the same in every process and Python version."""
    data = name.encode()
    return mix64_int(zlib.crc32(data) | (len(data) << 32))


def sample_keys(*, seed: int, epoch: int, samples: npt.ArrayLike) -> UInt64Array:
    """Returns a 64-bit key for each sample of an epoch: the root of all that is drawn for it."""
    stream = mix64_int(mix64_int(seed + _GOLDEN) + epoch)
    return mix64(np.uint64(stream) ^ mix64(np.atleast_1d(np.asarray(samples, dtype=np.int64)).astype(np.uint64)))


def signed(bits: int) -> int:
    """Returns the int64 that has the bits of the unsigned 64-bit `bits`, as torch wants it."""
    return bits - (1 << 64) if bits >> 63 else bits


@contextlib.contextmanager
def borrowed_generators() -> Iterator[Callable[[int], None]]:
    """Lends Python's, NumPy's and torch's (CPU) own generators, for code that draws from them; gives them back as they were.

    Yields a function that seeds all three by a 64-bit key. Costs about 15 us a call, and 0.1 ms to give back.

    >>> import random
    >>> before = random.getstate()
    >>> with borrowed_generators() as seed:
    ...     seed(7); first = random.random(); seed(7); first == random.random()
    True
    >>> random.getstate() == before
    True
    """

    def seed(key: int) -> None:
        random.seed(key)
        np.random.seed(key & 0xFFFF_FFFF)
        torch.default_generator.manual_seed(key)  # torch.manual_seed would also queue a call for every GPU

    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    try:
        yield seed
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class Draw:
    """The random draws of one place in the program (a transform, a layer) for one sample or for a batch of samples.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        samples: the index of one sample in its data set, or the indices of a batch.
        place: key of the place that draws; `at` makes one from a name.

    The k-th call on a `Draw` gives the k-th draw of each sample. With one sample the draws are Python numbers; with a
    batch they are arrays with one element a sample.

    >>> round(Draw(seed=1, epoch=0, samples=7).uniform(-1, 1), 4)
    0.6025
    >>> Draw(seed=1, epoch=0, samples=[3, 7]).uniform(-1, 1).round(4)[1]
    np.float64(0.6025)
    """

    __slots__ = ("_keys", "_num_draws", "place", "single")

    def __init__(
        self,
        *,
        seed: int,
        epoch: int,
        samples: int | np.integer | Sequence[int] | npt.NDArray[np.int64],
        place: int = 0,
    ) -> None:
        self.single = np.ndim(samples) == 0  # an index out of an array is a NumPy scalar, and one sample all the same
        keys = sample_keys(seed=seed, epoch=epoch, samples=samples)
        self._keys: int | UInt64Array = int(keys[0]) if self.single else keys
        self.place = place
        self._num_draws = 0

    def at(self, name: str) -> Draw:
        """Returns the draws of these samples at another place, from its first draw on."""
        return self._copy(mix64_int(self.place + name_key(name)))

    def restart(self) -> Draw:
        """Returns these draws from the first one on, so that an image and its mask are cropped alike."""
        return self._copy(self.place)

    def bits(self) -> int | UInt64Array:
        """Returns 64 random bits a sample."""
        counter = (self.place + self._num_draws * _GOLDEN) & _MASK
        self._num_draws += 1
        if isinstance(self._keys, int):
            return mix64_int(self._keys ^ mix64_int(counter))
        return mix64(self._keys ^ np.uint64(mix64_int(counter)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Any:
        """Returns a float uniform in [low, high), or a float64 array of one a sample; 53 random bits."""
        bits = self.bits()
        unit = (bits >> 11) * 2.0**-53 if isinstance(bits, int) else (bits >> np.uint64(11)) * 2.0**-53
        return low + (high - low) * unit

    def bernoulli(self, p: float) -> Any:
        """Returns True with probability `p`, or a bool array of one a sample."""
        return self.uniform() < p

    def generator(self) -> np.random.Generator:
        """Returns a NumPy generator for one sample, for distributions that are not here.

        Raises:
            TypeError: these are the draws of a batch.
        """
        bits = self.bits()
        if not isinstance(bits, int):
            raise TypeError("generator() draws for one sample, and these are the draws of a batch; use uniform()")
        return np.random.Generator(np.random.Philox(key=bits))

    def _copy(self, place: int) -> Draw:
        copy = object.__new__(Draw)
        copy._keys, copy.place, copy.single, copy._num_draws = self._keys, place, self.single, 0
        return copy
