"""Loaders of ratings, or of what users chose, made in one line."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Self, Unpack

from dist_ai.collab.negatives import SampleNegatives
from dist_ai.data import (
    Categorify,
    DataLoaders,
    LoaderOptions,
    ReadRows,
    RegressionBlock,
    Table,
    TabularPandas,
)
from dist_ai.data.base_loader import as_list
from dist_ai.data.frames import read_csv, table_of
from dist_ai.data.loaders import check_options
from dist_ai.data.table import no_column
from dist_ai.data.tabular import splits_of
from dist_ai.errors import ConfigError, DataError

__all__ = ["ChoiceOptions", "CollabDataLoaders", "CollabOptions"]

CHOSEN = "chosen"
"""The target's name where there are no ratings."""


class ChoiceOptions(LoaderOptions, total=False):
    """What all ways to make `CollabDataLoaders` take by name.

    Attributes:
        negatives: there are no ratings, each row is something that a user chose, and so many items that they did not are drawn
            beside it, anew each epoch; see `SampleNegatives`.
        valid_negatives: beside each validation row, always the same; 99 by default.
        valid_idx: the validation rows, instead of drawing them.
    """

    negatives: int | None
    valid_negatives: int
    valid_idx: Sequence[int] | None


class CollabOptions(ChoiceOptions, total=False):
    """What all ways to make `CollabDataLoaders` take, besides where the rows are.

    Attributes:
        valid_pct: share of the rows drawn at random for validation, 0.2 by default, 0 for none.
        user_name, item_name, rating_name: the columns; by default the first, the second and the third.
        valid_idx: the validation rows, instead of drawing them: their numbers, or True or False for each row.
        seed: of that draw, of the order and of the negatives; 0 by default.
    """

    valid_pct: float | None
    user_name: str | None
    item_name: str | None
    rating_name: str | None
    seed: int | None


class CollabDataLoaders(DataLoaders):
    """Loaders of (user, item) and the rating, whose tensors are where the model is: a batch is taken by index.

    ```python
    dls = CollabDataLoaders.from_csv("ratings.csv", item_name="title", bs=64)
    ```

    All ways to make them take the options of `CollabOptions`, such as ``negatives``, ``valid_pct`` and ``seed``, and those of
    `LoaderOptions`: ``bs=64`` and more.

    Users and items are those of the training rows; one that only validation or new rows have is unknown.
    """

    @property
    def classes(self) -> dict[str, list[Any]]:
        """The users and the items by the names of their columns, in the order of their codes; the first is "#na#"."""
        reader = self.recipe.reads_tables
        assert isinstance(reader, ReadRows)
        return reader.classes

    @classmethod
    def from_df(
        cls,
        ratings: Any,
        valid_pct: float | None = None,
        user_name: str | None = None,
        item_name: str | None = None,
        rating_name: str | None = None,
        seed: int | None = 0,
        path: str | Path = ".",
        **options: Unpack[ChoiceOptions],
    ) -> Self:
        """Returns loaders of a data frame, an Arrow table, a `Table` or a list of dicts.

        Args:
            ratings: the rows; they are not changed.
            valid_pct, user_name, item_name, rating_name, seed: see `CollabOptions`; in fastai's order.
            path: not used; here because fastai's has it.
            options: see `ChoiceOptions`.

        Raises:
            DataError: a column is missing or comes twice, or a rating is missing, infinite or no number.
            ConfigError: `negatives` beside `rating_name`, `valid_negatives` without, or columns that are the same.
        """
        check_options(options, CollabOptions)
        if not isinstance(valid_pct, Real | None):
            raise ConfigError(
                f"valid_pct={valid_pct!r:.100}: expected a share of the rows, such as 0.2, or 0 for none to validate"
            )
        frame, rest = table_of(ratings), dict[str, Any](options)
        negatives = rest.pop("negatives", None)
        if negatives is None and "valid_negatives" in rest:
            raise ConfigError("valid_negatives without negatives: with ratings nothing is drawn; give negatives too")
        valid_negatives = rest.pop("valid_negatives", 99)
        if negatives is not None and rating_name is not None:
            raise ConfigError("negatives beside rating_name: with ratings there is nothing to draw; give one of them")
        names = _columns(frame, [user_name, item_name, *([] if negatives is not None else [rating_name])])
        if negatives is not None:
            target = CHOSEN + "_" * sum(name.startswith(CHOSEN) for name in names)  # one that they do not have
            frame, names = frame.assign(**{target: 1.0}), [*names, target]
        _require_ids(frame, names[:2])
        splits = splits_of(frame, valid_pct=valid_pct, valid_idx=rest.pop("valid_idx", None), seed=seed)
        to = TabularPandas(frame[names], Categorify, names[:2], (), names[2], RegressionBlock, splits)
        tfms = []
        if negatives is not None:
            sampler = SampleNegatives(len(to.classes[names[1]]), negatives, valid_negatives, seed or 0)
            sampler.remember(to.train.rows.cats, None if to.valid is None else to.valid.rows.cats)
            tfms.append(sampler)
        return to.dataloaders(cls=cls, batch_tfms=as_list(tfms), seed=seed, **rest)

    @classmethod
    def from_csv(
        cls,
        csv: str | Path,
        *,
        path: str | Path = ".",
        delimiter: str = ",",
        encoding: str = "utf-8",
        **options: Unpack[CollabOptions],
    ) -> Self:
        """Returns loaders of a CSV file.

        Args:
            csv: the file or its address, ``.gz`` too; its first line has the columns' names.
            path: not used; here because fastai's has it.
            delimiter: between its values.
            encoding: of the file.
            options: see `CollabOptions`.
        """
        return cls.from_df(read_csv(csv, delimiter=delimiter, encoding=encoding), **options)

    @classmethod
    def from_parquet(cls, path: str | Path, **options: Unpack[CollabOptions]) -> Self:
        """Returns loaders of a Parquet file, or a folder of them, that fits into memory.

        Args:
            path: the file or folder, or its address.
            options: see `CollabOptions`.
        """
        return cls.from_df(Table.from_parquet(path), **options)


def _columns(frame: Any, given: list[str | None]) -> list[str]:
    """Returns the names of the columns: those given, and the first, second and third where none is."""
    there = list(frame.columns)
    kinds = ["user_name", "item_name", "rating_name"]
    names = []
    for place, name in enumerate(given):
        if name is None and place >= len(there):
            raise DataError(f"there are {len(there)} column(s), {', '.join(there)}, and none for {kinds[place]}")
        name = there[place] if name is None else str(name)  # numbered columns are named by their numbers
        if name not in there:
            raise DataError(f"{kinds[place]}: {no_column(name, there)}")
        names.append(name)
    if len(set(names)) < len(names):
        raise ConfigError(f"users, items and ratings are in {', '.join(names)}: each needs a column of its own")
    return names


def _require_ids(frame: Any, names: list[str]) -> None:
    for name in names:
        if frame[name].isna().all():
            raise DataError(f"column {name!r} has no value in any row: nobody is to be told apart by it")
