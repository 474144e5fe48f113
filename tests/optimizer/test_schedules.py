"""Schedules: pure functions of the fraction of the training that is done."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ai.errors import ConfigError
from dist_ai.optimizer import combine, constant, cosine, one_cycle

fractions = st.floats(0, 1)
values = st.floats(-1e3, 1e3)


def fastais_one_cycle(low: float, high: float, final: float, pct_start: float, pos: float) -> float:
    """fastai's `combined_cos(pct_start, low, high, final)` at `pos`, written out."""

    def sched_cos(start: float, end: float, pos: float) -> float:
        return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2

    if pos < pct_start:
        return sched_cos(low, high, pos / pct_start)
    return sched_cos(high, final, (pos - pct_start) / (1 - pct_start))


def test_the_ends_and_the_middle_of_each_schedule() -> None:
    assert [constant(0.3)(done) for done in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]
    assert [cosine(2.0, 1.0)(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.5, 1.0], abs=1e-15)
    cycle = one_cycle(0.04, 1.0, 1e-5, pct_start=0.3)
    assert [cycle(done) for done in (0.0, 0.15, 0.3, 0.65, 1.0)] == pytest.approx(
        [0.04, 0.52, 1.0, 0.500005, 1e-5], abs=1e-15
    )


@given(low=values, high=values, final=values, pct=st.floats(0.01, 0.99), done=fractions)
def test_one_cycle_is_fastais_formula(low: float, high: float, final: float, pct: float, done: float) -> None:
    assert one_cycle(low, high, final, pct)(done) == pytest.approx(
        fastais_one_cycle(low, high, final, pct, done), rel=1e-9, abs=1e-9
    )


@given(low=values, high=values, final=values, pct=st.floats(0.01, 0.99), done=fractions)
def test_one_cycle_stays_between_its_values(low: float, high: float, final: float, pct: float, done: float) -> None:
    rounding = 1e-12 * max(abs(low), abs(high), abs(final), 1e-300)
    smallest, largest = min(low, high, final) - rounding, max(low, high, final) + rounding
    assert smallest <= one_cycle(low, high, final, pct)(done) <= largest


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), fractions)
def test_combine_gives_each_part_its_share_and_stretches_it_over_that(weights: list[float], done: float) -> None:
    shares = [weight / sum(weights) for weight in weights]
    number = [0]

    def part(i: int) -> object:
        def schedule(inside: float) -> float:
            assert 0 <= inside <= 1  # a schedule is never asked beyond its ends
            number[0] = i
            return inside

        return schedule

    inside = combine([(share, part(i)) for i, share in enumerate(shares)])(done)  # type: ignore[misc]
    assert sum(shares[: number[0]]) + inside * shares[number[0]] == pytest.approx(done, abs=1e-9)


def test_a_part_begins_where_the_one_before_it_ends() -> None:
    steps = combine([(0.25, constant(1.0)), (0.5, constant(2.0)), (0.25, constant(3.0))])
    assert [steps(done) for done in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1.0)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.6], r"the shares of the schedules add up to 1.1, not to 1: \[0.5, 0.6\]"),
        ([1.0, 0.0], r"the shares of the schedules are \[1.0, 0.0\]; expected each to be more than 0"),
        ([1.5, -0.5], r"the shares of the schedules are \[1.5, -0.5\]; expected each to be more than 0"),
        ([], r"the shares of the schedules add up to 0, not to 1: \[\]"),
    ],
)
def test_shares_that_cannot_work_are_refused(shares: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        combine([(share, constant(0.0)) for share in shares])


@pytest.mark.parametrize("pct_start", [0, 1, -0.1, 1.5])
def test_a_warm_up_of_nothing_or_all_is_refused(pct_start: float) -> None:
    with pytest.raises(ConfigError) as refused:
        one_cycle(0.1, 1.0, 0.0, pct_start)
    assert str(refused.value) == (
        f"pct_start={pct_start} is the share of the warm-up: expected more than 0 and less than 1"
    )
