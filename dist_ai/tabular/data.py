"""Loaders of tables, made in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from dist_ai.data import (
    Categorify,
    DataLoaders,
    LoaderOptions,
    ParquetData,
    Table,
    TabularPandas,
    TransformBlock,
)
from dist_ai.data.base_loader import Tfms
from dist_ai.data.frames import read_csv, table_of
from dist_ai.data.loaders import check_options
from dist_ai.data.procs import Proc
from dist_ai.data.row_stream import RowStream
from dist_ai.data.tabular import names_of, require_apart, splits_of
from dist_ai.data.targets import kind_of
from dist_ai.errors import ConfigError, DataError
from dist_ai.tabular.dates import cont_cat_split
from dist_ai.tabular.procs import FillMissing, Normalize

__all__ = ["RowOptions", "TabularDataLoaders", "TabularOptions"]


class RowOptions(LoaderOptions, total=False):
    """What all ways to make `TabularDataLoaders` take, besides where the rows are.

    Attributes:
        procs: what prepares the columns, and learns from the training rows alone; by default missing numbers are filled,
            categories numbered and numbers scaled. Those of new rows, and of an exported model's, are prepared alike.
        cat_names, cont_names: the columns that hold categories, and numbers; by default `cont_cat_split` tells. Where only
            `cat_names` are given, all others of numbers, or of yes and no, are numbers; where only `cont_names` are, it tells
            which others are categories. ``[]`` is none.
        y_names: the column, or columns, to predict.
        y_block: what they are; see `TabularPandas`.
        seed: of all draws, and of the order; 0 by default.
        batch_tfms: transforms of a batch, of a `TabularRow` and targets.
    """

    procs: Iterable[Proc] | Proc
    cat_names: Sequence[str] | str | None
    cont_names: Sequence[str] | str | None
    y_names: Sequence[str] | str
    y_block: TransformBlock | Callable[[], TransformBlock] | None
    seed: int | None
    batch_tfms: Tfms


class TabularOptions(RowOptions, total=False):
    """What all ways to make `TabularDataLoaders` of rows that fit into memory take besides.

    Attributes:
        valid_pct: share of the rows drawn at random for validation, 0.2 by default, 0 for none.
        valid_idx: the validation rows, instead of drawing them: their numbers, or True or False for each row.
    """

    valid_pct: float | None
    valid_idx: Sequence[int] | Sequence[bool] | None


class TabularDataLoaders(DataLoaders):
    """Loaders of the rows of a table, whose tensors are where the model is: a batch is taken by index.

    ```python
    dls = TabularDataLoaders.from_csv("adult.csv", cat_names=["job"], cont_names=["age"], y_names="income", bs=256)
    ```

    All ways to make them take the options of `TabularOptions`, such as ``y_names="income"``, ``procs`` and ``valid_pct``, and
    those of `LoaderOptions`: ``bs=64``, ``weights="balanced"`` and more.
    """

    @classmethod
    def from_df(cls, df: Any, path: str | Path = ".", **options: Unpack[TabularOptions]) -> Self:
        """Returns loaders of a data frame, an Arrow table, a `Table`, a list of dicts or a dict of columns.

        Args:
            df: the rows; they are not changed.
            path: not used; here because fastai's has it.
            options: see `TabularOptions`.

        Raises:
            DataError: a column is missing or comes twice, holds infinities, values of several types, or no number at all;
                or there are too few rows, or one class.
            ConfigError: no `y_names`, or a column that is several things.
        """
        check_options(options, TabularOptions)
        frame, rest = table_of(df), dict[str, Any](options)
        y_names = _targets(rest.pop("y_names", ()))
        cats, conts = _columns(frame, rest.pop("cat_names", None), rest.pop("cont_names", None), y_names)
        splits = splits_of(
            frame,
            valid_pct=rest.pop("valid_pct", None),
            valid_idx=rest.pop("valid_idx", None),
            seed=rest.get("seed", 0),
        )
        to = TabularPandas(frame, rest.pop("procs", _PROCS), cats, conts, y_names, rest.pop("y_block", None), splits)
        return to.dataloaders(cls=cls, **rest)

    @classmethod
    def from_csv(
        cls,
        csv: str | Path,
        path: str | Path = ".",
        *,
        delimiter: str = ",",
        encoding: str = "utf-8",
        text: Iterable[str] = (),
        **options: Unpack[TabularOptions],
    ) -> Self:
        """Returns loaders of a CSV file; an empty field is a missing value.

        Args:
            csv: the file or its address, ``.gz`` too; its first line has the columns' names.
            path: not used; here because fastai's has it.
            delimiter: between its values.
            encoding: of the file.
            text: columns whose values stay text: "007" is 7 otherwise.
            options: see `TabularOptions`.
        """
        return cls.from_df(read_csv(csv, delimiter=delimiter, encoding=encoding, text=text), **options)

    @classmethod
    def from_parquet(
        cls, path: str | Path, *, columns: Iterable[str] | None = None, **options: Unpack[TabularOptions]
    ) -> Self:
        """Returns loaders of a Parquet file, or a folder of them, that fits into memory.

        Args:
            path: the file or folder, or its address.
            columns: read only these; by default all, since procs may look at columns that are not named.
            options: see `TabularOptions`.
        """
        return cls.from_df(Table.from_parquet(path, columns=columns), **options)

    @classmethod
    def from_parquet_stream(
        cls,
        train: Any,
        valid: Any = None,
        *,
        other_names: Sequence[str] | str = (),
        fit_rows: int = 1_000_000,
        buffer_bytes: int = 64 << 20,
        **options: Unpack[RowOptions],
    ) -> Self:
        """Returns loaders of Parquet files that need not fit into memory: row groups are read when they are needed.

        Args:
            train, valid: the files for training and for validation, which must be others: a file, a folder, or several, or
                their addresses; see `ParquetData`, which also says how rows are shuffled. Without `valid` nothing is validated.
            other_names: further columns that procs look at, such as that of `DateParts`.
            fit_rows: so many training rows, of row groups all over the files, are what the procs learn from; they have to
                fit into memory. A category that these do not have counts as unknown.
            buffer_bytes: decoded rows that each process holds.
            options: see `RowOptions`; here `cat_names` and `cont_names` are not guessed.

        Raises:
            ConfigError: there are no inputs, a column is named twice, or a file is for training and for validation.
            DataError: no `y_names`, or what `ParquetData` raises and, of the rows that are learned from, `from_df`.
        """
        check_options(options, RowOptions)
        rest = dict[str, Any](options)
        names = _targets(rest.pop("y_names", ()))
        cats, conts = names_of(rest.pop("cat_names", ())), names_of(rest.pop("cont_names", ()))
        require_apart(cats, conts, names)
        fit_rows = _rows_to_learn_from(fit_rows)
        columns = list(dict.fromkeys([*cats, *conts, *names_of(other_names), *names]))
        data = ParquetData(train, columns=columns, buffer_bytes=buffer_bytes)
        procs, y_block = rest.pop("procs", _PROCS), rest.pop("y_block", None)
        rows = RowStream.fitted(data, procs, cats, conts, names, y_block, fit_rows=fit_rows)
        held_out = None if valid is None else rows.new(ParquetData(valid, columns=columns, buffer_bytes=buffer_bytes))
        return cls.from_dsets(rows, held_out, n_inp=1, **rest)


_PROCS = (Categorify, FillMissing, Normalize)


def _rows_to_learn_from(fit_rows: Any) -> int:
    is_number = isinstance(fit_rows, int | float) and not isinstance(fit_rows, bool)
    if not is_number or not fit_rows >= 1 or not float(fit_rows).is_integer():  # 1e6 is one
        raise ConfigError(f"fit_rows={fit_rows!r}: expected a number of rows to learn from, at least 1")
    return int(fit_rows)


def _targets(y_names: Sequence[str] | str) -> list[str]:
    if not (names := names_of(y_names)):
        raise DataError(
            "y_names is empty: say which column, or columns, are to be predicted; TabularPandas goes without"
        )
    return names


def _columns(
    frame: Any, cat_names: Sequence[str] | str | None, cont_names: Sequence[str] | str | None, y_names: list[str]
) -> tuple[list[str], list[str]]:
    """Returns the categorical and the continuous columns: those given, and where nothing is said as the values of others tell."""
    if cat_names is not None and cont_names is not None:
        return names_of(cat_names), names_of(cont_names)
    given = [*names_of(cat_names), *names_of(cont_names)]
    left = frame.drop(columns=[name for name in given if name in frame.columns and name not in y_names])
    # Who names the categories says of the other whole numbers that they are none.
    conts, cats = cont_cat_split(left, max_card=20 if cat_names is None else 0, dep_var=y_names)
    if cat_names is not None:
        yes_or_no = {name for name in cats if kind_of(left[name]) == "yes or no"}
        return names_of(cat_names), [name for name in left.columns if name in yes_or_no.union(conts)]
    return cats, conts if cont_names is None else names_of(cont_names)
