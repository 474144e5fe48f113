"""Rows of tables as samples held in tensors, and the transform that makes them, a whole table at a time.

`ReadRows` is the input pipeline of tabular data: one row to a `TabularRow` for a single prediction, and whole tables to
`RowData`, of which a batch is fetched by one indexing operation a tensor, on the device where the tensors are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dist_ai.core.transform import Pipeline, Transform
from dist_ai.core.types import SemanticTensor, TabularRow, plain
from dist_ai.data.frames import RowError, TabularFrame, as_frame, numbers_of, require_finite
from dist_ai.data.procs import Categorify, TabularProc, procs_from_plain
from dist_ai.data.table import missing
from dist_ai.data.targets import columns_of, target_names, target_tensor
from dist_ai.data.transforms import NA, RegressionSetup
from dist_ai.errors import ConfigError, DataError

__all__ = ["ReadRows", "RowData", "tensors_of"]


ColumnFacts: TypeAlias = dict[str, dict[str, list[Any]]]
"""What the columns of some rows hold, for `dataset_stats`: of each column the facts by name with their values (None: missing)."""


class RowData(Sequence[Any]):
    """Samples of a table, held as tensors: a `TabularRow`, and the targets where there are some.

    Args:
        rows: all of them: codes int64 (n, categorical columns), numbers float32 (n, continuous columns).
        targets: one tensor (n, ...) each.
        pipelines: the input's and the targets', for how a new item becomes a sample.
        split_idx: 0 for training samples, 1 for others.
        frame: the rows as they were, for messages.

    >>> data = RowData(TabularRow(torch.tensor([[1], [2]]), torch.zeros(2, 0)))
    >>> data.fetch(torch.tensor([1]))[0].cats
    tensor([[2]])
    """

    by_element = True

    def __init__(
        self,
        rows: TabularRow,
        targets: Sequence[torch.Tensor] = (),
        *,
        pipelines: Sequence[Pipeline] = (),
        split_idx: int = 1,
        frame: Any = None,
    ) -> None:
        self.rows, self.targets = rows, tuple(targets)
        self.pipelines, self.split_idx, self.frame = list(pipelines), split_idx, frame
        # A typed tensor costs a call of Python's for each operation: a batch is taken from the plain ones.
        self._plain = tuple(map(plain, self.targets))

    def __len__(self) -> int:
        return len(self.rows.cats)

    def __getitem__(self, index: Any) -> Any:
        return (TabularRow(self.rows.cats[index], self.rows.conts[index]), *(y[index] for y in self.targets))

    def item(self, index: int) -> Any:
        """Returns the row as it was, for messages."""
        return index if self.frame is None else self.frame.iloc[index].to_dict()

    def at_hand(self, index: int) -> Any:
        """Returns the row as it was, or else as it is."""
        return self[index] if self.frame is None else self.item(index)

    def element(self, place: int) -> Sequence[Any]:
        """Returns one element of all samples."""
        return [self[i][0] for i in range(len(self))] if place == 0 else self.targets[place - 1]  # type: ignore[return-value]  # a tensor does as a sequence

    def column_facts(self, indices: Sequence[int]) -> ColumnFacts:
        """Returns what the columns of these samples hold; nothing where they were made of tensors."""
        if self.frame is None or (reader := self._reader) is None:
            return {}
        rows = TabularRow(self.rows.cats[list(indices)], self.rows.conts[list(indices)])
        return reader.column_facts(self.frame.iloc[list(indices)], rows, self.pipelines[1:])

    def fetch(self, indices: torch.Tensor) -> tuple[Any, ...]:
        """Returns the batch of these samples, on the device where the tensors are."""
        indices = indices.to(self.rows.cats.device, non_blocking=True)
        row = TabularRow(self.rows.cats.index_select(0, indices), self.rows.conts.index_select(0, indices))
        taken = (y.index_select(0, indices) for y in self._plain)
        typed = (
            like.give_type_to(y) if isinstance(like, SemanticTensor) else y
            for like, y in zip(self.targets, taken, strict=True)
        )
        return (row, *typed)

    @property
    def _reader(self) -> ReadRows | None:
        found = (tfm for pipeline in self.pipelines[:1] for tfm in pipeline.tfms if isinstance(tfm, ReadRows))
        return next(found, None)

    @property
    def xs(self) -> Any:
        """The inputs as a data frame, for models that take arrays: ``RandomForestClassifier().fit(to.train.xs, to.train.y)``.

        Raises:
            DataError: it is not known which columns there are.
        """
        import pandas as pd

        if (reader := self._reader) is None:
            raise DataError(_NO_NAMES.format("rows"))
        cats, conts = self.rows.cats.cpu().numpy(), self.rows.conts.cpu().numpy()
        columns = {name: cats[:, i] for i, name in enumerate(reader.seen_cats)}
        return pd.DataFrame(columns | {name: conts[:, i] for i, name in enumerate(reader.seen_conts)})

    @property
    def ys(self) -> Any:
        """The targets as a data frame, a class by its number: a column for each of `y_names`, or for each label of a list.

        Raises:
            DataError: there are none, or it is not known of which columns they are.
        """
        import pandas as pd

        if not self.targets:
            raise DataError("there are no targets: no y_names were given")
        pipelines = self.pipelines[-len(self.targets) :] if len(self.pipelines) > len(self.targets) else []
        if not pipelines:
            raise DataError(_NO_NAMES.format("targets"))
        columns: dict[str, Any] = {}
        for pipeline, target in zip(pipelines, self._plain, strict=True):
            numbers = target.cpu().numpy().reshape(len(target), -1)
            columns |= {name: numbers[:, i] for i, name in enumerate(target_names(pipeline, numbers.shape[1]))}
        return pd.DataFrame(columns)

    @property
    def y(self) -> Any:
        """The first column of `ys`, a series: what models of one target take."""
        return self.ys.iloc[:, 0]

    def to(self, device: torch.device | str) -> RowData:
        """Returns the same samples on another device."""
        rows = TabularRow(self.rows.cats.to(device), self.rows.conts.to(device))
        targets = [y.to(device) for y in self.targets]
        return RowData(rows, targets, pipelines=self.pipelines, split_idx=self.split_idx, frame=self.frame)

    def with_rows(self, rows: TabularRow) -> RowData:
        """Returns the same targets with other inputs."""
        return RowData(rows, self.targets, pipelines=self.pipelines, split_idx=self.split_idx, frame=self.frame)


_NO_NAMES = "these rows were made of tensors, so their columns have no names; `{}` has the tensors"


@dataclass
class ReadRows(Transform):
    """Rows of a table to what a model takes: fitted procs, then the columns as tensors.

    Args:
        cat_names, cont_names: columns of the table that are inputs, before the procs.
        procs: the fitted procs as plain data; see `TabularProc.to_plain`.
        seen_cats, seen_conts: the columns that the procs make of them, which the model sees.

    Takes a row of any kind (a dict, a `Row`, a row of a data frame) to a `TabularRow`; and undone gives a dict. `read` takes a
    whole table.
    """

    cat_names: list[str] = field(default_factory=list)
    cont_names: list[str] = field(default_factory=list)
    procs: list[dict[str, Any]] = field(default_factory=list)
    seen_cats: list[str] = field(default_factory=list)
    seen_conts: list[str] = field(default_factory=list)

    order: ClassVar[int] = 0

    def __post_init__(self) -> None:
        self._procs: list[TabularProc] = procs_from_plain(self.procs)
        self._learned: list[TabularProc] = []

    @classmethod
    def fitted(cls, to: TabularFrame, procs: Sequence[TabularProc]) -> tuple[ReadRows, TabularFrame]:
        """Returns the reader with procs that learn from the training rows, and what these become.

        Args:
            to: the training rows, with the names of the columns.
            procs: in their order; they learn in place.
        """
        given = list(to.cat_names), list(to.cont_names)
        to = TabularFrame(to.frame, *given, to.y_names, to.numbers)
        for proc in procs:
            proc.setups(to)
            proc.encodes_training(to)
        reader = cls(*given, [proc.to_plain() for proc in procs], to.cat_names, to.cont_names)
        reader._learned = list(procs)
        return reader, to

    def process(self, frame: Any) -> TabularFrame:
        """Returns rows as the procs make them."""
        to = TabularFrame(frame, self.cat_names, self.cont_names)
        for proc in self._procs:
            proc.encodes(to)
        return self._checked(to)

    def process_training(self, frame: Any, y_names: Sequence[str], numbers: npt.NDArray[np.int64]) -> TabularFrame:
        """Returns rows of those that the procs learned from, or learned from some of, as the procs make them.

        Args:
            frame: the rows.
            y_names: the columns to predict.
            numbers: which of all training rows they are, int64 (n,).

        Raises:
            ConfigError: the reader is not the one that `fitted` returned: what is for training alone is in no file.
        """
        if len(self._learned) < len(self.procs):
            raise ConfigError(
                "training rows are prepared by the reader that learned from them, and this one is another"
            )
        to = TabularFrame(frame, self.cat_names, self.cont_names, y_names, numbers)
        for proc in self._learned:
            proc.encodes_training(to)
        return self._checked(to)

    def _checked(self, to: TabularFrame) -> TabularFrame:
        if (to.cat_names, to.cont_names) != (self.seen_cats, self.seen_conts):
            raise ConfigError(
                f"the procs make {to!r} of new rows and made others of the training rows: cat_names={self.seen_cats}, "
                f"cont_names={self.seen_conts}; which columns there are must not depend on the rows"
            )
        return to

    def undo(self, to: TabularFrame) -> TabularFrame:
        """Returns rows with what can be undone undone."""
        for proc in reversed(self._procs):
            proc.decodes(to)
        return to

    def read(self, items: Any, targets: Sequence[Pipeline] = ()) -> RowData:
        """Returns new rows as samples, with targets where their pipelines are given.

        Raises:
            DataError: a column is missing, or holds what the training rows did not.
        """
        frame = as_frame(items)
        if not len(frame):
            raise DataError("no rows: the table is empty")
        ys = [target_tensor(pipeline, frame) for pipeline in targets]
        return RowData(tensors_of(self.process(frame)), ys, pipelines=[Pipeline([self]), *targets], frame=frame)

    def encodes(self, x: object) -> Any:
        """Returns a row as codes (categorical columns,) and numbers (continuous columns,)."""
        if isinstance(x, TabularRow):
            return x
        rows = tensors_of(self.process(as_frame(x if hasattr(x, "iloc") else [x])))
        return TabularRow(rows.cats[0], rows.conts[0])

    def decodes(self, x: TabularRow) -> Any:
        """Returns the row as a dict from column to value."""
        return self.frame_of(TabularRow(x.cats[None], x.conts[None])).iloc[0].to_dict()

    def frame_of(self, rows: TabularRow) -> Any:
        """Returns a batch of rows as a data frame."""
        import pandas as pd

        cats, conts = self.seen_cats, self.seen_conts
        columns = {name: rows.cats[:, i].cpu().numpy() for i, name in enumerate(cats)}
        columns |= {name: rows.conts[:, i].double().cpu().numpy() for i, name in enumerate(conts)}
        to = self.undo(TabularFrame(pd.DataFrame(columns), cats, conts))
        return to.frame[[*to.cat_names, *to.cont_names]]

    def column_facts(self, frame: Any, rows: TabularRow, targets: Sequence[Pipeline] = ()) -> ColumnFacts:
        """Returns what each column of rows holds, as they came; of columns that procs made, as these undo them.

        Args:
            frame: the rows.
            rows: the same, as samples.
            targets: the pipelines of their targets.
        """
        made = self.frame_of(rows)
        # Undone, what is missing and what training did not have are one.
        sources = {name: made[name].where(made[name].notna(), NA) for name in made if name not in frame.columns}
        sources |= {name: frame[name] for name in [*self.cat_names, *self.cont_names]}
        facts: ColumnFacts = {}
        for name, column in sources.items():
            is_number = name in self.cont_names or (name in self.seen_conts and name not in self.cat_names)
            facts[f"input: {name}"] = _facts(column, is_number=is_number, classes=self.classes.get(name))
        for pipeline in targets:
            are_numbers = any(isinstance(tfm, RegressionSetup) for tfm in pipeline.tfms)
            vocab = next((tfm.vocab for tfm in pipeline.tfms if hasattr(tfm, "vocab")), None)
            for name in columns_of(pipeline):
                facts[f"target: {name}"] = _facts(
                    frame[name], is_number=are_numbers, classes=None if vocab is None else [NA, *vocab]
                )
        return facts

    @property
    def classes(self) -> dict[str, list[Any]]:
        """The categories of each categorical column that the model sees, where `Categorify` learned them."""
        known = {name: found for p in self._procs if isinstance(p, Categorify) for name, found in p.classes.items()}
        return {name: known[name] for name in self.seen_cats if name in known}

    @property
    def text_columns(self) -> list[str]:
        """Columns whose categories are text, though a file may have what looks like numbers: "007"."""
        known = self.classes
        return [
            name for name in self.cat_names if known.get(name, [])[1:] and all(isinstance(c, str) for c in known[name])
        ]


def _facts(column: Any, *, is_number: bool, classes: list[Any] | None) -> dict[str, list[Any]]:
    """Returns the kind of a column, its values with None for what is missing, and how many categories it has, `NA` aside."""
    values = [None if missing(value) else value for value in column.tolist()]
    if is_number:
        return {"kind": ["numbers"], "value": [None if value is None else float(value) for value in values]}
    known = {} if classes is None else {"categories": [len(classes) - 1]}
    counted = [
        Counter(map(str, value))
        if isinstance(value, list | tuple | np.ndarray)
        else None
        if value is None
        else str(value)
        for value in values
    ]
    return {"kind": ["categories"], **known, "value": counted}


def tensors_of(to: TabularFrame) -> TabularRow:
    """Returns the columns of rows that the procs are through with.

    Raises:
        DataError: a category is no number yet, or a number is missing or infinite; names the column and the row.
    """
    cats = torch.empty(len(to), len(to.cat_names), dtype=torch.int64)
    for place, name in enumerate(to.cat_names):
        cats[:, place] = torch.from_numpy(_codes(to, name))
    conts = torch.empty(len(to), len(to.cont_names), dtype=torch.float32)
    for place, name in enumerate(to.cont_names):
        conts[:, place] = torch.from_numpy(_numbers(to, name))
    return TabularRow(cats, conts)


def _codes(to: TabularFrame, name: str) -> Any:
    column = to[name]
    if getattr(column.dtype, "kind", "O") not in "iub" or column.isna().any() or (len(column) and column.min() < 0):
        raise DataError(
            f"column {name!r} ({column.dtype}) is in cat_names and holds no numbers of categories; add Categorify to procs"
        )
    return np.array(column, dtype=np.int64)


def _numbers(to: TabularFrame, name: str) -> Any:
    numbers = numbers_of(to, name)
    lacking = np.flatnonzero(np.isnan(numbers))
    if len(lacking):
        raise RowError(
            f"column {name!r} has no number in",
            lacking[0],
            f" ({len(lacking):,} such row(s)); add FillMissing to procs",
        )
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    require_finite(name, numbers)
    return numbers
