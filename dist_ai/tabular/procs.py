"""Procs of tables of numbers and categories: what is missing, rare categories, dates, scales, categories by their target.

Whatever order they are listed in, they run in this one: dates (10), filling (20), folding of rare categories (30), encoding by
the target (40), numbering of categories (50, `Categorify`), scaling (60). Those of your own run before them (0), or where their
`order` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from dist_ai.core.randomness import sample_keys
from dist_ai.data.categories import Categories, sorted_classes
from dist_ai.data.frames import TabularFrame, numbers_of, require_finite
from dist_ai.data.procs import TabularProc
from dist_ai.data.targets import kind_of
from dist_ai.errors import ConfigError, DataError, did_you_mean
from dist_ai.tabular.dates import add_datepart, date_parts, day_first

__all__ = ["DateParts", "FillMissing", "Normalize", "RareCategories", "TargetEncode"]


@dataclass
class FillMissing(TabularProc):
    """Fills in missing numbers, and tells by a category of its own where there was none.

    Args:
        fill_strategy: with the ``"median"`` or ``"mode"`` of the training rows, or a ``"constant"``.
        add_col: make a column ``<name>_na`` (True or False) for each that lacks a number in a training row.
        fill_vals: the constant of a column, by name; 0 for others.
        fills: what each column is filled with; learned.
        marked: the columns that have a ``_na`` column; learned.

    New rows may lack numbers where no training row did: they are filled alike, without a mark, which the model does not know.

    Raises:
        ConfigError: there is a column ``<name>_na`` already.
        DataError: a column has no number in any training row, or an infinite one.
    """

    fill_strategy: Literal["median", "mode", "constant"] = "median"
    add_col: bool = True
    fill_vals: dict[str, float] = field(default_factory=dict)
    fills: dict[str, float] = field(default_factory=dict, init=False)
    marked: list[str] = field(default_factory=list, init=False)

    order: ClassVar[int] = 20

    def __post_init__(self) -> None:
        if self.fill_strategy not in ("median", "mode", "constant"):
            raise ConfigError(
                f"FillMissing(fill_strategy={self.fill_strategy!r}): expected 'median', 'mode' or 'constant'"
            )

    def setups(self, to: TabularFrame) -> None:
        """Learns what to fill with, and which columns lack numbers."""
        for name in self.fill_vals:
            if name not in to.cont_names:
                raise ConfigError(
                    f"FillMissing: fill_vals names {name!r}, which is not in cont_names{did_you_mean(name, to.cont_names)}"
                )
        for name in to.cont_names:
            numbers = numbers_of(to, name)
            require_finite(name, numbers)
            there = numbers[~np.isnan(numbers)]
            if not len(there):
                raise DataError(f"column {name!r} has no number in any training row; leave it out of cont_names")
            self.fills[name] = self._fill(name, there)
            if len(there) < len(numbers) and self.add_col:
                to.require_free(f"{name}_na", self, f"where {name!r} has no number (not with add_col=False)")
                self.marked.append(name)

    def encodes(self, to: TabularFrame) -> None:
        """Fills the numbers in."""
        for name, fill in self.fills.items():
            numbers = numbers_of(to, name)
            lacking = np.isnan(numbers)
            if name in self.marked:
                to.add_cat(f"{name}_na", lacking)
            to[name] = np.where(lacking, fill, numbers)

    def decodes(self, to: TabularFrame) -> None:
        """Takes out what was filled in, where it was marked."""
        for name in self.marked:
            if f"{name}_na" in to:  # or else a proc that came later has replaced it
                to[name] = to[name].where(to[f"{name}_na"].ne(True))  # an unknown mark is None
                to.drop(f"{name}_na")

    def _fill(self, name: str, there: Any) -> float:
        if self.fill_strategy == "constant":
            return float(self.fill_vals.get(name, 0.0))
        if self.fill_strategy == "median":
            return float(np.median(there))
        values, counts = np.unique(there, return_counts=True)
        return float(values[counts.argmax()])


@dataclass
class Normalize(TabularProc):
    """Scales numbers to mean 0 and deviation 1 over the training rows.

    Args:
        means, stds: of each column; learned. A column that is the same everywhere becomes 0.
    """

    means: dict[str, float] = field(default_factory=dict, init=False)
    stds: dict[str, float] = field(default_factory=dict, init=False)

    order: ClassVar[int] = 60

    def setups(self, to: TabularFrame) -> None:
        """Learns mean and deviation of each column, in float64, over the numbers that are there."""
        for name in to.cont_names:
            numbers = numbers_of(to, name)
            require_finite(name, numbers)
            numbers = numbers[~np.isnan(numbers)]
            if not len(numbers):
                raise DataError(f"column {name!r} has no number in any training row; leave it out of cont_names")
            low, high = float(numbers.min()), float(numbers.max())
            # Such as 0.3 and 0.1 + 0.2: they are the same, but for how they were computed.
            same = high - low <= 8 * np.finfo(np.float64).eps * max(abs(low), abs(high))
            self.means[name] = low if same else float(numbers.mean())
            self.stds[name] = 1.0 if same else float(numbers.std()) or 1.0

    def encodes(self, to: TabularFrame) -> None:
        """Scales the numbers."""
        for name, mean in self.means.items():
            to[name] = (numbers_of(to, name) - mean) / self.stds[name]

    def decodes(self, to: TabularFrame) -> None:
        """Returns the numbers to their scale, rounded to the 7 digits that float32 has."""
        for name, mean in self.means.items():
            numbers = numbers_of(to, name) * self.stds[name] + mean
            scale = max(abs(mean), self.stds[name])
            to[name] = np.round(numbers, int(np.clip(5 - np.floor(np.log10(scale)), 0, 12)))


@dataclass
class RareCategories(TabularProc):
    """Folds categories that few training rows have into one, which categories that come later join too.

    What stays is text afterwards, as the column has it that was learned from: 3 as "3".

    Args:
        min_count: rows that a category needs to stay.
        name: of the category of the others.
        kept: the categories that stay, of each column; learned.
    """

    min_count: int = 10
    name: str = "#rare#"
    kept: dict[str, list[Any]] = field(default_factory=dict, init=False)

    order: ClassVar[int] = 30

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ConfigError(f"RareCategories(min_count={self.min_count}): expected a number of rows, at least 1")

    def setups(self, to: TabularFrame) -> None:
        """Counts the categories; a column of which none is rare is left as it is."""
        for column in to.cat_names:
            counts = to[column].value_counts()
            if (counts < self.min_count).any():
                self.kept[column] = counts.index[counts >= self.min_count].tolist()

    def encodes(self, to: TabularFrame) -> None:
        """Folds the rare ones; their column becomes one of text."""
        for column, kept in self.kept.items():
            known, text = self._once(column, kept, self._known)
            lacking = to[column].isna().to_numpy()
            to[column] = np.where(lacking, None, text[known.codes(to[column])])

    def _known(self, kept: list[Any]) -> tuple[Categories, Any]:
        return Categories(kept), np.array([self.name, *map(str, kept)], dtype=object)


@dataclass
class TargetEncode(TabularProc):
    """Categories as the mean of the target in their training rows: a number beside the embedding, or instead of it.

    Args:
        columns: which columns; by default all of `cat_names`.
        folds: a training row's number is the mean over the rows of the other folds, so it never knows its own target. The fold
            is a hash of the row's place among the training rows: of a stream, of its number in the files.
        smooth: rows of the overall mean that are added to each category, so that a rare one does not stand for its few rows.
        replace: whether the category itself is no longer an input.
        seed: of the folds.
        means: of each category, by column; learned. Missing ones are under "", and others have the overall mean.
        overall: the mean of all training rows; learned.
        out_of_fold: of each column, the mean of each category without each fold, (folds, categories + 1); the first is that of
            all the rows of the other folds. For training alone, and not exported.

    The target is numbers, or two classes of which the later one counts 1: in the order of an ordered categorical, else sorted.
    The new columns are ``<name>_mean``.

    Raises:
        ConfigError: there is no target, several, or one of more than two classes, or a column ``<name>_mean`` already.
    """

    columns: list[str] | None = None
    folds: int = 5
    smooth: float = 10.0
    replace: bool = False
    seed: int = 0
    means: dict[str, list[tuple[Any, float]]] = field(default_factory=dict, init=False)
    overall: float = field(default=0.0, init=False)
    out_of_fold: dict[str, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False, metadata={"exported": False}
    )

    order: ClassVar[int] = 40

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(
                f"TargetEncode(folds={self.folds}): expected at least 2, so that a row's own target stays out"
            )

    def setups(self, to: TabularFrame) -> None:
        """Learns the means."""
        target = _as_numbers(to)
        self.overall = float(target.mean())
        self.columns = list(to.cat_names) if self.columns is None else self.columns
        fold = self._folds_of(to)
        for name in self.columns:
            to.require_free(f"{name}_mean", self, f"the mean of the target in each category of {name!r}")
            codes, categories = _keys(to, name).factorize()
            places, size = fold * len(categories) + codes, (self.folds, len(categories))
            sums = np.bincount(places, target, self.folds * len(categories)).reshape(size)
            counts = np.bincount(places, minlength=self.folds * len(categories)).reshape(size)
            means = self._means(sums.sum(0), counts.sum(0), self.overall)[1:]
            self.means[name] = list(zip(categories.tolist(), means.tolist(), strict=True))
            # Added up without the fold, and not subtracted from the whole: what is left of rounding would tell the target.
            self.out_of_fold[name] = np.stack(
                [
                    self._means(np.delete(sums, k, 0).sum(0), np.delete(counts, k, 0).sum(0), self.overall)
                    for k in range(self.folds)
                ]
            )

    def encodes(self, to: TabularFrame) -> None:
        """Adds the mean of each row's category."""
        for name, pairs in self.means.items():
            categories, means = self._once(name, pairs, self._known)
            self._add(to, name, means[categories.codes(_keys(to, name))])

    def encodes_training(self, to: TabularFrame) -> None:
        """Adds for each training row the mean over the rows of the other folds."""
        fold = self._folds_of(to)
        for name, pairs in self.means.items():
            categories, _ = self._once(name, pairs, self._known)
            self._add(to, name, self.out_of_fold[name][fold, categories.codes(_keys(to, name))])

    def _folds_of(self, to: TabularFrame) -> Any:
        keys = sample_keys(seed=self.seed, epoch=0, samples=to.numbers)
        return (keys % np.uint64(self.folds)).astype(np.int64)

    def _known(self, pairs: list[tuple[Any, float]]) -> tuple[Categories, Any]:
        """Returns the categories of a column, and the mean of all rows and then of each."""
        return Categories([key for key, _ in pairs]), np.array([self.overall, *(mean for _, mean in pairs)])

    def _means(self, sums: Any, counts: Any, without: float) -> Any:
        """Returns the mean of all rows and then those of the categories; `without` where there is no row at all."""
        overall = sums.sum() / counts.sum() if counts.sum() else without
        weights = counts + self.smooth
        means = (sums + self.smooth * overall) / np.where(weights > 0, weights, 1)
        return np.r_[overall, np.where(counts > 0, means, overall)]

    def _add(self, to: TabularFrame, name: str, values: Any) -> None:
        to.add_cont(f"{name}_mean", values)
        if self.replace:
            to.drop(name)

    def decodes(self, to: TabularFrame) -> None:
        """Takes the means out of the inputs, where their categories are still there."""
        for name in self.means:
            if not self.replace:
                to.drop(f"{name}_mean")


@dataclass
class DateParts(TabularProc):
    """Year, month, day of the week and more of columns of dates, as `add_datepart` makes them, in new rows too.

    Args:
        columns: the columns of dates, which are neither in cat_names nor in cont_names.
        time: also hour, minute and second.
        dayfirst: whether text such as 03/04/2021 is in April; by default as all training rows can be read, see `make_date`.
        days_first: of each column with such text; learned, so that a new row is read alike.

    ``Elapsed`` (seconds since 1970) becomes a number, the others categories. A missing date has no parts.

    Raises:
        ConfigError: there is a column of a part's name already.
    """

    columns: list[str]
    time: bool = False
    dayfirst: bool | None = None
    days_first: dict[str, bool] = field(default_factory=dict, init=False)

    order: ClassVar[int] = 10

    def setups(self, to: TabularFrame) -> None:
        """Learns whether the day stands first; raises if there is a column of a part's name already."""
        for name in self.columns:
            prefix, parts = date_parts(name, time=self.time)
            for part in parts:
                to.require_free(f"{prefix}{part}", self, f"a part of {name!r}")
            found = day_first(to[name]) if self.dayfirst is None else self.dayfirst
            if found is not None:
                self.days_first[name] = found

    def encodes(self, to: TabularFrame) -> None:
        """Adds the parts."""
        for name in self.columns:
            to[name]  # raises the named error where it is not there
            to.frame = add_datepart(to.frame, name, drop=False, time=self.time, dayfirst=self.days_first.get(name))
            prefix, parts = date_parts(name, time=self.time)
            for part in parts:
                add = to.add_cont if part == "Elapsed" else to.add_cat
                add(f"{prefix}{part}", to[f"{prefix}{part}"])


def _keys(to: TabularFrame, name: str) -> Any:
    """Returns the categories of a column as what a file can hold, "" for a missing one."""
    column = to[name].astype(object)
    return column.where(column.notna(), "")


def _as_numbers(to: TabularFrame) -> Any:
    if len(to.y_names) != 1:
        raise ConfigError(f"TargetEncode needs one target, and y_names={to.y_names}")
    name = to.y_names[0]
    column = to[name]
    if kind_of(column) in ("whole numbers", "numbers"):
        return numbers_of(to, name)
    classes = sorted_classes(column, name)
    if len(classes) != 2:
        raise ConfigError(
            f"TargetEncode takes numbers or two classes, and {name!r} has {len(classes)}: "
            f"{', '.join(map(str, classes[:5]))}"
        )
    return (column == classes[1]).to_numpy(dtype=np.float64)
