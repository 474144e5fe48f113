"""Data frames to series: long ones, with a row for each step, and wide ones, with a column for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from dist_ai.data.frames import table_of
from dist_ai.errors import DataError, did_you_mean
from dist_ai.timeseries.files import LabelledSeries
from dist_ai.timeseries.windows import LongSeries

__all__ = [
    "as_pandas",
    "channels_of",
    "clock",
    "is_frame",
    "labelled_series",
    "long_series",
    "read_frame",
    "require_columns",
    "series_by_id",
    "times_of",
]


def read_frame(file: str | Path) -> Any:
    """Returns the pandas data frame of a Parquet or CSV file.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    import pandas as pd

    file = Path(file)
    try:
        return pd.read_csv(file) if file.suffix.lower() in (".csv", ".txt") else pd.read_parquet(file)
    except FileNotFoundError as error:
        raise DataError(f"no file at {file}") from error
    except Exception as error:
        raise DataError(f"{file} cannot be read as a table: {error}") from error


def is_frame(source: Any) -> bool:
    """Returns whether something is a data frame or a table, of pandas, polars or Arrow; dicts and lists are none."""
    return hasattr(source, "columns") and (hasattr(source, "to_numpy") or hasattr(source, "to_pandas"))


def as_pandas(source: Any) -> Any:
    """Returns a table of any kind as a pandas data frame; one of pandas as it is, whose index a message may name.

    Raises:
        DataError: it is none.
    """
    return source if hasattr(source, "iloc") and hasattr(source, "columns") else table_of(source)


def labelled_series(
    df: Any, *, id: str, time: str | None, values: Sequence[str], label: str | Sequence[str] | None
) -> list[LabelledSeries]:
    """Returns the series of a long frame, in the order in which they first come.

    Args:
        df: a row for each step of each series.
        id: the column that says which series a row is of.
        time: the column of time, which must ascend within a series; None takes the rows as they stand.
        values: the columns of the channels.
        label: the column of the label, the same in all rows of a series; or several.

    Raises:
        DataError: no such column; a time comes twice or too late; a series has several labels.
    """
    labels = [] if label is None else [label] if isinstance(label, str) else list(label)
    require_columns(df, [id, *([time] if time else []), *values, *labels])
    found = []
    for name, rows in series_by_id(df, id):
        if time is not None:
            times_of(rows[time], f" of series {name!r}", regular=False)
        told = rows[labels].drop_duplicates()
        if labels and len(told) > 1:
            raise DataError(
                f"series {name!r} has several labels in {', '.join(labels)}: {told.head(2).values.tolist()}; one is needed"
            )
        first = told.iloc[0].tolist() if labels else None
        found.append(LabelledSeries(channels_of(rows, values), first[0] if isinstance(label, str) and first else first))
    return found


def long_series(
    df: Any, *, time: str | None, channels: Sequence[str], id: str | None, missing: str
) -> list[LongSeries]:
    """Returns the series of a frame for forecasting, with NaN where a value is missing; `LongSeries.filled` fills it.

    Args:
        df: a row for each step, of each series if there are several.
        time: the column of time, ascending in equal steps; None counts the rows.
        channels: the columns of the channels.
        id: the column that says which series a row is of; None where there is one.
        missing: how it will be filled; ``"raise"`` refuses what is missing.

    Raises:
        DataError: no such column; times that are doubled, unsorted or with gaps; missing values without a way to fill them.
    """
    require_columns(df, [*([time] if time else []), *([id] if id else []), *channels])
    found = []
    for name, rows in series_by_id(df, id) if id else [(None, df)]:
        where = f" of series {name!r}" if id else ""
        times = times_of(rows[time], where, regular=True) if time else np.arange(len(rows))
        values = channels_of(rows, channels)
        if np.isinf(values).any():
            channel, step = np.argwhere(np.isinf(values))[0]
            raise DataError(f"column {channels[channel]!r}{where} has an infinite value in row {step}; make it missing")
        if missing == "raise" and np.isnan(values).any():
            channel, step = np.argwhere(np.isnan(values))[0]
            hint = _of_ends(values, time) if time is not None and id is None else ""
            raise DataError(
                f"column {channels[channel]!r}{where} has no value in row {step}; {hint}say how to fill it: "
                "missing='previous' or 'zero'"
            )
        found.append(LongSeries(values, times, name))
    return found


def _of_ends(values: np.ndarray, time: str) -> str:
    """Returns a hint where values (channels, length) are missing at an end alone, so that nothing has to be made up; else ""."""
    there = ~np.isnan(values)
    within = [np.flatnonzero(row) for row in there]
    if any(not len(at) or len(at) <= at[-1] - at[0] for at in within):
        return ""
    begin, end = max(at[0] for at in within), min(at[-1] for at in within) + 1
    if len({(at[0], at[-1]) for at in within}) == 1:
        return f"nothing is missing but at an end: leave such rows out, df.iloc[{begin}:{end}]; or "
    return (
        "the columns begin or end at different rows, and nothing is missing within: if they are series by themselves, give them "
        f"as such, df.melt({time!r}, var_name='series').dropna() to from_long_df(id='series', targets='value'); or "
        + (f"leave the ends out, df.iloc[{begin}:{end}]; or " if begin < end else "")
    )


def times_of(column: Any, where: str, *, regular: bool) -> np.ndarray:
    """Returns a column of times as int64: nanoseconds since 1970, or numbers as they are; fractions as float64 if not `regular`.

    Raises:
        DataError: a time is missing, comes twice, or is earlier than the one before; or, if `regular`, a step is
            left out or a number is not whole.
    """
    import pandas as pd

    stamps = clock(column, where, whole=regular)
    try:
        times = np.asarray(
            stamps if stamps.dtype.kind in "if" else stamps.astype("datetime64[ns, UTC]").astype("int64")
        )
    except pd.errors.OutOfBoundsDatetime as error:
        raise DataError(f"the times{where} in {column.name!r} go beyond the years 1678 to 2261: {error}") from error
    steps = np.diff(times)
    if (steps == 0).any() or len(np.unique(times)) < len(times):
        twice = column.iloc[int(np.flatnonzero(pd.Series(times).duplicated())[0])]
        raise DataError(
            f"time {twice}{where} comes more than once; {_of_clocks(twice, column.name)}leave one row, or give id= if these are "
            "several series"
        )
    if (steps < 0).any():
        row = int(np.flatnonzero(steps < 0)[0]) + 1
        raise DataError(
            f"time {column.iloc[row]}{where} comes after {column.iloc[row - 1]}: the rows are not sorted; sort them with "
            f"df.sort_values({column.name!r})"
        )
    if regular and len(steps) and steps.max() > 1.5 * np.median(steps):
        row = int(steps.argmax())
        hour = steps[row] - np.median(steps) == _HOUR
        raise DataError(
            f"no step{where} between {column.iloc[row]} and {column.iloc[row + 1]}, and most are closer; "
            f"{_of_clocks(column.iloc[row + 1], column.name) if hour else ''}put in the missing rows, "
            " such as df.set_index(time).asfreq('h'), and say how to fill them; where there is none, as of working days, "
            "leave time= out, which counts the rows"
        )
    return times


_HOUR = 3_600 * 10**9  # nanoseconds


def _of_clocks(time: Any, name: Any) -> str:
    """Returns a hint where a time may be doubled, or left out, because clocks were changed: local, and at night; else ""."""
    import pandas as pd

    if isinstance(time, Real | pd.Period | pd.Timedelta):
        return ""
    when = pd.Timestamp(time)
    if when.tz is not None or when.month not in (3, 4, 9, 10, 11) or when.hour not in (1, 2, 3):
        return ""
    return (
        "if clocks were changed then, no row is wrong: say of which zone the times are, "
        f"df[{name!r}] = pd.to_datetime(df[{name!r}]).dt.tz_localize('Europe/Berlin', ambiguous='infer'); else "
    )


def clock(column: Any, where: str, *, whole: bool) -> Any:
    """Returns a column of times as pandas' dates in UTC, or numbers where they are counted: int64 if they have to be `whole`.

    Raises:
        DataError: a time is missing, or neither a date nor a whole number.
    """
    import pandas as pd

    numbers = column.infer_objects() if column.dtype.kind == "O" else column
    if len(numbers) and numbers.dtype.kind == "b":
        raise DataError(
            f"the times{where} in {column.name!r} are {column.iloc[0]!r} and the like; expected dates or numbers"
        )
    if counted := numbers.dtype.kind in "iuf":
        stamps = numbers
    elif isinstance(numbers.dtype, pd.PeriodDtype):
        stamps = numbers.dt.to_timestamp().dt.tz_localize("UTC")
    elif numbers.dtype.kind == "m":
        stamps = pd.Timestamp(0, tz="UTC") + numbers
    else:
        stamps = pd.to_datetime(numbers, utc=True, errors="coerce")
    if stamps.isna().any():
        row = int(np.flatnonzero(stamps.isna())[0])
        raise DataError(
            f"row {row}{where} has no time in {column.name!r}: {column.iloc[row]!r}; expected a date or a whole number"
        )
    if counted and whole and (parts := np.flatnonzero(np.asarray(stamps) % 1 != 0)).size:
        raise DataError(
            f"row {parts[0]}{where} has the time {column.iloc[parts[0]]!r} in {column.name!r}; expected dates or whole numbers: "
            "count the steps, or leave time= out"
        )
    return stamps.astype("int64" if whole or stamps.dtype.kind in "iu" else "float64") if counted else stamps


def series_by_id(df: Any, id: str) -> list[tuple[Any, Any]]:
    """Returns the names and the rows of the series of a frame, in the order in which they first come.

    Raises:
        DataError: a row has no name, or there are no rows.
    """
    if (nameless := df[id].isna().to_numpy()).any():  # which groupby would let fall
        row = int(np.flatnonzero(nameless)[0])
        raise DataError(f"row {row} has no series: nothing in {id!r}; fill it, or leave such rows out")
    if not len(df):
        raise DataError("the frame has no rows; there is nothing to learn from")
    return [(name, rows.reset_index(drop=True)) for name, rows in df.groupby(id, sort=False, observed=True)]


def require_columns(df: Any, columns: Sequence[str]) -> None:
    """Raises `DataError` for the first column that a frame does not have; names the nearest."""
    names = [str(name) for name in df.columns]
    for column in columns:
        if column not in df.columns and column in getattr(df.index, "names", ()):
            raise DataError(f"{column!r} is the frame's index and no column; make it one: df.reset_index()")
        if column not in df.columns:
            raise DataError(
                f"there is no column {column!r}{did_you_mean(str(column), names)}; there are {', '.join(names[:12])}"
            )
        if names.count(str(column)) > 1:
            raise DataError(f"there are several columns named {column!r}; rename them")


def channels_of(rows: Any, columns: Sequence[str]) -> np.ndarray:
    """Returns columns of numbers as (columns, rows), float64, with NaN for what is missing.

    Raises:
        DataError: one holds something else.
    """
    if dates := [column for column in columns if rows[column].dtype.kind in "mM"]:
        raise DataError(
            f"column {dates[0]!r} holds times and no numbers; make numbers of them, such as the hour of the day"
        )
    try:
        return np.stack([rows[column].to_numpy(dtype=np.float64, na_value=np.nan) for column in columns])
    except (TypeError, ValueError) as error:
        wrong = next((c for c in columns if rows[c].dtype.kind not in "biuf"), columns[0])
        raise DataError(f"column {wrong!r} has values that are no numbers: {error}") from error
