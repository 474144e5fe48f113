"""What bounds predictions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dist_ai.errors import ConfigError
from dist_ai.layers.activation import bounds_of


@pytest.mark.parametrize("y_range", [(0, 5), [np.int64(0), np.float32(5)], np.array([0, 5])])
def test_bounds_are_what_a_file_can_hold_of_any_two_numbers(y_range: Any) -> None:
    assert json.dumps(bounds_of(y_range)) == "[0.0, 5.0]"


@pytest.mark.parametrize(
    ("y_range", "said"),
    [
        (5, r"y_range=5: expected two numbers, \(low, high\)"),
        ("05", "y_range='05': expected two numbers"),
        ((0, 1, 2), "expected two numbers"),
        ((5, 1), "expected the lower end first"),
    ],
)
def test_what_bounds_nothing_is_named(y_range: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bounds_of(y_range)
