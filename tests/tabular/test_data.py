"""Loaders of tables: what is in a batch, what the procs learned it from, and what a table must look like."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from pyarrow import csv, parquet
from tables import CATS, CONTS, people, people_learner, people_loaders

from dist_ai.core import TabularRow, TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.data import CategoryBlock, MultiCategoryBlock, RegressionBlock, RowData, Table
from dist_ai.data.frames import RowError
from dist_ai.errors import ConfigError, DataError
from dist_ai.tabular import (
    Categorify,
    DateParts,
    FillMissing,
    Normalize,
    TabularDataLoaders,
    TabularPandas,
    TabularProc,
    TargetEncode,
    get_emb_sz,
)


@dataclass
class DoubledHours(TabularProc):
    """Hours of two weeks."""

    factor: float = 2.0
    most: float = field(default=0.0, init=False)

    order: ClassVar[int] = 5

    def setups(self, to: Any) -> None:
        self.most = float(to["hours"].max())

    def encodes(self, to: Any) -> None:
        to["hours"] = to["hours"] * self.factor

    def decodes(self, to: Any) -> None:
        to["hours"] = to["hours"] / self.factor


# ------------------------------------------------------------------------------------------------ what is in them


def test_a_batch_has_codes_numbers_and_classes() -> None:
    row, y = people_loaders().one_batch()
    assert isinstance(row, TabularRow)
    assert (row.cats.dtype, row.cats.shape) == (torch.int64, (16, 3))  # age_na is the third
    assert (row.conts.dtype, row.conts.shape) == (torch.float32, (16, 2))
    assert isinstance(y, TensorCategory)


def test_an_epoch_has_every_training_row_once() -> None:
    dls = people_loaders(bs=7)
    seen = torch.cat([row.conts for row, _ in dls.train])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, dls.train_ds.rows.conts.tolist()))
    assert len(dls.train_ds) + len(dls.valid_ds) == 120


def test_the_source_is_not_changed() -> None:
    frame = people()
    before = frame.copy(deep=True)
    people_loaders(frame).one_batch()
    pd.testing.assert_frame_equal(frame, before)


def test_procs_learn_from_the_training_rows_alone() -> None:
    frame = pd.DataFrame(
        {"kind": ["a", "b", "a", "only in validation"], "x": [1.0, 3.0, 5.0, 1e6], "y": [0.5, 1, 2, 3]}
    )
    to = TabularPandas(
        frame.astype({"kind": "category"}),
        [Normalize, FillMissing, Categorify],
        "kind",
        "x",
        "y",
        splits=([0, 1, 2], [3]),
    )
    assert to.classes == {"kind": ["#na#", "a", "b"]}
    assert to.train.rows.conts.flatten().tolist() == pytest.approx([-1.224745, 0, 1.224745], rel=1e-5)
    assert to.valid is not None
    assert to.valid.rows.cats.tolist() == [[0]]
    assert isinstance(to.train.targets[0], TensorRegression)


def test_an_ordered_categorical_keeps_its_order() -> None:
    sizes = pd.Categorical(["L", "S", "L"], categories=["S", "M", "L"], ordered=True)
    to = TabularPandas(pd.DataFrame({"size": sizes, "y": [1.5, 2, 3]}), Categorify, "size", (), "y")
    assert to.classes == {"size": ["#na#", "S", "L"]}


def test_any_kind_of_table_gives_the_same_batches(tmp_path: Path) -> None:
    frame = people()
    expected = people_loaders(frame).one_batch()
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    names = {"cat_names": CATS, "cont_names": CONTS, "y_names": "rich", "bs": 16, "valid_pct": 0.25}
    for dls in (
        people_loaders(Table.from_frame(frame)),
        people_loaders(pyarrow.Table.from_pandas(frame)),
        people_loaders(frame.to_dict("records")),
        TabularDataLoaders.from_csv(tmp_path / "rows.csv", tmp_path, **names),
        TabularDataLoaders.from_parquet(tmp_path / "rows.parquet", **names),
    ):
        row, y = dls.one_batch()
        assert row.cats.tolist() == expected[0].cats.tolist()
        torch.testing.assert_close(row.conts, expected[0].conts)
        assert y.tolist() == expected[1].tolist()


def test_only_the_columns_that_are_asked_for_are_read_of_a_parquet_file(tmp_path: Path) -> None:
    people().assign(note=[["any"]] * 120).to_parquet(tmp_path / "rows.parquet")
    dls = TabularDataLoaders.from_parquet(tmp_path / "rows.parquet", columns=["job", "hours", "rich"], y_names="rich")
    assert list(dls.train_ds.frame.columns) == ["job", "hours", "rich"]
    assert dls.recipe.reads_tables.seen_cats == ["job"]


def test_large_ids_stay_apart_where_one_is_missing_and_show_as_whole_numbers(tmp_path: Path) -> None:
    ids = pyarrow.table({"id": [2**53, 2**53 + 1, None, 3, 3], "y": [0.5, 1.5, 2.5, 3.5, 4.5]})
    parquet.write_table(ids, tmp_path / "rows.parquet", row_group_size=2)
    csv.write_csv(ids, tmp_path / "rows.csv")
    names = {"cat_names": "id", "cont_names": (), "y_names": "y", "procs": Categorify, "bs": 5}
    for dls in (
        TabularDataLoaders.from_df(ids, valid_pct=0, **names),
        TabularDataLoaders.from_df(ids.to_pylist(), valid_pct=0, **names),
        TabularDataLoaders.from_csv(tmp_path / "rows.csv", valid_pct=0, **names),
        TabularDataLoaders.from_parquet(tmp_path / "rows.parquet", valid_pct=0, **names),
        TabularDataLoaders.from_parquet_stream(tmp_path / "rows.parquet", num_workers=0, **names),
    ):
        reader = dls.recipe.reads_tables
        assert list(map(repr, reader.classes["id"])) == ["'#na#'", "3", "9007199254740992", "9007199254740993"]
        [(row, _)] = list(dls.train)
        assert sorted(row.cats[:, 0].tolist()) == [0, 1, 1, 2, 3]
        assert reader.read([{"id": 2**53 + 1}, {"id": "3"}, {"id": 4}]).rows.cats.tolist() == [[3], [1], [0]]


def test_ids_of_64_bits_without_a_sign_are_categories() -> None:
    ids = [{"id": 2**63 + 1, "y": 0.5}, {"id": 2**64 - 1, "y": 1.5}, {"id": 7, "y": 2.5}]
    for table in (ids, pyarrow.Table.from_pylist(ids, pyarrow.schema([("id", pyarrow.uint64()), ("y", "float64")]))):
        to = TabularPandas(table, Categorify, "id", (), "y")
        assert to.classes == {"id": ["#na#", 7, 2**63 + 1, 2**64 - 1]}
        assert to.train.rows.cats.tolist() == [[2], [3], [1]]
        assert to.process([{"id": 2**63 + 1}, {"id": 8}, {"id": None}]).rows.cats.tolist() == [[2], [0], [0]]


def test_columns_are_told_apart_where_nobody_says() -> None:
    dls = TabularDataLoaders.from_df(people().drop(columns="score"), y_names="rich")
    assert dls.recipe.reads_tables.seen_cats == ["job", "town", "age_na"]
    assert dls.recipe.reads_tables.seen_conts == ["age", "hours"]


def test_what_nobody_says_of_a_column_its_values_tell() -> None:
    frame = people().drop(columns="score").assign(kids=[0, 1, 2] * 40, home=[True, False] * 60)

    def columns(**given: Any) -> tuple[list[str], list[str]]:
        reader = TabularDataLoaders.from_df(frame, y_names="rich", **given).recipe.reads_tables
        return reader.cat_names, reader.cont_names

    assert columns() == (["job", "town", "kids", "home"], ["age", "hours"])
    # All numbers that are not said to be categories, as in fastai; text is none.
    assert columns(cat_names=["job"]) == (["job"], ["age", "hours", "kids", "home"])
    assert columns(cat_names="kids") == (["kids"], ["age", "hours", "home"])
    assert columns(cont_names="age") == (["job", "town", "kids", "home"], ["age"])
    assert columns(cont_names=["age", "kids"]) == (["job", "town", "home"], ["age", "kids"])
    assert columns(cat_names=[]) == ([], ["age", "hours", "kids", "home"])
    assert columns(cat_names=["job"], cont_names=[]) == (["job"], [])
    assert columns(cat_names=[], cont_names=["age"]) == ([], ["age"])
    with pytest.raises(DataError, match=r"^no column 'jbo'; .*did you mean 'job'"):
        columns(cat_names=["jbo"])
    with pytest.raises(ConfigError, match="column 'rich' is named twice, in cat_names and y_names"):
        columns(cat_names=["rich"])


def test_an_ordered_target_keeps_its_order() -> None:
    levels = pd.Categorical(["hi", "lo", "mid", "lo"] * 30, categories=["lo", "mid", "hi", "top"], ordered=True)
    dls = people_loaders(people().assign(rich=levels))
    assert dls.vocab == ["lo", "mid", "hi", "top"]  # the last too, as an image's label has it
    frame = dls.train_ds.frame["rich"]
    assert dls.train_ds.targets[0].tolist() == frame.cat.codes.tolist()
    assert people_loaders(people().assign(rich=levels.as_unordered())).vocab == ["hi", "lo", "mid"]
    given = people_loaders(people().assign(rich=levels), y_block=CategoryBlock(["top", "hi", "mid", "lo"]))
    assert given.vocab == ["top", "hi", "mid", "lo"]
    in_place = people_loaders(people().assign(rich=levels.as_unordered()), y_block=CategoryBlock(sort=False))
    assert in_place.vocab == ["lo", "mid", "hi", "top"]
    assert people_loaders(people().assign(rich=levels), y_block=CategoryBlock(add_na=True)).vocab[:2] == ["#na#", "lo"]
    with pytest.raises(DataError, match="all training rows have the class 'lo' in rich"):
        people_loaders(people().assign(rich=pd.Categorical(["lo"] * 120, categories=["lo", "hi"], ordered=True)))
    with pytest.raises(DataError, match="labels of type Interval: expected all str, or all int"):
        people_loaders(people().assign(rich=pd.cut(people()["hours"], 3)))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pd.Series(range(120), dtype=object), TensorRegression),
        (pd.Series([Decimal(i) / 4 for i in range(120)]), TensorRegression),
        (
            pd.Series([Decimal(i) / 4 for i in range(120)], dtype=pd.ArrowDtype(pyarrow.decimal128(9, 2))),
            TensorRegression,
        ),
        (pd.array(range(120), dtype="Int64"), TensorRegression),
        (pd.array([0, 1] * 60, dtype="Int64"), TensorCategory),
        (pd.Series([0.0, 1.0] * 60), TensorRegression),
        (pd.Series([True, False] * 60, dtype=object), TensorCategory),
        (pd.Categorical([1, 2, 3] * 40), TensorCategory),
    ],
)
def test_what_a_target_is_its_values_tell(column: Any, kind: type) -> None:
    assert isinstance(people_loaders(people().assign(level=column), y_names="level").one_batch()[1], kind)


def test_text_of_numbers_is_a_number_to_predict_where_that_is_said() -> None:
    text = people().assign(level=[str(i / 4) for i in range(120)])
    dls = people_loaders(text, y_names="level", y_block=RegressionBlock)
    assert dls.train_ds.targets[0].tolist() == dls.train_ds.frame["level"].astype(float).tolist()


def test_columns_may_be_named_by_numbers() -> None:
    frame = people()[["job", "age", "rich"]].set_axis([0, 1, 2], axis=1)
    reader = TabularDataLoaders.from_df(frame, y_names=2, cat_names=0).recipe.reads_tables
    assert (reader.cat_names, reader.cont_names) == (["0"], ["1"])


def test_validation_rows_may_be_given() -> None:
    dls = people_loaders(valid_pct=None, valid_idx=range(100, 120))
    assert [len(loader.dataset) for loader in dls] == [100, 20]
    with pytest.raises(ConfigError, match="valid_pct beside valid_idx"):
        people_loaders(valid_pct=0.1, valid_idx=[1])


def test_targets_are_a_class_numbers_or_labels() -> None:
    frame = people()
    frame["a"], frame["b"] = (frame["age"] > 40).astype(int), (frame["hours"] > 40).astype(int)
    assert isinstance(people_loaders(frame, y_names="score").one_batch()[1], TensorRegression)
    several = people_loaders(frame, y_names=["score", "hours"], cont_names="age")
    assert several.one_batch()[1].shape == (16, 2)
    assert several.c == 2
    labels = people_loaders(frame, y_names=["a", "b"])
    assert isinstance(labels.one_batch()[1], TensorMultiCategory)
    assert labels.vocab == ["a", "b"]
    assert people_loaders(frame, y_names="a").vocab == [0, 1]
    frame["tags"] = [["x"], ["x", "y"]] * 60
    tags = people_loaders(frame, y_names="tags", y_block=MultiCategoryBlock)
    assert tags.vocab == ["x", "y"]
    assert tags.train_ds.targets[0].sum(1).tolist() == [len(t) for t in tags.train_ds.frame["tags"]]


def test_a_proc_of_ones_own_takes_part_and_is_undone() -> None:
    dls = people_loaders(procs=[DoubledHours, Categorify, FillMissing, Normalize])
    reader = dls.recipe.reads_tables
    plain = next(each for each in reader.procs if each["proc"] == "DoubledHours")
    assert plain["factor"] == 2.0
    assert plain["most"] == pytest.approx(dls.train_ds.frame["hours"].max())
    shown = reader.frame_of(dls.train_ds.rows)
    np.testing.assert_allclose(shown["hours"], dls.train_ds.frame["hours"], rtol=1e-5)
    known = dls.train_ds.frame["job"]
    assert shown["job"].where(known.notna(), None).tolist() == known.where(known.notna(), None).tolist()
    assert shown["age"].isna().tolist() == dls.train_ds.frame["age"].isna().tolist()


def test_tabular_pandas_gives_arrays_for_other_models() -> None:
    to = TabularPandas(
        people(), [Categorify, FillMissing, Normalize], CATS, CONTS, "rich", splits=(range(90), range(90, 120))
    )
    assert list(to.xs.columns) == ["job", "town", "age_na", "age", "hours"]
    assert to.ys.shape == (90, 1)
    assert list(to.ys.columns) == ["rich"]
    assert to.xs.equals(to.train.xs)
    assert to.train.ys["rich"].equals(to.train.y)
    assert to.y.equals(to.train.y)
    assert to.train.ys.values.ravel().tolist() == (to.train.frame["rich"] == "yes").astype(int).tolist()
    assert to.valid is not None
    assert list(to.valid.xs.columns) == list(to.xs.columns)
    assert len(to.valid.xs) == len(to.valid.ys) == 30
    unlabelled = to.process(people(5))
    with pytest.raises(DataError, match="there are no targets: no y_names were given"):
        _ = unlabelled.ys
    assert to.show(2)["rich"].tolist() == to.train.frame["rich"].tolist()[:2]
    assert len(to.decode()) == 90
    assert to.process(people(5, seed=3)).rows.cats.shape == (5, 3)
    assert "TabularPandas(120 rows" in repr(to)


def test_loaders_of_tables_are_described_by_column_and_say_what_is_missing(tmp_path: Path) -> None:
    frame = people()
    frame["day"] = pd.date_range("2020-01-01", periods=120)
    procs = [DateParts(["day"]), Categorify, FillMissing, Normalize, TargetEncode]
    dls = people_loaders(frame, procs=procs, valid_pct=None, valid_idx=range(90, 120))
    stats = dls.describe()
    facts = stats.parts[0].facts
    assert list(facts)[-5:] == ["input: job", "input: town", "input: age", "input: hours", "target: rich"]
    jobs = frame["job"][:90]
    assert facts["input: job"]["value"] == {"counts": jobs.value_counts().to_dict(), "missing": int(jobs.isna().sum())}
    assert facts["input: age"]["value"]["max"] == frame["age"][:90].max()
    assert facts["input: age"]["value"]["missing"] == frame["age"][:90].isna().sum()
    assert facts["input: dayMonth"]["value"]["counts"] == {"1": 31, "3": 30, "2": 29}
    said = " ".join(repr(stats).split())
    assert "input: job kind categories categories categories 3 3" in said
    assert f" missing ({jobs.isna().mean():.1%})" in said
    options: dict[str, Any] = {"cat_names": CATS, "cont_names": CONTS, "y_names": ["score", "hours2"]}
    frame.assign(hours2=frame["hours"]).to_parquet(tmp_path / "1.parquet")
    stream = TabularDataLoaders.from_parquet_stream(tmp_path / "1.parquet", **options).describe().parts[0].facts
    assert stream["input: job"]["value"]["missing"] == frame["job"].isna().sum()
    assert stream["target: score"]["value"]["max"] == pytest.approx(frame["score"].max())


def test_of_many_categories_a_description_counts_those_left_out() -> None:
    frame = pd.DataFrame({"kind": [f"k{number % 25}" for number in range(50)], "y": np.arange(50.0)})
    stats = repr(TabularDataLoaders.from_df(frame, cat_names="kind", y_names="y", valid_pct=0).describe())
    assert "… 21 more" in stats


def test_a_dict_of_columns_is_a_table_and_a_mask_chooses_rows() -> None:
    frame = people()
    columns = {name: frame[name].tolist() for name in frame.columns}
    for valid_idx in (frame["hours"] > 42, (frame["hours"] > 42).tolist(), np.flatnonzero(frame["hours"] > 42)):
        dls = people_loaders(columns, valid_pct=None, valid_idx=valid_idx)
        assert dls.valid_ds.frame["hours"].tolist() == frame["hours"][frame["hours"] > 42].tolist()
    with pytest.raises(DataError, match="a mask of 2 for 120 items: expected one value for each"):
        people_loaders(columns, valid_pct=None, valid_idx=[True, False])
    with pytest.raises(DataError, match="a table needs columns of one length, and these have job: 1, town: 120"):
        people_loaders({**columns, "job": ["cook"]})
    with pytest.raises(DataError, match=r"no column 'since'; there are job, town, age, hours, score, income, rich$"):
        people_loaders(frame.assign(income=1.0)[[*frame.columns[:5], "income", "rich"]], cont_names="since")


@pytest.mark.parametrize("kind", [int, str])
def test_numbers_taken_for_classes_are_told_how_to_be_predicted_as_numbers(kind: Any) -> None:
    frame = people().assign(y=[kind(number) for number in range(120)])
    with pytest.raises(
        DataError, match=r"classes of the training items\. These are numbers: .*y_block=RegressionBlock of a table"
    ):
        people_loaders(frame, y_names="y", y_block=CategoryBlock)
    people_loaders(frame, y_names="y", y_block=RegressionBlock)
    few = people().assign(y=[str(number // 100) + "0" for number in range(120)])
    with pytest.raises(DataError, match=r"label '20' is not one of the 2 classes of the training items$"):
        people_loaders(few.assign(y=[*few["y"][:-1], "20"]), y_names="y", valid_pct=None, valid_idx=[118, 119])


LEVELS = ["low", "mid", "high", "never"]


def levels(classes: list[str] = LEVELS) -> pd.DataFrame:
    column = pd.Categorical([classes[i * 7 % min(3, len(classes))] for i in range(40)], classes, ordered=True)
    return pd.DataFrame({"kind": ["a", "b"] * 20, "x": np.arange(40.0), "level": column})


@pytest.mark.parametrize("way", ["frame", "table", "arrow", "arrow table", "file", "stream"])
def test_an_ordered_target_keeps_its_order_whatever_it_comes_from(way: str, tmp_path: Path) -> None:
    frame, file = levels(), tmp_path / "rows.parquet"
    frame.to_parquet(file, row_group_size=10)
    arrow = pyarrow.Table.from_pandas(frame)
    options: dict[str, Any] = {"cat_names": "kind", "cont_names": "x", "y_names": "level", "bs": 4}
    if way == "file":
        dls = TabularDataLoaders.from_parquet(file, **options)
    elif way == "stream":
        dls = TabularDataLoaders.from_parquet_stream(file, **options)
    else:
        sources = {
            "frame": frame,
            "table": Table.from_frame(frame),
            "arrow": arrow,
            "arrow table": Table.from_arrow(arrow),
        }
        dls = TabularDataLoaders.from_df(sources[way], **options)
    assert dls.vocab == LEVELS


def test_targets_for_other_models_are_a_column_each() -> None:
    frame = people()
    several = TabularPandas(frame, [Categorify, FillMissing], CATS, "age", ["score", "hours"]).train.ys
    np.testing.assert_allclose(several.to_numpy(), frame[["score", "hours"]], rtol=1e-6)
    assert list(several.columns) == ["score", "hours"]
    frame["tags"] = [["x"], ["x", "y"]] * 60
    tags = TabularPandas(frame, [Categorify, FillMissing], CATS, CONTS, "tags", MultiCategoryBlock).train.ys
    assert list(tags.columns) == ["tags x", "tags y"]
    assert tags["tags y"].tolist() == [0.0, 1.0] * 60
    unnamed = RowData(TabularRow(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 0)), [torch.zeros(2)])
    with pytest.raises(
        DataError, match="these rows were made of tensors, so their columns have no names; `targets` has"
    ):
        _ = unnamed.ys


# ------------------------------------------------------------------------------------------------ new rows


def test_new_rows_with_unseen_and_missing_values_are_loaded() -> None:
    dls = people_loaders()
    row, *_ = dls.test_dl([{"job": "astronaut", "town": None, "age": None, "hours": 40}], num_workers=0).one_batch()
    assert row.cats[0, :2].tolist() == [0, 0]
    assert dls.recipe.reads_tables.classes["age_na"][row.cats[0, 2]] is True


def test_new_rows_may_have_labels() -> None:
    learn = people_learner()
    dl = learn.dls.test_dl(people(30, seed=1), with_labels=True)
    assert len(learn.validate(dl)) == 1
    with pytest.raises(DataError, match=r"label 'maybe' is not one of the 2 classes"):
        learn.dls.test_dl(people(5).assign(rich="maybe"), with_labels=True)


# ------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"cont_names": ["agee"]}, r"no column 'agee'; there are .*; did you mean 'age'\?"),
        ({}, {"cat_names": ["jobb"]}, r"no column 'jobb'; .*did you mean 'job'\?"),
        ({}, {"y_names": "ritch"}, r"no column 'ritch'; .*did you mean 'rich'\?"),
        ({}, {"cat_names": ["age"]}, r"column 'age' is named twice, in cat_names and cont_names"),
        ({"hours": np.inf}, {}, r"column 'hours' is infinite in row 0 \(90 such value"),
        ({"hours": np.nan}, {}, r"column 'hours' has no number in any training row"),
        ({"hours": "many"}, {}, r"column 'hours' holds 'many' in row 0 \(90 such value\(s\)\), which is no number"),
        ({"job": [1, "cook"] * 60}, {}, r"column 'job' holds values of several types: numbers \(1\), text \('cook'\)"),
        ({"rich": "yes"}, {}, r"all training rows have the class 'yes' in rich"),
        ({"rich": None}, {}, r"the target 'rich' is missing in row 0 \(90 such row\(s\)\)"),
        ({"score": np.inf}, {"y_names": "score"}, r"column 'score' is infinite in row 0"),
        (
            {"score": 1e39},
            {"y_names": "score"},
            r"the target 'score' is 1e\+39 in row 0, which is beyond float32 \(3.4e38\)",
        ),
        ({}, {"procs": [Categorify]}, r"column 'age' has no number in row \d+ \(\d+ such row\(s\)\); add FillMissing"),
        ({}, {"procs": [FillMissing]}, r"column 'job' .* holds no numbers of categories; add Categorify"),
        ({"hours": pd.Timestamp("2020-01-01")}, {}, r"column 'hours' holds dates.*add_datepart"),
        ({"job": pd.Timestamp("2020-01-01")}, {}, r"column 'job' holds values of type Timestamp"),
        ({}, {"y_names": ["rich", "town"], "cat_names": "job"}, r"several targets need to be all numbers"),
        ({}, {"y_names": "rich", "y_block": MultiCategoryBlock}, r"the target.* is 'yes'|'no', a str; expected a list"),
        ({}, {"y_names": ()}, r"y_names is empty"),
        ({}, {"cat_names": (), "cont_names": ()}, r"neither cat_names nor cont_names"),
        ({}, {"procs": [str]}, r"is no proc: expected a TabularProc"),
        ({"job": [["cook"]] * 120}, {}, r"column 'job' holds values of type list, which are no categories"),
        (
            {"hours": pd.Timedelta(hours=3)},
            {},
            r"column 'hours' is of type timedelta64.* make them with .dt.total_seconds",
        ),
        ({"hours": 3j}, {}, r"column 'hours' is of type complex128 and holds no plain numbers"),
        (
            {},
            {"procs": [Categorify, FillMissing("constant", fill_vals={"hour": 1.0})]},
            r"fill_vals names 'hour', which is not in cont_names; did you mean 'hours'",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_named(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        people_loaders(people().assign(**change), **options)


@pytest.mark.parametrize(
    ("column", "value", "options"),
    [("rich", None, {}), ("hours", np.inf, {}), ("hours", "many", {}), ("hours", np.nan, {"procs": [Categorify]})],
)
@pytest.mark.parametrize("part", ["training", "validation"])
def test_a_row_is_named_by_its_place_in_the_table_and_not_in_the_part_it_was_drawn_into(
    column: str, value: Any, options: dict[str, Any], part: str
) -> None:
    wrong = people().assign(**{column: people()[column].astype(object)})
    wrong.loc[77, column] = value
    valid_idx = [*range(0, 60, 2), *([77] if part == "validation" else [])]
    with pytest.raises(
        RowError, match=rf"column '{column}' .*in row 77\b|target '{column}' is missing in row 77 "
    ) as told:
        people_loaders(wrong, valid_pct=None, valid_idx=valid_idx, **{"cont_names": "hours", **options})
    sent = pickle.loads(pickle.dumps(told.value))  # as a loader's worker does
    assert (sent.row, str(sent)) == (77, str(told.value))


def test_columns_that_come_twice_are_named() -> None:
    frame = people()
    frame.columns = ["job", "town", "age", "age", "score", "rich"]
    with pytest.raises(DataError, match="several columns named 'age'"):
        people_loaders(frame)


def test_one_row_and_no_row_are_named() -> None:
    with pytest.raises(DataError, match=r"1 row\(s\) cannot be split into training and validation rows"):
        people_loaders(people(1))
    with pytest.raises(DataError, match="no rows: the table is empty"):
        people_loaders(people(0), valid_pct=0)


def test_new_rows_that_do_not_fit_are_named() -> None:
    dls = people_loaders()
    with pytest.raises(DataError, match=r"no column 'hours'; there are job, town, age"):
        dls.test_dl(people(3).drop(columns=["hours", "score", "rich"]))
    with pytest.raises(DataError, match="column 'hours' is infinite in row 1"):
        dls.test_dl(people(3).assign(hours=[1.0, np.inf, 2.0]))
    with pytest.raises(DataError, match="the table is empty"):
        dls.test_dl(people(3)[:0])


def test_numbers_as_classes_are_said_so() -> None:
    assert people_loaders(people().assign(level=[1, 2, 3] * 40), y_names="level", y_block=CategoryBlock).vocab == [
        1,
        2,
        3,
    ]


def test_an_option_that_there_is_not_is_named_with_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="loaders have no option 'cat_name'; did you mean 'cat_names'"):
        people_loaders(cat_name=["job"])
    with pytest.raises(TypeError, match="loaders have no option 'batch_size'; here it is bs"):
        people_loaders(batch_size=4)
    with pytest.raises(TypeError, match="loaders have no option 'valid_idx'"):
        TabularDataLoaders.from_parquet_stream(tmp_path, y_names="rich", valid_idx=[0])


# ------------------------------------------------------------------------------------------------ as fastai's users write it


def test_loaders_of_a_table_take_the_batch_size_first() -> None:
    to = TabularPandas(people(), [Categorify, FillMissing], CATS, CONTS, "rich")
    assert to.dataloaders(24).train.bs == to.dataloaders(bs=24).train.bs == 24
    assert to.dataloaders().train.bs == 64


def test_the_sizes_of_embeddings_are_those_of_a_table_or_of_its_classes() -> None:
    to = TabularPandas(people(), [Categorify, FillMissing], CATS, CONTS, "rich")
    assert get_emb_sz(to) == get_emb_sz(to.classes)
    assert get_emb_sz(to, {"town": 7})[1] == (3, 7)


def test_what_is_said_of_a_table_names_its_classes() -> None:
    dls = people_loaders()
    assert set(dls.describe().classes["train"]) == set(dls.vocab) == {"no", "yes"}
    assert sum(dls.describe().classes["train"].values()) == len(dls.train_ds)
