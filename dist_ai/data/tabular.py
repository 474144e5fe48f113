"""`TabularPandas`: a table in memory, prepared by procs that have learned from its training rows, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, Unpack

import numpy as np
import torch

from dist_ai.core.transform import Pipeline
from dist_ai.core.types import TabularRow
from dist_ai.data.base_loader import Tfms
from dist_ai.data.block import TransformBlock
from dist_ai.data.frames import TabularFrame, rows_of, table_of
from dist_ai.data.loaders import DataLoaders, LoaderOptions
from dist_ai.data.procs import Proc, as_procs
from dist_ai.data.rows import ReadRows, RowData, tensors_of
from dist_ai.data.splitters import IndexSplitter, MaskSplitter, RandomSplitter, check_split
from dist_ai.data.targets import target_pipeline, target_tensor
from dist_ai.distributed.environment import current_world
from dist_ai.errors import ConfigError, DataError

__all__ = ["TabularPandas", "names_of", "require_apart", "splits_of"]

L = TypeVar("L", bound=DataLoaders)


class TabularPandas:
    """A table in memory, prepared: procs learn from the training rows alone, and all rows become tensors at once.

    Args:
        df: a data frame, an Arrow table, a `Table`, a list of dicts, or a dict of columns. It is not changed.
        procs: what prepares the columns, such as ``[Categorify, FillMissing, Normalize]``, in whatever order; those given are
            not changed.
        cat_names: columns that hold categories.
        cont_names: columns that hold numbers.
        y_names: the column, or columns, to predict; without, there are no targets.
        y_block: what the targets are: `CategoryBlock`, `RegressionBlock`, `MultiCategoryBlock`. By default one column of text,
            of yes and no, or of the whole numbers 0 and 1 is a class, and several of yes and no (or 0 and 1) are labels; other
            numbers are predicted as numbers. (In fastai 0 and 1 are numbers too: say ``y_block=RegressionBlock`` for that.) The
            classes are sorted; those of an ordered categorical column are its categories in their order.
        splits: the rows for training, for validation and further parts; by default all are for training.

    Attributes:
        reader: the input transform: it makes new rows into samples, and is part of an export.
        train, valid: the samples, `RowData`; `valid` is None without `splits`.

    Raises:
        DataError: a column is missing or comes twice, holds infinities, values of several types, or none at all.

    >>> to = TabularPandas([{"age": 3.0, "y": 1.5}, {"age": 5.0, "y": 2.5}], cont_names="age", y_names="y")
    >>> to.train[1]
    (TabularRow(cats=tensor([], dtype=torch.int64), conts=tensor([5.])), TensorRegression(2.5000))
    """

    def __init__(
        self,
        df: Any,
        procs: Iterable[Proc] | Proc = (),
        cat_names: Sequence[str] | str = (),
        cont_names: Sequence[str] | str = (),
        y_names: Sequence[str] | str = (),
        y_block: TransformBlock | Callable[[], TransformBlock] | None = None,
        splits: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.frame = table_of(df)
        self.y_names = names_of(y_names)
        given = names_of(cat_names), names_of(cont_names)
        require_apart(*given, self.y_names)
        if not len(self.frame):
            raise DataError("no rows: the table is empty, and there is nothing to learn from")
        self.splits = (
            (range(len(self.frame)),) if splits is None else check_split(splits, len(self.frame), may_overlap=True)
        )
        first = self.frame.iloc[np.asarray(self.splits[0])].reset_index(drop=True)
        with rows_of(self.splits[0]):
            self.targets = [target_pipeline(first, self.y_names, y_block)] if self.y_names else []
            self.reader, prepared = ReadRows.fitted(TabularFrame(first, *given, self.y_names), as_procs(procs))
            self.subsets = [self._samples(first, tensors_of(prepared), 0)]
        for indices in self.splits[1:]:
            part = self.frame.iloc[np.asarray(indices)].reset_index(drop=True)
            with rows_of(indices):
                self.subsets.append(self._samples(part, tensors_of(self.reader.process(part)), 1))

    def _samples(self, frame: Any, rows: TabularRow, split_idx: int) -> RowData:
        ys = [target_tensor(pipeline, frame) for pipeline in self.targets]
        return RowData(rows, ys, pipelines=self.pipelines, split_idx=split_idx, frame=frame)

    @property
    def pipelines(self) -> list[Pipeline]:
        """The pipelines of the input and of the targets."""
        return [Pipeline([self.reader]), *self.targets]

    @property
    def train(self) -> RowData:
        """The training samples."""
        return self.subsets[0]

    @property
    def valid(self) -> RowData | None:
        """The validation samples."""
        return self.subsets[1] if len(self.subsets) > 1 else None

    @property
    def cat_names(self) -> list[str]:
        """The categorical columns that a model sees: those that procs added too."""
        return self.reader.seen_cats

    @property
    def cont_names(self) -> list[str]:
        """The continuous columns that a model sees."""
        return self.reader.seen_conts

    @property
    def classes(self) -> dict[str, list[Any]]:
        """The categories of each categorical column; the first is "#na#"."""
        return self.reader.classes

    @property
    def items(self) -> Any:
        """The training rows as the procs made them, a data frame."""
        return self.train.xs

    @property
    def cats(self) -> Any:
        """The categories of the training rows by number, a data frame."""
        return self.items[self.cat_names]

    @property
    def conts(self) -> Any:
        """The numbers of the training rows, a data frame."""
        return self.items[self.cont_names]

    @property
    def xs(self) -> Any:
        """The inputs of the training rows, for models that take arrays; of either part they are `train.xs`, `valid.xs`."""
        return self.train.xs

    @property
    def ys(self) -> Any:
        """The targets of the training rows, a data frame."""
        return self.train.ys

    @property
    def y(self) -> Any:
        """The first target of the training rows, a series."""
        return self.train.y

    def process(self, df: Any) -> RowData:
        """Returns new rows as samples, without targets."""
        return self.reader.read(df)

    def decode(self) -> Any:
        """Returns the training rows with what can be undone undone, a data frame."""
        return self.reader.frame_of(self.train.rows)

    def show(self, max_n: int = 10) -> Any:
        """Returns the first training rows, decoded, a data frame, which a notebook shows."""
        few = TabularRow(self.train.rows.cats[:max_n], self.train.rows.conts[:max_n])
        shown = self.reader.frame_of(few)
        for name in self.y_names:
            shown[name] = self.train.frame[name].iloc[:max_n]
        return shown

    def dataloaders(
        self,
        bs: int = 64,
        /,
        *,
        cls: type[L] = DataLoaders,  # type: ignore[assignment]  # a default for a class that the caller chooses
        batch_tfms: Tfms = (),
        seed: int | None = 0,
        **options: Unpack[LoaderOptions],
    ) -> L:
        """Returns loaders of the training and validation rows, whose tensors are on the device where batches are needed.

        Args:
            bs: samples in a batch, over all ranks; also by its name.
            cls: the class of the loaders.
            batch_tfms: transforms of a batch, such as noise of your own.
            seed, options: see `DataLoader` and `LoaderOptions`.
        """
        options.setdefault("bs", bs)
        device = current_world().device if options.get("device") is None else torch.device(options["device"])  # type: ignore[arg-type]  # it is there, and no None
        if options.get("num_workers"):  # worker processes are forked, and cannot read a GPU's memory
            device = torch.device("cpu")
        train, *others = (part.to(device) for part in self.subsets)
        return cls.from_dsets(
            train, others[0] if others else None, batch_tfms=batch_tfms, n_inp=1, seed=seed, **options
        )

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        return (
            f"TabularPandas({len(self.frame):,} rows, cat_names={self.cat_names}, cont_names={self.cont_names}, "
            f"y_names={self.y_names})"
        )


def names_of(given: Sequence[str] | str | None) -> list[str]:
    """Returns names of columns as a list: one, or several.

    >>> names_of("age"), names_of(["a", "b"])
    (['age'], ['a', 'b'])
    """
    if given is None:
        return []
    several = isinstance(given, Iterable) and not isinstance(given, str)
    return [str(name) for name in (given if several else [given])]  # a number names a column too


def splits_of(
    frame: Any, *, valid_pct: float | None, valid_idx: Sequence[int] | None, seed: int | None
) -> Sequence[Sequence[int]] | None:
    """Returns the training and validation rows; None where all are for training.

    Raises:
        ConfigError: both ways to choose them are given.
        DataError: there are too few rows.
    """
    if valid_idx is not None:
        if valid_pct is not None:
            raise ConfigError(
                "valid_pct beside valid_idx: the rows are drawn at random, or given; leave one of them out"
            )
        given: list[Any] = list(valid_idx)
        is_mask = bool(given) and np.asarray(given).dtype.kind == "b"
        return (MaskSplitter if is_mask else IndexSplitter)(given)(range(len(frame)))
    share = 0.2 if valid_pct is None else valid_pct
    if share == 0:
        return None
    if len(frame) < 2:
        raise DataError(
            f"{len(frame)} row(s) cannot be split into training and validation rows; give more, or valid_pct=0 to train on all"
        )
    return RandomSplitter(share, seed)(range(len(frame)))


def require_apart(cat_names: list[str], cont_names: list[str], y_names: list[str]) -> None:
    """Raises `ConfigError` if a column is named twice, as of what and of what else, or if there are no inputs."""
    listed = [*cat_names, *cont_names, *y_names]
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        where = [
            kind
            for kind, names in (("cat_names", cat_names), ("cont_names", cont_names), ("y_names", y_names))
            if twice[0] in names
        ]
        raise ConfigError(f"column {twice[0]!r} is named twice, in {' and '.join(where)}; each column is one thing")
    if not cat_names and not cont_names:
        raise ConfigError("neither cat_names nor cont_names are given: there is nothing to predict from")
