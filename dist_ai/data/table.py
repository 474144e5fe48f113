"""Tables as items: each row of a data frame, an Arrow table or a file is one item.

A `Row` reads its columns by name, as an attribute or by place, so a getter reads alike whatever the table came from:

>>> rows = Table({"file": ["1.jpg", "2.jpg"], "label": ["cat", "dog"]})
>>> rows[1]["label"], rows[1].label, rows[1][1]
('dog', 'dog', 'dog')
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dist_ai.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "Columns",
    "Row",
    "Table",
    "as_items",
    "column_of",
    "in_memory",
    "is_row",
    "missing",
    "no_column",
    "ordered_dictionary",
    "other_encoding",
    "require_encoding",
]


@runtime_checkable
class Columns(Protocol):
    """What has rows and named columns: a `Table`, or files that are read where needed (`ParquetData`)."""

    names: list[str]

    def column(self, name: str | int) -> list[Any]:
        """Returns the values of a column."""
        ...

    def value(self, name: str | int, index: int) -> Any:
        """Returns one value."""
        ...

    def row_repr(self, index: int) -> str:
        """Returns what the `repr` of a row is."""
        ...


class Row(Mapping[str, Any]):
    """One row of a `Table` or of `ParquetData`: a mapping from column to value, read when asked for.

    Columns whose names are identifiers are attributes too, as a data frame's are; a number is a column's place.
    """

    __slots__ = ("_index", "_table")

    def __init__(self, table: Columns, index: int) -> None:
        self._table = table
        self._index = index

    def __getitem__(self, column: str | int) -> Any:
        return self._table.value(column, self._index)

    def __getattr__(self, name: str) -> Any:
        # The columns are what a row has: it delegates to nothing else.
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._table.value(name, self._index)
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)

    def __contains__(self, column: object) -> bool:
        return column in self._table.names

    def __repr__(self) -> str:
        return self._table.row_repr(self._index)


class Table(Sequence[Row]):
    """Columns of equal length, seen as rows.

    Args:
        columns: by name; lists, arrays, or Arrow columns, which are read one value at a time.

    Values are Python's: a missing one is None, or NaN in a column of floats.

    Raises:
        DataError: the columns are not of one length, or there is none.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = dict(columns)
        self.names = list(self.columns)
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            there = ", ".join(f"{name}: {length}" for name, length in list(lengths.items())[:8]) or "no column"
            raise DataError(f"a table needs columns of one length, and these have {there}")
        self._length = next(iter(lengths.values()))
        self._categories: dict[str, tuple[list[Any], bool]] = {}

    @classmethod
    def from_frame(cls, frame: Any) -> Table:
        """Returns the rows of a pandas data frame, in its order; its index is not looked at."""
        columns: dict[str, Any] = {}
        categories: dict[str, tuple[list[Any], bool]] = {}
        for place, name in enumerate(frame.columns):
            column = frame.iloc[:, place]
            if str(name) in columns:
                raise DataError(f"the data frame has several columns named {str(name)!r}; rename them")
            if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
                columns[str(name)] = column.to_numpy()
            else:  # pandas has several values for what is missing
                columns[str(name)] = column.astype(object).where(column.notna(), None).to_numpy()
            if hasattr(column.dtype, "categories"):
                categories[str(name)] = column.dtype.categories.tolist(), bool(column.dtype.ordered)
        table = cls(columns)
        table._categories = categories
        return table

    @classmethod
    def from_arrow(cls, table: Any) -> Table:
        """Returns the rows of a `pyarrow.Table`; its memory is shared.

        Raises:
            DataError: several columns have one name.
        """
        columns: dict[str, Any] = {}
        for place, name in enumerate(table.column_names):
            if name in columns:
                raise DataError(f"the table has several columns named {name!r}; rename them")
            columns[name] = table.column(place)
        made = cls(columns)
        found = {name: ordered_dictionary(column) for name, column in columns.items()}
        made._categories = {name: (values, True) for name, values in found.items() if values is not None}
        return made

    @classmethod
    def from_hub(cls, dataset: Any) -> Table:
        """Returns the rows of a Hugging Face data set, or of one like it, whose columns are read when asked for.

        Class numbers (`ClassLabel`) become the names that its features give them; -1, an unknown class, is missing.
        """
        return cls({name: _HubColumn(dataset, name) for name in dataset.column_names})

    @classmethod
    def from_csv(
        cls,
        file: str | Path,
        *,
        delimiter: str = ",",
        header: bool = True,
        encoding: str = "utf-8",
        columns: Iterable[str] | None = None,
        text: Iterable[str] = (),
        filesystem: Any = None,
    ) -> Table:
        """Returns the rows of a CSV file.

        Args:
            file: the file, or its address (``s3://bucket/rows.csv``); ``.gz`` and the like are unpacked.
            delimiter: between the values.
            header: whether the first line has the columns' names; they are f0, f1, ... otherwise.
            encoding: of the file, such as ``"latin-1"`` or ``"utf-16"``.
            columns: read only these; by default all.
            text: columns whose values stay text: "007" is 7 otherwise.
            filesystem: a `pyarrow.fs.FileSystem` on which `file` is a path.

        An empty field is missing in a column of numbers and "" in one of text; "NA" and "null" are text like any other. Whole
        numbers have up to 64 bits; larger ones become floats, of which several are one: as ids, name their column in `text`.

        Raises:
            ConfigError: there is no such encoding.
            DataError: there is no such file, it is no table, it has another encoding, or several columns of one name.
        """
        import pyarrow
        from pyarrow import csv

        require_encoding(encoding)

        wanted = list(columns) if columns is not None else None
        types = dict.fromkeys(text, pyarrow.string())

        def read_as(types: dict[str, Any]) -> Any:
            files, path = _existing(file, filesystem)
            with files.open_input_stream(path) as stream:
                return csv.read_csv(
                    stream,
                    parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                    read_options=csv.ReadOptions(autogenerate_column_names=not header, encoding=encoding),
                    convert_options=csv.ConvertOptions(null_values=[""], include_columns=wanted, column_types=types),
                )

        def begin() -> bytes:
            with suppress(OSError):  # what is wrong is told already
                files, path = _existing(file, filesystem)
                with files.open_input_stream(path) as stream:
                    return stream.read(4)
            return b""

        def read() -> Any:
            table, found = read_as(types), dict(types)
            for name in _floats_from(2.0**63, table):  # pyarrow takes no number for one of 64 bits without a sign
                with suppress(pyarrow.ArrowInvalid):  # they are fractions, or larger still
                    table, found = read_as({**found, name: pyarrow.uint64()}), {**found, name: pyarrow.uint64()}
            return table

        try:
            table = _read(read, file, "CSV", hint=lambda error: _of_encoding(error, begin()))
            for field in table.schema:  # what pyarrow makes of bytes that are no text
                if pyarrow.types.is_binary(field.type):
                    raise DataError(other_encoding(file, encoding, f"column {field.name!r}", begin()))
            return cls.from_arrow(table)
        except UnicodeDecodeError as error:
            wrong = f"byte {error.start} is {error.object[error.start]:#04x}"
            raise DataError(other_encoding(file, encoding, wrong, begin())) from error
        except UnicodeError as error:  # utf-16 without its mark
            raise DataError(other_encoding(file, encoding, str(error))) from error

    @classmethod
    def from_parquet(cls, path: str | Path, *, columns: Iterable[str] | None = None, filesystem: Any = None) -> Table:
        """Returns the rows of a Parquet file, or of a folder of them in the order of their names, in memory.

        Args:
            path: the file or folder, or its address (``s3://bucket/folder``). Folders named ``label=cat`` make a column.
            columns: read only these; by default all.
            filesystem: a `pyarrow.fs.FileSystem` on which `path` is; one of fsspec by `pyarrow.fs.PyFileSystem`.

        Raises:
            DataError: there is no such file, or it is not Parquet.
        """
        from pyarrow import parquet

        names = list(columns) if columns is not None else None

        def read() -> Any:
            files, place = _existing(path, filesystem)
            return parquet.read_table(place, columns=names, filesystem=files)

        return cls.from_arrow(_read(read, path, "Parquet"))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"row {index} of a table of {self._length} rows")
        return Row(self, int(index) % self._length)

    def column(self, name: str | int) -> list[Any]:
        """Returns the values of a column.

        Raises:
            KeyError: there is none of that name, or at that place; names the nearest.
        """
        column = self.columns[self._name(name)]
        if hasattr(column, "to_pylist"):
            return column.to_pylist()
        return column.tolist() if isinstance(column, np.ndarray) else list(column)

    def categories(self, name: str | int) -> tuple[list[Any], bool] | None:
        """Returns the categories of a column in their order, and whether that order means something; None if it has none."""
        return self._categories.get(self._name(name))

    def value(self, name: str | int, index: int) -> Any:
        """Returns one value; see `column`."""
        value = self.columns[name if name in self.columns else self._name(name)][index]
        if hasattr(value, "as_py"):
            return value.as_py()
        return value.item() if isinstance(value, np.generic) else value

    def row_repr(self, index: int) -> str:
        """Returns what the `repr` of a row is: its values."""
        return f"Row({', '.join(f'{name}={self.value(name, index)!r}' for name in self.names)})"

    def _name(self, column: str | int) -> str:
        if isinstance(column, int) and -len(self.names) <= column < len(self.names):
            return self.names[column]
        if column in self.columns:
            return str(column)
        raise KeyError(no_column(column, self.names))

    def __repr__(self) -> str:
        return f"Table({self._length} rows of {', '.join(self.names)})"


def ordered_dictionary(column: Any) -> list[Any] | None:
    """Returns the categories of an Arrow column of which the order means something, in that order; None of any other."""
    from pyarrow import types

    if not types.is_dictionary(column.type) or not column.type.ordered:
        return None
    chunks = column.unify_dictionaries().chunks
    return chunks[0].dictionary.to_pylist() if chunks else None


def in_memory(items: Any) -> bool:
    """Says whether items are there without a read: those of a list (not of a class made of it that reads them), a table's rows.

    >>> in_memory(["a.jpg"]), in_memory(open)
    (True, False)
    """
    kinds: tuple[Any, ...] = (list, tuple, range, np.ndarray, Table)
    return any(isinstance(items, kind) and type(items).__getitem__ is kind.__getitem__ for kind in kinds)


def as_items(source: Any) -> Any:
    """Returns `source` as a collection of items, with `len()` and `[i]` for an integer i.

    Data frames (also polars'), Arrow tables and data sets, and Hugging Face data sets become a `Table`. Lists, arrays and
    map-style `torch` data sets are collections already and are returned as they are.

    Raises:
        DataError: it has no length, or its items cannot be numbered.
    """
    if hasattr(source, "iloc") and hasattr(source, "columns"):  # a data frame, without importing pandas to ask
        return Table.from_frame(source)
    if hasattr(source, "iloc"):  # a series, which would be indexed by its labels
        return source.tolist()
    if hasattr(source, "column_names") and hasattr(source, "to_pylist"):
        return Table.from_arrow(source)
    if hasattr(source, "to_table") and hasattr(source, "scanner"):  # a pyarrow.dataset.Dataset
        return Table.from_arrow(source.to_table())
    if hasattr(source, "__arrow_c_stream__"):  # what any other library of tables calls one
        import pyarrow

        return Table.from_arrow(pyarrow.table(source))
    if hasattr(source, "column_names") and hasattr(source, "features") and _has_length(source):
        return Table.from_hub(source)
    if isinstance(source, str | bytes | os.PathLike | Mapping):
        hint = "; give get_items, such as get_image_files" if isinstance(source, str | os.PathLike) else ""
        raise DataError(f"{source!r:.100} is one {type(source).__name__} and not a collection of items{hint}")
    if not hasattr(source, "__getitem__") or not _has_length(source):
        raise DataError(
            f"{type(source).__name__} has no length or no items by number, so it cannot be split and dealt out to ranks; "
            "give a list, a table, or a map-style data set (with len() and [i]). What is iterated over only can be made "
            "one with list(...) if it fits into memory; else give it to an IterableLoader"
        )
    return source


def column_of(items: Any, column: str | int) -> list[Any]:
    """Returns a column of items as a list: of a table of any kind that `as_items` knows, or of a list of rows.

    Raises:
        DataError: the items have no such column, or no columns; names the nearest.
    """
    items = as_items(items)
    try:
        if isinstance(items, Columns):
            return items.column(column)
        if len(items) and is_row(items[0]):
            return [row_value(items[i], column) for i in range(len(items))]
    except KeyError as error:
        raise DataError(f"{error.args[0]}") from None
    kind = type(items[0]).__name__ if len(items) else "nothing"
    raise DataError(f"the items are {kind}, which have no column {column!r}; give a table, or a function of an item")


def is_row(x: Any) -> bool:
    """Returns whether `x` has columns: a `Row`, a dict, a named tuple, or a row of a data frame."""
    return isinstance(x, Mapping) or hasattr(x, "_fields") or hasattr(x, "iloc")


def row_value(row: Any, column: str | int) -> Any:
    """Returns the value of a row in a column.

    Raises:
        KeyError: it has no such column; names the nearest.
    """
    if hasattr(row, "_fields"):
        if isinstance(column, int) or column in row._fields:
            return row[column] if isinstance(column, int) else getattr(row, column)
        raise KeyError(no_column(column, row._fields))
    if isinstance(row, Row):
        return row[column]
    names = list(row.keys())
    if column in names:
        return row[column]
    if isinstance(column, int) and -len(names) <= column < len(names):
        return row[names[column]]
    raise KeyError(no_column(column, names))


def missing(x: Any) -> bool:
    """Returns whether `x` stands for a value that is not there: None, NaN, or pandas' NA and NaT.

    >>> [missing(x) for x in (None, float("nan"), "", 0)]
    [True, True, False, False]
    """
    return (
        x is None or (isinstance(x, float | np.floating) and bool(x != x)) or type(x).__name__ in ("NAType", "NaTType")
    )


def require_encoding(encoding: str) -> None:
    """Raises `ConfigError` for what Python knows no encoding of text by."""
    try:
        "a".encode(encoding)  # codecs.lookup finds those of bytes too, such as "hex"
    except LookupError as error:
        raise ConfigError(f"encoding={encoding!r}: there is no such encoding") from error


def other_encoding(file: str | Path, encoding: str, where: str, content: bytes = b"") -> str:
    """Returns the message for a file that is not encoded as was said; its content, or the begin of it, may tell how it is."""
    marked = _marked(content)
    how = "'latin-1' or what it is" if marked is None else f"{marked!r}, which it begins like"
    return f"{file} is not encoded in {encoding} ({where}); give encoding={how}, or convert the file"


def _marked(content: bytes) -> str | None:
    """Returns the encoding that the mark at the begin of a file is of; None without one."""
    marks = {"utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)}
    return next((name for name, begins in marks.items() if content.startswith(begins)), None)


def no_column(column: Any, names: Iterable[str]) -> str:
    """Returns the message for a column that is not there; it names the nearest."""
    names = [str(name) for name in names]
    return f"no column {column!r}; there are {', '.join(names[:12])}{did_you_mean(str(column), names)}"


class _HubColumn:
    """One column of a Hugging Face data set. Read alone: to read a label must not decode the image beside it."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = dataset.select_columns([name]) if hasattr(dataset, "select_columns") else dataset
        self.name = name
        self.classes = getattr((dataset.features or {}).get(name), "names", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        value = self.dataset[int(index)][self.name]
        if self.classes is None or value is None:
            return value
        return self.classes[value] if value >= 0 else None

    def to_pylist(self) -> list[Any]:
        return [self[i] for i in range(len(self))]


def _has_length(source: Any) -> bool:
    try:
        len(source)
    except (TypeError, NotImplementedError):
        return False
    return True


def _existing(file: str | Path, filesystem: Any) -> tuple[Any, str]:
    """Returns the file system of a file or folder that is there, and its path on it."""
    from pyarrow import fs

    files, path = filesystem, str(file)
    if files is None:
        is_address = "://" in path and not Path(path).exists()
        files, path = fs.FileSystem.from_uri(path) if is_address else (fs.LocalFileSystem(), path)
    if files.get_file_info(path).type == fs.FileType.NotFound:
        raise DataError(f"no file at {file}")
    return files, path


def _floats_from(least: float, table: Any) -> list[str]:
    """Returns the names of the columns of floats of which one is as large."""
    from pyarrow import compute, types

    floats = [(field.name, table.column(i)) for i, field in enumerate(table.schema) if types.is_floating(field.type)]
    return [name for name, column in floats if (compute.max(column).as_py() or 0.0) >= least]


def _read(read: Any, file: str | Path, kind: str, *, hint: Callable[[str], str] = lambda _: "") -> Any:
    import pyarrow

    try:
        return read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as {kind}: {error}{hint(str(error))}") from error


def _of_encoding(error: str, begin: bytes) -> str:
    if (marked := _marked(begin)) is not None:
        return f"; it begins like a file in another encoding: give encoding={marked!r}"
    # Text of two bytes a letter is full of zeros.
    if "UTF8" in error or "\0" in error:
        return "; was it written in another encoding? give encoding='utf-16', 'latin-1' or what it is"
    return ""
