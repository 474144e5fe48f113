"""Readers of series in files: the archive's `.ts` and `.tsv`, and a CSV file of one series.

Each gives plain arrays (channels, length) of float64, with NaN where a value is missing, and what is said of each series.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dist_ai.data import get_files
from dist_ai.errors import DataError

__all__ = ["LabelledSeries", "get_series_files", "read_csv", "read_series", "read_ts", "read_tsv"]


class LabelledSeries(NamedTuple):
    """One series and what is to be learned of it.

    Attributes:
        series: (channels, length), float; or (length,) of one channel.
        label: a class, a number or several numbers; None where it is not known.
    """

    series: Any
    label: Any = None


def read_ts(file: str | Path) -> list[LabelledSeries]:
    """Returns the series of a `.ts` file, as sktime, aeon and the UEA archive have them, with their labels.

    A line is a series: channels are parted by ``:``, values by commas, ``?`` is missing, the label comes last. Labels are
    numbers if the file says `@targetLabel`, text if it says `@classLabel`, else None.

    Raises:
        DataError: the file is not there, has no data, or a line has other channels than the first; names file and line.
    """
    file = Path(file)
    says: dict[str, str] = {}
    found: list[LabelledSeries] = []
    in_data = False
    for number, line in _lines(file):
        if in_data:
            found.append(_of_line(line, says, f"{file}:{number}"))
            if found[0].series.shape[0] != found[-1].series.shape[0]:
                raise DataError(
                    f"{file}:{number} has {found[-1].series.shape[0]} channel(s), and the first series has "
                    f"{found[0].series.shape[0]}"
                )
        elif line.lower().startswith("@data"):
            in_data = True
        elif line.startswith("@"):
            name, *value = line[1:].split(maxsplit=1)
            says[name.lower()] = "".join(value).lower()
    if not found:
        raise DataError(f"{file} has no series; expected lines after a line @data, as in the archive's .ts files")
    return found


def _of_line(line: str, says: dict[str, str], where: str) -> LabelledSeries:
    if says.get("timestamps") == "true":
        raise DataError(
            f"{where}: series with time stamps (@timeStamps true) are not read; write equally spaced values"
        )
    label: Any = None
    channels = line.split(":")
    if says.get("targetlabel", "").startswith("true"):
        told = channels.pop().strip()
        if told not in _MISSING and not _is_number(told):
            raise DataError(f"{where}: the target {told!r:.60} is no number; expected one, or ? where it is not known")
        label = None if told.lower() in _UNTOLD else float(told)
    elif says.get("classlabel", "").startswith("true"):
        told = channels.pop().strip()
        label = None if told in _MISSING else told
    rows = [_numbers(channel.split(","), where) for channel in channels]
    if len(lengths := {len(row) for row in rows}) > 1:
        raise DataError(
            f"{where}: channels of {', '.join(map(str, sorted(lengths)))} values in one series; expected one length"
        )
    return LabelledSeries(np.stack(rows), label)


def read_tsv(file: str | Path) -> list[LabelledSeries]:
    """Returns the series of a UCR `.tsv` (or `.txt`, `.csv`) file: a series a line, its label first.

    Shorter series end in NaN there, which is cut off; what is missing in between stays NaN. Labels that are whole numbers
    are read as such: ``-1``, not ``-1.0``.

    Raises:
        DataError: the file is not there or empty, or a value is no number; names the line.
    """
    file = Path(file)
    found = []
    for number, line in _lines(file):
        label, *values = line.replace(",", "\t").split("\t") if "\t" in line or "," in line else line.split()
        if not values:
            raise DataError(
                f"{file}:{number} has one value, {label!r:.60}; expected a label and the values of a series"
            )
        row = _numbers(values, f"{file}:{number}")
        there = np.flatnonzero(~np.isnan(row))
        found.append(LabelledSeries(row[None, : there[-1] + 1 if len(there) else len(row)], _whole(label)))
    if not found:
        raise DataError(f"{file} has no series; expected a line for each: its label, and its values parted by tabs")
    return found


def read_csv(file: str | Path) -> np.ndarray:
    """Returns the one series that a CSV file holds, (channels, length): a line for each step, a column for each channel.

    The first line may have the channels' names. An empty value, ``?`` or ``nan`` is missing.

    Raises:
        DataError: the file is not there or empty, a value is no number, or a line has another number of them.
    """
    rows: list[np.ndarray] = []
    for at, (number, line) in enumerate(_lines(Path(file))):
        [values] = csv.reader([line])
        if at == 0 and not any(map(_is_number, values)) and any(value.strip() not in _MISSING for value in values):
            continue  # the names
        rows.append(_numbers(values, f"{file}:{number}"))
        if len(rows[-1]) != len(rows[0]):
            raise DataError(f"{file}:{number} has {len(rows[-1])} value(s), and the first step has {len(rows[0])}")
    if not rows:
        raise DataError(f"{file} has no values; expected a line for each step, with a number for each channel")
    return np.stack(rows, axis=1)


def get_series_files(path: str | Path) -> list[Path]:
    """Returns the `.csv`, `.npy` and `.ts` files under `path`, sorted; see `get_files` and `read_series`.

    Raises:
        DataError: there is no such folder, or no such file in it.
    """
    if not (found := get_files(path, _OF_ONE)):
        raise DataError(f"no file of a series under {path}; looked for {', '.join(_OF_ONE)}")
    return found


_MISSING = ("?", "")  # as the archive and CSV files write it
_UNTOLD = (*_MISSING, "nan")

_OF_ONE = (".csv", ".npy", ".ts")


def read_series(file: str | Path) -> np.ndarray:
    """Returns the one series of a file: the array of a `.npy` file, as NumPy saves it, the series of a `.ts` file, or what
    `read_csv` reads.

    Raises:
        DataError: the file is not there, or holds no series, or more than one.
    """
    if Path(file).suffix.lower() == ".ts":
        several = read_ts(file)
        if len(several) > 1:
            raise DataError(f"{file} holds {len(several)} series, and one is wanted; read_ts reads them all")
        return several[0].series
    if Path(file).suffix.lower() != ".npy":
        return read_csv(file)
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is no array that can be read: {error}") from error


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a file that say something, with their numbers."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"no file of series at {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith(("#", "%")):
            yield number, line.rstrip().lstrip(" ")  # a tab at the start parts a label that is missing from the values


def _numbers(values: Sequence[str] | Iterable[str], where: str) -> np.ndarray:
    try:
        return np.array([float("nan") if (v := value.strip()) in _MISSING else float(v) for value in values])
    except ValueError as error:
        raise DataError(f"{where}: {error}; expected numbers, and ? for what is missing") from error


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _whole(label: str) -> Any:
    """Returns a class that is written as a number as an int (1, 1.0, 1.0000e+00), any other as text, None if nothing is told."""
    if label.strip().lower() in _UNTOLD:
        return None
    return int(float(label)) if _is_number(label) and float(label).is_integer() else label.strip()
