"""What parameters are drawn from, as a person writes it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dist_ai.errors import ConfigError
from dist_ai.tuning.space import Draw, read_space


def test_texts_lists_and_values_are_read() -> None:
    assert read_space({"lr": "loguniform(1e-4,1e-1)", "n": "randint(1, 9)", "a": [1, 2], "b": "choice(small, 3)", "c": "x"}) == {
        "lr": Draw("loguniform", (1e-4, 1e-1)),
        "n": Draw("randint", (1, 9)),
        "a": Draw("choice", (1, 2)),
        "b": Draw("choice", ("small", 3)),
        "c": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "the space is empty: name a parameter and what it is drawn from, as in lr=loguniform(1e-4,1e-1)"),
        ({"lr": "loguniforn(1, 2)"}, "lr=loguniforn(1, 2): 'loguniforn' is not a way to draw a parameter: uniform, "),
        ({"lr": "loguniforn(1, 2)"}, "did you mean 'loguniform'?"),
        ({"lr": "uniform(2, 1)"}, "uniform(2, 1): expected the least and the most, as in uniform(0.1, 0.9)"),
        ({"lr": "uniform(1)"}, "uniform(1): expected the least and the most"),
        ({"n": "randint(1, 2.5)"}, "randint(1, 2.5): expected whole numbers, as in randint(1, 9)"),
        ({"lr": "loguniform(0, 1)"}, "loguniform(0, 1): the logarithm needs numbers above 0"),
        ({"arch": "choice()"}, "choice() has nothing to choose from: choice(16, 32)"),
        ({"arch": []}, "choice() has nothing to choose from"),
        ({"2 lr": 1}, "'2 lr' is no name of a parameter"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_space(space)
