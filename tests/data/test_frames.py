"""Tables of any kind as data frames: whole numbers stay whole where some are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dist_ai.data import Table, as_frame
from dist_ai.data.frames import frame_of

ROWS = [
    {"id": 2**53, "x": 1.5, "name": "a"},
    {"id": None, "x": None, "name": None},
    {"id": 2**53 + 1, "x": 2.0, "name": "b"},
]


class OtherFrame:
    """A data frame of a library that is not known here, such as polars."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.Table.from_pylist(ROWS).__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        pa.Table.from_pylist(ROWS),
        pa.RecordBatch.from_pylist(ROWS),
        OtherFrame(),
        Table.from_arrow(pa.Table.from_pylist(ROWS)),
        Table({name: [row[name] for row in ROWS] for name in ROWS[0]}),
        Table.from_frame(as_frame(ROWS)),
        [pd.DataFrame(ROWS[:1]), ROWS[1], pd.DataFrame(ROWS[2:]).assign(name="b")],
    ],
    ids=lambda source: type(source).__name__,
)
def test_whole_numbers_stay_whole_where_some_are_missing(source: Any) -> None:
    frame = as_frame(source)
    assert frame["id"].dtype == "Int64"
    assert frame["id"].dropna().tolist() == [2**53, 2**53 + 1]
    assert frame["x"].dtype == np.float64
    assert frame["id"].isna().tolist() == frame["x"].isna().tolist() == frame["name"].isna().tolist()


def test_other_columns_are_what_pandas_makes_of_them() -> None:
    columns = {"none": [None, None], "yes": [True, None], "mixed": [1, 2.5], "whole": [1, 2], "text": ["1", None]}
    pd.testing.assert_frame_equal(frame_of(columns), pd.DataFrame(columns))
    assert frame_of({"large": [2**64 + 1, None]})["large"].tolist() == [2**64 + 1, None]
    assert frame_of({"large": [2**63 + 1, 1]})["large"].tolist() == [2**63 + 1, 1]
    given = pd.DataFrame({"x": [1.0, None]})
    assert as_frame(given)["x"].dtype == np.float64
