"""Tables as items: rows from frames, Arrow, files and data sets of other libraries read alike."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import dataset, fs, parquet

from dist_ai.data import Table, as_items
from dist_ai.data.table import Row, column_of
from dist_ai.errors import ConfigError, DataError

COLUMNS = {"file": ["1.jpg", "2.jpg", "3.jpg"], "count": [3, 1, 2], "ok": [True, False, True]}


class HubLike:
    """What a Hugging Face data set offers of itself, counting which columns are read."""

    class Feature:
        def __init__(self, names: list[str] | None = None) -> None:
            if names:
                self.names = names

    def __init__(self, columns: dict[str, list[Any]], reads: list[str] | None = None) -> None:
        self._columns = columns
        self.column_names = list(columns)
        self.features = {name: self.Feature(["cat", "dog"] if name == "label" else None) for name in columns}
        self.reads = [] if reads is None else reads

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += self.column_names
        return {name: column[index] for name, column in self._columns.items()}

    def select_columns(self, names: list[str]) -> HubLike:
        return HubLike({name: self._columns[name] for name in names}, self.reads)


def every_kind(folder: Path) -> dict[str, Any]:
    frame = pd.DataFrame(COLUMNS, index=[5, 5, 9])
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_csv(folder / "t.tsv.gz", index=False, sep="\t")
    parquet.write_table(pa.table(COLUMNS), folder / "t.parquet")
    (folder / "parts").mkdir()
    for name, rows in (("b", slice(2, 3)), ("a", slice(0, 2))):
        part = {column: values[rows] for column, values in COLUMNS.items()}
        parquet.write_table(pa.table(part), folder / "parts" / f"{name}.parquet")
    return {
        "frame": frame,
        "arrow": pa.table(COLUMNS),
        "hub": HubLike(COLUMNS),
        "table": Table(COLUMNS),
        "csv": Table.from_csv(folder / "t.csv"),
        "tsv": Table.from_csv(folder / "t.tsv.gz", delimiter="\t"),
        "parquet": Table.from_parquet(folder / "t.parquet"),
        "parquet folder": Table.from_parquet(folder / "parts"),
        "parquet address": Table.from_parquet((folder / "parts").as_uri()),
        "csv address": Table.from_csv((folder / "t.tsv.gz").as_uri(), delimiter="\t"),
        "parquet elsewhere": Table.from_parquet("/bucket/parts", filesystem=_elsewhere(folder)),
        "csv elsewhere": Table.from_csv("/bucket/t.csv", filesystem=_elsewhere(folder)),
        "arrow data set": dataset.dataset(folder / "parts"),
        "another library": OtherFrame(),
    }


class OtherFrame:
    """A data frame of a library that is not known here, such as polars."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.table(COLUMNS).__arrow_c_stream__(requested_schema)


def _elsewhere(folder: Path) -> fs.FileSystem:
    """A file system that is not this machine's, with the files in a bucket."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket", recursive=True)
    return fs.PyFileSystem(fs.FSSpecHandler(memory))


def test_folders_named_after_a_value_make_a_column(tmp_path: Path):
    for label in ("cat", "dog"):
        (tmp_path / f"label={label}").mkdir()
        parquet.write_table(pa.table({"n": [len(label)]}), tmp_path / f"label={label}" / "part.parquet")
    rows = Table.from_parquet(tmp_path)
    assert [(row.n, row.label) for row in rows] == [(3, "cat"), (3, "dog")]
    assert Table.from_parquet(tmp_path, columns=["label"]).column("label") == ["cat", "dog"]


def test_rows_of_every_kind_of_table_read_alike(tmp_path: Path):
    for kind, source in every_kind(tmp_path).items():
        rows = as_items(source)
        assert len(rows) == 3, kind
        assert dict(rows[1]) == {"file": "2.jpg", "count": 1, "ok": False}, kind
        assert [type(value) for value in rows[-1].values()] == [str, int, bool], kind
        assert (rows[0]["count"], rows[0].count, rows[0][1]) == (3, 3, 3), kind
        assert column_of(source, "count") == [3, 1, 2], kind
        assert [row.file for row in rows[1:]] == ["2.jpg", "3.jpg"], kind
        assert [row.file for row in rows] == COLUMNS["file"], kind


def test_a_row_says_what_it_holds_and_can_be_sent_to_another_process():
    row = Table(COLUMNS)[0]
    assert repr(row) == "Row(file='1.jpg', count=3, ok=True)"
    assert repr(Table(COLUMNS)) == "Table(3 rows of file, count, ok)"
    assert dict(pickle.loads(pickle.dumps(row))) == dict(row)
    assert "file" in row
    assert "flie" not in row


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    row = Table(COLUMNS)[0]
    message = "no column 'flie'; there are file, count, ok; did you mean 'file'?"
    with pytest.raises(KeyError, match=re.escape(message)):
        row["flie"]
    with pytest.raises(AttributeError, match=re.escape(message)):
        row.flie  # noqa: B018
    with pytest.raises(IndexError, match="row 3 of a table of 3 rows"):
        Table(COLUMNS)[3]


def test_missing_values_are_none_or_nan_in_a_column_of_floats():
    frame = pd.DataFrame({"a": ["x", None], "b": pd.array([1, None], dtype="Int64"), "c": [1.5, None]})
    row = as_items(frame)[1]
    assert (row.a, row.b) == (None, None)
    assert np.isnan(row.c)
    assert as_items(frame)[0].b == 1


def test_csv_keeps_text_that_pandas_would_take_for_a_missing_value(tmp_path: Path):
    (tmp_path / "t.csv").write_text('id,label,tags,n\n007,NA,"a, b",1\n008,null,"",\n')
    first, second = Table.from_csv(tmp_path / "t.csv")
    assert dict(first) == {"id": 7, "label": "NA", "tags": "a, b", "n": 1}
    assert dict(second) == {"id": 8, "label": "null", "tags": "", "n": None}
    assert Table.from_csv(tmp_path / "t.csv", text=["id"])[0].id == "007"
    assert Table.from_csv(tmp_path / "t.csv", columns=["n"]).names == ["n"]
    assert Table.from_csv(tmp_path / "t.csv", header=False).names == ["f0", "f1", "f2", "f3"]


def test_whole_numbers_of_a_csv_file_have_64_bits_with_or_without_a_sign(tmp_path: Path):
    (tmp_path / "t.csv").write_text(
        f"id,x,y,n\n{2**63 + 1},1e20,{2**64 + 1},-1\n{2**63 + 2},0.5,1,\n,,,9007199254740993\n"
    )
    table = Table.from_csv(tmp_path / "t.csv")
    assert table.column("id") == [2**63 + 1, 2**63 + 2, None]
    assert table.column("x") == [1e20, 0.5, None]
    assert table.column("y") == [2.0**64, 1.0, None]
    assert table.column("n") == [-1, None, 2**53 + 1]


def test_a_file_that_is_no_table_is_named(tmp_path: Path):
    (tmp_path / "t").write_text("a,b\n1\n")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 't'} cannot be read as CSV: ")):
        Table.from_csv(tmp_path / "t")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 't'} cannot be read as Parquet: ")):
        Table.from_parquet(tmp_path / "t")
    with pytest.raises(DataError, match=re.escape(f"no file at {tmp_path / 'gone.csv'}")):
        Table.from_csv(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="no file at file:///nowhere/x"):
        Table.from_parquet("file:///nowhere/x")
    with pytest.raises(DataError, match="nosuch://bucket/x cannot be read as Parquet: "):
        Table.from_parquet("nosuch://bucket/x")


def test_columns_must_be_of_one_length_and_have_names_of_their_own():
    with pytest.raises(DataError, match="a table needs columns of one length, and these have a: 1, b: 2"):
        Table({"a": [1], "b": [1, 2]})
    with pytest.raises(DataError, match="these have no column"):
        Table({})
    with pytest.raises(DataError, match="the data frame has several columns named 'a'; rename them"):
        Table.from_frame(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_class_numbers_of_a_hub_data_set_are_names_and_its_images_are_read_only_when_asked_for():
    data = HubLike({"image": ["pixels"] * 3, "label": [1, 0, -1]})
    rows = as_items(data)
    assert [row["label"] for row in rows] == ["dog", "cat", None]
    assert set(data.reads) == {"label"}
    assert isinstance(rows[0], Row)
    assert rows[0]["image"] == "pixels"


def test_collections_are_items_as_they_are():
    for source in ([1, 2], (1, 2), np.arange(3), torch.utils.data.TensorDataset(torch.arange(3)), ["ab"]):
        assert as_items(source) is source
    assert as_items(pd.Series([4, 5], index=[7, 8])) == [4, 5]


class Stream(torch.utils.data.IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def test_what_cannot_be_numbered_is_refused_with_the_way_out(tmp_path: Path):
    for source in (Stream(), iter([1, 2]), {1, 2}, 7):
        with pytest.raises(DataError, match="has no length or no items by number, so it cannot be split and dealt out"):
            as_items(source)
    with pytest.raises(DataError, match=r"is one PosixPath and not a collection of items; give get_items, such as"):
        as_items(tmp_path)
    with pytest.raises(DataError, match="is one dict and not a collection of items"):
        as_items({"a": [1]})


def test_a_csv_file_of_another_encoding_is_named_and_read_where_it_is_said(tmp_path: Path):
    file = tmp_path / "t.csv"
    file.write_text("id,town\n1,Köln\n2,Bonn\n", encoding="latin-1")
    told = re.escape("t.csv is not encoded in utf-8 (column 'town'); give encoding='latin-1'")
    with pytest.raises(DataError, match=told):
        Table.from_csv(file)
    assert [row.town for row in Table.from_csv(file, encoding="latin-1")] == ["Köln", "Bonn"]
    with pytest.raises(DataError, match="invalid UTF8 data; was it written in another encoding"):
        Table.from_csv(file, text=["town"])
    with pytest.raises(DataError, match=r"not encoded in ascii \(byte 11 is 0xf6\)"):
        Table.from_csv(file, encoding="ascii")
    with pytest.raises(DataError, match="not encoded in utf-16"):
        Table.from_csv(file, encoding="utf-16")
    for no_encoding in ("latn-1", "hex"):
        with pytest.raises(ConfigError, match=f"encoding='{no_encoding}': there is no such encoding"):
            Table.from_csv(file, encoding=no_encoding)
    file.write_text("stra\xdfe,n\n1,2\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"not encoded in utf-8 \(byte 4 is 0xdf\)"):
        Table.from_csv(file)
    file.write_text("id,town\n1,Bonn\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"it begins like a file in another encoding: give encoding='utf-16'$"):
        Table.from_csv(file)
    with pytest.raises(
        DataError, match=r"not encoded in ascii \(byte 0 is 0xff\); give encoding='utf-16', which it begins like"
    ):
        Table.from_csv(file, encoding="ascii")
    file.write_text("id,town\n1,Bonn\n", encoding="utf-16-le")
    with pytest.raises(DataError, match=r"another encoding\? give encoding='utf-16', 'latin-1' or what it is"):
        Table.from_csv(file)
    file.write_text("id,town\n1,Bonn\n", encoding="utf-16")
    assert Table.from_csv(file, encoding="utf-16")[0].town == "Bonn"


def test_columns_of_one_name_are_an_error_whatever_the_table_is_read_from(tmp_path: Path):
    (tmp_path / "t.csv").write_text("id,n,n\n1,2,3\n")
    for read in (
        lambda: Table.from_csv(tmp_path / "t.csv"),
        lambda: Table.from_arrow(pa.table([[1], [2]], names=["n", "n"])),
    ):
        with pytest.raises(DataError, match="several columns named 'n'; rename them"):
            read()
