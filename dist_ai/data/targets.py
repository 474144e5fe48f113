"""Targets of a whole table: what `CategoryBlock` and the others do of one item, for all rows of some columns at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dist_ai.core.transform import Pipeline
from dist_ai.core.types import TensorMultiCategory, TensorRegression
from dist_ai.data.block import CategoryBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from dist_ai.data.frames import RowError, TabularFrame, numbers_of, require_finite
from dist_ai.data.getters import ColReader
from dist_ai.data.transforms import Categorize, EncodedMultiCategorize, RegressionSetup, in_order
from dist_ai.errors import ConfigError, DataError

__all__ = [
    "block_of",
    "block_of_columns",
    "block_of_lists",
    "columns_of",
    "kind_of",
    "target_names",
    "target_pipeline",
    "target_tensor",
]


def block_of(frame: Any, y_names: Sequence[str]) -> TransformBlock:
    """Returns what the targets are, where nobody says: numbers, one class, or a yes or no for each of several columns.

    The whole numbers 0 and 1 alone are yes and no; of one column, two classes.

    Raises:
        ConfigError: several columns that are neither all numbers nor all yes and no.
    """
    to = TabularFrame(frame)
    kinds = {_kind(to[name]) for name in y_names}
    if len(y_names) > 1 and kinds <= {"yes or no"}:
        return MultiCategoryBlock(encoded=True, vocab=list(y_names))
    if kinds <= {"numbers", "yes or no"} and "numbers" in kinds:
        return RegressionBlock(len(y_names))
    if len(y_names) > 1:
        raise ConfigError(
            f"y_names={list(y_names)}: several targets need to be all numbers, or all yes and no (0 and 1); "
            "give y_block to say what they are"
        )
    return CategoryBlock()


def kind_of(column: Any) -> str:
    """Returns what a column holds, by its values where its type says nothing: a database's decimals come as objects.

    "yes or no", "whole numbers", "numbers" (also those that are no plain ones: durations, complex) or "others".

    >>> import pandas as pd
    >>> [kind_of(pd.Series(values, dtype=object)) for values in ([None, 3], [0.5, 3], [True], ["3"])]
    ['whole numbers', 'numbers', 'yes or no', 'others']
    """
    import pandas as pd

    return _KINDS.get(pd.api.types.infer_dtype(column, skipna=True), "others")


def block_of_lists(targets: Iterable[Any]) -> TransformBlock:
    """Returns what targets are that are lists: several numbers, or several classes if the first that is not empty has words.

    >>> [type(tfm).__name__ for tfm in block_of_lists([[], ["wet", "cold"]]).type_tfms]
    ['MultiCategorize', 'OneHotEncode']
    """
    first = next((each for each in targets if isinstance(each, list | tuple | np.ndarray) and len(each)), ())
    if not len(first) or any(isinstance(each, str) for each in first):
        return MultiCategoryBlock()
    return RegressionBlock(len(first))


def block_of_columns(targets: Iterable[Sequence[Any]], columns: Sequence[Any]) -> TransformBlock:
    """Returns what targets are that are read from several columns: a yes or no for each, or what `block_of_lists` says.

    Args:
        targets: the values of each row; read until one is neither 0 nor 1. Fractions (0.0 and 1.0) are numbers, as of tables.
        columns: their names, which are the labels.

    >>> block_of_columns([[1, 0], [0, 1]], ["wet", "cold"]).type_tfms[0].vocab
    ['wet', 'cold']
    """
    read: list[Sequence[Any]] = []
    for each in targets:
        read.append(each)
        if not all(isinstance(value, bool | int | np.bool_ | np.integer) and value in (0, 1) for value in each):
            return block_of_lists(read)
    return MultiCategoryBlock(encoded=True, vocab=map(str, columns))


def target_pipeline(
    train: Any, y_names: Sequence[str], y_block: TransformBlock | Callable[[], TransformBlock] | None
) -> Pipeline:
    """Returns the pipeline of the targets, which has learned from the training rows.

    The classes of an ordered categorical column are its categories in their order; those that no training row has too.

    Raises:
        DataError: a target is missing, no number or beyond float32, or all rows are of one class.
    """
    block = block_of(train, y_names) if y_block is None else y_block
    block = block if isinstance(block, TransformBlock) else block()
    if len(y_names) == 1 and any(isinstance(tfm, EncodedMultiCategorize) for tfm in block.type_tfms):
        raise ConfigError(
            f"y_names={list(y_names)} is one column, and its block takes a yes or no in a column for each label"
        )
    reader = ColReader(y_names[0] if len(y_names) == 1 else list(y_names))
    learning = Pipeline(block.type_tfms)
    if _of_numbers(learning):
        learning.setup([_numbers(train, y_names)[0].tolist()])
        if isinstance(numbers := learning.tfms[0], RegressionSetup) and len(y_names) > 1:
            learning = Pipeline([replace(numbers, names=list(y_names))])
    else:
        first = learning.tfms[0] if len(learning) and len(y_names) == 1 else None
        learns = isinstance(first, Categorize) and first.learns_classes
        learning.setup(_different(_values(train, y_names)))
        _require_classes(learning, y_names)
        if isinstance(first, Categorize) and learns:
            learning = Pipeline([_in_their_order(first, train[y_names[0]]), *learning.tfms[1:]])
    return Pipeline([reader, *learning.tfms])


def columns_of(pipeline: Pipeline) -> list[str]:
    """Returns the columns that a pipeline which `target_pipeline` returned makes the targets of."""
    reader = pipeline.tfms[0]
    assert isinstance(reader, ColReader)
    return [str(name) for name in ([reader.cols] if isinstance(reader.cols, str | int) else reader.cols)]


def target_names(pipeline: Pipeline, size: int) -> list[str]:
    """Returns what the numbers of a target are called: its columns, or the labels of which each is there or not.

    Args:
        pipeline: the target's, which `target_pipeline` returned.
        size: how many numbers it has.
    """
    columns, labels = columns_of(pipeline), next((t.vocab for t in pipeline.tfms if hasattr(t, "vocab")), None)
    if len(columns) == size:
        return columns
    if labels is not None and len(labels) == size:
        return [f"{columns[0]} {label}" for label in labels]
    return [f"{columns[0]} {place}" for place in range(size)]


def target_tensor(pipeline: Pipeline, frame: Any) -> torch.Tensor:
    """Returns the targets of all rows, as the pipeline makes them of each.

    Raises:
        DataError: the table has no such column, or a target is missing or unknown; names it.
    """
    y_names = columns_of(pipeline)
    rest = Pipeline(pipeline.tfms[1:])
    if _of_numbers(rest):
        numbers = _numbers(frame, y_names)
        values = torch.from_numpy(numbers[:, 0].copy() if len(y_names) == 1 else numbers)
        if isinstance(rest.tfms[0], RegressionSetup):
            return TensorRegression(values)
        for row in np.unique(numbers, axis=0):  # few, if they are yes and no
            rest(row)
        return TensorMultiCategory(values)
    given = _values(frame, y_names)
    try:
        first: dict[Any, int] = {}
        places = [first.setdefault(value, len(first)) for value in given]
    except TypeError:  # lists of labels
        return torch.stack([rest(value) for value in given])
    return torch.stack([rest(value) for value in first])[torch.tensor(places)]


# By the words of `pandas.api.types.infer_dtype`.
_KINDS = {"boolean": "yes or no", "integer": "whole numbers"} | dict.fromkeys(
    ("floating", "mixed-integer-float", "decimal", "complex", "timedelta", "timedelta64"), "numbers"
)


def _kind(column: Any) -> str:
    kind = kind_of(column)
    if kind == "whole numbers":
        return "yes or no" if column.isin([0, 1]).all() else "numbers"
    return kind


def _of_numbers(pipeline: Pipeline) -> bool:
    return [type(tfm) for tfm in pipeline.tfms] in ([RegressionSetup], [EncodedMultiCategorize])


def _numbers(frame: Any, y_names: Sequence[str]) -> Any:
    """Returns the targets as float32 (rows, columns); raises `DataError` where one is missing or infinite."""
    to = TabularFrame(frame)
    columns = []
    for name in y_names:
        numbers = numbers_of(to, name)
        _require_all(name, np.isnan(numbers))
        require_finite(name, numbers)
        with np.errstate(over="ignore"):
            columns.append(numbers.astype(np.float32))
        for row in np.flatnonzero(np.isinf(columns[-1]))[:1]:
            raise RowError(
                f"the target {name!r} is {numbers[row]:g} in",
                row,
                ", which is beyond float32 (3.4e38); scale it, such as by its logarithm",
            )
    return np.stack(columns, 1)


def _values(frame: Any, y_names: Sequence[str]) -> list[Any]:
    """Returns the targets as Python's values; raises `DataError` where one is missing."""
    to = TabularFrame(frame)
    for name in y_names:
        _require_all(name, to[name].isna().to_numpy())
    if len(y_names) == 1:
        return frame[y_names[0]].tolist()
    return list(zip(*(frame[name].tolist() for name in y_names), strict=True))


def _in_their_order(tfm: Categorize, column: Any) -> Categorize:
    """Returns the transform with all classes of an ordered categorical column, as it has them of a table's rows elsewhere."""
    known = (
        (column.dtype.categories.tolist(), bool(column.dtype.ordered)) if hasattr(column.dtype, "categories") else None
    )
    ordered = in_order(known, sort=tfm.sort)
    return tfm if ordered is None else replace(tfm, vocab=ordered)


def _require_all(name: str, lacking: Any) -> None:
    if lacking.any():
        row = int(np.flatnonzero(lacking)[0])
        raise RowError(
            f"the target {name!r} is missing in",
            row,
            f" ({int(lacking.sum()):,} such row(s)); fill it, or leave the rows out",
        )


def _different(values: list[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(values))
    except TypeError:  # lists of labels
        return values


def _require_classes(pipeline: Pipeline, y_names: Sequence[str]) -> None:
    vocab = next((found for tfm in pipeline.tfms if (found := getattr(tfm, "vocab", None))), None)
    if vocab is not None and len(vocab) == 1:
        raise DataError(
            f"all training rows have the class {vocab[0]!r} in {', '.join(y_names)}; a model needs two or more to tell apart"
        )
