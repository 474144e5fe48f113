"""Columns made before anything is learned: parts of dates, time since and until events, and which columns are what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dist_ai.data.frames import RowError, TabularFrame, as_frame
from dist_ai.data.table import no_column
from dist_ai.errors import DataError

__all__ = ["add_datepart", "add_elapsed_times", "cont_cat_split", "date_parts", "make_date"]

_PARTS = (
    *("Year", "Month", "Week", "Day", "Dayofweek", "Dayofyear", "Is_month_end", "Is_month_start", "Is_quarter_end"),
    *("Is_quarter_start", "Is_year_end", "Is_year_start"),
)
_TIMES = ("Hour", "Minute", "Second")


def make_date(df: Any, field: str) -> Any:
    """Returns a data frame like `df` whose column `field` holds dates.

    Raises:
        DataError: there is no such column, or a value is no date; names it.
    """
    import pandas as pd

    to = TabularFrame(as_frame(df))
    column = to[field]
    if not pd.api.types.is_datetime64_any_dtype(column):
        if pd.api.types.is_numeric_dtype(column) and column.notna().any():
            raise DataError(
                f"column {field!r} holds numbers ({column.dtype}) and no dates; pandas.to_datetime(..., unit=) "
                "makes dates of numbers"
            )
        dates = pd.to_datetime(column, errors="coerce", format="mixed" if column.notna().any() else None)
        wrong = np.flatnonzero((dates.isna() & column.notna()).to_numpy())
        if len(wrong):
            raise RowError(f"column {field!r} holds {column.iloc[wrong[0]]!r:.60} in", wrong[0], ", which is no date")
        to[field] = dates
    return to.frame


def date_parts(field: str, *, time: bool = False) -> tuple[str, list[str]]:
    """Returns what stands before the names of the parts of a column of dates, and the parts.

    >>> date_parts("saledate")[0], date_parts("sold")[0]
    ('sale', 'sold')
    """
    prefix = field[: -len("date")] if field.lower().endswith("date") else field
    return prefix, [*_PARTS, *(_TIMES if time else ()), "Elapsed"]


def add_datepart(df: Any, field: str, prefix: str | None = None, *, drop: bool = True, time: bool = False) -> Any:
    """Returns a data frame like `df` with the parts of a column of dates in columns of their own.

    Args:
        df: the rows; they are not changed.
        field: the column: dates, or text that pandas reads as dates.
        prefix: before the names of the parts; by default `field` without ``date`` at its end.
        drop: leave the column itself out.
        time: also hour, minute and second.

    ``Elapsed`` is seconds since 1970, whatever the resolution of the column. A missing date has missing parts.

    >>> parts = add_datepart([{"saledate": "2020-02-29"}], "saledate")
    >>> parts[["saleYear", "saleIs_month_end", "saleElapsed"]].to_dict("records")
    [{'saleYear': 2020, 'saleIs_month_end': True, 'saleElapsed': 1582934400.0}]
    """
    frame = make_date(df, field)
    dates = frame[field]
    own, parts = date_parts(field, time=time)
    prefix = own if prefix is None else prefix
    there = dates.notna()
    columns = {}
    for part in parts:
        values = _part(dates, part)
        # Whole numbers and yes or no stay what they are; where one is missing, a column of them would become floats.
        columns[f"{prefix}{part}"] = values if there.all() else values.astype(object).where(there, None)
    frame = frame.assign(**columns)
    return frame.drop(columns=field) if drop else frame


def add_elapsed_times(df: Any, field_names: Sequence[str] | str, date_field: str, base_field: str) -> Any:
    """Returns a data frame like `df` with the days since the last and until the next event, and how many lie within a week.

    Args:
        df: the rows, of which each has a date; they are not changed.
        field_names: columns that are true (or not 0) where the event takes place.
        date_field: the column of dates.
        base_field: the column that tells the series apart, such as the shop; each has events of its own.

    New columns: ``After<name>`` and ``Before<name>``, days (0 where there was, or will be, none), and ``<name>_bw`` and
    ``<name>_fw``, the events within the 7 days up to and from each row's.

    >>> rows = [{"shop": 1, "day": f"2020-01-0{d}", "promo": d == 2} for d in (1, 2, 4)]
    >>> add_elapsed_times(rows, "promo", "day", "shop")[["Afterpromo", "Beforepromo"]].values.tolist()
    [[0, -1], [0, 0], [2, 0]]
    """
    frame = make_date(df, date_field)
    to = TabularFrame(frame)
    names = [field_names] if isinstance(field_names, str) else list(field_names)
    groups = to[base_field].to_numpy()
    days = to[date_field].astype("datetime64[s]").astype("int64").to_numpy() / 86_400
    order = np.lexsort((days, groups))
    begins = np.flatnonzero(np.r_[True, groups[order][1:] != groups[order][:-1]])
    ends = np.r_[begins[1:], len(order)]
    for name in names:
        events = to[name].astype(bool).to_numpy()
        columns = {f"{kind}{name}": np.zeros(len(order), dtype=np.int64) for kind in ("After", "Before")}
        columns |= {f"{name}_{kind}": np.zeros(len(order), dtype=np.int64) for kind in ("bw", "fw")}
        for begin, end in zip(begins, ends, strict=True):
            rows = order[begin:end]
            found = _elapsed(days[rows], events[rows])
            for column, values in zip(columns.values(), found, strict=True):
                column[rows] = values
        for column_name, values in columns.items():
            to[column_name] = values
    return to.frame


def cont_cat_split(df: Any, max_card: int = 20, dep_var: Sequence[str] | str = ()) -> tuple[list[str], list[str]]:
    """Returns the names of the columns of numbers, and of those of categories.

    Args:
        df: the rows.
        max_card: whole numbers of more than so many different values are numbers; of fewer, categories. Fractions are numbers.
        dep_var: the targets, which are neither.

    Raises:
        DataError: a target is no column.

    >>> cont_cat_split([{"age": i, "kind": i % 2, "name": "a", "y": 0} for i in range(30)], dep_var="y")
    (['age'], ['kind', 'name'])
    """
    import pandas as pd

    frame = as_frame(df)
    left_out = {dep_var} if isinstance(dep_var, str) else set(dep_var)
    for name in left_out:  # or the target would be among the inputs
        if name not in frame.columns:
            raise DataError(f"dep_var: {no_column(name, frame.columns)}")
    conts: list[str] = []
    cats: list[str] = []
    for name in frame.columns:
        column = frame[name]
        if name in left_out:
            continue
        whole = pd.api.types.is_integer_dtype(column) and column.nunique() > max_card
        numbers = whole or pd.api.types.is_float_dtype(column)
        (conts if numbers else cats).append(name)
    return conts, cats


def _part(dates: Any, part: str) -> Any:
    if part == "Week":
        weeks = dates.dt.isocalendar().week
        return weeks if weeks.isna().any() else weeks.astype("int64")
    if part == "Elapsed":
        # By the unit of seconds and not by dividing what lies in memory, whose resolution differs.
        seconds = dates.dt.tz_localize(None).astype("datetime64[s]")
        return seconds.astype("int64").astype("float64").where(dates.notna())
    return getattr(dates.dt, part.lower().replace("dayof", "day_of_"))


def _elapsed(days: Any, events: Any) -> tuple[Any, Any, Any, Any]:
    """Returns days since the last event and until the next (negative), and events within a week before and after."""
    when = days[events]
    last = np.searchsorted(when, days, side="right") - 1
    following = np.searchsorted(when, days, side="left")
    after, before = np.zeros(len(days)), np.zeros(len(days))
    known = last >= 0
    after[known] = days[known] - when[last[known]]
    known = following < len(when)
    before[known] = days[known] - when[following[known]]
    back = np.searchsorted(when, days, side="right") - np.searchsorted(when, days - 7, side="right")
    ahead = np.searchsorted(when, days + 7, side="left") - np.searchsorted(when, days, side="left")
    return after, before, back, ahead
