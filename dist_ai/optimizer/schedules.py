"""Schedules: how a hyper-parameter changes, as a function of the fraction of the training that is done (0 to 1).

```python
learn.fit(5, cbs=ParamScheduler({"lr": warmup_stable_decay(1e-3), "wd": linear(0.1, 0.0)}))
for step in range(num_steps):                                                # in a loop of your own
    opt.set_hyper("lr", one_cycle(1e-4, 1e-3, 0.0)(step / num_steps))
```

Any function of a fraction will do. Those made here are values: equal if they are the same, printed as they are written,
and plain data for JSON and back. They know no state, so training that goes on in the middle needs nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from dist_ai.errors import ArtifactError, ConfigError

__all__ = [
    "Combined",
    "Curve",
    "Schedule",
    "combine",
    "combine_steps",
    "constant",
    "cosine",
    "exponential",
    "flat_cos",
    "linear",
    "one_cycle",
    "plot_schedules",
    "polynomial",
    "scaled",
    "schedule_from_plain",
    "sgdr",
    "warmup_stable_decay",
]

Schedule: TypeAlias = Callable[[float], float]

# ------------------------------------------------------------------------------------ curves


@dataclass(frozen=True, repr=False)
class Curve:
    """A schedule from `start` to `end`; made by `constant`, `linear`, `cosine`, `exponential` and `polynomial`.

    Attributes:
        shape: the name of that function.
        start: the value at 0.
        end: the value at 1.
        power: of a polynomial.
    """

    shape: str
    start: float
    end: float
    power: float = 1.0

    def __call__(self, done: float) -> float:
        """Returns the value where the fraction `done` of the training is done."""
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** done
        return self.start + (self.end - self.start) * _SHAPES[self.shape](done, self.power)

    def to_plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON."""
        return {"shape": self.shape, "start": self.start, "end": self.end, "power": self.power}

    def __repr__(self) -> str:
        given = {"constant": (self.start,), "polynomial": (self.start, self.end, self.power)}
        return f"{self.shape}({', '.join(map(repr, given.get(self.shape, (self.start, self.end))))})"


_SHAPES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda done, power: 0.0,
    "linear": lambda done, power: done,
    "cosine": lambda done, power: (1 - math.cos(math.pi * done)) / 2,
    "polynomial": lambda done, power: done**power,
}


def constant(value: float) -> Curve:
    """Returns a schedule that stays at `value`."""
    return Curve("constant", value, value)


def linear(start: float, end: float) -> Curve:
    """Returns a straight line from `start` to `end`.

    >>> linear(1.0, 0.0)(0.25)
    0.75
    """
    return Curve("linear", start, end)


def cosine(start: float, end: float) -> Curve:
    """Returns half a cosine wave from `start` to `end`.

    >>> cosine(1.0, 0.0)(0.5)
    0.5
    """
    return Curve("cosine", start, end)


def exponential(start: float, end: float) -> Curve:
    """Returns a curve that changes by the same factor in each step, from `start` to `end`.

    Raises:
        ConfigError: there is no such factor, because one is 0 or they have different signs.

    >>> exponential(1e-4, 1e-2)(0.5)
    0.001
    """
    if start * end <= 0:
        raise ConfigError(f"exponential({start}, {end}): expected two values above 0, or two below")
    return Curve("exponential", start, end)


def polynomial(start: float, end: float, power: float) -> Curve:
    """Returns start + (end - start) * done^power.

    Raises:
        ConfigError: `power` is not above 0.

    >>> polynomial(1.0, 0.0, power=2)(0.5)
    0.75
    """
    if power <= 0:
        raise ConfigError(f"polynomial(power={power}): expected more than 0")
    return Curve("polynomial", start, end, power)


# ------------------------------------------------------------------------------------ one after the other


@dataclass(frozen=True, repr=False)
class Combined:
    """Schedules one after the other; made by `combine`.

    Attributes:
        parts: (share of the training, schedule).
    """

    parts: tuple[tuple[float, Schedule], ...]

    def __call__(self, done: float) -> float:
        """Returns the value where the fraction `done` of the training is done."""
        begin = 0.0
        for share, schedule in self.parts[:-1]:
            if done < begin + share:
                return schedule((done - begin) / share)
            begin += share
        share, schedule = self.parts[-1]
        return schedule(min(1.0, (done - begin) / share))

    def to_plain(self) -> dict[str, Any]:
        """Returns it as plain data, for JSON.

        Raises:
            ConfigError: a part is a function from elsewhere.
        """
        for _, schedule in self.parts:
            if not isinstance(schedule, Curve | Combined):
                raise ConfigError(
                    f"the schedule {schedule!r} is a function, not plain data; make it of those in this room"
                )
        return {"parts": [[share, schedule.to_plain()] for share, schedule in self.parts]}  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"combine([{', '.join(f'({share:g}, {schedule!r})' for share, schedule in self.parts)}])"


def combine(parts: Sequence[tuple[float, Schedule]]) -> Combined:
    """Returns schedules one after the other.

    Args:
        parts: (share of the training, schedule); the shares add up to 1.

    Raises:
        ConfigError: they do not, or one is not above 0.

    >>> combine([(0.25, constant(1.0)), (0.75, cosine(1.0, 0.0))])(0.625)
    0.5
    """
    shares = [share for share, _ in parts]
    if not all(share > 0 for share in shares):
        raise ConfigError(f"the shares of the schedules are {shares}; expected each to be more than 0")
    if not math.isclose(total := sum(shares), 1.0):
        raise ConfigError(f"the shares of the schedules add up to {total:g}, not to 1: {shares}")
    return Combined(tuple(parts))


def combine_steps(parts: Sequence[tuple[int, Schedule]]) -> Combined:
    """Returns schedules one after the other, each for a number of steps; together they are the whole training.

    >>> combine_steps([(100, linear(0.0, 1.0)), (900, cosine(1.0, 0.0))])
    combine([(0.1, linear(0.0, 1.0)), (0.9, cosine(1.0, 0.0))])
    """
    total = sum(steps for steps, _ in parts)
    return combine([(steps / total if total else 0.0, schedule) for steps, schedule in parts])


def one_cycle(low: float, high: float, final: float, pct_start: float = 0.25) -> Combined:
    """Returns the 1cycle schedule (Smith, arXiv:1803.09820, with cosine legs): `low` to `high`, then to `final`.

    >>> [round(one_cycle(0.1, 1.0, 0.0)(done), 3) for done in (0.0, 0.25, 1.0)]
    [0.1, 1.0, 0.0]
    """
    if not 0 < pct_start < 1:
        raise ConfigError(f"pct_start={pct_start} is the share of the warm-up: expected more than 0 and less than 1")
    return combine([(pct_start, cosine(low, high)), (1 - pct_start, cosine(high, final))])


def flat_cos(high: float, final: float = 0.0, pct_start: float = 0.75) -> Combined:
    """Returns `high` for the first `pct_start` of the training, then half a cosine wave to `final`.

    >>> [flat_cos(1.0)(done) for done in (0.0, 0.75, 0.875, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    if not 0 < pct_start < 1:
        raise ConfigError(f"pct_start={pct_start} is the share of the flat part: expected more than 0 and less than 1")
    return combine([(pct_start, constant(high)), (1 - pct_start, cosine(high, final))])


def warmup_stable_decay(
    high: float,
    *,
    warmup: float = 0.05,
    decay: float = 0.2,
    start: float = 0.0,
    final: float = 0.0,
    tail: Callable[[float, float], Schedule] = linear,
) -> Combined:
    """Returns warm-up, a stable part and decay (Hu et al., arXiv:2404.06395): trapezoidal.

    Training may go on from anywhere in the stable part, for how long it will be is not yet in it.

    Args:
        high: the value of the stable part.
        warmup: share of the training in which the value rises to `high`, on a straight line.
        decay: share in which it falls.
        start: the value at the beginning.
        final: the value at the end.
        tail: the shape of the fall: `linear`, `cosine`, `exponential` (its `final` is above 0).

    Raises:
        ConfigError: the shares are not above 0, or leave nothing for the stable part.

    >>> [round(warmup_stable_decay(1.0)(done), 3) for done in (0.0, 0.025, 0.5, 0.9, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not (warmup > 0 and decay > 0 and warmup + decay < 1):
        raise ConfigError(f"warmup={warmup} and decay={decay} are shares above 0 that add up to less than 1")
    return combine([(warmup, linear(start, high)), (1 - warmup - decay, constant(high)), (decay, tail(high, final))])


def sgdr(high: float, low: float = 0.0, *, num_cycles: int = 3, mult: float = 2.0) -> Combined:
    """Returns cosine waves from `high` to `low`, each `mult` times longer (Loshchilov and Hutter, arXiv:1608.03983).

    >>> [round(sgdr(1.0, num_cycles=2)(done), 3) for done in (0.0, 1 / 6, 1 / 3, 2 / 3, 1.0)]
    [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    if num_cycles < 1 or mult <= 0:
        raise ConfigError(f"sgdr(num_cycles={num_cycles}, mult={mult}): expected at least 1 cycle and a mult above 0")
    lengths = [mult**number for number in range(num_cycles)]
    return combine([(length / sum(lengths), cosine(high, low)) for length in lengths])


# ------------------------------------------------------------------------------------ of schedules


def scaled(schedule: Curve | Combined, by: float) -> Curve | Combined:
    """Returns a schedule with all values multiplied: one shape for groups with rates of their own.

    >>> [scaled(cosine(1.0, 0.0), rate) for rate in (0.125, 0.25)]
    [cosine(0.125, 0.0), cosine(0.25, 0.0)]
    """
    if isinstance(schedule, Curve):
        return replace(schedule, start=schedule.start * by, end=schedule.end * by)
    return Combined(tuple((share, _scaled(part, by)) for share, part in schedule.parts))


def _scaled(part: Schedule, by: float) -> Schedule:
    return scaled(part, by) if isinstance(part, Curve | Combined) else lambda done: part(done) * by


def schedule_from_plain(data: Mapping[str, Any]) -> Curve | Combined:
    """Returns the schedule that `to_plain` wrote.

    Raises:
        ArtifactError: it is not such data.

    >>> schedule_from_plain(one_cycle(0.1, 1.0, 0.0).to_plain()) == one_cycle(0.1, 1.0, 0.0)
    True
    """
    try:
        if "parts" in data:
            return combine([(share, schedule_from_plain(part)) for share, part in data["parts"]])
        if data["shape"] not in ("exponential", *_SHAPES):
            raise ConfigError(f"there is no shape {data['shape']!r}")
        return Curve(data["shape"], data["start"], data["end"], data.get("power", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{data!r} is no schedule: {error}; expected what to_plain() of one returns") from error


def plot_schedules(schedules: Schedule | Mapping[str, Schedule], *, num_points: int = 200) -> Any:
    """Returns a figure of one schedule, or of several by name, below each other.

    >>> [axes.get_ylabel() for axes in plot_schedules({"lr": linear(0, 1), "mom": constant(0.9)}).axes]
    ['lr', 'mom']
    """
    from matplotlib.figure import Figure  # not at the top: a loop of one's own draws nothing

    named = schedules if isinstance(schedules, Mapping) else {"": schedules}
    figure = Figure(figsize=(6, 2.5 * len(named)), layout="constrained")
    grid = figure.subplots(len(named), sharex=True, squeeze=False)
    done = [point / (num_points - 1) for point in range(num_points)]
    for axes, (name, schedule) in zip(grid[:, 0], named.items(), strict=True):
        axes.plot(done, [schedule(each) for each in done])
        axes.set_ylabel(name)
    grid[-1, 0].set_xlabel("part of the training")
    return figure
