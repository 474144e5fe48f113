"""Categories: which of them a value is, whatever type its column is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from dist_ai.data.categories import Categories


@pytest.mark.parametrize(
    ("classes", "values", "codes"),
    [
        ([1, 3], pd.Series([3, 1, 2]), [2, 1, 0]),
        ([1, 3], pd.Series([3.0, np.nan, 1.5]), [2, 0, 0]),
        ([1, 3], pd.Series([3, None], dtype="Int64"), [2, 0]),
        ([1, 3], pd.Series(["3", "03", None]), [2, 0, 0]),
        ([1, 3], pd.Categorical([3, None, 4]), [2, 0, 0]),
        ([1.0, 2.5], pd.Series([1, "1", "1.0", 2.5, "2.5"], dtype=object), [1, 1, 1, 2, 2]),
        (["1", "2.5", "x"], pd.Series([1.0, 2.5, 7.0]), [1, 2, 0]),
        (["1", "x"], pd.Series([1, "x", "1.0"], dtype=object), [1, 2, 0]),
        ([False, True], pd.Series([True, None, "False", "yes"], dtype=object), [2, 0, 1, 0]),
        (["1", 1, "y"], pd.Series([1, "1", 1.0], dtype=object), [2, 1, 2]),
        ([2**53, 2**53 + 1], pd.Series([2**53 + 1, None], dtype="Int64"), [2, 0]),
        ([-1, 2**63 + 1], pd.Series([2**63 + 1], dtype="uint64"), [2]),
        ([-1, 5], pd.Series([2**63 + 1, 5], dtype="uint64"), [0, 2]),
        ([], pd.Series(["a", None]), [0, 0]),
    ],
)
def test_a_value_is_the_category_that_it_reads_as(classes: list[Any], values: Any, codes: list[int]) -> None:
    found = Categories(classes).codes(pd.Series(values))
    assert found.dtype == np.int64
    assert found.tolist() == codes
