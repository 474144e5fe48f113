"""Schedules: pure functions from the fraction of the training done (0 to 1) to the value of a hyper-parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from dist_ai.errors import ConfigError

__all__ = ["Schedule", "combine", "constant", "cosine", "one_cycle"]

Schedule: TypeAlias = Callable[[float], float]


def constant(value: float) -> Schedule:
    """Returns a schedule that stays at `value`."""
    return lambda _: value


def cosine(start: float, end: float) -> Schedule:
    """Returns half a cosine wave from `start` to `end`.

    >>> cosine(1.0, 0.0)(0.5)
    0.5
    """
    return lambda done: start + (end - start) * (1 - math.cos(math.pi * done)) / 2


def combine(parts: Sequence[tuple[float, Schedule]]) -> Schedule:
    """Returns schedules one after the other.

    Args:
        parts: (share of the training, schedule); the shares add up to 1.

    >>> combine([(0.25, constant(1.0)), (0.75, cosine(1.0, 0.0))])(0.625)
    0.5
    """
    shares = [share for share, _ in parts]
    if not all(share > 0 for share in shares):
        raise ConfigError(f"the shares of the schedules are {shares}; expected each to be more than 0")
    if not math.isclose(total := sum(shares), 1.0):
        raise ConfigError(f"the shares of the schedules add up to {total:g}, not to 1: {shares}")

    def value(done: float) -> float:
        begin = 0.0
        for share, schedule in parts[:-1]:
            if done < begin + share:
                return schedule((done - begin) / share)
            begin += share
        share, schedule = parts[-1]
        return schedule(min(1.0, (done - begin) / share))

    return value


def one_cycle(low: float, high: float, final: float, pct_start: float = 0.25) -> Schedule:
    """Returns the 1cycle schedule (Smith, arXiv:1803.09820, with cosine legs): `low` to `high`, then to `final`.

    >>> [round(one_cycle(0.1, 1.0, 0.0)(done), 3) for done in (0.0, 0.25, 1.0)]
    [0.1, 1.0, 0.0]
    """
    if not 0 < pct_start < 1:
        raise ConfigError(f"pct_start={pct_start} is the share of the warm-up: expected more than 0 and less than 1")
    return combine([(pct_start, cosine(low, high)), (1 - pct_start, cosine(high, final))])
