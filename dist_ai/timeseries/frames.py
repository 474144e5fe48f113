"""Data frames to series: long ones, with a row for each step, and wide ones, with a column for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dist_ai.errors import DataError, did_you_mean
from dist_ai.timeseries.files import LabelledSeries
from dist_ai.timeseries.items import filled
from dist_ai.timeseries.windows import LongSeries

__all__ = ["labelled_series", "long_series", "read_frame", "require_columns", "times_of"]


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
    for name, rows in _by_id(df, id):
        if time is not None:
            times_of(rows[time], f" of series {name!r}", regular=False)
        told = rows[labels].drop_duplicates()
        if len(told) > 1:
            raise DataError(
                f"series {name!r} has several labels in {', '.join(labels)}: {told.head(2).values.tolist()}; one is needed"
            )
        first = told.iloc[0].tolist() if labels else None
        found.append(LabelledSeries(_numbers(rows, values), first[0] if isinstance(label, str) and first else first))
    return found


def long_series(
    df: Any, *, time: str | None, channels: Sequence[str], id: str | None, missing: str
) -> list[LongSeries]:
    """Returns the series of a frame for forecasting.

    Args:
        df: a row for each step, of each series if there are several.
        time: the column of time, ascending in equal steps; None counts the rows.
        channels: the columns of the channels.
        id: the column that says which series a row is of; None where there is one.
        missing: how to fill what is missing: by what came before, never by what comes.

    Raises:
        DataError: no such column; times that are doubled, unsorted or with gaps; missing values without a way to fill them.
    """
    require_columns(df, [*([time] if time else []), *([id] if id else []), *channels])
    found = []
    for name, rows in _by_id(df, id) if id else [(None, df)]:
        where = f" of series {name!r}" if id else ""
        times = times_of(rows[time], where, regular=True) if time else np.arange(len(rows))
        values = _numbers(rows, channels)
        if np.isinf(values).any():
            channel, step = np.argwhere(np.isinf(values))[0]
            raise DataError(f"column {channels[channel]!r}{where} has an infinite value in row {step}; make it missing")
        if np.isnan(values).any():
            channel, step = np.argwhere(np.isnan(values))[0]
            if missing == "raise":
                raise DataError(
                    f"column {channels[channel]!r}{where} has no value in row {step}; say how to fill it: missing='previous' "
                    "or 'zero'"
                )
            values = filled(values, missing)
        found.append(LongSeries(values, times, name))
    return found


def times_of(column: Any, where: str, *, regular: bool) -> np.ndarray:
    """Returns a column of times as int64: nanoseconds since 1970, or whole numbers as they are.

    Raises:
        DataError: a time is missing, comes twice, or is earlier than the one before; or, if `regular`, a step is left out.
    """
    import pandas as pd

    stamps = column if column.dtype.kind in "iu" else pd.to_datetime(column, utc=True, errors="coerce")
    if stamps.isna().any():
        row = int(np.flatnonzero(stamps.isna())[0])
        raise DataError(
            f"row {row}{where} has no time in {column.name!r}: {column.iloc[row]!r}; expected a date or a whole number"
        )
    times = (
        stamps.astype("int64").to_numpy()
        if column.dtype.kind in "iu"
        else stamps.astype("datetime64[ns, UTC]").astype("int64").to_numpy()
    )
    steps = np.diff(times)
    if (steps == 0).any() or len(np.unique(times)) < len(times):
        twice = column.iloc[int(np.flatnonzero(pd.Series(times).duplicated())[0])]
        raise DataError(
            f"time {twice}{where} comes more than once; leave one row, or give id= if these are several series"
        )
    if (steps < 0).any():
        row = int(np.flatnonzero(steps < 0)[0]) + 1
        raise DataError(
            f"time {column.iloc[row]}{where} comes after {column.iloc[row - 1]}: the rows are not sorted; sort them with "
            f"df.sort_values({column.name!r})"
        )
    if regular and len(steps) and steps.max() > 1.5 * np.median(steps):
        row = int(steps.argmax())
        raise DataError(
            f"no step{where} between {column.iloc[row]} and {column.iloc[row + 1]}, and most are closer; put in the missing "
            "rows, such as df.set_index(time).asfreq('h'), and say how to fill them"
        )
    return times


def _by_id(df: Any, id: str) -> list[tuple[Any, Any]]:
    if (nameless := df[id].isna().to_numpy()).any():  # which groupby would let fall
        row = int(np.flatnonzero(nameless)[0])
        raise DataError(f"row {row} has no series: nothing in {id!r}; fill it, or leave such rows out")
    if not len(df):
        raise DataError("the frame has no rows; there is nothing to learn from")
    return [(name, rows.reset_index(drop=True)) for name, rows in df.groupby(id, sort=False)]


def require_columns(df: Any, columns: Sequence[str]) -> None:
    """Raises `DataError` for the first column that a frame does not have; names the nearest."""
    names = [str(name) for name in df.columns]
    for column in columns:
        if column not in df.columns:
            raise DataError(
                f"there is no column {column!r}{did_you_mean(str(column), names)}; there are {', '.join(names[:12])}"
            )
        if names.count(str(column)) > 1:
            raise DataError(f"there are several columns named {column!r}; rename them")


def _numbers(rows: Any, columns: Sequence[str]) -> np.ndarray:
    try:
        return np.stack([rows[column].to_numpy(dtype=np.float64, na_value=np.nan) for column in columns])
    except (TypeError, ValueError) as error:
        wrong = next((c for c in columns if rows[c].dtype.kind not in "biuf"), columns[0])
        raise DataError(f"column {wrong!r} has values that are no numbers: {error}") from error
