"""What a data block does to a source, step by step, in words: the first thing to read when something does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Pipeline
from dist_ai.data.collate import collate
from dist_ai.errors import DataError

if TYPE_CHECKING:
    from dist_ai.data.block import DataBlock
    from dist_ai.data.datasets import Datasets, Subset

__all__ = ["Report", "describe"]


def describe(value: Any) -> str:
    """Returns what a value is in a few words: types, dtypes and shapes.

    >>> describe((torch.zeros(3, 4), "cat", 7))
    "(Tensor float32 (3, 4), 'cat', 7)"
    """
    if isinstance(value, torch.Tensor):
        name, dtype = type(value).__name__, str(value.dtype).removeprefix("torch.")
        return f"{name} {value.item()}" if value.dim() == 0 else f"{name} {dtype} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape}"
    if hasattr(value, "mode") and hasattr(value, "getbands"):  # Pillow's, which text need not import
        return f"{value.mode} image of {value.width} x {value.height}"
    if isinstance(value, tuple):
        return f"({', '.join(map(describe, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list) and len(value) > 6:
        return f"list of {len(value)}, such as {describe(value[0])}"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


class Report:
    """The steps of a data block on one training sample and one batch; its `str` is for reading.

    Args:
        block: the data block.
        source: what it is applied to.
        bs: samples in the batch.

    Attributes:
        lines: one or more a step.
        failed: whether a step did; the last lines say which one, on what, and why.
    """

    def __init__(self, block: DataBlock, source: Any, bs: int) -> None:
        self.lines: list[str] = []
        self.failed = False
        try:
            self._walk(block, source, bs)
        except _Failed:
            self.failed = True

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def _walk(self, block: DataBlock, source: Any, bs: int) -> None:
        get_items = "" if block.get_items is None else f" by {_name(block.get_items)}"
        self._step(f"Items{get_items}", lambda: block.items(source), lambda items: f"{len(items)} items")
        datasets: Datasets = self._step(
            f"Split by {_name(block.splitter)}, set up on the training part",
            lambda: block.datasets(source),
            lambda made: made.in_words(),
        )
        subset, item_tfms = datasets.train, Pipeline(block.all_item_tfms)
        self.lines += ["", f"One training sample, made from {subset.item(0)!r:.200}"]
        sample = []
        for k, pipeline in enumerate(datasets.pipelines):
            kind = f"input {k}" if k < block.num_inputs else f"target {k - block.num_inputs}"
            self.lines.append(f"  {kind}")
            sample.append(self._through(pipeline, subset.item(0), None, "    "))
        if len(item_tfms):
            self.lines.append("  item transforms")
            self._through(item_tfms, tuple(sample), _draw(0).at("item_tfms"), "    ")
        self._batch(block, datasets, item_tfms, min(bs, len(subset)))

    def _batch(self, block: DataBlock, datasets: Datasets, item_tfms: Pipeline, bs: int) -> None:
        subset = datasets.train
        self.lines += ["", f"A batch of {bs} training samples"]
        samples = [
            self._step(
                f"  sample {i} ({subset.item(i)!r:.200})",
                partial(_sample, subset, item_tfms, i),
                None,
            )
            for i in range(bs)
        ]
        try:
            batch = (block.collate or collate)(samples)
        except DataError as error:
            self.lines.append(f"  collate -> FAILED: {error}")
            self.lines += [f"    {describe(sample)} from {subset.item(i)!r:.200}" for i, sample in enumerate(samples)]
            raise _Failed from error
        self.lines.append(f"  collate -> {describe(batch)}")
        self._through(Pipeline(block.all_batch_tfms), batch, _draw(range(bs)).at("batch_tfms"), "  ")

    def _through(self, pipeline: Pipeline, x: Any, draw: Draw | None, indent: str) -> Any:
        if not len(pipeline):
            self.lines.append(f"{indent}-> {describe(x)}")
        for place, tfm in enumerate(pipeline.tfms):
            if tfm.split_idx in (None, 0):
                at = draw and draw.at(f"{place}:{type(tfm).__name__}")
                x = self._step(f"{indent}{tfm!r:.90}", partial(tfm, x, at), describe)
        return x

    def _step(self, name: str, run: Callable[[], Any], shown: Callable[[Any], str] | None) -> Any:
        try:
            result = run()
        except Exception as error:
            what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            self.lines.append(f"{name} -> FAILED: {what}")
            raise _Failed from error
        if shown is not None:
            self.lines.append(f"{name} -> {shown(result)}")
        return result


class _Failed(Exception):
    """A step failed; the report says which."""


def _sample(subset: Subset, item_tfms: Pipeline, index: int) -> Any:
    return item_tfms(subset[index], _draw(index).at("item_tfms"), split_idx=0)


def _draw(samples: int | Sequence[int]) -> Draw:
    return Draw(seed=0, epoch=0, samples=samples)


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
