"""Loaders of series and what is to be told of each, made in one line; each is a `DataBlock` that is written out here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypedDict, Unpack

import numpy as np

from dist_ai.core.transform import Transform
from dist_ai.data import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    DataLoader,
    DataLoaders,
    LoaderOptions,
    RandomSplitter,
    RegressionBlock,
    TransformBlock,
    as_items,
)
from dist_ai.data.loaders import check_options
from dist_ai.data.table import missing as is_missing
from dist_ai.data.targets import block_of_columns, block_of_lists
from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries.blocks import TSBlock
from dist_ai.timeseries.files import LabelledSeries, read_ts, read_tsv
from dist_ai.timeseries.frames import as_pandas, is_frame, labelled_series, read_frame, require_columns, series_by_id
from dist_ai.timeseries.items import LabelOf, PadTo, SeriesOf, check_fill, missing_values, padding
from dist_ai.timeseries.transforms import ScaleRange, Standardize

__all__ = ["LongColumns", "SeriesOptions", "TSDataLoaders", "Tfms", "listed"]

Tfms: TypeAlias = Iterable[Transform | type[Transform] | Callable[[Any], Any]] | Transform | None


class SeriesOptions(LoaderOptions, total=False):
    """What all ways to make `TSDataLoaders` take, besides the data; see there.

    Attributes:
        y_block: what the labels are; by default numbers where they are floats, several numbers where they are lists or rows
            of floats, several classes where they are lists of words, else classes: whole numbers are classes too. Several
            columns of a frame that hold nothing but the whole numbers 0 and 1 are a yes or no each.
        missing: what to do about missing values: ``"raise"`` (the default), ``"previous"``, ``"linear"``, ``"mean"``, ``"zero"``.
        scale: a transform that learns from all training series: `Standardize()`, which ``"standard"`` is too, or `ScaleRange()`.
        pad: True fills up shorter series to the longest, and takes steps at the end without any value (NaN) for none; a number
            of steps, 80 or `PadTo(80)`, to that length, so that new series may be as long. Otherwise series of different lengths
            are an error.
        valid_pct: share of the series drawn at random for validation, where nothing else says which.
        seed: of that draw, of the order and of the augmentations; None is 0.
        item_tfms: transforms of one series.
        batch_tfms: transforms of a batch on the device, such as `ts_tfms()`. A `Standardize()` or `ScaleRange()` without numbers
            is taken as `scale`, for it has to see the training series; one with numbers too, if there is no other, for series are
            scaled in float64 and batches are float32.
    """

    y_block: TransformBlock | Callable[[], TransformBlock] | None
    missing: str
    scale: Transform | Literal["standard"] | None
    pad: bool | int | PadTo
    valid_pct: float
    seed: int | None
    item_tfms: Tfms
    batch_tfms: Tfms


class _Made(TypedDict):
    """The options of `SeriesOptions` that are no loader's, with their defaults."""

    y_block: Any
    missing: str
    scale: Transform | None
    pad: PadTo | None
    valid_pct: float
    seed: int | None
    item_tfms: Tfms
    batch_tfms: Tfms


@dataclass(frozen=True)
class LongColumns:
    """What the columns of a long frame are.

    Attributes:
        id, time: that say which series a row is of, and when; no time takes rows as they stand.
        values: of the channels.
        label: of the label, or of several.
    """

    id: str
    time: str | None
    values: list[str]
    label: str | list[str]

    def series_of(self, frame: Any, *, with_labels: bool) -> list[LabelledSeries]:
        """Returns the series of a frame, in the order in which they first come; without the column `id` it is of one."""
        frame = as_pandas(frame)
        frame = frame if self.id in frame.columns else frame.assign(**{self.id: 0})
        label = self.label if with_labels else None
        return labelled_series(frame, id=self.id, time=self.time, values=self.values, label=label)


class TSDataLoaders(DataLoaders):
    """Loaders of series, each with a class, a number or several numbers.

    ```python
    dls = TSDataLoaders.from_arrays(X, y, valid_pct=0.2, seed=42, scale=Standardize(), batch_tfms=ts_tfms(), bs=64)
    ```

    What all ways to make them take is in `SeriesOptions`: `missing`, `scale`, `pad`, `y_block`, `valid_pct`, `seed`, `item_tfms`,
    `batch_tfms`, and `LoaderOptions`, such as ``bs=64``.

    Series of different lengths need ``pad=True``: all are filled up to the longest with NaN, which our models leave out, so that
    no number depends on which series share a batch.

    New series are arrays, `dls.test_dl(X)`; with labels, ``dls.test_dl([LabelledSeries(x, y), ...], with_labels=True)``. Of
    loaders of a long frame they may be such a frame too, of which `learn.predict` takes one series.

    Attributes:
        columns: of the long frame that the series are from; None if they are from something else.
    """

    columns: LongColumns | None = None

    def test_dl(self, items: Any, **options: Any) -> DataLoader:
        """Returns a loader of new series; see `DataLoaders.test_dl`.

        Args:
            items: arrays; of loaders of a long frame also such a frame, without labels unless `with_labels`.
            options: see `DataLoaders.test_dl`.

        Raises:
            DataError: a frame without the columns, or one of several series where one is asked for.
        """
        if self.columns is not None:
            several = [items] if is_frame(items) else items
            if isinstance(several, list | tuple) and len(several) and all(map(is_frame, several)):
                labelled = bool(options.get("with_labels"))
                found = [self.columns.series_of(each, with_labels=labelled) for each in several]
                if several is items and (many := next((each for each in found if len(each) != 1), None)):
                    raise DataError(
                        f"a frame of {len(many)} series in {self.columns.id!r} where one is asked for; give the rows of one, or "
                        "the frame to learn.get_preds(learn.dls.test_dl(frame))"
                    )
                items = [each for series in found for each in series]
        return super().test_dl(items, **options)

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        *,
        valid: tuple[Any, Any] | None = None,
        splits: tuple[Sequence[int], Sequence[int]] | None = None,
        **options: Unpack[SeriesOptions],
    ) -> Self:
        """Returns loaders of arrays.

        Args:
            X: (series, channels, length), or (series, length) of one channel; or a list of (channels, length), which may
                differ in length with ``pad=True``.
            y: a label for each series; or numbers (series, outputs).
            valid: series and labels to validate on.
            splits: the indices of the training and of the validation series, instead.
            options: see `SeriesOptions`.

        Raises:
            DataError: not as many labels as series; a label is missing; there is one class only; or series that do not fit.

        >>> dls = TSDataLoaders.from_arrays(np.zeros((10, 2, 30)), list("ab" * 5), bs=4, num_workers=0)
        >>> dls.one_batch()[0].shape
        torch.Size([4, 2, 30])
        """
        items = _zipped(X, y)
        if valid is not None and splits is not None:
            raise ConfigError("valid= and splits= both say which series validate; give one of them")
        if valid is not None:
            if not isinstance(valid, tuple | list) or len(valid) != 2:
                raise ConfigError(f"valid={type(valid).__name__}: expected series and labels, valid=(X_valid, y_valid)")
            splits = range(len(items)), range(len(items), len(items) + len(valid[0]))
            items += _zipped(*valid)
        return cls._from_series(items, splits, options)

    @classmethod
    def from_numpy(cls, X: Any, y: Any, **options: Any) -> Self:
        """Returns `from_arrays`, under its other name."""
        return cls.from_arrays(X, y, **options)

    @classmethod
    def from_long_df(
        cls,
        df: Any,
        *,
        id: str,
        values: Sequence[str] | str,
        label: str | Sequence[str],
        time: str | None = None,
        valid_col: str | None = None,
        **options: Unpack[SeriesOptions],
    ) -> Self:
        """Returns loaders of a frame with a row for each step of each series.

        Args:
            df: the frame, of pandas, or any table that becomes one.
            id: the column that says which series a row is of.
            values: the column of the values, or those of several channels.
            label: the column of the label, the same in all rows of a series; or several, with a number each, or a yes or no.
            time: the column of time, which must ascend within a series; without it, the rows are taken as they stand.
            valid_col: a column with True in the rows of the validation series, instead of `valid_pct`.
            options: see `SeriesOptions`.

        Raises:
            DataError: no such column; times doubled or unsorted; a series with several labels, or none, or in both parts.
        """
        channels = [values] if isinstance(values, str) else list(values)
        columns = LongColumns(id, time, channels, label if isinstance(label, str) else list(label))
        df = as_pandas(df)
        items = labelled_series(df, id=id, time=time, values=channels, label=label)
        splits = None
        if valid_col is not None:
            require_columns(df, [valid_col])
            marks = [_mark_of(rows[valid_col], name) for name, rows in series_by_id(df, id)]
            splits = ColSplitter(valid_col)([{valid_col: mark} for mark in marks])
        dls = cls._from_series(items, splits, options, [] if isinstance(label, str) else columns.label)
        dls.columns = columns
        return dls

    @classmethod
    def from_wide_df(
        cls,
        df: Any,
        *,
        label: str | Sequence[str],
        values: Sequence[str] | None = None,
        valid_col: str | None = None,
        **options: Unpack[SeriesOptions],
    ) -> Self:
        """Returns loaders of a table with a row for each series of one channel, and a column for each step.

        Args:
            df: a data frame, an Arrow table, a `Table`, or a list of dicts.
            label: the column of the label, or several with a number each, or a yes or no.
            values: the columns of the steps, in their order; by default all others.
            valid_col: a column with True for the validation series, instead of `valid_pct`.
            options: see `SeriesOptions`.

        New items are rows of such a table, or series.
        """
        rows = as_items(as_pandas(df) if df is None or isinstance(df, Mapping) else df)
        if not len(rows):
            raise DataError("the frame has no rows; there is nothing to learn from")
        labels = [label] if isinstance(label, str) else list(label)
        names = list(rows[0])
        steps = list(values) if values is not None else [name for name in names if name not in (*labels, valid_col)]
        wrong = [name for name in steps if name in names and isinstance(rows[0][name], str)]
        if wrong:
            raise DataError(
                f"column {wrong[0]!r} holds text ({rows[0][wrong[0]]!r:.40}) and no step of a series; name the columns of the "
                "steps: values=[...]"
            )
        get_x, get_y = ColReader(steps), ColReader(label if isinstance(label, str) else labels)
        made, rest = _parted(options)
        return cls._from_block(
            rows,
            [get_y(rows[i]) for i in range(len(rows))],
            [get_x(rows[i]) for i in range(len(rows))],
            (get_x, get_y),
            RandomSplitter(made["valid_pct"], made["seed"]) if valid_col is None else ColSplitter(valid_col),
            made,
            rest,
            labels,
        )

    @classmethod
    def from_parquet(cls, file: str | Path, *, label: str | Sequence[str], **options: Any) -> Self:
        """Returns loaders of a Parquet (or CSV) file: a long one if `id` is given, else a wide one.

        Args:
            file: the file, which is read into memory.
            label: the column of the label, or several.
            options: those of `from_long_df` or `from_wide_df`.
        """
        frame = read_frame(file)
        return (cls.from_long_df if "id" in options else cls.from_wide_df)(frame, label=label, **options)

    @classmethod
    def from_ts_file(
        cls, file: str | Path, valid_file: str | Path | None = None, **options: Unpack[SeriesOptions]
    ) -> Self:
        """Returns loaders of `.ts` files, as sktime, aeon and the UEA archive have them; see `read_ts`.

        Args:
            file: the series to train on, and without `valid_file` to draw the validation series from.
            valid_file: those to validate on.
            options: see `SeriesOptions`.
        """
        return cls._from_files(read_ts, file, valid_file, options)

    @classmethod
    def from_ucr(cls, file: str | Path, valid_file: str | Path | None = None, **options: Unpack[SeriesOptions]) -> Self:
        """Returns loaders of UCR `.tsv` files, whose lines are a label and the values; see `read_tsv` and `from_ts_file`."""
        return cls._from_files(read_tsv, file, valid_file, options)

    @classmethod
    def _from_files(cls, read: Any, file: str | Path, valid_file: str | Path | None, options: SeriesOptions) -> Self:
        items = read(file)
        splits = None
        if valid_file is not None:
            more = read(valid_file)
            splits = range(len(items)), range(len(items), len(items) + len(more))
            items = [*items, *more]
        return cls._from_series(items, splits, options)

    @classmethod
    def _from_series(
        cls, items: list[LabelledSeries], splits: Any, options: SeriesOptions, columns: Sequence[str] = ()
    ) -> Self:
        made, rest = _parted(options)
        _require_labels(items)
        splitter = RandomSplitter(made["valid_pct"], made["seed"]) if splits is None else _Given(splits)
        labels, values = [each.label for each in items], [each.series for each in items]
        return cls._from_block(items, labels, values, (SeriesOf(), LabelOf()), splitter, made, rest, columns)

    @classmethod
    def _from_block(
        cls,
        items: Any,
        labels: list[Any],
        values: Sequence[Any],
        getters: Sequence[Any],
        splitter: Any,
        made: _Made,
        rest: Any,
        columns: Sequence[str] = (),
    ) -> Self:
        longest = _require_values(values, made["pad"], made["missing"])
        pad = made["pad"] and PadTo(made["pad"].length or longest)
        block = DataBlock(
            (
                TSBlock(missing=made["missing"], scale=made["scale"], pad=pad or False),
                made["y_block"] if made["y_block"] is not None else _block_of(labels, columns),
            ),
            getters=getters,
            splitter=splitter if made["y_block"] is not None else _KnownClasses(splitter, labels),
            item_tfms=listed(made["item_tfms"]),
            batch_tfms=listed(made["batch_tfms"]),
        )
        return cls.from_dblock(block, items, seed=made["seed"], **rest)


@dataclass(frozen=True)
class _Given:
    """The split that was given, which a `DataBlock` checks."""

    parts: Any

    def __call__(self, items: Any) -> Any:
        return self.parts


@dataclass(frozen=True)
class _KnownClasses:
    """A splitter that looks whether whole numbers, which are taken for classes, can be such: validation has none but training's.

    Args:
        splitter: of the series.
        labels: of each series.
    """

    splitter: Any
    labels: Sequence[Any]

    def __call__(self, items: Any) -> Any:
        parts = self.splitter(items)
        counted = all(isinstance(each, Integral) and not isinstance(each, bool) for each in self.labels)
        if counted and isinstance(parts, tuple | list) and len(parts) == 2:  # else the block says what is wrong
            labels = dict(enumerate(self.labels))
            train, valid = ([labels[i] for i in np.ravel(part).tolist() if i in labels] for part in parts)
            if new := sorted({*valid} - {*train}):
                raise DataError(
                    f"of the series that validate one has the label {new[0]!r}, which is not one of the {len({*train})} of those "
                    "that train: whole numbers are taken for classes; if they are numbers to predict, give floats, such as "
                    "y.astype(float), or y_block=RegressionBlock(1); if they are classes, each has to be in training"
                )
        return parts


def _parted(options: SeriesOptions) -> tuple[_Made, Any]:
    """Returns the options of the series, with defaults, and those of the loaders."""
    check_options(options, SeriesOptions)
    made = _Made(
        y_block=None, missing="raise", scale=None, pad=None, valid_pct=0.2, seed=0, item_tfms=None, batch_tfms=None
    )
    rest = {name: value for name, value in options.items() if name not in made}
    made.update({name: value for name, value in options.items() if name in made})  # type: ignore[typeddict-item]
    made["pad"] = padding(made["pad"] if "pad" in options else False)
    check_fill(made["missing"])
    if isinstance(scale := options.get("scale"), str):
        if scale != "standard":
            raise ConfigError(f"scale={scale!r}: expected 'standard', Standardize(), ScaleRange() or None")
        made["scale"] = Standardize()
    tfms = [tfm() if isinstance(tfm, type) else tfm for tfm in listed(made["batch_tfms"])]
    scales = [tfm for tfm in tfms if isinstance(tfm, Standardize | ScaleRange)]
    learning = [tfm for tfm in scales if not tfm.zero]
    if learning and len(learning) + (made["scale"] is not None) > 1:
        raise ConfigError(
            f"several transforms are to learn the scale of the series, {', '.join(type(t).__name__ for t in learning)} in "
            "batch_tfms among them; give one, as scale="
        )
    if moved := learning or (scales if len(scales) == 1 and made["scale"] is None else []):
        made["scale"], made["batch_tfms"] = moved[0], [tfm for tfm in tfms if tfm is not moved[0]]
    return made, rest


def _mark_of(marks: Any, name: Any) -> Any:
    """Returns what all rows of a series say of its part."""
    if marks.nunique(dropna=False) > 1:
        raise DataError(
            f"series {name!r} is marked {' and '.join(map(repr, marks.unique()[:2].tolist()))} in {marks.name!r}; all rows of a "
            "series are in one part"
        )
    return marks.iloc[0]


def _zipped(X: Any, y: Any) -> list[LabelledSeries]:
    """Returns arrays of series and of labels as items."""
    X = X.to_numpy() if hasattr(X, "iloc") else X
    if y is None:
        raise DataError("no labels (y is None); for what follows a series there is TSForecastDataLoaders")
    for name, given in (("X", X), ("y", y)):
        if not hasattr(given, "__len__") or isinstance(given, Mapping | str):
            raise DataError(f"{name}={given!r:.60}: expected an array or a list, of one item for each series")
    if len(X) != len(y):
        raise DataError(f"{len(X)} series and {len(y)} labels; expected one label for each series")
    if not len(X):
        raise DataError("no series; there is nothing to learn from")
    if getattr(X, "ndim", 2) not in (2, 3) or (getattr(X, "ndim", 2) == 2 and np.ndim(X[0]) == 0):
        raise DataError(
            f"X of shape {np.shape(X)}; expected (series, channels, length), or (series, length) of one channel"
        )
    labels = y.tolist() if hasattr(y, "tolist") else list(y)
    return [LabelledSeries(series, label) for series, label in zip(X, labels, strict=True)]


def _require_labels(items: Sequence[LabelledSeries]) -> None:
    """Raises `DataError` for a label that is missing."""
    for number, each in enumerate(items):
        several = each.label if isinstance(each.label, list | tuple) else [each.label]
        if any(map(is_missing, several)):
            raise DataError(f"series {number} has no label ({each.label!r}); give it one, or leave the series out")


def _require_values(series: Sequence[Any], pad: PadTo | None, missing: str) -> int:
    """Returns the longest length; raises `DataError` for what would fail batch by batch later: lengths, and what is missing."""
    lengths = [np.shape(each)[-1] if np.ndim(each) else 0 for each in series]
    if pad is None and len(set(lengths)) > 1:
        raise DataError(
            f"series of {min(lengths)} to {max(lengths)} steps do not stack into a batch; give pad=True, which fills the shorter "
            "ones up and has the models leave that out, or cut them"
        )
    for number, each in enumerate(series):
        if pad is None and missing != "raise":
            break
        try:
            values = np.atleast_2d(np.asarray(each))
            holes = np.isnan(values.astype(np.float64) if values.dtype.kind == "O" else values)
        except (TypeError, ValueError):
            continue  # no numbers, such as a file's name, which is read later
        if pad is not None and (there := np.flatnonzero(~holes.all(0))).size:
            holes = holes[:, : there[-1] + 1]
            lengths[number] = holes.shape[1]
        if missing == "raise" and holes.any():
            raise DataError(f"series {number}: {missing_values(holes)}")
    longest = max(lengths)
    if pad is not None and pad.length is not None and longest > pad.length:
        raise DataError(
            f"pad={pad.length}, and series {lengths.index(longest)} has {longest} steps; give at least pad={longest}, or cut it"
        )
    return longest


def _block_of(labels: Sequence[Any], columns: Sequence[str]) -> TransformBlock:
    """Returns the block for what labels look like, by the columns that they were read from, if any."""
    first = labels[0]
    if len(columns) > 1:
        return block_of_columns(labels, columns)
    if isinstance(first, list | tuple | np.ndarray):
        return block_of_lists(labels)
    return RegressionBlock(1) if all(isinstance(each, float) for each in labels) else CategoryBlock()


def listed(tfms: Tfms) -> list[Any]:
    """Returns transforms as a list: several, one or none."""
    if tfms is None:
        return []
    return [tfms] if isinstance(tfms, Transform | type) or callable(tfms) else list(tfms)
