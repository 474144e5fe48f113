"""Columns made of dates and events, and which columns are numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dist_ai.errors import DataError
from dist_ai.tabular import add_datepart, add_elapsed_times, cont_cat_split, make_date


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_elapsed_is_seconds_whatever_the_resolution(unit: str) -> None:
    frame = pd.DataFrame({"date": pd.Series(["2020-02-29"]).astype(f"datetime64[{unit}]")})
    parts = add_datepart(frame, "date")
    assert parts["Elapsed"].tolist() == [1582934400.0]
    assert "date" not in parts
    assert "date" in frame


def test_the_parts_of_a_date_are_those_of_the_calendar() -> None:
    parts = add_datepart([{"day": "2021-01-03 04:05:06"}], "day", time=True).iloc[0]
    expected = {"Year": 2021, "Month": 1, "Week": 53, "Day": 3, "Dayofweek": 6, "Dayofyear": 3, "Hour": 4, "Second": 6}
    assert {name: parts[f"day{name}"] for name in expected} == expected
    assert not parts["dayIs_month_start"]


def test_a_missing_date_has_missing_parts() -> None:
    parts = add_datepart([{"day": "2021-01-03"}, {"day": None}], "day")
    assert parts["dayYear"].tolist() == [2021, None]
    assert np.isnan(parts["dayElapsed"].astype(float)[1])


def test_what_is_no_date_is_named() -> None:
    with pytest.raises(DataError, match="column 'day' holds 'soon' in row 1, which is no date"):
        make_date([{"day": "2021-01-03"}, {"day": "soon"}], "day")
    with pytest.raises(DataError, match=r"column 'day' holds numbers \(int64\) and no dates"):
        make_date([{"day": 20210103}], "day")
    with pytest.raises(DataError, match=r"no column 'dya'; .*did you mean 'day'"):
        make_date([{"day": "2021-01-03"}], "dya")


def test_days_since_and_until_events_are_counted_by_series() -> None:
    rows = pd.DataFrame(
        {
            "shop": ["a"] * 4 + ["b"] * 2,
            "day": [f"2020-01-{d:02}" for d in (3, 1, 12, 2, 1, 9)],  # in no order
            "promo": [0, 0, 1, 1, 1, 0],
        }
    )
    found = add_elapsed_times(rows, "promo", "day", "shop")
    assert found["Afterpromo"].tolist() == [1, 0, 0, 0, 0, 8]
    assert found["Beforepromo"].tolist() == [-9, -1, 0, 0, 0, 0]
    assert found["promo_bw"].tolist() == [1, 0, 1, 1, 1, 0]
    assert found["promo_fw"].tolist() == [0, 1, 1, 1, 1, 0]


def test_whole_numbers_of_few_values_are_categories() -> None:
    frame = pd.DataFrame({"many": range(30), "few": [1, 2] * 15, "x": [0.5] * 30, "text": "a", "yes": True, "y": 1.0})
    assert cont_cat_split(frame, dep_var="y") == (["many", "x"], ["few", "text", "yes"])
    assert cont_cat_split(frame, max_card=1, dep_var=["y", "text"])[0] == ["many", "few", "x"]


def test_a_target_that_is_no_column_is_named_and_not_left_among_the_inputs() -> None:
    with pytest.raises(DataError, match=r"dep_var: no column 'pay'; there are age, pays; did you mean 'pays'"):
        cont_cat_split([{"age": 3, "pays": 1}], dep_var="pay")
