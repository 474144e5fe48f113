"""Procs: what each learns from the training rows, what it makes of new ones, and how it is undone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tables import people

from dist_ai.data.procs import procs_from_plain
from dist_ai.errors import ConfigError, DataError
from dist_ai.tabular import (
    Categorify,
    DateParts,
    FillMissing,
    Normalize,
    RareCategories,
    TabularFrame,
    TabularPandas,
    TabularProc,
    TargetEncode,
)


def again(proc: TabularProc) -> TabularProc:
    """Returns the proc as a file gives it back."""
    [made] = procs_from_plain(json.loads(json.dumps([proc.to_plain()])))
    return made


def encoded(proc: TabularProc, frame: pd.DataFrame, **names: Any) -> TabularFrame:
    to = TabularFrame(frame, **names)
    again(proc).encodes(to)
    return to


@pytest.mark.parametrize(("strategy", "fill"), [("median", 3.0), ("mode", 1.0), ("constant", 7.0)])
def test_missing_numbers_are_filled_and_marked(strategy: Any, fill: float) -> None:
    train = pd.DataFrame({"x": [1.0, 1.0, 5.0, 8.0, np.nan]})
    proc = FillMissing(strategy, fill_vals={"x": 7.0})
    proc.setups(TabularFrame(train, cont_names=["x"]))
    to = encoded(proc, pd.DataFrame({"x": [np.nan, 2.0]}), cont_names=["x"])
    assert to["x"].tolist() == [fill, 2.0]
    assert to["x_na"].tolist() == [True, False]
    assert to.cat_names == ["x_na"]


def test_a_column_that_first_lacks_a_number_in_new_rows_is_filled_without_a_mark() -> None:
    proc = FillMissing()
    proc.setups(TabularFrame(pd.DataFrame({"x": [1.0, 2.0, 3.0]}), cont_names=["x"]))
    to = encoded(proc, pd.DataFrame({"x": [None, 2.0]}), cont_names=["x"])
    assert to["x"].tolist() == [2.0, 2.0]
    assert to.cat_names == []


def test_numbers_are_scaled_and_come_back() -> None:
    train = pd.DataFrame({"x": [10_000.0, 20_000.0, 60_000.0], "same": [3.0] * 3})
    proc = Normalize()
    proc.setups(TabularFrame(train, cont_names=["x", "same"]))
    to = encoded(proc, train, cont_names=["x", "same"])
    assert to["x"].mean() == pytest.approx(0)
    assert to["x"].std(ddof=0) == pytest.approx(1)
    assert to["same"].tolist() == [0.0] * 3
    proc.decodes(to)
    assert to["x"].tolist() == [10_000.0, 20_000.0, 60_000.0]


def test_rare_categories_and_new_ones_become_one() -> None:
    train = pd.DataFrame({"kind": ["a"] * 12 + ["b", "c", None], "all": ["x"] * 15})
    proc = RareCategories(10)
    proc.setups(TabularFrame(train, cat_names=["kind", "all"]))
    new = pd.DataFrame({"kind": ["a", "b", "new", None], "all": ["x", "x", "x", "new"]})
    to = encoded(proc, new, cat_names=["kind", "all"])
    assert to["kind"].fillna("missing").tolist() == ["a", "#rare#", "#rare#", "missing"]
    assert to["all"].tolist() == ["x", "x", "x", "new"]


def test_a_row_s_own_target_does_not_encode_its_category() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"kind": [f"k{i // 2}" for i in range(400)], "y": random.normal(size=400)})  # nothing to learn
    to = TabularPandas(frame, [TargetEncode(smooth=0.0), Categorify], "kind", (), "y")
    leaked = frame.groupby("kind")["y"].transform("mean")
    assert np.corrcoef(leaked, frame["y"])[0, 1] > 0.6
    assert abs(np.corrcoef(to.train.rows.conts[:, 0].numpy(), frame["y"])[0, 1]) < 0.25
    assert to.cont_names == ["kind_mean"]
    # A new row has the mean over all training rows.
    new = to.process([{"kind": "k3"}, {"kind": "unseen"}]).rows.conts[:, 0].tolist()
    assert new == pytest.approx([frame["y"][6:8].mean(), frame["y"].mean()], rel=1e-5)


def test_categories_may_be_replaced_by_their_target_of_two_classes() -> None:
    to = TabularPandas(
        people(),
        [TargetEncode(["job"], replace=True), Categorify, FillMissing, Normalize],
        ["job", "town"],
        ["hours"],
        "rich",
    )
    assert to.cat_names == ["town"]
    assert to.cont_names == ["hours", "job_mean"]
    assert to.process(people(3)).rows.conts.shape == (3, 2)
    with pytest.raises(ConfigError, match="takes numbers or two classes, and 'job3' has 3: cook, pilot, smith"):
        TabularPandas(people().assign(job3=people()["job"].fillna("cook")), TargetEncode, "town", (), "job3")
    with pytest.raises(ConfigError, match="expected at least 2"):
        TargetEncode(folds=1)


def test_dates_become_parts_in_new_rows_too() -> None:
    rows = pd.DataFrame({"when": pd.date_range("2020-01-30", periods=6), "y": np.arange(6.0) + 0.5})
    to = TabularPandas(rows.assign(kind="a"), [DateParts(["when"]), Categorify, Normalize], "kind", (), "y")
    assert "whenMonth" in to.cat_names
    assert to.cont_names == ["whenElapsed"]
    new = to.process([{"when": "2020-02-01", "kind": "a"}])
    month = to.classes["whenMonth"][new.rows.cats[0, to.cat_names.index("whenMonth")]]
    assert month == 2


def test_dates_as_text_are_read_in_new_rows_as_in_training() -> None:
    rows = pd.DataFrame({"when": ["03/04/2021", "13/04/2021", "05/06/2021"], "kind": "a", "y": [0.5, 1, 2]})
    to = TabularPandas(rows, [DateParts(["when"]), Categorify, Normalize], "kind", (), "y", splits=([0, 1, 2], [0, 2]))
    place = to.cat_names.index("whenMonth")
    assert to.classes["whenMonth"] == ["#na#", 4, 6]
    assert to.valid.rows.cats[:, place].tolist() == [1, 2]  # alone these may be of March and May
    proc = again(DateParts(["when"], dayfirst=True))
    to_one = TabularFrame(pd.DataFrame({"when": ["03/04/2021"]}))
    proc.setups(to_one)
    again(proc).encodes(to_one)
    assert to_one["whenMonth"].tolist() == [4]
    with pytest.raises(DataError, match=r"'04/25/2021' in row 0, where the month stands first, and with dayfirst=True"):
        to.process([{"when": "04/25/2021", "kind": "a"}])


def test_procs_run_in_their_own_order_whatever_is_listed() -> None:
    frames = [
        TabularPandas(people(), procs, ["job"], ["age"], "rich").xs
        for procs in ([Categorify, FillMissing, Normalize], [Normalize, FillMissing, Categorify])
    ]
    pd.testing.assert_frame_equal(*frames)


def test_a_proc_with_state_that_is_no_dataclass_says_so() -> None:
    class Forgetful(TabularProc):
        def setups(self, to: Any) -> None:
            self.state = 1

    with pytest.raises(ConfigError, match="Forgetful keeps state but is not a dataclass"):
        TabularPandas(people(), [Forgetful, Categorify], ["job"], (), "rich")


def test_an_argument_of_a_proc_that_cannot_work_is_named() -> None:
    with pytest.raises(ConfigError, match=r"RareCategories\(min_count=0\): expected a number of rows, at least 1"):
        RareCategories(0)
