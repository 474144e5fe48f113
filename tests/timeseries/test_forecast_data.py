"""Windows of long series: what they hold, how they are split in time, and what is said of series that give none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from series import waves

from dist_ai.data import RandomSplitter
from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries import (
    LongSeries,
    ScaleRange,
    Standardize,
    StandardizeEach,
    TensorForecast,
    TensorKnown,
    TensorSeries,
    TSForecastDataLoaders,
    WalkForwardSplitter,
    Window,
    Windows,
)

QUICK: Any = {"context": 12, "horizon": 4, "bs": 8, "num_workers": 0}


def frame(num: int = 100, names: tuple[str, ...] = ("north",)) -> pd.DataFrame:
    hours = pd.date_range("2024-01-01", periods=num, freq="h")
    parts = [
        pd.DataFrame({"site": name, "ts": hours, "load": waves(num) + 100 * i, "hour": hours.hour * 1.0})
        for i, name in enumerate(names)
    ]
    return pd.concat(parts, ignore_index=True)


def counted(*lengths: int) -> list[LongSeries]:
    """Series whose value is their step, and 1,000 more for each series."""
    return [LongSeries(np.arange(n)[None] + 1000.0 * i, np.arange(n), i) for i, n in enumerate(lengths)]


def test_a_window_holds_what_came_before_and_what_came() -> None:
    windows = Windows(counted(6, 3, 5), context=3, horizon=2)
    assert [(w.past[0].tolist(), w.target[0].tolist()) for w in windows] == [
        ([0, 1, 2], [3, 4]),
        ([1, 2, 3], [4, 5]),
        ([2000, 2001, 2002], [2003, 2004]),
    ]
    assert (windows.first.tolist(), windows.last.tolist()) == ([3, 4, 3], [4, 5, 4])


@pytest.mark.parametrize("fold", [0, 1, 2])
@pytest.mark.parametrize(("stride", "valid_stride"), [(1, 1), (3, 4)])
def test_training_sees_no_step_that_validation_is_judged_by(fold: int, stride: int, valid_stride: int) -> None:
    windows = Windows(counted(60, 50, 10, 60), context=8, horizon=4)
    splitter = WalkForwardSplitter(0.4, n_folds=3, fold=fold, stride=stride, valid_stride=valid_stride)
    train, valid = splitter(windows)
    seen = windows.last[train].max()
    assert seen < windows.first[valid].min()
    assert windows.last[valid].max() < (splitter.borders(windows)[1] or 60)
    for part, step in ((train, stride), (valid, valid_stride)):
        places = [(windows.place(i)[0].name, windows.place(i)[1]) for i in part]
        for name in {name for name, _ in places}:
            steps = [at for each, at in places if each == name]
            assert set(np.diff(steps)) <= {step}


def test_folds_follow_one_another_and_each_trains_on_all_before() -> None:
    windows = Windows(counted(100), context=8, horizon=4)
    parts = [WalkForwardSplitter(0.6, n_folds=3, fold=k)(windows) for k in range(3)]
    assert [len(train) for train, _ in parts] == [29, 49, 69]
    assert [windows.first[valid].min() for _, valid in parts] == [40, 60, 80]


def test_the_scale_is_of_what_lies_before_the_validation() -> None:
    values = np.concatenate([np.tile([0.0, 2.0], 40), np.full(20, 1000.0)])
    dls = TSForecastDataLoaders.from_arrays(values, **QUICK)
    scale: Any = dls.windows.scale
    assert (scale.zero, scale.unit) == ([1.0], [1.0])


def test_a_batch_has_the_past_what_is_known_and_the_target_each_in_its_type() -> None:
    dls = TSForecastDataLoaders.from_long_df(frame(), time="ts", targets="load", known=["hour"], **QUICK)
    past, known, target = dls.one_batch()
    assert [(type(each), tuple(each.shape)) for each in (past, known, target)] == [
        (TensorSeries, (8, 2, 12)),
        (TensorKnown, (8, 1, 4)),
        (TensorForecast, (8, 1, 4)),
    ]
    decoded = dls.decode_batch(next(iter(dls.valid)))[0]
    window = dls.valid_ds.item(0)
    for one, other in zip(decoded, window, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-5, atol=1e-5)


def test_a_batch_that_is_cut_at_once_is_that_of_its_windows_one_by_one() -> None:
    dls = TSForecastDataLoaders.from_long_df(
        frame(names=("a", "b")), time="ts", targets="load", id="site", known=["hour"], **QUICK
    )
    part = dls.train_ds
    chosen = torch.tensor([0, 5, len(part) - 1])
    for column, at_once in zip(zip(*(part[int(i)] for i in chosen), strict=True), part.fetch(chosen), strict=True):
        torch.testing.assert_close(torch.stack(column), at_once, rtol=0, atol=0)
        assert type(column[0]) is type(at_once)


def test_several_series_by_their_names_and_one_channel_beside_another() -> None:
    long = TSForecastDataLoaders.from_long_df(frame(names=("a", "b")), time="ts", targets="load", id="site", **QUICK)
    assert len(long.windows) == 2 * (100 - 16 + 1)
    wide = frame(names=("a", "b")).pivot(index="ts", columns="site", values="load").reset_index()
    batch = TSForecastDataLoaders.from_wide_df(wide, time="ts", **QUICK).one_batch()
    assert [tuple(each.shape) for each in batch] == [(8, 2, 12), (8, 2, 4)]


def test_a_file_gives_what_its_frame_gives(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "a.parquet")
    frame().to_csv(tmp_path / "a.csv", index=False)
    expected = TSForecastDataLoaders.from_long_df(frame(), time="ts", targets="load", **QUICK).one_batch()
    for name in ("a.parquet", "a.csv"):
        found = TSForecastDataLoaders.from_parquet(tmp_path / name, time="ts", targets="load", **QUICK).one_batch()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_what_is_missing_is_filled_by_what_came_before_only() -> None:
    holes = frame()
    holes.loc[[0, 50, 51], "load"] = np.nan
    dls = TSForecastDataLoaders.from_long_df(holes, time="ts", targets="load", missing="previous", **QUICK)
    values = dls.windows.series[0].values[0]
    assert (values[50], values[51]) == (values[49], values[49])
    assert values[0] == pytest.approx(holes.load[:80].mean(), rel=1e-12)


def test_a_channel_that_begins_late_has_the_mean_of_training_before_and_nothing_of_what_comes() -> None:
    late = np.concatenate([np.full(90, np.nan), 1000.0 + np.arange(10)])
    X = np.stack([waves(100), late])
    for scale in ("standard", None):
        dls = TSForecastDataLoaders.from_arrays(X, missing="previous", scale=scale, targets=[0], **QUICK)
        assert (dls.windows.series[0].values[1, :90] == 0).all()  # no value of it lies before the validation
        assert dls.train.one_batch()[0][:, 1].abs().max() == 0
    early = np.where(np.arange(100) < 60, np.nan, 5.0)
    dls = TSForecastDataLoaders.from_arrays(np.stack([waves(100), early]), missing="previous", targets=[0], **QUICK)
    assert (dls.windows.series[0].values[1] == 5.0).all()


@pytest.mark.parametrize("how", ["previous", "zero"])
def test_a_target_that_is_missing_is_neither_learned_nor_judged(how: str) -> None:
    values = waves(100)
    values[[50, *range(85, 95)]] = np.nan
    dls = TSForecastDataLoaders.from_arrays(values, missing=how, **QUICK)
    windows, part = dls.windows, dls.valid_ds
    begins = [windows.place(i)[1] for i in part.indices]
    assert begins == [80, 81, 82, 83, 84, 92, 93, 94, 95, 96]  # 85 to 91 have no value to be judged by
    assert [int(np.isnan(part.item(i).target).sum()) for i in range(len(part))] == [0, 0, 1, 2, 3, 3, 2, 1, 0, 0]
    whole = part.fetch(torch.arange(len(part)))
    assert whole[0].isfinite().all()
    torch.testing.assert_close(whole[1], torch.stack([part[i][1] for i in range(len(part))]), equal_nan=True)
    seen = [windows.place(i)[1] for i in dls.train_ds.indices]
    assert seen == list(range(12, 77))
    before = values[:80][~np.isnan(values[:80])]
    scale: Any = windows.scale
    assert (scale.zero[0], scale.unit[0]) == (pytest.approx(before.mean()), pytest.approx(before.std()))


def test_series_of_other_lengths_are_strided_each_from_its_own_first_window() -> None:
    series = [LongSeries(np.zeros((1, n)), np.arange(100 - n, 100), n) for n in (60, 100)]
    windows = Windows(series, context=12, horizon=4)
    train, valid = WalkForwardSplitter(0.2, stride=7, valid_stride=6)(windows)
    assert windows.first[valid].tolist() == [80, 86, 92] * 2
    assert windows.last[train].max() == 79
    assert [windows.number[train].tolist().count(i) for i in (0, 1)] == [4, 10]


@pytest.mark.parametrize("level", [1e9, -3e12])
def test_what_changes_little_about_a_high_level_is_scaled_before_it_is_float32(level: float) -> None:
    values = level + np.sin(np.arange(100) / 3)
    dls = TSForecastDataLoaders.from_arrays(values, **QUICK)
    past, target = dls.valid.one_batch()
    scale: Any = dls.windows.scale
    expected = (values[68:80] - scale.zero[0]) / scale.unit[0]
    np.testing.assert_allclose(past[0, 0], expected, atol=1e-5)
    decoded = dls.decode_batch((past, target))[0]
    np.testing.assert_allclose(decoded[0][0], values[68:80], rtol=0, atol=2e-3)
    np.testing.assert_allclose(decoded[1][0], values[80:84], rtol=0, atol=2e-3)
    torch.testing.assert_close(dls.test_dl([values[68:80]], num_workers=0).one_batch()[0], past[:1])


def test_times_that_are_counted_may_be_floats_and_those_that_are_no_times_are_named() -> None:
    counted = frame().assign(ts=np.arange(100.0))
    dls = TSForecastDataLoaders.from_long_df(counted, time="ts", targets="load", **QUICK)
    assert dls.windows.series[0].times.tolist() == list(range(100))
    for times, said in (
        (np.arange(100) / 2, r"row 1 has the time np.float64\(0.5\) in 'ts'; expected dates or whole numbers"),
        (np.arange(100) > 50, "the times in 'ts' are .*False.* and the like; expected dates or numbers"),
    ):
        with pytest.raises(DataError, match=said):
            TSForecastDataLoaders.from_long_df(counted.assign(ts=times), time="ts", targets="load", **QUICK)
    with pytest.raises(DataError, match=r"'ts' is the frame's index and no column; make it one: df.reset_index\(\)"):
        TSForecastDataLoaders.from_long_df(frame().set_index("ts"), time="ts", targets="load", **QUICK)


def test_a_category_of_names_may_have_some_that_no_row_has() -> None:
    both = frame(names=("a", "b")).astype({"site": "category"})
    dls = TSForecastDataLoaders.from_long_df(both[both.site == "b"], time="ts", targets="load", id="site", **QUICK)
    assert [each.name for each in dls.windows.series] == ["b"]


def test_tables_of_other_kinds_become_frames() -> None:
    expected = TSForecastDataLoaders.from_long_df(frame(), time="ts", targets="load", **QUICK).one_batch()
    columns = {name: frame()[name].tolist() for name in ("ts", "load", "hour")}
    for table in (columns, frame().to_dict("records"), pa.Table.from_pandas(frame())):
        found = TSForecastDataLoaders.from_long_df(table, time="ts", targets="load", known=(), **QUICK).one_batch()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    with pytest.raises(DataError, match="int is no table; expected a data frame"):
        TSForecastDataLoaders.from_long_df(3, time="ts", targets="load", **QUICK)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: pd.concat([f, f.tail(1)]),
            "time 2024-01-05 03:00:00 comes more than once; leave one row, or give id=",
        ),
        (lambda f: f.iloc[::-1], "the rows are not sorted; sort them with df.sort_values"),
        (lambda f: f.drop(index=40), "no step between 2024-01-02 15:00:00 and 2024-01-02 17:00:00"),
        (
            lambda f: f.assign(ts=pd.bdate_range("2024-01-01", periods=100)),
            "no step between 2024-01-05 .* as of working days, leave time= out, which counts the rows",
        ),
        (
            lambda f: f.assign(load=f.load.where(f.index != 7)),
            "column 'load' has no value in row 7; say how to fill it",
        ),
        (lambda f: f.assign(load=f.load.where(f.index != 7, np.inf)), "column 'load' has an infinite value in row 7"),
        (lambda f: f.assign(ts="yesterday or so"), "row 0 has no time in 'ts'"),
        (lambda f: f.drop(columns="load"), "there is no column 'load'; there are site, ts, hour"),
        (lambda f: f.head(15), r"a window needs 12 \+ 4 steps \(context \+ horizon\), and the longest series has 15"),
        (lambda f: f.assign(load=f.ts), "column 'load' holds times and no numbers; make numbers of them"),
        (
            lambda f: f.assign(ts=pd.date_range("3000-01-01", periods=100, unit="s")),
            "the times in 'ts' go beyond the years 1678 to 2261",
        ),
        (lambda f: f.head(18), r"leaves 3 to validate on, and horizon is 4"),
        (lambda f: pd.concat([f, f[["load"]]], axis=1), "there are several columns named 'load'"),
    ],
)
def test_a_frame_that_cannot_be_forecast_is_named(change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        TSForecastDataLoaders.from_long_df(change(frame()), time="ts", targets="load", **QUICK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"horizon": -1}, "horizon=-1: expected a number of steps, at least 1"),
        ({"context": 0}, "context=0: expected a number of steps, at least 1"),
        ({"context": 5.0}, "context=5.0: expected a number of steps, at least 1; did you mean 5?"),
        ({"batch_tfms": Standardize()}, "Standardize in batch_tfms has nothing to learn from there; leave it out"),
        ({"batch_tfms": [ScaleRange]}, "ScaleRange in batch_tfms has nothing to learn from there; leave it out"),
        ({"context": True}, "context=True: expected a number of steps, at least 1"),
        ({"targets": 0}, r"targets=0: expected the numbers of channels, such as targets=\[0\]"),
        ({"known": ["a"]}, r"known=\['a'\]: expected the numbers of channels, such as known=\[0\]"),
        (
            {"splitter": RandomSplitter()},
            r"splitter=RandomSplitter.*: windows are split in time, so that training sees",
        ),
        ({"splitter": WalkForwardSplitter}, r"give splitter=WalkForwardSplitter\(valid_pct\)"),
        ({"scale": "range"}, "scale='range': expected 'standard', Standardize\\(\\), ScaleRange\\(\\) or None"),
        (
            {"missing": "linear"},
            "missing='linear' fills by what comes later, which no forecast knows; expected 'raise'",
        ),
        ({"targets": [3]}, "channel 3, and there are 1, 0 to 0"),
        ({"valid_pct": 0.2}, r"windows are split in time; give splitter=WalkForwardSplitter\(valid_pct\)"),
    ],
)
def test_an_option_that_cannot_work_is_named(options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TSForecastDataLoaders.from_arrays(waves(), **{**QUICK, **options})


def test_what_must_be_said_is_asked_for_and_what_is_no_option_is_named() -> None:
    with pytest.raises(ConfigError, match="say how many steps a forecast is made from and how many it has"):
        TSForecastDataLoaders.from_arrays(waves(), context=12)
    with pytest.raises(TypeError, match="loaders have no option 'strides'"):
        TSForecastDataLoaders.from_arrays(waves(), strides=2, **QUICK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"valid_pct": 1.0}, "valid_pct=1.0: expected a share above 0 and below 1"),
        ({"fold": 2, "n_folds": 2}, "fold=2 of n_folds=2: expected 0 <= fold < n_folds"),
        ({"stride": 0}, "stride=0: expected a number of steps, at least 1"),
        ({"valid_stride": 2.5}, "valid_stride=2.5: expected a number of steps, at least 1"),
        ({"valid_pct": "a"}, "valid_pct='a': expected a share above 0 and below 1"),
        ({"n_folds": 2.0}, "fold=0 of n_folds=2.0: expected 0 <= fold < n_folds, whole numbers"),
    ],
)
def test_a_split_that_is_none_is_named(options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WalkForwardSplitter(**options)


def test_a_new_history_that_does_not_fit_is_named() -> None:
    dls = TSForecastDataLoaders.from_long_df(frame(), time="ts", targets="load", known=["hour"], **QUICK)
    for item, said in (
        (np.zeros((2, 12)), r"nothing is known of the future of this ndarray, and the model was trained with 1 known"),
        (Window(np.zeros((2, 12)), np.zeros((1, 3))), r"a known future of shape \(1, 3\); expected \(1, 4\)"),
        (Window(np.zeros((2, 12)), np.full((1, 4), np.nan)), "the known future has missing or infinite values"),
        (
            Window(np.zeros((2, 11)), np.zeros((1, 4))),
            r"a history of 11 step\(s\), and the model forecasts from the last 12",
        ),
    ):
        with pytest.raises(DataError, match=said):
            dls.test_dl([item], num_workers=0).one_batch()


def test_a_list_of_numbers_is_one_series_and_steps_are_whole_numbers() -> None:
    dls = TSForecastDataLoaders.from_arrays(list(range(100)), context=10, horizon=5, bs=8, num_workers=0)
    assert len(dls.windows.series) == 1
    with pytest.raises(ConfigError, match=r"horizon=1.5: expected a number of steps, at least 1"):
        TSForecastDataLoaders.from_arrays(np.arange(100.0), context=10, horizon=1.5)  # type: ignore[typeddict-item]


def test_what_is_to_be_forecast_cannot_be_known_of_the_future() -> None:
    with pytest.raises(ConfigError, match="channel 0 is in targets and in known: the model would be told the answer"):
        TSForecastDataLoaders.from_arrays(waves(), targets=[0], known=[0], **QUICK)
    with pytest.raises(
        ConfigError, match="column 'load' is in targets and in known: the model would be told the answer"
    ):
        TSForecastDataLoaders.from_long_df(frame(), time="ts", targets="load", known=["hour", "load"], **QUICK)
    with pytest.raises(ConfigError, match="targets is empty: say which channels are forecast"):
        TSForecastDataLoaders.from_arrays(waves(), targets=[], **QUICK)


def test_arrays_of_what_is_no_number_are_named() -> None:
    with pytest.raises(DataError, match="the series are no arrays of numbers: could not convert string to float: 'x'"):
        TSForecastDataLoaders.from_arrays(np.array(["1", "x"] * 50, dtype=object), **QUICK)
    with pytest.raises(
        DataError, match=r"the longest series has 2; .*; or is it \(length, channels\)\? Then transpose it"
    ):
        TSForecastDataLoaders.from_arrays(np.zeros((100, 2)), **QUICK)
    with pytest.raises(DataError, match="no series, or one without any step"):
        TSForecastDataLoaders.from_arrays([], **QUICK)
    with pytest.raises(ConfigError, match="targets is empty: say which columns are forecast"):
        TSForecastDataLoaders.from_long_df(frame(), time="ts", targets=[], **QUICK)
    with pytest.raises(DataError, match="of 21 windows all targets are missing"):
        TSForecastDataLoaders.from_arrays(np.where(np.arange(100) > 75, np.nan, 1.0), missing="zero", **QUICK)
    with pytest.raises(ConfigError, match="context='day': expected a number of steps, at least 1"):
        TSForecastDataLoaders.from_arrays(waves(), context="day", horizon=4)  # type: ignore[typeddict-item]  # wrong on purpose


@pytest.mark.parametrize(
    ("day", "said"),
    [
        ("2024-10-26", "time 2024-10-27 02:00:00 comes more than once; if clocks were changed then, no row is wrong"),
        (
            "2024-03-30",
            "no step between 2024-03-31 01:00:00 and 2024-03-31 03:00:00, and most are closer; if clocks were",
        ),
    ],
)
@pytest.mark.parametrize("kind", [None, str])
def test_hours_of_changed_clocks_name_the_time_zone(day: str, said: str, kind: Any) -> None:
    zoned = pd.DataFrame({"ts": pd.date_range(day, periods=100, freq="h", tz="Europe/Berlin"), "load": waves(100)})
    local = zoned.assign(ts=zoned.ts.dt.tz_localize(None))
    with pytest.raises(DataError, match=said + r".* df\['ts'\] = pd.to_datetime\(df\['ts'\]\).dt.tz_localize\("):
        TSForecastDataLoaders.from_long_df(local if kind is None else local.astype({"ts": kind}), **LOAD)
    mended = local.assign(ts=pd.to_datetime(local.ts).dt.tz_localize("Europe/Berlin", ambiguous="infer"))
    assert len(TSForecastDataLoaders.from_long_df(mended, **LOAD).windows) == 85


LOAD: Any = {"time": "ts", "targets": "load", **QUICK}


def test_series_of_different_lengths_in_a_wide_frame_name_the_long_one() -> None:
    wide = frame(100)[["ts", "load"]].assign(other=waves(100))
    wide.loc[80:, "other"] = np.nan
    with pytest.raises(
        DataError, match="column 'other' has no value in row 80; the columns begin or end at different rows"
    ) as told:
        TSForecastDataLoaders.from_wide_df(wide, time="ts", **QUICK)
    assert "df.melt('ts', var_name='series').dropna()" in str(told.value)
    assert "leave the ends out, df.iloc[0:80]; or say how to fill it" in str(told.value)
    long = wide.melt("ts", var_name="series").dropna()
    dls = TSForecastDataLoaders.from_long_df(long, time="ts", id="series", targets="value", **QUICK)
    assert [each.values.shape[1] for each in dls.windows.series] == [100, 80]
    assert TSForecastDataLoaders.from_wide_df(wide.iloc[0:80], time="ts", **QUICK).windows.series[0].values.shape == (
        2,
        80,
    )


def test_rows_without_values_at_an_end_can_be_left_out() -> None:
    late = frame(100)
    late.loc[:9, "load"] = np.nan
    with pytest.raises(
        DataError, match=r"nothing is missing but at an end: leave such rows out, df.iloc\[10:100\]; or say how"
    ):
        TSForecastDataLoaders.from_long_df(late, **LOAD)


@pytest.mark.parametrize("scale", [Standardize(), ScaleRange()])
def test_a_scale_learns_from_what_lies_before_the_validation(scale: Any) -> None:
    values = np.arange(100.0)
    dls = TSForecastDataLoaders.from_arrays(values, scale=scale, **QUICK)
    learned: Any = dls.windows.scale
    before = values[:80]
    zero, unit = (before.mean(), before.std()) if isinstance(scale, Standardize) else (0, 79)
    assert (learned.zero, learned.unit) == ([pytest.approx(zero)], [pytest.approx(unit)])
    assert not scale.zero  # what was given learns nothing, and can be given again
    assert dls.decode_batch(dls.valid.one_batch())[0][1][0].tolist() == pytest.approx([80, 81, 82, 83], rel=1e-6)
    with pytest.raises(
        ConfigError, match=r"scale=StandardizeEach.*: expected 'standard', Standardize\(\), ScaleRange\(\) or None"
    ):
        TSForecastDataLoaders.from_arrays(values, scale=StandardizeEach(), **QUICK)
