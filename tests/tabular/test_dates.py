"""Columns made of dates and events, and which columns are numbers."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow
import pytest

from dist_ai.errors import DataError
from dist_ai.tabular import (
    Categorify,
    DateParts,
    TabularDataLoaders,
    TabularPandas,
    add_datepart,
    add_elapsed_times,
    cont_cat_split,
    make_date,
)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_elapsed_is_seconds_whatever_the_resolution(unit: str) -> None:
    frame = pd.DataFrame({"date": pd.Series(["2020-02-29"]).astype(f"datetime64[{unit}]")})
    parts = add_datepart(frame, "date")
    assert parts["Elapsed"].tolist() == [1582934400.0]
    assert "date" not in parts
    assert "date" in frame


def test_the_parts_of_a_date_are_those_of_the_calendar() -> None:
    parts = add_datepart([{"day": "2021-01-03 04:05:06"}], "day", time=True).iloc[0]
    expected = {"Year": 2021, "Month": 1, "Week": 53, "Day": 3, "Dayofweek": 6, "Dayofyear": 3, "Hour": 4, "Second": 6}
    assert {name: parts[f"day{name}"] for name in expected} == expected
    assert not parts["dayIs_month_start"]


def test_a_missing_date_has_missing_parts() -> None:
    parts = add_datepart([{"day": "2021-01-03"}, {"day": None}], "day", time=True)
    assert parts["dayYear"].tolist() == [2021, pd.NA]
    assert parts["dayIs_month_start"].tolist() == [False, pd.NA]
    assert np.isnan(parts["dayElapsed"][1])
    assert {str(dtype) for dtype in parts.dtypes} == {"Int64", "boolean", "float64"}


def test_a_missing_date_changes_nothing_about_which_parts_are_numbers() -> None:
    frame = pd.DataFrame({"d": pd.date_range("2020-01-01", periods=60, freq="9D"), "y": np.arange(60.0)})
    whole = cont_cat_split(add_datepart(frame, "d"), dep_var="y")
    frame.loc[5, "d"] = pd.NaT
    parts = add_datepart(frame, "d")
    conts, cats = cont_cat_split(parts, dep_var="y")
    assert (conts, cats) == whole
    assert conts == ["dWeek", "dDay", "dDayofyear", "dElapsed"]
    dls = TabularDataLoaders.from_df(parts, y_names="y", bs=16)
    reader = dls.recipe.reads_tables
    assert set(reader.seen_cats) >= {"dYear", "dIs_month_end", "dElapsed_na"}
    assert reader.classes["dYear"] == ["#na#", 2020, 2021]
    row, *_ = dls.test_dl(parts.iloc[5:6], num_workers=0).one_batch()
    assert row.cats[0, reader.seen_cats.index("dYear")] == 0
    assert np.isfinite(row.conts.numpy()).all()


def test_what_is_no_date_is_named() -> None:
    with pytest.raises(DataError, match="column 'day' holds 'soon' in row 1, which is no date"):
        make_date([{"day": "2021-01-03"}, {"day": "soon"}], "day")
    with pytest.raises(DataError, match=r"column 'day' holds numbers \(int64\) and no dates"):
        make_date([{"day": 20210103}], "day")
    with pytest.raises(DataError, match=r"no column 'dya'; .*did you mean 'day'"):
        make_date([{"day": "2021-01-03"}], "dya")


def test_text_of_days_and_months_is_read_one_way_in_a_column() -> None:
    days = ["03/04/2021", "05/04/2021", None, "13/04/2021", "2021-05-06", "2021/5/6"]
    frame = pd.DataFrame({"day": days})
    assert make_date(frame, "day")["day"].dt.month.dropna().tolist() == [4, 4, 4, 5, 5]
    assert make_date(frame[:2], "day")["day"].dt.month.tolist() == [3, 5]
    assert make_date(frame[:2], "day", dayfirst=True)["day"].dt.month.tolist() == [4, 4]
    assert make_date([{"day": "3.4.21"}], "day", format="%d.%m.%y")["day"].dt.month.tolist() == [4]
    with pytest.raises(
        DataError, match=r"'04/25/2021' in row 6, where the month stands first, and '13/04/2021' has the day"
    ):
        make_date(pd.DataFrame({"day": [*days, "04/25/2021"]}), "day")
    with pytest.raises(DataError, match=r"'13/04/2021' in row 3, where the day .*, the month does; give dayfirst=True"):
        add_datepart(frame, "day", dayfirst=False)
    with pytest.raises(DataError, match=r"column 'day' holds '2021-05-06' in row 4, which is not of format='%d/%m/%Y'"):
        make_date(frame, "day", format="%d/%m/%Y")
    with pytest.raises(DataError, match="format='%q': 'q' is a bad directive"):
        make_date(frame, "day", format="%q")


@pytest.mark.parametrize("dayfirst", [None, True])
@pytest.mark.parametrize("beside", [[], ["2021-04-03"], ["4 April 2021"]])
@pytest.mark.parametrize(
    "written",
    [
        "{:02}/04/2021",
        "{}.4.2021 5:06 PM",
        "2021-04-{:02}",
        "2021/4/{}",
        "2021.4.{}",
        "{} April 2021",
        "{}-Apr-21",
        "Apr {}, 2021",
    ],
)
def test_a_date_is_read_alike_whatever_stands_beside_it(written: str, beside: list[str], dayfirst: bool | None) -> None:
    texts = [*beside, *(written.format(day) for day in (3, 13, 14))]
    found = make_date([{"day": text} for text in texts], "day", dayfirst=dayfirst)["day"]
    assert found.dt.month.tolist() == [4] * len(texts)
    assert found.dt.day.tolist()[-3:] == [3, 13, 14]


@pytest.mark.parametrize("value", ["10:30", "5:06 pm", "today", "now", "May", "3/4", "5", 20210103, 1.5, b"2021", [1]])
def test_what_is_no_whole_date_is_named(value: object) -> None:
    # pandas takes a time of the day for one of today's.
    with pytest.raises(DataError, match=r"column 'day' holds .* in row 1, which is no date"):
        make_date(pd.DataFrame({"day": pd.Series(["2021-01-03", value], dtype=object)}), "day")


@pytest.mark.parametrize(
    "column",
    [
        pd.period_range("2021-01", periods=2, freq="M"),
        pd.Categorical(["2021-01-01", "2021-02-01"]),
        pd.Series([date(2021, 1, 1), date(2021, 2, 1)]),
        pd.Series([date(2021, 1, 1), "2021-02-01"]),
        pd.Series([date(2021, 1, 1), date(2021, 2, 1)], dtype=pd.ArrowDtype(pyarrow.date32())),
        pd.Series([date(2021, 1, 1), date(2021, 2, 1)], dtype=pd.ArrowDtype(pyarrow.date64())),
        pd.Series(pd.to_datetime(["2021-01-01", "2021-02-01"])).astype(pd.ArrowDtype(pyarrow.timestamp("us"))),
        pd.Series(["2021-01-01", "2021-02-01"], dtype=pd.ArrowDtype(pyarrow.string())),
    ],
)
def test_dates_of_any_kind_have_parts(column: object) -> None:
    parts = add_datepart(pd.DataFrame({"day": column}), "day")
    assert parts["dayMonth"].tolist() == [1, 2]
    assert parts["dayElapsed"].tolist() == [1609459200, 1612137600]


def test_dates_before_1970_and_after_2262_have_parts() -> None:
    parts = add_datepart([{"d": "0001-01-02"}, {"d": "1969-12-31"}, {"d": "9999-12-31"}], "d")
    assert parts["dYear"].tolist() == [1, 1969, 9999]
    assert parts["dElapsed"].tolist() == [-62135510400, -86400, 253402214400]


def test_elapsed_counts_from_1970_in_utc_and_the_other_parts_are_of_the_place() -> None:
    zoned = pd.DataFrame({"d": pd.to_datetime(["2021-01-01", None]).tz_localize("Europe/Berlin")})
    parts = add_datepart(zoned, "d", time=True)
    assert parts.loc[0, ["dYear", "dHour", "dElapsed"]].tolist() == [2021, 0, 1609455600]
    assert parts["dHour"].isna().tolist() == [False, True]


def test_several_offsets_from_utc_are_named() -> None:
    summer = pd.DataFrame({"d": ["2021-01-01T00:00+01:00", None, "2021-07-01T00:00+02:00"]})
    with pytest.raises(
        DataError, match=r"'2021-07-01T00:00\+02:00' in row 2, and '2021-01-01T00:00\+01:00' has another offset"
    ):
        make_date(summer, "d")
    places = [datetime(2021, 1, 1, tzinfo=ZoneInfo(name)) for name in ("Europe/Berlin", "America/New_York")]
    with pytest.raises(DataError, match=r"column 'd' holds datetime.* in row 1, whose time zone is not that of others"):
        make_date(pd.DataFrame({"d": pd.Series(places, dtype=object)}), "d")


def test_durations_and_numbers_are_no_dates() -> None:
    with pytest.raises(DataError, match=r"column 'd' is of type timedelta64.* and holds durations and no dates"):
        make_date(pd.DataFrame({"d": [pd.Timedelta(days=1)]}), "d")
    with pytest.raises(DataError, match=r"column 'd' holds numbers \(object\) and no dates"):
        make_date(pd.DataFrame({"d": pd.Series([20210103, None], dtype=object)}), "d")


def test_the_parts_are_named_by_the_column_without_date() -> None:
    names = {
        field: add_datepart([{field: "2021-01-03"}], field).columns[0] for field in ("saledate", "saleDate", "SALEDATE")
    }
    assert names == {"saledate": "saleYear", "saleDate": "saleYear", "SALEDATE": "SALEDATEYear"}  # as fastai does


def test_days_since_and_until_events_are_counted_by_series() -> None:
    rows = pd.DataFrame(
        {
            "shop": ["a"] * 4 + ["b"] * 2,
            "day": [f"2020-01-{d:02}" for d in (3, 1, 12, 2, 1, 9)],  # in no order
            "promo": [0, 0, 1, 1, 1, 0],
        }
    )
    found = add_elapsed_times(rows, "promo", "day", "shop")
    assert found["Afterpromo"].tolist() == [1, 0, 0, 0, 0, 8]
    assert found["Beforepromo"].tolist() == [-9, -1, 0, 0, 0, 0]
    assert found["promo_bw"].tolist() == [1, 0, 1, 1, 1, 0]
    assert found["promo_fw"].tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "promo",
    [
        pd.Series([1, np.nan, 0]),
        pd.array([True, None, False], dtype="boolean"),
        pd.array([1, None, 0], dtype="Int64"),
        pd.Series([True, None, False], dtype=object),
        pd.Categorical([True, None, False]),
    ],
)
def test_a_missing_event_is_none(promo: object) -> None:
    days = pd.date_range("2020-01-01", periods=3, tz="Europe/Berlin")
    found = add_elapsed_times(pd.DataFrame({"shop": 1, "day": days, "p": promo}), "p", "day", "shop")
    assert found[["Afterp", "Beforep", "p_bw", "p_fw"]].to_numpy().T.tolist() == [
        [0, 1, 2],
        [0, 0, 0],
        [1, 1, 1],
        [1, 0, 0],
    ]


def test_days_are_those_of_the_calendar_where_clocks_change() -> None:
    days = pd.date_range("2021-03-27", periods=3, tz="Europe/Berlin")  # the second day has 23 hours
    found = add_elapsed_times(pd.DataFrame({"shop": 1, "day": days, "p": [1, 0, 0]}), "p", "day", "shop")
    assert found["Afterp"].tolist() == [0, 1, 2]


def test_series_may_be_named_by_anything_and_a_missing_name_or_date_is_an_error() -> None:
    rows = pd.DataFrame({"shop": ["a", 3, "a"], "day": ["2020-01-01", "2020-01-02", "2020-01-04"], "p": [1, 0, 0]})
    assert add_elapsed_times(rows, "p", "day", "shop")["Afterp"].tolist() == [0, 0, 3]
    with pytest.raises(DataError, match=r"column 'shop' tells no series in row 1 \(1 such row"):
        add_elapsed_times(rows.assign(shop=["a", None, "a"]), "p", "day", "shop")
    with pytest.raises(DataError, match=r"column 'day' tells no date in row 2 \(1 such row"):
        add_elapsed_times(rows.assign(day=["2020-01-01", "2020-01-02", None]), "p", "day", "shop")
    with pytest.raises(DataError, match=r"column 'p' holds 'yes' in row 0, and is to be true \(or not 0\)"):
        add_elapsed_times(rows.assign(p=["yes", "no", "no"]), "p", "day", "shop")


def test_numbers_are_told_by_their_values_where_their_type_says_nothing() -> None:
    frame = pd.DataFrame(
        {
            "price": pd.Series([Decimal(i) / 4 for i in range(30)]),
            "paid": pd.Series([Decimal(i) / 4 for i in range(30)], dtype=pd.ArrowDtype(pyarrow.decimal128(9, 2))),
            "many": pd.Series([None, *range(29)], dtype=object),
            "few": pd.Series([None, *[1, 2] * 14, 1], dtype=object),
            "part": pd.Series([None, *[0.5, 2] * 14, 1], dtype=object),
            "nullable": pd.array([None, *range(29)], dtype="Int64"),
            "yes": pd.array([None, *[True] * 29], dtype="boolean"),
            "digits": [str(i) for i in range(30)],
            "level": pd.Categorical(range(30)),
        }
    )
    assert cont_cat_split(frame) == (["price", "paid", "many", "part", "nullable"], ["few", "yes", "digits", "level"])


def test_whole_numbers_of_few_values_are_categories() -> None:
    frame = pd.DataFrame({"many": range(30), "few": [1, 2] * 15, "x": [0.5] * 30, "text": "a", "yes": True, "y": 1.0})
    assert cont_cat_split(frame, dep_var="y") == (["many", "x"], ["few", "text", "yes"])
    assert cont_cat_split(frame, max_card=1, dep_var=["y", "text"])[0] == ["many", "few", "x"]


def test_a_target_that_is_no_column_is_named_and_not_left_among_the_inputs() -> None:
    with pytest.raises(DataError, match=r"dep_var: no column 'pay'; there are age, pays; did you mean 'pays'"):
        cont_cat_split([{"age": 3, "pays": 1}], dep_var="pay")


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_a_new_row_is_read_as_the_training_rows_were(dtype: str) -> None:
    days = pd.Series(["13/04/2021", "02/04/2021", "05/04/2021", "06/04/2021"], dtype=dtype)
    frame = pd.DataFrame({"sold": days, "x": [1.0, 2, 3, 4], "y": [0.5, 1.5, 2.5, 3.5]})
    to = TabularPandas(frame, [DateParts(["sold"]), Categorify], cont_names=["x"], y_names="y")
    [row] = to.reader.classes["soldMonth"][1:]
    assert row == 4
    code = to.reader.read([{"sold": "03/04/2021", "x": 1.0}]).rows.cats[0, to.cat_names.index("soldMonth")]
    assert code == 1
