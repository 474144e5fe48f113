"""`TSDataLoaders`: every way to make them, and what is said of series and labels that cannot be learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from series import archive_set, labelled, uneven

from dist_ai.core import TensorCategory, TensorMultiCategory, TensorRegression, TensorSeries
from dist_ai.data import CategoryBlock, DataBlock
from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries import (
    Jitter,
    PadTo,
    ScaleRange,
    Standardize,
    StandardizeEach,
    TSBlock,
    TSDataLoaders,
    ts_learner,
)

QUICK: Any = {"bs": 4, "num_workers": 0}


def long_frame() -> pd.DataFrame:
    X, y = labelled(10, 2, 5)
    rows = [
        {
            "name": f"s{i}",
            "day": pd.Timestamp("2024-01-01") + pd.Timedelta(days=t),
            "a": X[i, 0, t],
            "b": X[i, 1, t],
            "kind": y[i],
        }
        for i in range(10)
        for t in range(5)
    ]
    return pd.DataFrame(rows)


def test_arrays_become_series_of_float32_and_classes() -> None:
    X, y = labelled()
    series, classes = TSDataLoaders.from_numpy(X, y, **QUICK).one_batch()
    assert (type(series), series.dtype, series.shape) == (TensorSeries, torch.float32, (4, 2, 20))
    assert isinstance(classes, TensorCategory)


@pytest.mark.parametrize("wide", [True, False])
def test_several_columns_of_zeros_and_ones_are_labels_and_of_other_numbers_numbers(wide: bool) -> None:
    X, _ = labelled(10, 1, 5)
    marks = np.arange(10)[:, None] // [1, 2] % 2
    for told, kind in ((marks, TensorMultiCategory), (marks + 0.5, TensorRegression), (marks * 3, TensorRegression)):
        frame = pd.DataFrame(X[:, 0]).rename(columns=str).assign(name=range(10), wet=told[:, 0], cold=told[:, 1])
        if wide:
            dls = TSDataLoaders.from_wide_df(frame.drop(columns="name"), label=["wet", "cold"], **QUICK)
        else:
            steps = frame.melt(["name", "wet", "cold"], value_name="a")
            dls = TSDataLoaders.from_long_df(steps, id="name", values="a", label=["wet", "cold"], **QUICK)
        target = torch.cat([batch[1] for batch in dls.valid])
        assert isinstance(dls.one_batch()[1], kind)
        assert target.shape == (2, 2)
        assert dls.recipe.num_outputs == 2
        if kind is TensorMultiCategory:
            assert dls.vocab == ["wet", "cold"]
            learn = ts_learner(dls, "FCN", run_dir=None, progress=False)
            assert [metric.name for metric in learn.metrics] == ["accuracy_multi"]
            assert 0 <= learn.validate()[1] <= 1


@pytest.mark.parametrize("pad", [30, PadTo(30)])
def test_the_length_to_pad_to_can_be_said(pad: Any) -> None:
    X, y = uneven()
    dls = TSDataLoaders.from_arrays(X, y, pad=pad, **QUICK)
    assert dls.one_batch()[0].shape == (4, 2, 30)
    assert dls.test_dl([np.zeros((2, 28))], num_workers=0).one_batch()[0].shape == (1, 2, 30)
    with pytest.raises(
        DataError, match=r"a series of 31 steps, and 30 is the longest .*; cut it, or train with pad=31"
    ):
        dls.test_dl([np.zeros((2, 31))], num_workers=0).one_batch()


def test_what_pad_cannot_be_is_said() -> None:
    with pytest.raises(DataError, match=r"pad=15, and series \d+ has 20 steps; give at least pad=20, or cut it"):
        TSDataLoaders.from_arrays(*uneven(), pad=15, **QUICK)
    with pytest.raises(
        ConfigError, match=r"pad='longest': expected True, a number of steps such as 80, or PadTo\(80\)"
    ):
        TSDataLoaders.from_arrays(*uneven(), pad="longest", **QUICK)


def test_whole_numbers_that_cannot_be_classes_name_the_way_to_numbers() -> None:
    X = np.random.default_rng(0).normal(size=(100, 1, 20))
    with pytest.raises(
        DataError,
        match=r"the label \d+, which is not one of the 80 .* are taken for classes; .* y.astype\(float\), or y_block=Reg",
    ):
        TSDataLoaders.from_arrays(X, np.arange(100), **QUICK)
    assert TSDataLoaders.from_arrays(X, np.arange(100.0), **QUICK).c == 1


def test_the_usual_scale_has_a_name() -> None:
    X, y = labelled()
    named, given = (TSDataLoaders.from_arrays(X, y, scale=scale, **QUICK) for scale in ("standard", Standardize()))
    torch.testing.assert_close(named.one_batch()[0], given.one_batch()[0], rtol=0, atol=0)
    with pytest.raises(
        ConfigError, match=r"scale='minmax': expected 'standard', Standardize\(\), ScaleRange\(\) or None"
    ):
        TSDataLoaders.from_arrays(X, y, scale="minmax", **QUICK)


def test_series_of_one_channel_may_come_without_that_dimension() -> None:
    X, y = labelled(channels=1)
    assert TSDataLoaders.from_arrays(X[:, 0], y, **QUICK).one_batch()[0].shape == (4, 1, 20)


@pytest.mark.parametrize(
    ("y", "shape"), [(np.linspace(0, 1, 24), (4,)), (np.random.default_rng(0).normal(size=(24, 3)), (4, 3))]
)
def test_numbers_are_a_regression_and_several_of_several_outputs(y: Any, shape: tuple[int, ...]) -> None:
    dls = TSDataLoaders.from_arrays(labelled()[0], y, **QUICK)
    target = dls.one_batch()[1]
    assert (type(target), target.shape, dls.c) == (TensorRegression, shape, shape[-1] if len(shape) > 1 else 1)


def test_which_series_validate_can_be_given_as_arrays_or_indices() -> None:
    X, y = labelled()
    dls = TSDataLoaders.from_arrays(X[:20], y[:20], valid=(X[20:], y[20:]), **QUICK)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (20, 4)
    np.testing.assert_array_equal(dls.valid_ds.item(0).series, X[20])
    dls = TSDataLoaders.from_arrays(X, y, splits=(range(10), [12, 13]), **QUICK)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (10, 2)


def test_a_long_frame_a_wide_frame_and_a_parquet_file_of_them_give_the_same_series(tmp_path: Path) -> None:
    frame = long_frame()
    dls = TSDataLoaders.from_long_df(frame, id="name", values=["a", "b"], label="kind", time="day", **QUICK)
    assert dls.one_batch()[0].shape == (4, 2, 5)
    wide = frame.assign(step=frame.groupby("name").cumcount()).pivot(index="name", columns="step", values="a")
    wide.columns = [f"t{i}" for i in wide.columns]
    wide["kind"] = frame.groupby("name").kind.first()
    narrow = TSDataLoaders.from_wide_df(wide, label="kind", **QUICK)
    alone = TSDataLoaders.from_long_df(frame, id="name", values="a", label="kind", **QUICK)
    frame.to_parquet(tmp_path / "long.parquet")
    wide.reset_index(drop=True).to_parquet(tmp_path / "wide.parquet")
    stored = TSDataLoaders.from_parquet(tmp_path / "long.parquet", id="name", values="a", label="kind", **QUICK)
    stored_wide = TSDataLoaders.from_parquet(tmp_path / "wide.parquet", label="kind", **QUICK)
    for other in (alone, stored, stored_wide):
        for one, two in zip(narrow.one_batch(), other.one_batch(), strict=True):
            torch.testing.assert_close(one, two)


def test_a_column_may_say_which_series_of_a_long_frame_validate() -> None:
    frame = long_frame().assign(later=lambda f: f.name.isin(["s8", "s9"]))
    dls = TSDataLoaders.from_long_df(frame, id="name", values="a", label="kind", valid_col="later", **QUICK)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (8, 2)


def test_the_files_of_the_archive_keep_their_split(tmp_path: Path) -> None:
    train, test, tsv = archive_set(tmp_path, "GunPoint_TRAIN.ts", "GunPoint_TEST.ts", "GunPoint_TRAIN.tsv")
    dls = TSDataLoaders.from_ts_file(train, test, **QUICK)
    assert (len(dls.train_ds), len(dls.valid_ds), dls.vocab) == (50, 150, ["1", "2"])
    assert TSDataLoaders.from_ucr(tsv, **QUICK).vocab == [1, 2]


def test_shorter_series_are_filled_up_to_the_longest_of_all_with_nan() -> None:
    X, y = uneven()
    series = TSDataLoaders.from_arrays(X, y, pad=True, **QUICK).one_batch()[0]
    assert series.shape == (4, 2, 20)
    assert series.isnan().any()


@pytest.mark.parametrize("scale", [Standardize, ScaleRange])
def test_scalings_learn_from_the_training_series_only_and_are_undone(scale: Any) -> None:
    X, y = labelled(20)
    X[16:] += 1000
    dls = TSDataLoaders.from_arrays(X, y, splits=(range(16), range(16, 20)), scale=scale(), **{**QUICK, "bs": 16})
    train = dls.one_batch()[0]
    if scale is Standardize:
        torch.testing.assert_close(train.mean((0, 2)), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(train.std((0, 2), unbiased=False), torch.ones(2))
    else:
        assert train.amin((0, 2)).tolist() == [0, 0]
        torch.testing.assert_close(train.amax((0, 2)), torch.ones(2))
    shown = dls.decode_batch(next(iter(dls.valid)))[0][0]
    np.testing.assert_allclose(np.asarray(shown), X[16], rtol=1e-5)


def test_padding_does_not_count_in_a_scaling() -> None:
    padded = TensorSeries([[1.0, 3.0, float("nan")]])
    assert StandardizeEach()(padded)[..., :2].tolist() == [[-1.0, 1.0]]
    learned = Standardize()
    learned.setup([padded])
    assert (learned.zero, learned.unit) == ([2.0], [1.0])
    assert StandardizeEach(by_channel=False)(TensorSeries([[0.0, 2.0], [2.0, 0.0]])).tolist() == [[-1, 1], [1, -1]]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("previous", [1, 1, 1, 4]),
        ("linear", [1, 2, 3, 4]),
        ("mean", [1, 2.5, 2.5, 4]),
        ("zero", [1, 0, 0, 4]),
    ],
)
def test_missing_values_are_filled_as_is_said(how: str, expected: list[float]) -> None:
    X = np.tile([[[1, np.nan, np.nan, 4]]], (8, 1, 1))
    dls = TSDataLoaders.from_arrays(X, list("ab" * 4), missing=how, **QUICK)
    np.testing.assert_allclose(dls.one_batch()[0][0, 0].numpy(), expected)


def test_a_block_of_series_works_in_a_data_block_of_ones_own() -> None:
    X, y = labelled()
    block = DataBlock.from_columns((TSBlock(scale=Standardize()), CategoryBlock()))
    assert block.dataloaders((list(X), y), bs=4, num_workers=0).one_batch()[0].shape == (4, 2, 20)


# ------------------------------------------------------------------------------------ what cannot be learned from


def test_series_of_different_lengths_need_padding() -> None:
    with pytest.raises(DataError, match="series of 12 to 20 steps do not stack into a batch; give pad=True"):
        TSDataLoaders.from_arrays(*uneven(), **QUICK)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_label_that_is_missing_is_named(missing: Any) -> None:
    X, y = labelled()
    with pytest.raises(DataError, match=r"series 3 has no label \((None|nan)\); give it one, or leave the series out"):
        TSDataLoaders.from_arrays(X, [*y[:3], missing, *y[4:]], **QUICK)


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="class"):
        TSDataLoaders.from_arrays(labelled()[0], ["up"] * 24, **QUICK)


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (np.zeros((5, 2, 8)), list("abab"), "5 series and 4 labels; expected one label for each series"),
        (np.zeros((0, 2, 8)), [], "no series; there is nothing to learn from"),
        (np.zeros(4), list("abab"), r"X of shape \(4,\); expected \(series, channels, length\)"),
        (np.zeros((4, 2, 3, 8)), list("abab"), r"X of shape \(4, 2, 3, 8\); expected"),
    ],
)
def test_arrays_of_a_wrong_shape_are_named(X: Any, y: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        TSDataLoaders.from_arrays(X, y, **QUICK)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.full((2, 20), np.inf), "infinite values"),
        (np.zeros((3, 20)), r"a series with 3 channel\(s\), and others have 2"),
        (np.zeros((20, 2)), r"is it \(length, channels\)\? Then transpose it"),
        (np.zeros((2, 0)), r"a series of shape \(2, 0\)"),
        ([["a"]], "is no series"),
        (np.full((2, 20), np.nan), "40 of 40 values are missing"),
        (np.zeros((2, 21)), "a series of 21 steps, and 20 is the longest"),
    ],
)
def test_a_new_series_that_does_not_fit_is_named(wrong: Any, said: str) -> None:
    dls = TSDataLoaders.from_arrays(*uneven(), pad=True, **QUICK)
    with pytest.raises(DataError, match=said):
        dls.test_dl([wrong], num_workers=0).one_batch()


def test_missing_values_are_an_error_that_says_where_and_what_to_do() -> None:
    X, y = labelled()
    X[:, 1, 7] = np.nan
    with pytest.raises(
        DataError, match=r"series 0: 1 of 40 values are missing \(NaN\), the first at step 7 of channel 1; say how"
    ):
        TSDataLoaders.from_arrays(X, y, **QUICK)
    with pytest.raises(DataError, match=r"series 0: 1 of 20 values are missing \(NaN\), the first at step 7"):
        TSDataLoaders.from_wide_df(pd.DataFrame(X[:, 1]).rename(columns=str).assign(label=y), label="label", **QUICK)
    with pytest.raises(ConfigError, match=r"missing='lineer': expected one of .*; did you mean 'linear'"):
        TSDataLoaders.from_arrays(X, y, missing="lineer", **QUICK)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns="a"), "there is no column 'a'"),
        (lambda f: pd.concat([f, f.head(1)]), "of series 's0' comes more than once"),
        (lambda f: f.iloc[::-1], "the rows are not sorted; sort them with"),
        (lambda f: f.assign(kind=["x", *f.kind[1:]]), r"series 's0' has several labels in kind"),
        (lambda f: f.assign(day=[None, *f.day[1:]]), "row 0 of series 's0' has no time in 'day'"),
        (lambda f: f.assign(a="text"), "column 'a' has values that are no numbers"),
        (lambda f: f.assign(kind=None), r"series 0 has no label"),
        (lambda f: f.assign(name=[*f.name[:-1], None]), "row 49 has no series: nothing in 'name'"),
        (lambda f: f.head(0), "the frame has no rows"),
    ],
)
def test_a_long_frame_that_is_not_one_is_named(change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        TSDataLoaders.from_long_df(
            change(long_frame()), id="name", values=["a", "b"], label="kind", time="day", **QUICK
        )


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"valid_col": "valod"}, "there is no column 'valod'; did you mean 'valid'"),
        (
            {"valid": lambda f: f.index % 2 == 0},
            "series '.*' is marked .* in 'valid'; all rows of a series are in one part",
        ),
        (
            {"valid": lambda f: [*[True] * 5, *[np.nan] * (len(f) - 5)]},
            "column 'valid' of row 1 is nan; expected True or False",
        ),
    ],
)
def test_marks_of_validation_series_that_say_nothing_are_named(marks: Any, said: str) -> None:
    frame = long_frame().assign(valid=marks.get("valid", False))
    with pytest.raises(DataError, match=said):
        TSDataLoaders.from_long_df(
            frame, id="name", values=["a", "b"], label="kind", valid_col=marks.get("valid_col", "valid"), **QUICK
        )


def test_steps_at_the_end_without_a_value_are_none_where_series_are_padded() -> None:
    X, y = labelled(channels=1)
    table = pd.DataFrame(X[:, 0]).assign(label=y)
    table.columns = table.columns.map(str)
    table.loc[::2, ["18", "19"]] = np.nan
    wide = TSDataLoaders.from_wide_df(table, label="label", pad=True, scale=Standardize(), **QUICK)
    arrays = TSDataLoaders.from_arrays(
        table.drop(columns="label").to_numpy()[:, None], y, pad=True, scale=Standardize(), **QUICK
    )
    cut = [x[:, :18] if i % 2 == 0 else x for i, x in enumerate(X)]
    expected = TSDataLoaders.from_arrays(cut, y, pad=True, scale=Standardize(), **QUICK)
    for dls in (wide, arrays):
        torch.testing.assert_close(dls.one_batch()[0], expected.one_batch()[0], equal_nan=True)
    with pytest.raises(DataError, match="values are missing"):
        TSDataLoaders.from_wide_df(table, label="label", **QUICK).one_batch()


@pytest.mark.parametrize("where", ["scale", "batch_tfms", "numbers"])
def test_series_are_scaled_before_they_are_float32(where: str) -> None:
    X, y = labelled(channels=1)
    high = TSDataLoaders.from_arrays(
        X + 1e9,
        y,
        **QUICK,
        **(
            {"scale": Standardize()}
            if where == "scale"
            else {"batch_tfms": [Standardize() if where == "batch_tfms" else Standardize([1e9], [1.0])]}
        ),
    )
    low = TSDataLoaders.from_arrays(
        X, y, **QUICK, scale=Standardize([0.0], [1.0]) if where == "numbers" else Standardize()
    )
    batch = high.valid.one_batch()
    torch.testing.assert_close(batch[0], low.valid.one_batch()[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(high.decode_batch(batch)[0][0], high.valid_ds.item(0).series, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        high.test_dl([X[3] + 1e9]).one_batch()[0], low.test_dl([X[3]]).one_batch()[0], rtol=0, atol=1e-5
    )


def test_a_channel_of_small_numbers_is_scaled_and_one_that_never_changes_is_not() -> None:
    random = np.random.default_rng(0).normal(size=(24, 1, 20))
    X = np.concatenate([1e-12 * random, np.full((24, 1, 20), 0.1), 1e-9 + 0 * random], 1)
    for scale, unit in ((Standardize(), X[:20, 0].std()), (ScaleRange(), np.ptp(X[:20, 0]))):
        dls = TSDataLoaders.from_arrays(X, ["a", "b"] * 12, scale=scale, splits=(range(20), range(20, 24)), **QUICK)
        [learned] = [tfm for tfm in dls.recipe.inputs[0].tfms if isinstance(tfm, type(scale))]
        np.testing.assert_allclose(learned.unit, [unit, 1, 1], rtol=1e-9)
        np.testing.assert_allclose(learned.zero[1:], [0.1, 1e-9])
    each = StandardizeEach()(TensorSeries(X[0]))
    assert (each[0].std(correction=0).item(), each[1].abs().max().item()) == (
        pytest.approx(1),
        pytest.approx(0, abs=1e-12),
    )


def test_times_of_series_need_only_ascend() -> None:
    frame = long_frame().assign(day=[t**2 / 4 for _ in range(10) for t in range(5)])
    dls = TSDataLoaders.from_long_df(frame, id="name", values=["a", "b"], label="kind", time="day", **QUICK)
    assert dls.one_batch()[0].shape == (4, 2, 5)


def test_what_is_no_array_of_series_is_named() -> None:
    X, y = labelled()
    for given, labels, said in (
        (3, y, "X=3: expected an array or a list, of one item for each series"),
        ({"a": 1}, ["x"], "X={'a': 1}: expected an array or a list"),
        (X, "ab" * 12, "y='abab.*: expected an array or a list"),
    ):
        with pytest.raises(DataError, match=said):
            TSDataLoaders.from_arrays(given, labels, **QUICK)
    with pytest.raises(DataError, match="is no series: it is complex; give real and imaginary parts as channels"):
        TSDataLoaders.from_arrays(X + 1j, y, **QUICK)
    with pytest.raises(DataError, match="NoneType is no table; expected a data frame"):
        TSDataLoaders.from_wide_df(None, label="y", **QUICK)


def test_two_ways_to_say_what_validates_are_one_too_many() -> None:
    X, y = labelled()
    with pytest.raises(ConfigError, match="valid= and splits= both say which series validate"):
        TSDataLoaders.from_arrays(X, y, valid=(X, y), splits=([0], [1]), **QUICK)


def test_an_option_that_is_none_is_named() -> None:
    with pytest.raises(TypeError, match="loaders have no option 'sead'; did you mean 'seed'"):
        TSDataLoaders.from_arrays(*labelled(), sead=1, **QUICK)


def test_a_scaling_that_has_seen_nothing_says_so() -> None:
    with pytest.raises(DataError, match="Standardize has not seen the training series; give it as scale="):
        Standardize()(TensorSeries(torch.zeros(1, 4)))
    with pytest.raises(ConfigError, match="expected as many positive units as zeros"):
        Standardize([0.0], [0.0])


def test_a_scale_among_the_batch_transforms_learns_from_the_training_series() -> None:
    X, y = labelled()
    splits = range(18), range(18, 24)
    there = TSDataLoaders.from_arrays(
        5 * X + 3, y, splits=splits, bs=8, num_workers=0, batch_tfms=[Standardize, Jitter(0.1)]
    )
    expected = TSDataLoaders.from_arrays(5 * X + 3, y, splits=splits, bs=8, num_workers=0, scale=Standardize())
    torch.testing.assert_close(there.valid.one_batch()[0], expected.valid.one_batch()[0])
    with pytest.raises(
        ConfigError, match="several transforms are to learn the scale of the series, ScaleRange in batch_tfms"
    ):
        TSDataLoaders.from_arrays(X, y, scale=Standardize(), batch_tfms=ScaleRange())


def test_frames_and_arrays_of_objects_are_series_too() -> None:
    X, y = labelled(channels=1)
    expected = TSDataLoaders.from_arrays(X, y, bs=8, num_workers=0).one_batch()[0]
    for like in (pd.DataFrame(X[:, 0]), pd.DataFrame(X[:, 0], dtype=object), X.astype(object)):
        torch.testing.assert_close(
            TSDataLoaders.from_arrays(like, pd.Series(y), bs=8, num_workers=0).one_batch()[0], expected
        )


def test_series_that_train_cannot_validate() -> None:
    X, y = labelled()
    with pytest.raises(DataError, match="such as 8, are both in the training and the validation part of the split"):
        TSDataLoaders.from_arrays(X, y, splits=(range(10), range(8, 24)), **QUICK)
    dls = TSDataLoaders.from_arrays(X, y, splits=([0, 0, *range(20)], [22, 20]), **QUICK)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (22, 2)  # a series may be shown more often


def test_lists_of_words_are_several_classes_each() -> None:
    X, _ = labelled()
    for first in (["low"], []):  # a series may have none of them
        dls = TSDataLoaders.from_arrays(X, [first, ["low", "loud"]] * 12, **QUICK)
        assert (dls.vocab, dls.one_batch()[1].shape) == (["loud", "low"], (4, 2))


def test_what_is_no_pair_and_what_is_no_label_is_named() -> None:
    X, y = labelled()
    with pytest.raises(ConfigError, match=r"valid=ndarray: expected series and labels, valid=\(X_valid, y_valid\)"):
        TSDataLoaders.from_arrays(X, y, valid=X, **QUICK)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(DataError, match=r"no labels \(y is None\)"):
        TSDataLoaders.from_arrays(X, None, **QUICK)


def test_a_wide_frame_with_a_column_of_text_names_it() -> None:
    frame = pd.DataFrame(labelled(channels=1)[0][:, 0]).assign(kind=["a", "b"] * 12, place="Bonn")
    with pytest.raises(
        DataError, match=r"column 'place' holds text \('Bonn'\) and no step of a series; name the columns"
    ):
        TSDataLoaders.from_wide_df(frame, label="kind", **QUICK)
    with pytest.raises(DataError, match="the frame has no rows"):
        TSDataLoaders.from_wide_df(frame.head(0), label="kind", **QUICK)
