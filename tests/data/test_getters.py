"""Getters: from an item to what an input or a target is made from."""

from __future__ import annotations

import json
import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dist_ai.core.transform import Transform
from dist_ai.data import AttrGetter, ColReader, DataBlock, Getter, IndexSplitter, ItemGetter, Table, TransformBlock
from dist_ai.errors import ConfigError, DataError

Pet = namedtuple("Pet", ["file", "kind"])

ROWS: list[Any] = [
    {"file": 7, "tags": "sea sky"},
    Table({"file": [7], "tags": ["sea sky"]})[0],
    pd.DataFrame({"file": [7], "tags": ["sea sky"]}).iloc[0],
    namedtuple("R", ["file", "tags"])(7, "sea sky"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_column_is_read_from_rows_of_every_kind(row: Any):
    assert ColReader("file")(row) == 7
    assert ColReader("file", pref="images/", suff=".jpg")(row) == "images/7.jpg"
    assert ColReader(0, pref=Path("images"))(row) == "images/7"
    assert ColReader(1, label_delim=" ")(row) == ["sea", "sky"]
    assert ColReader(["file", "tags"])(row) == [7, "sea sky"]
    with pytest.raises(DataError, match="no column 'tag'; there are file, tags; did you mean 'tags'"):
        ColReader("tag")(row)


def test_a_folder_is_put_before_names_and_not_before_absolute_paths():
    for folder in (Path("images"), "images/"):
        assert ColReader("file", pref=folder)({"file": "a/7.jpg"}) == "images/a/7.jpg"
        assert ColReader("file", pref=folder)({"file": Path("/data/7.jpg")}) == "/data/7.jpg"
    assert ColReader("file", pref="img_")({"file": 7}) == "img_7"


def test_no_label_in_a_delimited_column_is_an_empty_list():
    assert ColReader("tags", label_delim=" ")({"tags": ""}) == []


@pytest.mark.parametrize("value", [None, float("nan"), pd.NA])
def test_a_missing_value_is_none_and_never_becomes_a_text_called_nan(value: Any):
    assert ColReader("label")({"label": value}) is None
    for options in ({"pref": "images/"}, {"suff": ".jpg"}, {"label_delim": " "}):
        with pytest.raises(DataError, match="no value in column 'label'; fill it"):
            ColReader("label", **options)({"label": value})


@pytest.mark.parametrize("getter", [ColReader("file"), ItemGetter(0), ItemGetter("file")])
def test_a_path_is_taken_for_what_the_getter_would_give(getter: Transform):
    assert getter("images/7.jpg") == "images/7.jpg"
    assert getter(Path("7.jpg")) == Path("7.jpg")


def test_an_element_is_got_from_tuples_dicts_and_rows():
    assert ItemGetter(1)(("a", "b")) == "b"
    assert ItemGetter("x")({"x": 3}) == 3
    assert ItemGetter("x")(Table({"x": [3]})[0]) == 3
    assert ItemGetter(1)(Pet("1.jpg", "cat")) == "cat"
    with pytest.raises(DataError, match=re.escape("ItemGetter(i=2) found none in a tuple: tuple index out of range")):
        ItemGetter(2)(("a", "b"))
    with pytest.raises(DataError, match="found none in a dict: no column 'y'; there are x"):
        ItemGetter("y")({"x": 3})


def test_an_attribute_is_got_and_a_near_one_suggested():
    assert AttrGetter("kind")(Pet("1.jpg", "cat")) == "cat"
    assert AttrGetter("kind")(Table({"kind": ["cat"]})[0]) == "cat"
    with pytest.raises(DataError, match="a Pet has no attribute 'knd'; did you mean 'kind'"):
        AttrGetter("knd")(Pet("1.jpg", "cat"))
    assert AttrGetter("knd", default="none")(Pet("1.jpg", "cat")) == "none"
    assert AttrGetter("kind", default="none")(Pet("1.jpg", "cat")) == "cat"


@pytest.mark.parametrize("getter", [ColReader("f", pref=Path("a"), label_delim=" "), ItemGetter(1), AttrGetter("nm")])
def test_getters_are_plain_data_that_an_export_can_hold(getter: Transform):
    assert Transform.from_plain(json.loads(json.dumps(getter.to_plain()))) == getter


def test_a_function_of_rows_lets_what_it_returns_pass():
    getter = Getter(lambda row: Path("images") / row["file"])
    getter.setup([{"file": "1.jpg"}])
    assert getter({"file": "2.jpg"}) == Path("images/2.jpg")
    assert getter(Table({"file": ["2.jpg"]})[0]) == Path("images/2.jpg")  # another kind of row
    assert getter("elsewhere/3.jpg") == "elsewhere/3.jpg"
    assert getter.passes_others


def test_a_function_from_paths_to_paths_is_always_called_and_not_left_out_of_an_export():
    getter = Getter(lambda path: Path(path).with_suffix(".png"))
    getter.setup(["1.jpg"])
    assert getter(Path("2.jpg")) == Path("2.png")
    assert not getter.passes_others
    with pytest.raises(ConfigError, match="cannot be written to a file, because files hold no code"):
        getter.to_plain()


@pytest.mark.parametrize("items", [[1, "2", 3, 4], ["2", 1, 3, 4], (1, 3, 4, "2"), np.array([1, 3, 4, "2"], object)])
def test_a_function_sees_every_item_of_a_source_whatever_their_kinds(items: Any):
    block = DataBlock(
        TransformBlock,
        get_x=lambda item: f"{item}.jpg",
        splitter=IndexSplitter([3]),  # of the last, "2" or 4, set-up sees nothing
    )
    made = block.datasets(items)
    assert [x for part in made.subsets for (x,) in part] == [f"{item}.jpg" for item in items]


def test_a_function_that_fails_is_found_at_set_up_with_its_item():
    def label(row: Any) -> str:
        return row["lable"]

    message = "label fails on the first training item, {'label': 'cat'}: KeyError: 'lable'"
    with pytest.raises(DataError, match=re.escape(message)):
        Getter(label).setup([{"label": "cat"}])
