"""Schedules: pure functions of the fraction of the training that is done."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.optimizer import (
    combine,
    combine_steps,
    constant,
    cosine,
    exponential,
    flat_cos,
    linear,
    one_cycle,
    plot_schedules,
    polynomial,
    scaled,
    schedule_from_plain,
    sgdr,
    warmup_stable_decay,
)
from dist_ai.optimizer.schedules import Combined, Curve

SCHEDULES: dict[str, Curve | Combined] = {
    "constant": constant(0.3),
    "linear": linear(1.0, 0.25),
    "cosine": cosine(0.1, 1e-5),
    "exponential": exponential(1e-6, 10.0),
    "exponential below 0": exponential(-1.0, -0.1),
    "polynomial": polynomial(1.0, 0.0, power=1.5),
    "combined": combine([(0.25, linear(0.0, 1.0)), (0.75, exponential(1.0, 0.01))]),
    "one_cycle": one_cycle(0.04, 1.0, 1e-5, pct_start=0.3),
    "flat_cos": flat_cos(1e-3, 1e-8),
    "warmup_stable_decay": warmup_stable_decay(1e-3, warmup=0.1, decay=0.3, tail=cosine),
    "sgdr": sgdr(1.0, 0.1, num_cycles=4, mult=1.5),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())

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


def fastais(name: str, start: float, end: float, pos: float, power: float = 1.0) -> float:
    """fastai's `SchedLin`, `SchedCos`, `SchedExp` and `SchedPoly`, written out."""
    return {
        "linear": lambda: start + pos * (end - start),
        "cosine": lambda: start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2,
        "exponential": lambda: start * (end / start) ** pos,
        "polynomial": lambda: start + (end - start) * pos**power,
    }[name]()


@given(start=st.floats(1e-3, 1e3), end=st.floats(1e-3, 1e3), power=st.floats(0.1, 5), done=fractions)
def test_the_curves_are_fastais_formulas(start: float, end: float, power: float, done: float) -> None:
    for make in (linear, cosine, exponential):
        expected = fastais(make.__name__, start, end, done)
        assert make(start, end)(done) == pytest.approx(expected, rel=1e-9), make.__name__
    assert polynomial(start, end, power)(done) == pytest.approx(
        fastais("polynomial", start, end, done, power), rel=1e-9
    )


@every_schedule
def test_a_schedule_is_a_value(schedule: Curve | Combined) -> None:
    printed = eval(repr(schedule))  # as it is written
    read = schedule_from_plain(json.loads(json.dumps(schedule.to_plain())))
    assert read == schedule
    assert hash(read) == hash(schedule)
    assert sum(each == schedule for each in SCHEDULES.values()) == 1
    for done in (0.0, 0.1, 0.25, 0.5, 0.99, 1.0):
        assert read(done) == schedule(done)
        assert printed(done) == pytest.approx(schedule(done), rel=1e-4, abs=1e-6)  # shares are printed short


@every_schedule
@given(done=fractions, by=st.floats(1e-3, 1e3))
def test_a_scaled_schedule_has_all_values_multiplied(schedule: Curve | Combined, done: float, by: float) -> None:
    assert scaled(schedule, by)(done) == pytest.approx(schedule(done) * by, rel=1e-9, abs=1e-12 * by)


def test_a_function_may_be_a_part_and_scaled_but_is_no_plain_data() -> None:
    schedule = combine([(0.5, lambda done: done), (0.5, constant(2.0))])
    assert [scaled(schedule, 3.0)(done) for done in (0.25, 0.75)] == [1.5, 6.0]
    with pytest.raises(
        ConfigError, match=r"the schedule <function .* is a function, not plain data; make it of those in"
    ):
        schedule.to_plain()


def test_warm_up_stable_decay_is_a_trapezium() -> None:
    schedule = warmup_stable_decay(2.0, warmup=0.1, decay=0.2, start=1.0, final=0.5)
    values = [schedule(done) for done in (0.0, 0.05, 0.1, 0.5, 0.79, 0.9, 1.0)]
    assert values == pytest.approx([1.0, 1.5, 2.0, 2.0, 2.0, 1.25, 0.5])
    falling = warmup_stable_decay(1.0, final=0.01, tail=exponential)
    assert falling(0.9) == pytest.approx(0.1)


def test_sgdr_restarts_in_cycles_that_grow() -> None:
    schedule = sgdr(1.0, num_cycles=3, mult=2.0)  # of 1, 2 and 4 sevenths
    assert [schedule(done / 7) for done in (0, 0.5, 1 + 1e-9, 2, 3 + 1e-9, 5, 7)] == pytest.approx(
        [1, 0.5, 1, 0.5, 1, 0.5, 0], abs=1e-6
    )


def test_steps_make_the_shares() -> None:
    schedule = combine_steps([(10, linear(0.0, 1.0)), (30, constant(1.0))])
    assert schedule == combine([(0.25, linear(0.0, 1.0)), (0.75, constant(1.0))])
    assert [schedule(step / 40) for step in (0, 5, 10, 39)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: exponential(0.0, 1.0), r"exponential\(0.0, 1.0\): expected two values above 0, or two below"),
        (lambda: exponential(-1.0, 1.0), r"exponential\(-1.0, 1.0\): expected two values above 0, or two below"),
        (lambda: polynomial(0.0, 1.0, 0), r"polynomial\(power=0\): expected more than 0"),
        (
            lambda: flat_cos(1.0, pct_start=1.0),
            r"pct_start=1.0 is the share of the flat part: expected more than 0 and",
        ),
        (
            lambda: warmup_stable_decay(1.0, warmup=0.5, decay=0.5),
            r"warmup=0.5 and decay=0.5 are shares above 0 that add up to less than 1",
        ),
        (
            lambda: sgdr(1.0, num_cycles=0),
            r"sgdr\(num_cycles=0, mult=2.0\): expected at least 1 cycle and a mult above 0",
        ),
        (lambda: combine_steps([(0, constant(1.0))]), r"the shares of the schedules are \[0.0\]; expected each to be"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("data", [{}, {"shape": "spiral", "start": 0, "end": 1}, {"parts": [[1.0]]}, {"parts": 3}])
def test_data_that_are_no_schedule_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match=r"is no schedule: .*; expected what to_plain\(\) of one returns"):
        schedule_from_plain(data)


def test_a_plot_has_a_curve_for_each_schedule() -> None:
    figure = plot_schedules({"lr": one_cycle(0.1, 1.0, 0.0), "mom": cosine(0.95, 0.85)}, num_points=5)
    assert [axes.get_ylabel() for axes in figure.axes] == ["lr", "mom"]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [cosine(0.95, 0.85)(part / 4) for part in range(5)]
    assert len(plot_schedules(constant(1.0)).axes) == 1
