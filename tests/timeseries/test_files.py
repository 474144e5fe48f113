"""Files of series: what is read of them, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from series import archive_set

from dist_ai.errors import DataError
from dist_ai.timeseries import read_csv, read_series, read_ts, read_tsv

HEAD = "@problemName x\n@classLabel true a b\n@data\n"


def test_a_ts_file_of_several_channels_and_lengths_is_read_as_it_is_written(tmp_path: Path) -> None:
    [file] = archive_set(tmp_path, "JapaneseVowels_TRAIN.ts")
    series = read_ts(file)
    assert len(series) == 270
    assert {each.series.shape[0] for each in series} == {12}
    assert (min(s.shape[1] for s, _ in series), max(s.shape[1] for s, _ in series)) == (7, 26)
    assert sorted({label for _, label in series}) == [str(i) for i in range(1, 10)]


def test_a_ts_file_with_targets_has_numbers(tmp_path: Path) -> None:
    [file] = archive_set(tmp_path, "Covid3Month_TRAIN.ts")
    assert all(isinstance(each.label, float) and each.series.shape == (1, 84) for each in read_ts(file))


def test_the_tsv_file_of_a_set_has_the_series_of_its_ts_file(tmp_path: Path) -> None:
    ts, tsv = archive_set(tmp_path, "GunPoint_TRAIN.ts", "GunPoint_TRAIN.tsv")
    for one, other in zip(read_ts(ts), read_tsv(tsv), strict=True):
        np.testing.assert_allclose(one.series, other.series, rtol=1e-6)
        assert int(one.label) == other.label


def test_a_missing_value_is_nan_and_the_end_of_a_shorter_series_is_cut_off(tmp_path: Path) -> None:
    ts, tsv = tmp_path / "a.ts", tmp_path / "a.tsv"
    ts.write_text(HEAD + "1,?,3:4,5,6:a\n")
    tsv.write_text("1\t1.5\tNaN\t2.5\tNaN\tNaN\n-1.0\t1\t2\t3\t4\t5\n")
    np.testing.assert_array_equal(read_ts(ts)[0].series, [[1, np.nan, 3], [4, 5, 6]])
    first, second = read_tsv(tsv)
    np.testing.assert_array_equal(first.series, [[1.5, np.nan, 2.5]])
    assert (first.label, second.label, second.series.shape) == (1, -1, (1, 5))


def test_a_csv_file_is_one_series_with_or_without_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,\n")
    (tmp_path / "b.csv").write_text("1,2\n3,nan\n")
    for name in ("a.csv", "b.csv"):
        np.testing.assert_array_equal(read_csv(tmp_path / name), [[1, 3], [2, np.nan]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("?,?\n1,2\n3,4", [[np.nan, 1, 3], [np.nan, 2, 4]]),
        (",\n?,?\n3,4", [[np.nan, np.nan, 3], [np.nan, np.nan, 4]]),
        ("x,y\n?,?\n3,4", [[np.nan, 3], [np.nan, 4]]),
        (',"x, of a"\n0,1\n1,2', [[0, 1], [1, 2]]),
        ('\ufeff1\n""\n3', [[1, np.nan, 3]]),
    ],
)
def test_first_steps_that_are_missing_are_no_names(tmp_path: Path, text: str, expected: list[list[float]]) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(read_csv(tmp_path / "a.csv"), expected)


def test_a_label_that_is_not_known_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_text("@targetLabel true\n@data\n1,2:?\n3,4: 1.5\n1,2:NaN\n1,2:\n")
    assert [each.label for each in read_ts(tmp_path / "a.ts")] == [None, 1.5, None, None]
    (tmp_path / "a.ts").write_text("@classLabel\ttrue a b\n@data\n1,2:?\n3,4: b\n1,2:\n")
    assert [each.label for each in read_ts(tmp_path / "a.ts")] == [None, "b", None]
    (tmp_path / "a.tsv").write_text("\t1\t2\n?\t1\t2\nNaN\t1\t2\n  2 1 2\n")
    assert [(each.series.tolist(), each.label) for each in read_tsv(tmp_path / "a.tsv")] == [
        ([[1, 2]], None),
        ([[1, 2]], None),
        ([[1, 2]], None),
        ([[1, 2]], 2),
    ]


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_tsv, "1\n", "a.txt:1 has one value, '1'; expected a label and the values of a series"),
        (read_ts, "@data\n", "has no series; expected lines after a line @data"),
        (read_ts, HEAD + "1,2:3,4:a\n1,2:b\n", r"a.txt:5 has 1 channel\(s\), and the first series has 2"),
        (
            read_ts,
            "@targetLabel true\n@data\n1,2:x\n",
            r"a.txt:3: the target 'x' is no number; expected one, or \? where it is not known",
        ),
        (read_ts, HEAD + "1,2:3:a\n", "a.txt:4: channels of 1, 2 values in one series"),
        (read_ts, HEAD + "1,two:a\n", "a.txt:4: could not convert string to float: 'two'; expected numbers"),
        (
            read_ts,
            "@timeStamps true\n@data\n(0,1):a\n",
            r"a.txt:3: series with time stamps \(@timeStamps true\) are not read",
        ),
        (read_tsv, "\n", "has no series; expected a line for each"),
        (read_csv, "1,2\n3\n", r"a.txt:2 has 1 value\(s\), and the first step has 2"),
        (read_csv, "x,y\n", "has no values; expected a line for each step"),
    ],
)
def test_what_is_no_file_of_series_is_named_with_its_line(tmp_path: Path, read, text: str, said: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "a.txt")


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file of series at .*nowhere.ts"):
        read_ts(tmp_path / "nowhere.ts")
    (tmp_path / "a.ts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_ts(tmp_path / "a.ts")


def test_a_file_of_numpy_is_one_series_and_what_would_be_unpickled_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", [[1.0, 2.0]])
    np.testing.assert_array_equal(read_series(tmp_path / "a.npy"), [[1, 2]])
    (tmp_path / "a.csv").write_text("1\n2\n")
    np.testing.assert_array_equal(read_series(tmp_path / "a.csv"), [[1, 2]])
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "c.npy").write_text("1,2")
    for name in ("b.npy", "c.npy", "nowhere.npy"):
        with pytest.raises(DataError, match=rf"{name} is no array that can be read: "):
            read_series(tmp_path / name)


def test_a_ts_file_of_one_series_is_that_series(tmp_path: Path) -> None:
    (tmp_path / "one.ts").write_text(HEAD + "1,2:3,4:a\n")
    np.testing.assert_array_equal(read_series(tmp_path / "one.ts"), [[1, 2], [3, 4]])
    (tmp_path / "two.ts").write_text(HEAD + "1,2:3,4:a\n1,2:3,4:b\n")
    with pytest.raises(DataError, match=r"two\.ts holds 2 series, and one is wanted; read_ts reads them all"):
        read_series(tmp_path / "two.ts")
    (tmp_path / "two.ts").write_text(HEAD + "1,2:3,4:?\n")
    assert read_ts(tmp_path / "two.ts")[0].label is None
