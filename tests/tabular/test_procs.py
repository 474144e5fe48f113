"""Procs: what each learns from the training rows, what it makes of new ones, and how it is undone."""

from __future__ import annotations

import json
from decimal import Decimal
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


def test_a_column_that_is_the_same_everywhere_becomes_0_and_a_small_scale_becomes_1() -> None:
    train = pd.DataFrame({"same": [1e9 + 0.1] * 1001, "sum": [0.3, 0.1 + 0.2] * 500 + [0.3]})
    train["small"] = np.arange(1001) * 1e-12
    proc = Normalize()
    proc.setups(TabularFrame(train, cont_names=list(train)))
    to = encoded(proc, train, cont_names=list(train))
    assert to["same"].tolist() == [0.0] * 1001
    assert to["sum"].tolist() == pytest.approx([0.0] * 1001, abs=1e-15)
    assert to["small"].std(ddof=0) == pytest.approx(1)


def test_rare_categories_and_new_ones_become_one() -> None:
    train = pd.DataFrame({"kind": ["a"] * 12 + ["b", "c", None], "all": ["x"] * 15})
    proc = RareCategories(10)
    proc.setups(TabularFrame(train, cat_names=["kind", "all"]))
    new = pd.DataFrame({"kind": ["a", "b", "new", None], "all": ["x", "x", "x", "new"]})
    to = encoded(proc, new, cat_names=["kind", "all"])
    assert to["kind"].fillna("missing").tolist() == ["a", "#rare#", "#rare#", "missing"]
    assert to["all"].tolist() == ["x", "x", "x", "new"]


def test_a_category_is_itself_whatever_type_its_column_is_of() -> None:
    floats = pd.DataFrame({"zip": [1.0, 1.0, 1.0, 2.0, np.nan], "y": np.arange(5) + 0.5})
    for procs in ([Categorify], [RareCategories(2), Categorify], [TargetEncode, Categorify]):
        to = TabularPandas(floats, procs, "zip", (), "y")
        known = to.train.rows.cats[0].tolist()
        assert known != [0]
        encoded = [to.process([{"zip": value}]).rows for value in (1.0, 1, "1", "1.0")]
        assert [rows.cats[0].tolist() for rows in encoded] == [known] * 4
        assert len({tuple(rows.conts[0].tolist()) for rows in encoded}) == 1


def test_procs_that_are_given_to_several_tables_learn_from_each_alone() -> None:
    a = pd.DataFrame({"kind": ["x", "y", "x"], "n": [1.0, None, 3.0], "y": [0.5, 1, 2]})
    b = pd.DataFrame({"kind": ["p", "q", "p"], "n": [10.0, 20.0, 60.0], "y": [0.5, 1, 2]})
    procs = [Categorify({"y2": ["q"]}), FillMissing(), Normalize(), TargetEncode(smooth=1), RareCategories(2)]
    first, *_ = tables = [TabularPandas(each, procs, "kind", "n", "y") for each in (a, b, a)]
    expected = [
        TabularPandas(
            each, [Categorify, FillMissing, Normalize, TargetEncode(smooth=1), RareCategories(2)], "kind", "n", "y"
        )
        for each in (a, b, a)
    ]
    assert [to.classes for to in tables] == [to.classes for to in expected]
    assert all(one.xs.equals(other.xs) for one, other in zip(tables, expected, strict=True))
    assert procs == [Categorify({"y2": ["q"]}), FillMissing(), Normalize(), TargetEncode(smooth=1), RareCategories(2)]
    assert next(proc for proc in first.reader.procs if proc["proc"] == "Categorify")["classes"]["y2"] == ["#na#", "q"]


def test_marks_that_were_replaced_by_their_target_are_shown_without() -> None:
    frame = pd.DataFrame({"kind": ["x", "y"] * 6, "n": [1.0, None, 3.0] * 4, "y": np.arange(12) + 0.5})
    to = TabularPandas(frame, [FillMissing, TargetEncode(replace=True), Categorify, Normalize], "kind", "n", "y")
    assert to.show(3)["n"].tolist() == [1.0, 2.0, 3.0]
    assert list(to.show(3).columns) == ["n", "kind_mean", "n_na_mean", "y"]


@pytest.mark.parametrize("given", [{"cat_names": ["n_na", "kind"]}, {"cont_names": ["n", "n_na"]}, {"y_names": "n_na"}])
def test_a_column_that_a_proc_would_overwrite_is_named(given: dict[str, Any]) -> None:
    frame = pd.DataFrame({"kind": ["x", "y"] * 6, "n": [1.0, None, 3.0] * 4, "n_na": np.arange(12) % 3 + 0.5})
    frame["y"], frame["kind_mean"], frame["when"], frame["whenDay"] = np.arange(12) + 0.5, 1.0, "2020-02-01", 3
    names = {"cat_names": ["kind"], "cont_names": ["n"], "y_names": "y"}
    message = (
        r"FillMissing makes a column 'n_na', where 'n' has no number \(not with add_col=False\), and there is one already among "
        "cat_names, cont_names and y_names; rename it, or leave it out"
    )
    with pytest.raises(ConfigError, match=message):
        TabularPandas(frame, [Categorify, FillMissing], **names | given)
    if "n" not in given.get("cont_names", ()):
        TabularPandas(frame, [Categorify, FillMissing(add_col=False)], **names | given)
    TabularPandas(frame, [Categorify, FillMissing], **names)
    with pytest.raises(
        ConfigError, match="TargetEncode makes a column 'kind_mean', the mean of the target in each categ"
    ):
        TabularPandas(frame, [Categorify, TargetEncode], "kind", "kind_mean", "y")
    with pytest.raises(
        ConfigError, match="DateParts makes a column 'whenDay', a part of 'when', and there is one already"
    ):
        TabularPandas(frame, [Categorify, DateParts(["when"])], ["kind", "whenDay"], (), "y")


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
    for classes, message in (
        (["x", "y", "x"], "the classes of column 'a' have 'x' twice; each is there once"),
        ([1, True], "the classes of column 'a' have True twice"),
        (["x", "#na#"], "have '#na#' twice, which stands for what is missing and comes first"),
        ([None, "x"], "have None; expected text, numbers, or yes and no"),
    ):
        with pytest.raises(ConfigError, match=message):
            Categorify({"a": classes})
    to = TabularPandas([{"a": "#na#", "y": 0.5}, {"a": None, "y": 1.5}, {"a": "z", "y": 1.5}], Categorify, "a", (), "y")
    assert to.classes == {"a": ["#na#", "z"]}
    assert to.train.rows.cats.tolist() == [[0], [0], [1]]
    to = TabularPandas([{"a": "x", "y": 0.5}, {"a": "z", "y": 1.5}], Categorify({"a": ["x", "y"]}), "a", (), "y")
    assert to.classes == {"a": ["#na#", "x", "y"]}
    assert to.train.rows.cats.tolist() == [[1], [0]]
    with pytest.raises(ConfigError, match=r"RareCategories\(min_count=0\): expected a number of rows, at least 1"):
        RareCategories(0)


def means_of(frame: pd.DataFrame) -> dict[str, float]:
    to = TabularPandas(frame, [TargetEncode(smooth=0.0), Categorify], "kind", "x", "y")
    return dict(to.reader.procs[0]["means"]["kind"])


def test_of_two_ordered_classes_the_later_one_counts_1() -> None:
    frame = pd.DataFrame({"kind": list("aabb") * 5, "x": np.arange(20.0), "y": ["low", "low", "low", "high"] * 5})
    assert means_of(frame) == {"a": 1.0, "b": 0.5}  # by name
    frame["y"] = pd.Categorical(frame["y"], ["low", "high"], ordered=True)
    assert means_of(frame) == {"a": 0.0, "b": 0.5}


@pytest.mark.parametrize("kind", [Decimal, int, float])
def test_numbers_of_a_column_of_objects_are_a_target_to_encode_by(kind: Any) -> None:
    values = pd.Series([kind(number) for number in (1, 3, 5, 6)] * 5, dtype=object)
    frame = pd.DataFrame({"kind": list("aabb") * 5, "x": np.arange(20.0), "y": values})
    to = TabularPandas(frame, [TargetEncode(smooth=0.0), Categorify], "kind", "x", "y")
    assert dict(to.reader.procs[0]["means"]["kind"]) == {"a": 2.0, "b": 5.5}
