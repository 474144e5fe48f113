"""Counter-based randomness: what is drawn for a sample depends on (seed, epoch, sample, which transform), nothing else.

There is no generator state to share, save or advance: a draw is a hash of its coordinates. So the same sample gets the
same augmentation on any number of ranks and loader workers, and a resumed run draws what the undisturbed one drew.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014),
written three times because it runs in three places: on Python integers (one sample), NumPy (a batch) and torch
(a layer on any device). The three agree bit for bit.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "Draw",
    "OwnGenerators",
    "borrowed_generators",
    "mix64",
    "mix64_int",
    "mix64_tensor",
    "name_key",
    "sample_keys",
    "seed_generators",
    "signed",
]

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


@functools.lru_cache(maxsize=1024)  # the names of a program's places, asked for by every sample
def name_key(name: str) -> int:
    """Returns a 64-bit key for a name, the same in every process and Python version."""
    data = name.encode()
    return mix64_int(zlib.crc32(data) | (len(data) << 32))


def sample_key(*, seed: int, epoch: int, sample: int) -> int:
    """Returns a 64-bit key for one sample of an epoch: the root of all that is drawn for it. 2 us; `sample_keys` takes 20."""
    return mix64_int(mix64_int(mix64_int(seed + _GOLDEN) + epoch) ^ mix64_int(sample))


def sample_keys(*, seed: int, epoch: int, samples: npt.ArrayLike) -> UInt64Array:
    """Returns the `sample_key` of each sample of an epoch."""
    stream = mix64_int(mix64_int(seed + _GOLDEN) + epoch)
    return mix64(np.uint64(stream) ^ mix64(np.atleast_1d(np.asarray(samples, dtype=np.int64)).astype(np.uint64)))


def signed(bits: int) -> int:
    """Returns the int64 that has the bits of the unsigned 64-bit `bits`, as torch wants it."""
    return bits - (1 << 64) if bits >> 63 else bits


def seed_generators(key: int) -> None:
    """Seeds Python's, NumPy's and torch's (CPU) own generators by a 64-bit key, within `borrowed_generators`; 15 us."""
    random.seed(key)
    np.random.seed(key & 0xFFFF_FFFF)
    torch.default_generator.manual_seed(key)  # torch.manual_seed would also queue a call for every GPU


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
    states = _generator_states()
    try:
        yield seed_generators
    finally:
        _set_generator_states(states)


class OwnGenerators:
    """Python's, NumPy's and torch's own generators as one piece of code leaves them, whatever others draw in between.

    For code that draws from them bit by bit, such as somebody's generator function.
    """

    def __init__(self) -> None:
        self._states: tuple[Any, Any, torch.Tensor] | None = None

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Lends them as they were left here; costs 0.2 ms."""
        with borrowed_generators():
            if self._states is not None:
                _set_generator_states(self._states)
            try:
                yield
            finally:
                self._states = _generator_states()


def _generator_states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()


def _set_generator_states(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


class Draw:
    """The random draws of one place in the program (a transform, a layer) for one sample or for a batch of samples.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        samples: the index of one sample in its data set, or the indices of a batch. Those in an int64 tensor stay on its device,
            where only `uniform_tensor`, `normal_tensor` and `integers_tensor` can draw.
        place: key of the place that draws; `at` makes one from a name.

    The k-th draw of a `Draw` is a function of these and of k. Drawn for one sample, a number is a Python number; for a
    batch it is an array of one a sample. With `size`, each sample gets an array of that shape instead. Arrays are NumPy's:
    a few numbers a sample are drawn on the CPU in microseconds and travel to a device without waiting for it. What is
    drawn for every pixel is made on the device by `uniform_tensor` and `normal_tensor`.

    >>> round(Draw(seed=1, epoch=0, samples=7).uniform(-1, 1), 4)
    0.6025
    >>> Draw(seed=1, epoch=0, samples=[3, 7]).uniform(-1, 1).round(4)[1]
    np.float64(0.6025)
    >>> Draw(seed=1, epoch=0, samples=[3, 7]).integers(0, 10, size=(3,)).shape
    (2, 3)
    """

    __slots__ = ("_keys", "_num_draws", "place", "single")

    def __init__(
        self,
        *,
        seed: int,
        epoch: int,
        samples: int | np.integer | Sequence[int] | npt.NDArray[np.int64] | torch.Tensor,
        place: int = 0,
    ) -> None:
        self.place = place
        self._num_draws = 0
        self._keys: int | UInt64Array | torch.Tensor
        if isinstance(samples, torch.Tensor):
            self.single = False
            stream = mix64_int(mix64_int(seed + _GOLDEN) + epoch)  # as `sample_keys` has it
            self._keys = mix64_tensor(mix64_tensor(samples) ^ signed(stream))
            return
        self.single = isinstance(samples, int) or np.ndim(samples) == 0  # an index out of an array is a NumPy scalar
        self._keys = (
            sample_key(seed=seed, epoch=epoch, sample=int(samples))  # type: ignore[arg-type]  # `single` says that it is one
            if self.single
            else sample_keys(seed=seed, epoch=epoch, samples=samples)
        )

    def at(self, name: str) -> Draw:
        """Returns the draws of these samples at another place, from its first draw on."""
        return self._copy(mix64_int(self.place + name_key(name)))

    def anywhere(self, name: str) -> Draw:
        """Returns the draws of these samples at a place of the program's own, so that several transforms may draw alike.

        >>> draw = Draw(seed=1, epoch=0, samples=7)
        >>> draw.at("1:Shift").anywhere("wind").uniform() == draw.at("2:Turn").anywhere("wind").uniform()
        True
        """
        return self._copy(name_key(name))

    def restart(self) -> Draw:
        """Returns these draws from the first one on, so that an image and its mask are cropped alike."""
        return self._copy(self.place)

    def bits(self, size: tuple[int, ...] = ()) -> int | UInt64Array:
        """Returns 64 random bits a sample, or for each an array of the shape `size`."""
        first = self._bits()
        if not size:
            return first
        # SplitMix64 itself, from a state that the sample drew.
        steps = np.arange(1, math.prod(size) + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        rows = mix64(np.asarray(first, dtype=np.uint64).reshape(-1, 1) + steps)
        return rows.reshape(size if self.single else (len(rows), *size))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, *, size: tuple[int, ...] = ()) -> Any:
        """Returns a float uniform in [low, high), or a float64 array; 53 random bits."""
        bits = self.bits(size)
        unit = (bits >> 11) * 2.0**-53 if isinstance(bits, int) else (bits >> np.uint64(11)) * 2.0**-53
        return low + (high - low) * unit

    def bernoulli(self, p: Any, *, size: tuple[int, ...] = ()) -> Any:
        """Returns True with probability `p`, or a bool array."""
        return self.uniform(size=size) < p

    def integers(self, low: int, high: int, *, size: tuple[int, ...] = ()) -> Any:
        """Returns an int uniform in low, ..., high - 1, or an int64 array.

        Raises:
            ConfigError: there is none.
        """
        if not low < high:
            raise ConfigError(f"integers({low}, {high}): no integer is at least {low} and less than {high}")
        # Below 2**53 numbers the product cannot round up to `high`, and none is likelier by more than 2**-53.
        drawn = self.uniform(size=size) * (high - low)
        return low + (int(drawn) if isinstance(drawn, float) else drawn.astype(np.int64))

    def normal(self, mean: Any = 0.0, std: Any = 1.0, *, size: tuple[int, ...] = ()) -> Any:
        """Returns a normally distributed float, or a float64 array; takes two draws (Box and Muller's method)."""
        radius = np.sqrt(-2 * np.log1p(-self.uniform(size=size)))
        drawn = mean + std * radius * np.cos(2 * np.pi * self.uniform(size=size))
        return float(drawn) if self.single and not size else drawn

    def beta(self, a: float, b: float) -> Any:
        """Returns a Beta(a, b)-distributed float in 0..1, or a float64 array of one a sample; takes eight draws.

        `mixup` mixes samples by Beta(0.4, 0.4), say. A ratio of gamma variates, each by Marsaglia and Tsang's rejection
        ("A simple method for generating gamma variables", 2000).

        Raises:
            ConfigError: `a` or `b` is not positive.
        """
        if not (a > 0 and b > 0):
            raise ConfigError(f"beta({a}, {b}): expected two positive numbers")
        drawn = 0.5 * (1 + np.tanh((self._log_gamma(a) - self._log_gamma(b)) / 2))
        return float(drawn) if self.single else drawn

    def choice(self, options: Sequence[Any], p: Sequence[float] | None = None) -> Any:
        """Returns one of `options`, or an array of one a sample.

        Args:
            options: what to choose from; numbers, for a batch, become an array of their dtype.
            p: how likely each is, relative to the others; all alike by default.

        Raises:
            ConfigError: there are no options, or `p` has another length, a negative number or only zeros.
        """
        if not len(options):
            raise ConfigError("choice([]): expected at least one option")
        if p is None:
            index = self.integers(0, len(options))
        else:
            weights = np.asarray(p, dtype=np.float64)
            if weights.shape != (len(options),) or not (weights >= 0).all() or not weights.sum() > 0:
                raise ConfigError(f"choice(p={list(p)}): expected {len(options)} probabilities, one for each option")
            upto = weights.cumsum()
            index = np.searchsorted(upto / upto[-1], self.uniform(), side="right")
        return options[int(index)] if self.single else np.asarray(options)[index]

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """Returns 0, ..., n - 1 in random order, or an int64 array (samples, n): each sample has an order of its own."""
        return np.asarray(self.bits((n,))).argsort(axis=-1, kind="stable")

    def uniform_tensor(self, shape: tuple[int, ...], *, device: torch.device | str | None = None) -> torch.Tensor:
        """Returns floats uniform in [0, 1), float32 (samples, *shape), made on `device`; 24 random bits each.

        For one sample there is no first dimension. Costs an integer hash per element; the device is not waited for.
        """
        unit = (self._bits_tensor(shape, device) >> 40 & 0xFF_FFFF).to(torch.float32) * 2.0**-24
        return unit.view(shape if self.single else (len(unit), *shape))

    def integers_tensor(
        self, low: int, high: int, shape: tuple[int, ...], *, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Returns the numbers of ``integers(low, high, size=shape)``, int64 (samples, *shape), made on `device`.

        >>> draw = Draw(seed=1, epoch=0, samples=[3, 7])
        >>> here = torch.from_numpy(draw.integers(0, 10, size=(3,)))
        >>> torch.equal(draw.restart().integers_tensor(0, 10, (3,)), here)
        True
        """
        unit = (self._bits_tensor(shape, device) >> 11 & 0x1F_FFFF_FFFF_FFFF).to(torch.float64) * 2.0**-53
        drawn = low + (unit * (high - low)).to(torch.int64)
        return drawn.view(shape if self.single else (len(drawn), *shape))

    def normal_tensor(self, shape: tuple[int, ...], *, device: torch.device | str | None = None) -> torch.Tensor:
        """Returns normally distributed floats, mean 0, deviation 1, float32 (samples, *shape), made on `device`.

        For one sample there is no first dimension. Takes two draws.
        """
        radius = (-2 * torch.log1p(-self.uniform_tensor(shape, device=device))).sqrt()
        return radius * torch.cos(2 * torch.pi * self.uniform_tensor(shape, device=device))

    def generator(self) -> np.random.Generator:
        """Returns a NumPy generator for one sample, for distributions that are not here.

        Raises:
            TypeError: these are the draws of a batch.
        """
        bits = self.bits()
        if not isinstance(bits, int):
            raise TypeError("generator() draws for one sample, and these are the draws of a batch; use uniform()")
        return np.random.Generator(np.random.Philox(key=bits))

    def _bits(self) -> int | UInt64Array:
        counter = self._counter()
        if isinstance(self._keys, int):
            return mix64_int(self._keys ^ counter)
        if isinstance(self._keys, torch.Tensor):
            raise TypeError("the samples are on a device; draw with uniform_tensor, normal_tensor or integers_tensor")
        return mix64(self._keys ^ np.uint64(counter))

    def _bits_tensor(self, shape: tuple[int, ...], device: torch.device | str | None) -> torch.Tensor:
        """Returns `bits` of that shape, made on `device`: int64 (samples, numbers)."""
        steps = torch.arange(1, math.prod(shape) + 1, device=device) * signed(_GOLDEN)
        if isinstance(self._keys, torch.Tensor):
            first = mix64_tensor(self._keys ^ signed(self._counter()))[:, None]
        else:
            first = torch.from_numpy(np.asarray(self._bits(), dtype=np.uint64).reshape(-1, 1).view(np.int64))
        return mix64_tensor(first.to(steps.device, non_blocking=True) + steps)

    def _counter(self) -> int:
        """Returns what the next draw adds to the samples' keys."""
        counter = (self.place + self._num_draws * _GOLDEN) & _MASK
        self._num_draws += 1
        return mix64_int(counter)

    def _log_gamma(self, shape: float, rounds: int = 8) -> Any:
        """Returns the logarithm of a gamma variate; of `rounds` tries, none is accepted once in 1e10 draws."""
        # One more than asked for, where at least 95 % of the tries are accepted; the factor of the last line corrects it.
        d = shape + 2 / 3
        x = self.normal(size=(rounds,))
        v = (1 + x / (9 * d) ** 0.5) ** 3
        log_v = np.log(np.maximum(v, 1e-300))
        accepted = (v > 0) & (np.log1p(-self.uniform(size=(rounds,))) < x * x / 2 + d * (1 - v + log_v))
        first = accepted.argmax(axis=-1)
        chosen = np.take_along_axis(log_v, np.expand_dims(first, -1), axis=-1)[..., 0]
        return np.log(d) + chosen + np.log1p(-self.uniform()) / shape

    def _copy(self, place: int) -> Draw:
        copy = object.__new__(Draw)
        copy._keys, copy.place, copy.single, copy._num_draws = self._keys, place, self.single, 0
        return copy
