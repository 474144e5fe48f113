"""Rows of Parquet files that do not fit into memory, prepared batch by batch as `TabularPandas` prepares a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dist_ai.core.transform import Pipeline
from dist_ai.core.types import TabularRow
from dist_ai.data.block import TransformBlock
from dist_ai.data.frames import TabularFrame, frame_of, rows_of, with_categories
from dist_ai.data.parquet import ParquetData
from dist_ai.data.plan import Order
from dist_ai.data.procs import Proc, as_procs
from dist_ai.data.rows import ColumnFacts, ReadRows, tensors_of
from dist_ai.data.targets import target_pipeline, target_tensor
from dist_ai.errors import ConfigError

__all__ = ["RowStream"]


class RowStream:
    """Samples of Parquet files: a `TabularRow`, and the targets, made when a batch is fetched.

    Args:
        data: the files, with the columns that are needed and no others.
        reader: the input transform.
        targets: the targets' pipelines.
        y_names: the columns to predict.
        split_idx: 0 for training samples, 1 for others.

    A row is prepared alike in any batch, so on any number of ranks: what of it goes by the row, such as the fold that
    `TargetEncode` leaves out, goes by its number in the files.
    """

    by_element = True

    def __init__(
        self, data: ParquetData, reader: ReadRows, targets: Sequence[Pipeline], y_names: Sequence[str], split_idx: int
    ) -> None:
        self.data, self.reader, self.targets = data, reader, list(targets)
        self.y_names, self.split_idx = list(y_names), split_idx

    @classmethod
    def fitted(
        cls,
        data: ParquetData,
        procs: Iterable[Proc] | Proc,
        cat_names: Sequence[str],
        cont_names: Sequence[str],
        y_names: Sequence[str],
        y_block: TransformBlock | Callable[[], TransformBlock] | None = None,
        *,
        fit_rows: int = 1_000_000,
    ) -> RowStream:
        """Returns training samples whose procs have learned from `fit_rows` rows, of row groups all over the files.

        What these rows do not have, such as a rare category, counts as unknown. The other arguments are `TabularPandas`'s.
        """
        rows = data.rows_all_over(fit_rows)
        frame = with_categories(frame_of(data.take(rows)), data.categories)
        with rows_of(rows):
            targets = [target_pipeline(frame, y_names, y_block)] if y_names else []
            reader, prepared = ReadRows.fitted(
                TabularFrame(frame, cat_names, cont_names, y_names, rows), as_procs(procs)
            )
            tensors_of(prepared)  # raises now what is wrong with a column
        return cls(data, reader, targets, y_names, 0)

    def new(self, data: ParquetData) -> RowStream:
        """Returns validation samples of other files, prepared alike.

        Raises:
            ConfigError: a file is one of the training files too.
        """
        if shared := self.data.files_shared_with(data):
            raise ConfigError(
                f"{shared[0]} is among the files for training and among those for validation ({len(shared)} such file(s)); "
                "validate with others, or without"
            )
        return RowStream(data, self.reader, self.targets, self.y_names, 1)

    @property
    def pipelines(self) -> list[Pipeline]:
        """The pipelines of the input and of the targets."""
        return [Pipeline([self.reader]), *self.targets]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        row, *ys = self.fetch(torch.tensor([index]))
        return (TabularRow(row.cats[0], row.conts[0]), *(y[0] for y in ys))

    def item(self, index: int) -> Any:
        """Returns a row, for messages."""
        return self.data.item(index)

    def column_facts(self, indices: Sequence[int]) -> ColumnFacts:
        """Returns what the columns of these samples hold."""
        rows, *_ = self.fetch(torch.tensor(indices))
        return self.reader.column_facts(frame_of(self.data.take(np.asarray(indices))), rows, self.targets)

    def fetch(self, indices: torch.Tensor) -> tuple[Any, ...]:
        """Returns the batch of these samples."""
        rows = indices.numpy().astype(np.int64)
        frame = frame_of(self.data.take(rows))
        with rows_of(rows):
            ys = [target_tensor(pipeline, frame) for pipeline in self.targets]
            return (tensors_of(self._prepared(frame, rows)), *ys)

    def _prepared(self, frame: Any, rows: npt.NDArray[np.int64]) -> TabularFrame:
        if self.split_idx == 0:
            return self.reader.process_training(frame, self.y_names, rows)
        return self.reader.process(frame)

    def expect(self, indices: torch.Tensor) -> None:
        """Begins to read what these rows will need."""
        self.data.expect(indices)

    def loading_order(self, shuffle: bool) -> Order | None:
        """Returns the order in which the files are read best."""
        return self.data.loading_order(shuffle)
