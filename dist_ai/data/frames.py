"""Tables as whole columns: what procs work on, and how anything with rows becomes a data frame.

A table of numbers and categories is quickest read a column at a time, so here the unit is not the row but the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from dist_ai.data.table import Row, Table, is_row, no_column
from dist_ai.errors import ConfigError, DataError

__all__ = [
    "RowError",
    "TabularFrame",
    "as_frame",
    "frame_of",
    "numbers_of",
    "read_csv",
    "require_finite",
    "rows_of",
    "table_of",
    "with_categories",
]


def as_frame(source: Any) -> Any:
    """Returns rows of any kind as a pandas data frame; its index is not looked at, and the source is never changed.

    A data frame's columns stay as they are; of other tables whole numbers stay whole where some are missing (see `frame_of`).

    Args:
        source: a data frame (also polars'), an Arrow table, a `Table`, a list of dicts or rows, or one dict or row.

    Raises:
        DataError: it has no rows with columns, or several columns of one name.

    >>> as_frame([{"age": 3}, {"age": 5}])["age"].tolist()
    [3, 5]
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        frame = source.reset_index(drop=True)
    elif isinstance(source, pd.Series):
        frame = pd.DataFrame([source]).infer_objects().reset_index(drop=True)
    elif isinstance(source, Table):
        frame = with_categories(frame_of(source.columns), source.categories)
    elif hasattr(source, "__arrow_c_stream__"):  # Arrow's own tables, polars' and others
        frame = _of_arrow_table(source)
    elif hasattr(source, "to_pandas"):
        frame = source.to_pandas().reset_index(drop=True)
    elif isinstance(source, Row | Mapping) or (is_row(source) and hasattr(source, "_asdict")):
        frame = pd.DataFrame([_as_dict(source)])
    elif _has_rows(source):
        frame = _of_dicts([_as_dict(source[i]) for i in range(len(source))])
    else:
        raise DataError(
            f"{type(source).__name__} is no table; expected a data frame, an Arrow table, a list of dicts, or one dict for a row"
        )
    twice = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if twice:
        raise DataError(f"the table has several columns named {twice[0]!r}; rename them")
    return frame.set_axis([str(name) for name in frame.columns], axis=1)


def table_of(source: Any) -> Any:
    """Returns many rows of any kind as a data frame: what `as_frame` takes, or a dict of columns, as pandas takes one.

    >>> table_of({"age": [3, 5]})["age"].tolist()
    [3, 5]
    """
    is_columns = isinstance(source, dict) and source and all(map(_is_column, source.values()))
    return as_frame(Table(source) if is_columns else source)


def frame_of(columns: Mapping[str, Any]) -> Any:
    """Returns columns as a pandas data frame, in which whole numbers stay whole where some are missing.

    pandas would make floats of them: 3 would read 3.0, and of large numbers, as ids are, several would become one.

    Args:
        columns: by name; arrays, lists with None for what is missing, or Arrow columns.

    >>> frame_of({"id": [2**53 + 1, None]})["id"].tolist()
    [9007199254740993, <NA>]
    """
    import pandas as pd

    return pd.DataFrame({name: _whole(values) for name, values in columns.items()})


def with_categories(frame: Any, categories: Callable[[str], tuple[list[Any], bool] | None]) -> Any:
    """Returns a frame whose columns of values of known categories are categorical, in their order.

    Args:
        frame: the rows.
        categories: of a column, and whether their order means something, as `Table.categories` says; None where it has none.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in frame.columns:
        known = categories(name)
        if known is None or hasattr(frame[name].dtype, "categories"):
            continue
        column = pd.Categorical(frame[name], categories=known[0], ordered=known[1])
        if column.isna().sum() == frame[name].isna().sum():  # else there are values that are none of them
            columns[name] = column
    return frame.assign(**columns)


def read_csv(file: Any, *, delimiter: str = ",", encoding: str = "utf-8", text: Iterable[str] = ()) -> Any:
    """Returns the rows of a CSV file as a data frame; see `Table.from_csv` for what its values become.

    Args:
        file: the file or its address.
        delimiter: between the values.
        encoding: of the file.
        text: columns whose values stay text.
    """
    import pandas as pd

    table = Table.from_csv(file, delimiter=delimiter, encoding=encoding, text=text)
    frame = as_frame(table)
    # An empty field is a missing value also where the column is text.
    return frame.apply(lambda column: column.replace("", None) if not pd.api.types.is_numeric_dtype(column) else column)


class RowError(DataError):
    """A row of a table has a value that cannot be used; the message is ``<before> row <row><after>``.

    Attributes:
        row: its place in the rows that were looked at, from 0; under `rows_of`, in the table that they were taken from.
    """

    def __init__(self, before: str, row: int, after: str) -> None:
        self.before, self.row, self.after = before, int(row), after
        super().__init__(before, self.row, after)  # all of them, so that a loader's worker can send the error

    def __str__(self) -> str:
        return f"{self.before} row {self.row}{self.after}"


@contextmanager
def rows_of(indices: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[None]:
    """Has a `RowError` about rows that were taken from a table, as for training, name the row of the table.

    >>> with rows_of([7, 9]):
    ...     raise RowError("no number in", 1, " of column 'age'")
    Traceback (most recent call last):
    dist_ai.data.frames.RowError: no number in row 9 of column 'age'
    """
    try:
        yield
    except RowError as error:
        raise RowError(error.before, indices[error.row], error.after) from None


class TabularFrame:
    """A data frame and what its columns are: what a `TabularProc` learns from and changes.

    Args:
        frame: the rows. Columns that procs set are set here and not in the frame that was given.
        cat_names: columns that hold categories.
        cont_names: columns that hold numbers.
        y_names: columns that are to be predicted; new rows may lack them.
        numbers: which of all training rows these are, int64 (n,): of a stream a batch, or what is learned from. By default
            0, 1, ...

    >>> to = TabularFrame(as_frame([{"age": 3}, {"age": 5}]), cont_names=["age"])
    >>> to["age"] = to["age"] * 2
    >>> to["age"].tolist()
    [6, 10]
    """

    def __init__(
        self,
        frame: Any,
        cat_names: Iterable[str] = (),
        cont_names: Iterable[str] = (),
        y_names: Iterable[str] = (),
        numbers: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.frame = frame.copy(deep=False)
        self.numbers = np.arange(len(frame), dtype=np.int64) if numbers is None else numbers
        self._given = list(frame.columns)
        self.cat_names, self.cont_names, self.y_names = list(cat_names), list(cont_names), list(y_names)

    def __len__(self) -> int:
        return len(self.frame)

    def __contains__(self, name: object) -> bool:
        return name in self.frame.columns

    def __getitem__(self, name: str) -> Any:
        """Returns a column, a pandas series.

        Raises:
            DataError: there is none of that name; names the nearest.
        """
        if name not in self.frame.columns:
            raise DataError(no_column(name, self._given))  # procs' own columns would not help
        return self.frame[name]

    def __setitem__(self, name: str, values: Any) -> None:
        self.frame[name] = values

    def require_free(self, name: str, proc: object, what: str) -> None:
        """Raises `ConfigError` if a column that a proc is about to make is one already that is named; `what` it is."""
        if name in (*self.cat_names, *self.cont_names, *self.y_names):
            raise ConfigError(
                f"{type(proc).__name__} makes a column {name!r}, {what}, and there is one already among cat_names, cont_names "
                "and y_names; rename it, or leave it out"
            )

    def add_cat(self, name: str, values: Any) -> None:
        """Sets a column of categories, and has it be an input."""
        self[name] = values
        if name not in self.cat_names:
            self.cat_names.append(name)

    def add_cont(self, name: str, values: Any) -> None:
        """Sets a column of numbers, and has it be an input."""
        self[name] = values
        if name not in self.cont_names:
            self.cont_names.append(name)

    def drop(self, name: str) -> None:
        """Has a column no longer be an input."""
        self.cat_names = [each for each in self.cat_names if each != name]
        self.cont_names = [each for each in self.cont_names if each != name]

    def __repr__(self) -> str:
        return f"TabularFrame({len(self):,} rows, cat_names={self.cat_names}, cont_names={self.cont_names})"


def numbers_of(to: TabularFrame, name: str) -> Any:
    """Returns a column of numbers as float64, NaN where a value is missing.

    Raises:
        DataError: a value is no number; says which row.
    """
    import pandas as pd

    column = to[name]
    if pd.api.types.is_datetime64_any_dtype(column):
        raise DataError(f"column {name!r} holds dates: make numbers and categories of them with add_datepart")
    if getattr(column.dtype, "kind", "O") in "mc":  # both would become float64 without a word
        how = ".dt.total_seconds()" if column.dtype.kind == "m" else ".abs() or its parts"
        raise DataError(f"column {name!r} is of type {column.dtype} and holds no plain numbers; make them with {how}")
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        pass
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero((numbers.isna() & column.notna()).to_numpy())
    if len(wrong):
        raise RowError(
            f"column {name!r} holds {column.iloc[wrong[0]]!r:.60} in",
            wrong[0],
            f" ({len(wrong):,} such value(s)), which is no number; mend it, or put the column into cat_names",
        )
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def require_finite(name: str, values: Any) -> None:
    """Raises `DataError` if numbers of a column are infinite; says which row. What is missing is not looked at."""
    wrong = np.flatnonzero(np.isinf(values))
    if len(wrong):
        raise RowError(
            f"column {name!r} is infinite in",
            wrong[0],
            f" ({len(wrong):,} such value(s)); replace infinities by missing values, which FillMissing fills, or by a bound",
        )


def _is_column(values: Any) -> bool:
    return hasattr(values, "__len__") and not isinstance(values, str | bytes | dict)


def _whole(values: Any) -> Any:
    """Returns a column, of pandas' nullable type where it has whole numbers and misses some."""
    import pandas as pd
    import pyarrow

    if hasattr(values, "to_pandas"):
        return _of_arrow(values)
    values = values.to_pylist() if hasattr(values, "to_pylist") else values
    if not isinstance(values, list) and getattr(getattr(values, "dtype", None), "kind", "") != "O":
        return values
    if pd.api.types.infer_dtype(values, skipna=True) != "integer":
        return values
    try:
        return _of_arrow(pyarrow.array(values, from_pandas=True))
    except (OverflowError, pyarrow.ArrowException):  # beyond 64 bits
        return pd.Series(values, dtype=object)


def _of_arrow(column: Any) -> Any:
    import pandas as pd
    from pyarrow import types

    if not types.is_integer(column.type) or not column.null_count:
        return column.to_pandas()
    dtype = pd.UInt64Dtype() if types.is_unsigned_integer(column.type) else pd.Int64Dtype()
    return column.to_pandas(types_mapper=lambda kind: dtype)


def _of_arrow_table(source: Any) -> Any:
    import pyarrow

    table = source if isinstance(source, pyarrow.Table) else pyarrow.table(source)
    frame = table.to_pandas().reset_index(drop=True)
    gaps = [name for name in frame.columns if table.column_names.count(name) == 1 and table.column(name).null_count]
    return frame.assign(**{name: _of_arrow(table.column(name)) for name in gaps})


def _of_dicts(rows: list[dict[str, Any]]) -> Any:
    import pandas as pd

    frame = pd.DataFrame(rows)
    gaps = [name for name, column in frame.items() if column.dtype.kind == "f" and column.isna().any()]
    return frame.assign(**frame_of({name: [row.get(name) for row in rows] for name in gaps}))


def _as_dict(row: Any) -> dict[str, Any]:
    if getattr(row, "ndim", 1) == 2 and hasattr(row, "iloc"):
        if len(row) != 1:
            raise DataError(
                f"a data frame of {len(row)} rows where one row is expected; give one (df.iloc[0]), or predict them all: "
                "learn.get_preds(learn.dls.test_dl(df)), and of an export Predictor.predict_many(df)"
            )
        return {str(name): row[name].iloc[0] for name in row.columns}  # as a series all would be of one type
    if hasattr(row, "_asdict"):
        return row._asdict()
    if not isinstance(row, Mapping) and not is_row(row):
        raise DataError(f"{row!r:.100} is no row of a table; expected a dict from column to value, or a row of a frame")
    return {str(name): value for name, value in row.items()}


def _has_rows(source: Any) -> bool:
    return isinstance(source, Sequence) and not isinstance(source, str | bytes) and len(source) > 0
