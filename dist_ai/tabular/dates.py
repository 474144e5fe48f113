"""Columns made before anything is learned: parts of dates, time since and until events, and which columns are what."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np

from dist_ai.data.frames import RowError, TabularFrame, as_frame, numbers_of
from dist_ai.data.table import no_column
from dist_ai.data.tabular import names_of
from dist_ai.data.targets import kind_of
from dist_ai.errors import DataError

__all__ = ["add_datepart", "add_elapsed_times", "cont_cat_split", "date_parts", "day_first", "make_date"]

_PARTS = (
    *("Year", "Month", "Week", "Day", "Dayofweek", "Dayofyear", "Is_month_end", "Is_month_start", "Is_quarter_end"),
    *("Is_quarter_start", "Is_year_end", "Is_year_start"),
)
_TIMES = ("Hour", "Minute", "Second")

# What `pandas.api.types.infer_dtype` calls columns of dates or of text.
_KINDS = ("string", "date", "datetime", "datetime64")
_DAY_MONTH = re.compile(r"(?<![0-9])([0-9]{1,2})([/. -])([0-9]{1,2})\2(?:[0-9]{4}|[0-9]{2})(?![0-9])")
_TODAY = re.compile(r"\s*(?:today|now|[0-9]{1,2}:[0-9]{2}(?::[0-9.]+)?(?:\s*[ap]m)?)\s*$", re.IGNORECASE)


def make_date(df: Any, field: str, *, dayfirst: bool | None = None, format: str | None = None) -> Any:
    """Returns a data frame like `df` whose column `field` holds dates.

    Args:
        df: the rows; they are not changed.
        field: the column: dates of any kind (pandas', Arrow's, Python's), periods, which count by their start, or text.
        dayfirst: whether 03/04/2021 is in April. By default as all the column can be read, and of the two the month first.
        format: of the text, as `strptime` has it (``"%d.%m.%y"``); by default it is found out, of each value for itself.

    Raises:
        DataError: there is no such column; or a value is no date, has its day and month the other way round than others, or
            another offset from UTC. Names the row.

    >>> make_date([{"sold": "03/04/2021"}, {"sold": "13/04/2021"}], "sold")["sold"].dt.month.tolist()
    [4, 4]
    """
    to = TabularFrame(as_frame(df))
    to[field] = _dates(to[field], field, dayfirst, format)
    return to.frame


def day_first(column: Any) -> bool | None:
    """Returns whether the day stands first in text such as 13/04/2021; None where there is no such text, or both are there.

    What may be either has the month first.
    """
    import pandas as pd

    if pd.api.types.infer_dtype(column, skipna=True) not in {*_KINDS, "categorical", "mixed"}:
        return None
    orders = {_order(value) for value in column.dropna().unique()}
    return None if not orders - {""} or {"day", "month"} <= orders else "day" in orders


def date_parts(field: str, *, time: bool = False) -> tuple[str, list[str]]:
    """Returns what stands before the names of the parts of a column of dates, and the parts.

    >>> date_parts("saledate")[0], date_parts("sold")[0]
    ('sale', 'sold')
    """
    prefix = re.sub("[Dd]ate$", "", field)
    return prefix, [*_PARTS, *(_TIMES if time else ()), "Elapsed"]


def add_datepart(
    df: Any,
    field: str,
    prefix: str | None = None,
    *,
    drop: bool = True,
    time: bool = False,
    dayfirst: bool | None = None,
    format: str | None = None,
) -> Any:
    """Returns a data frame like `df` with the parts of a column of dates in columns of their own.

    Args:
        df: the rows; they are not changed.
        field: the column: dates, or text; see `make_date`.
        prefix: before the names of the parts; by default `field` without ``date`` or ``Date`` at its end.
        drop: leave the column itself out.
        time: also hour, minute and second.
        dayfirst, format: how text is read; see `make_date`.

    ``Elapsed`` is seconds since 1970 (in UTC, where the dates have a time zone), whatever the resolution of the column. The
    other parts are whole numbers, or yes and no. A missing date has missing parts: they are pandas' ``Int64`` and ``boolean``.

    Raises:
        DataError: see `make_date`.

    >>> parts = add_datepart([{"saledate": "2020-02-29"}], "saledate")
    >>> parts[["saleYear", "saleIs_month_end", "saleElapsed"]].to_dict("records")
    [{'saleYear': 2020, 'saleIs_month_end': True, 'saleElapsed': 1582934400.0}]
    """
    frame = make_date(df, field, dayfirst=dayfirst, format=format)
    dates = frame[field]
    own, parts = date_parts(field, time=time)
    prefix = own if prefix is None else prefix
    columns = {f"{prefix}{part}": _part(dates, part) for part in parts}
    frame = frame.assign(**columns)
    return frame.drop(columns=field) if drop else frame


def add_elapsed_times(df: Any, field_names: Sequence[str] | str, date_field: str, base_field: str) -> Any:
    """Returns a data frame like `df` with the days since the last and until the next event, and how many lie within a week.

    Args:
        df: the rows, of which each has a date; they are not changed.
        field_names: columns that are true (or not 0) where the event takes place; where they are missing, there is none.
        date_field: the column of dates; see `make_date`. Of dates with a time zone, days are those of the calendar there.
        base_field: the column that tells the series apart, such as the shop; each has events of its own.

    New columns: ``After<name>`` and ``Before<name>``, days (0 where there was, or will be, none), and ``<name>_bw`` and
    ``<name>_fw``, the events within the 7 days up to and from each row's.

    Raises:
        DataError: a column is not there; a date, or what tells the series apart, is missing; or a column of events holds
            text. Names the row.

    >>> rows = [{"shop": 1, "day": f"2020-01-0{d}", "promo": d == 2} for d in (1, 2, 4)]
    >>> add_elapsed_times(rows, "promo", "day", "shop")[["Afterpromo", "Beforepromo"]].values.tolist()
    [[0, -1], [0, 0], [2, 0]]
    """
    to = TabularFrame(make_date(df, date_field))
    for name, what in ((date_field, "date"), (base_field, "series")):
        lacking = np.flatnonzero(to[name].isna().to_numpy())
        if len(lacking):
            raise RowError(
                f"column {name!r} tells no {what} in",
                lacking[0],
                f" ({len(lacking):,} such row(s)), and days are counted from date to date within a series; leave the rows out",
            )
    groups = to[base_field].factorize()[0]  # by number: names of several types have no order
    days = _seconds(to[date_field].dt.tz_localize(None)).to_numpy() / 86_400
    order = np.lexsort((days, groups))
    begins = np.flatnonzero(np.r_[True, groups[order][1:] != groups[order][:-1]])
    ends = np.r_[begins[1:], len(order)]
    for name in names_of(field_names):
        events = _events(to, name)
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
    frame = as_frame(df)
    left_out = names_of(dep_var)
    for name in left_out:  # or the target would be among the inputs
        if name not in frame.columns:
            raise DataError(f"dep_var: {no_column(name, frame.columns)}")
    conts: list[str] = []
    cats: list[str] = []
    for name in frame.columns:
        if name not in left_out:
            (conts if _is_number(frame[name], max_card) else cats).append(name)
    return conts, cats


def _is_number(column: Any, max_card: int) -> bool:
    kind = kind_of(column)
    return kind == "numbers" or (kind == "whole numbers" and column.nunique() > max_card)


# ------------------------------------------------------------------------------------------------ reading dates


def _dates(column: Any, field: str, dayfirst: bool | None, format: str | None) -> Any:
    """Returns a column as pandas' dates."""
    import pandas as pd

    kinds = pd.api.types
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.dtype.categories.dtype)
    if isinstance(column.dtype, pd.PeriodDtype):
        return column.dt.to_timestamp()
    if kinds.is_datetime64_any_dtype(column) or not column.notna().any():
        return pd.to_datetime(column)  # Arrow's dates become pandas' own
    if kinds.is_timedelta64_dtype(column):
        raise DataError(
            f"column {field!r} is of type {column.dtype} and holds durations and no dates; add them to a date, or make "
            "numbers of them with .dt.total_seconds()"
        )
    if kind_of(column) != "others":
        raise DataError(
            f"column {field!r} holds numbers ({column.dtype}) and no dates; pandas.to_datetime(..., unit=) "
            "makes dates of numbers"
        )
    if kinds.infer_dtype(column, skipna=True) not in _KINDS:
        none = column.notna() & ~column.map(lambda value: isinstance(value, str | date | np.datetime64))
        for row in np.flatnonzero(none.to_numpy(dtype=bool))[:1]:
            raise RowError(f"column {field!r} holds {column.iloc[row]!r:.60} in", row, ", which is no date")
    rows, different = pd.factorize(column)  # each date is read once, however many rows have it

    def require(good: Any, what: str) -> None:
        for place in np.flatnonzero(~np.asarray(good, dtype=bool))[:1]:
            row = int(np.flatnonzero(rows == place)[0])
            raise RowError(f"column {field!r} holds {different[place]!r:.60} in", row, what)

    values = pd.Series(different)
    return pd.Series(_read(values, dayfirst, format, require).array.take(rows, allow_fill=True), index=column.index)


def _read(values: Any, dayfirst: bool | None, format: str | None, require: Callable[..., None]) -> Any:
    """Returns text, or Python's dates, as pandas' dates; `require(good, what)` raises by what is wrong with the first of them."""
    dates = _parsed(values, require, format=format or "ISO8601")
    if format is not None:
        require(dates.notna(), f", which is not of format={format!r}")
        return dates
    if not dates.notna().all():
        orders = np.array([_order(value) for value in values.tolist()])
        dates = _of_text(values, orders != "", _one_order(values, orders, dayfirst, require), require)
    good = np.array(dates.notna())
    # pandas takes a time of the day for one of today's, and has the year 1 where there is none.
    years, given = np.array(dates.dt.year), values.tolist()
    for place in np.flatnonzero((years == 1) | (years >= date.today().year)):
        text = str(given[place])
        good[place] = not _TODAY.match(text) and (years[place] > 1 or "0001" in text)
    are_dates = np.array([isinstance(value, date) for value in given], dtype=bool)
    require(
        good | ~are_dates, ", whose time zone is not that of others; make it one with pandas.to_datetime(..., utc=True)"
    )
    require(good, ", which is no date")
    return dates


def _of_text(values: Any, numeric: Any, dayfirst: bool, require: Callable[..., None]) -> Any:
    """Returns text as dates; where it is `numeric`, such as 03/04/2021, `dayfirst` says what stands first."""
    from pandas.tseries.api import guess_datetime_format

    all_days_first = bool(dayfirst and numeric.all())
    if numeric.all() or not numeric.any():
        # Most columns have one format, which is read much faster than each value for itself.
        format = guess_datetime_format(str(values.iloc[0]), dayfirst=all_days_first)
        if format is not None and (dates := _parsed(values, require, format=format)).notna().all():
            return dates
    dates = _parsed(values, require, format="mixed", dayfirst=all_days_first)
    if dayfirst and numeric.any() and not all_days_first:  # not for the others: 2021/3/4 would be in April
        dates = dates.mask(numeric, _parsed(values.where(numeric), require, format="mixed", dayfirst=True))
    return dates


def _one_order(values: Any, orders: Any, dayfirst: bool | None, require: Callable[..., None]) -> bool:
    """Returns whether the day stands first in all text such as 03/04/2021; raises `DataError` where it differs."""
    there = set(orders)
    if dayfirst is None and {"day", "month"} <= there:
        first, second = sorted(("day", "month"), key=lambda order: int(np.flatnonzero(orders == order)[0]))
        other = values.iloc[int(np.flatnonzero(orders == first)[0])]
        require(
            orders != second,
            f", where the {second} stands first, and {other!r:.60} has the {first} first: one column has one order; "
            "mend the rows, or make dates of them before",
        )
    if dayfirst is None:
        return "day" in there
    wrong, right = ("month", "day") if dayfirst else ("day", "month")
    require(
        orders != wrong,
        f", where the {wrong} stands first, and with dayfirst={dayfirst}, which was given or learned from the training rows, the "
        f"{right} does; give dayfirst={wrong == 'day'}",
    )
    return dayfirst


def _order(value: Any) -> str:
    """Returns what stands first in text such as 03/04/2021: "day", "month", or "either"; "" for others."""
    found = _DAY_MONTH.search(value) if isinstance(value, str) else None
    if found is None:
        return ""
    first, second = int(found[1]), int(found[3])
    return "day" if first > 12 >= second else "month" if second > 12 >= first else "either"


def _parsed(values: Any, require: Callable[..., None], **how: Any) -> Any:
    import pandas as pd

    try:
        return pd.to_datetime(values, errors="coerce", **how)
    except ValueError as error:
        if "timezone" not in str(error):  # a format that is none
            raise DataError(f"format={how['format']!r}: {error}") from error
        stamps = [pd.to_datetime(value, errors="coerce", **how) for value in values]
        offsets = [stamp.utcoffset() for stamp in stamps]
        first = next(place for place, stamp in enumerate(stamps) if not pd.isna(stamp))
        require(
            [pd.isna(stamp) or offset == offsets[first] for stamp, offset in zip(stamps, offsets, strict=True)],
            f", and {values.iloc[first]!r:.60} has another offset from UTC; make them one with "
            "pandas.to_datetime(..., utc=True), and .dt.tz_convert('Europe/Berlin') for the calendar of a place",
        )
        raise


# ------------------------------------------------------------------------------------------------ parts and days


def _part(dates: Any, part: str) -> Any:
    if part == "Elapsed":
        return _seconds(dates.dt.tz_convert(None) if dates.dt.tz is not None else dates)
    fields = dates.dt.isocalendar() if part == "Week" else dates.dt
    values = getattr(fields, part.lower().replace("dayof", "day_of_"))
    there = dates.notna()
    if there.all():
        return values.astype("int64") if part == "Week" else values
    # Not floats, nor objects: a year that is 2020 in one table is no 2020.0 in another.
    return values.astype("boolean" if values.dtype == bool else "Int64").where(there)


def _seconds(dates: Any) -> Any:
    """Returns seconds since 1970, NaN for missing dates, by the unit and not by what lies in memory, whose resolution differs."""
    return dates.astype("datetime64[s]").astype("int64").astype("float64").where(dates.notna())


def _events(to: TabularFrame, name: str) -> Any:
    """Returns where events take place, bool (rows,)."""
    column = to[name]
    for place in np.flatnonzero(column.map(lambda value: isinstance(value, str)).to_numpy(dtype=bool))[:1]:
        raise RowError(
            f"column {name!r} holds {column.iloc[place]!r:.60} in",
            place,
            f', and is to be true (or not 0) where the event takes place: df[{name!r}] == "..." makes it so',
        )
    return np.nan_to_num(numbers_of(to, name)) != 0


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
