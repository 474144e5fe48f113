"""How often ranks exchange decisions, and how a fit's time goes by."""

from __future__ import annotations

import pytest

from dist_ai.learner import rhythm
from dist_ai.learner.rhythm import Rhythm


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns a clock that only moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(rhythm, "_now", lambda: now[0])
    return now


@pytest.mark.parametrize(("seconds", "every"), [(1e-5, 16), (0.03, 16), (0.1, 5), (0.5, 1), (7.0, 1)])
def test_slow_steps_are_followed_by_more_exchanges(clock: list[float], seconds: float, every: int) -> None:
    beat = Rhythm()
    due = []
    for _ in range(64):
        clock[0] += seconds
        due.append(beat.due())
        if due[-1]:
            beat.follow(beat.pace_us())
    assert due[0]  # the first tells the pace
    assert [i for i, each in enumerate(due) if each] == list(range(0, 64, every))


def test_the_time_of_a_fit_goes_by_on_the_rank_that_keeps_it_only(clock: list[float]) -> None:
    keeps, other, resumed = Rhythm(10.0), Rhythm(10.0, keeps_time=False), Rhythm(10.0, 0.5)
    clock[0] += 2.5
    assert [each.progress() for each in (keeps, other, resumed)] == [250_000, 0, 750_000]
    clock[0] += 100
    assert [each.progress() for each in (keeps, other, resumed)] == [1_000_000, 0, 1_000_000]
    assert Rhythm().progress() == 0
    assert Rhythm(0.0).progress() == 1_000_000
