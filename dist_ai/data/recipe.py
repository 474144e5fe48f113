"""How an item becomes part of a batch, as one value that can be written to a file.

Training loaders, loaders of new items, exports and the `Predictor` share it, so what a deployed model sees is what the
trained one saw.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch

from dist_ai.core.nested import map_tensors
from dist_ai.core.show import can_be_drawn
from dist_ai.core.transform import Pipeline
from dist_ai.core.types import plain
from dist_ai.data.collate import Collate, collate, collate_from_plain, collate_to_plain, samples_of
from dist_ai.data.datasets import Subset
from dist_ai.data.getters import Getter
from dist_ai.data.table import as_items
from dist_ai.errors import ConfigError, DataError

__all__ = ["SampleRecipe"]


@dataclass
class SampleRecipe:
    """The transforms between an item (a file, a row) and what the model takes.

    Attributes:
        inputs: a pipeline for each input of the model, from the item on.
        targets: a pipeline for each target, from the item on; new items without labels need only their decoding.
        item_tfms: transforms of one sample.
        batch_tfms: transforms of a batch, on the device.
        labels_items: whether the targets can be made from an item, and not only be decoded. After an export, those of a table's
            rows can, whose columns it knows, and others cannot.
        collate: makes a batch of a list of samples. One that is a function is not part of an export, whose samples are stacked.
    """

    inputs: list[Pipeline] = field(default_factory=list)
    targets: list[Pipeline] = field(default_factory=list)
    item_tfms: Pipeline = field(default_factory=Pipeline)
    batch_tfms: Pipeline = field(default_factory=Pipeline)
    labels_items: bool = True
    collate: Collate = collate

    def samples(self, items: Any, *, with_labels: bool = False) -> Any:
        """Returns new items as samples, seen through the validation transforms: a `Subset`, or what an input that reads whole
        tables (`ReadRows`) makes of them at once.

        Args:
            items: a list, or a table of any kind; see `as_items`.
            with_labels: whether they have targets, as the training items do.

        Raises:
            DataError: the targets of an export are only known in one direction, from predictions to labels.
        """
        if with_labels and not self.labels_items:
            raise DataError("how an item gets its label is not part of an export; give items without with_labels")
        if (whole := self.reads_tables) is not None:
            return whole.read(items, self.targets if with_labels else ())
        items = as_items(items)
        return Subset(items, range(len(items)), [*self.inputs, *(self.targets if with_labels else ())], split_idx=1)

    @property
    def reads_tables(self) -> Any:
        """The input transform if it is one that reads whole tables, else None."""
        alone = [tfm for pipeline in self.inputs for tfm in pipeline.tfms]
        return alone[0] if len(alone) == 1 and hasattr(alone[0], "read") and not len(self.item_tfms) else None

    def decode_batch(self, batch: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Returns the samples of a batch, on the CPU, with what can be undone undone.

        Args:
            batch: its elements, inputs before targets, or the first of them; a target may be a decoded prediction of it.

        `batch_tfms` are undone for the batch, the others for each sample: each gets to undo what it made. What can be drawn is
        not undone into what cannot: an image stays one where a transform would go back to its file.
        """
        pipelines = [*self.inputs, *self.targets]
        return [_undone(sample, pipelines) for sample in self._samples(batch)]

    def decode_targets(self, batch: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Returns the targets of each sample of a batch as labels; as `decode_batch`, which undoes the inputs too."""
        n_inp = len(self.inputs)
        return [_undone(sample[n_inp:], self.targets) for sample in self._samples(batch)]

    def as_targets(self, decoded: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns a batch of decoded predictions as what the targets are, one for each that was predicted.

        Args:
            decoded: numbers, or a tuple of them where a model predicts several targets.
            inputs: the batch's inputs: points lie in an image.

        A target's transform says so by its method ``as_target(numbers, inputs)``; see `OpenMask`.
        """
        several = isinstance(decoded, tuple) and len(decoded) == len(self.targets) > 1
        return tuple(
            _as_target(each, pipeline, inputs)
            for each, pipeline in zip_longest(
                decoded if several else (decoded,), self.targets[: len(decoded) if several else 1]
            )
        )

    def _samples(self, batch: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        # In one copy: what belongs to a sample runs where loading runs it, and does not wait for the device each time.
        undone = map_tensors(torch.Tensor.cpu, self.batch_tfms.decode(batch))
        return [self.item_tfms.decode(sample) for sample in samples_of(undone)]

    @property
    def vocab(self) -> list[str]:
        """The classes, from the targets' transforms.

        Raises:
            DataError: no transform of a target has a vocabulary.
        """
        for pipeline in self.targets:
            for tfm in pipeline.tfms:
                if getattr(tfm, "vocab", None):
                    return tfm.vocab  # type: ignore[attr-defined]  # asked for above
        raise DataError(_NO_CLASSES)

    @property
    def reads_text(self) -> bool:
        """Whether an item may be a text itself, because a transform of an input says that it reads texts (`reads_text`)."""
        return any(getattr(tfm, "reads_text", False) for pipeline in self.inputs for tfm in pipeline.tfms)

    @property
    def reads_series(self) -> bool:
        """Whether an item may be a file with a series, because a transform of an input says so (`reads_series`)."""
        return any(getattr(tfm, "reads_series", False) for pipeline in self.inputs for tfm in pipeline.tfms)

    @property
    def writes_text(self) -> bool:
        """Whether a model of these samples continues a text and says nothing of it; a transform of an input tells (`is_lm`)."""
        return any(getattr(tfm, "is_lm", False) for pipeline in self.inputs for tfm in pipeline.tfms)

    @property
    def num_outputs(self) -> int:
        """How many numbers a model gives for a sample, from the targets' transforms: classes, or numbers of a regression.

        Raises:
            DataError: no transform of a target tells.
        """
        for pipeline in self.targets:
            for tfm in pipeline.tfms:
                if getattr(tfm, "num_outputs", None):
                    return tfm.num_outputs  # type: ignore[attr-defined]  # asked for above
        raise DataError(_NO_CLASSES)

    def to_plain(self) -> dict[str, Any]:
        """Returns the recipe as plain data; of the targets, the transforms that can be undone, and of a table's all.

        A `Getter` before an input is left out if what it returns can be told from what it takes: from an export on, the
        model takes what it returns.

        Raises:
            ConfigError: an input transform is a plain function, which a file cannot hold.
        """
        inputs = [
            [tfm for tfm in pipeline.tfms if not (isinstance(tfm, Getter) and tfm.passes_others)]
            for pipeline in self.inputs
        ]
        labels_items, targets = self._targets_to_plain()
        return {
            "inputs": [Pipeline(tfms).to_plain() for tfms in inputs],
            "targets": targets,
            "labels_items": labels_items,
            "item_tfms": self.item_tfms.to_plain(),
            "batch_tfms": self.batch_tfms.to_plain(),
            "collate": collate_to_plain(self.collate),
        }

    def _targets_to_plain(self) -> tuple[bool, list[list[dict[str, Any]]]]:
        """Returns whether the targets of new items can be made from what is written, and that.

        A row has its targets in columns, which their transforms name. What another item's label is made from is code.
        """
        if self.labels_items and self.targets and self.reads_tables is not None:
            with contextlib.suppress(ConfigError):  # a transform of theirs is a function
                return True, [pipeline.to_plain() for pipeline in self.targets]
        undoable = [
            [tfm for tfm in pipeline.tfms if tfm.can_undo or hasattr(tfm, "as_target")] for pipeline in self.targets
        ]
        return False, [Pipeline(tfms).to_plain() for tfms in undoable]

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> SampleRecipe:
        """Returns the recipe that `to_plain` wrote."""
        return cls(
            inputs=[Pipeline.from_plain(each) for each in data["inputs"]],
            targets=[Pipeline.from_plain(each) for each in data["targets"]],
            item_tfms=Pipeline.from_plain(data["item_tfms"]),
            batch_tfms=Pipeline.from_plain(data["batch_tfms"]),
            labels_items=data.get("labels_items", False),
            collate=collate_from_plain(data.get("collate")),
        )


def _as_target(numbers: Any, pipeline: Pipeline | None, inputs: tuple[Any, ...]) -> Any:
    for tfm in pipeline.tfms if pipeline is not None and isinstance(numbers, torch.Tensor) else ():
        if hasattr(tfm, "as_target"):
            return tfm.as_target(plain(numbers), inputs)
    return numbers


def _undone(sample: tuple[Any, ...], pipelines: Sequence[Pipeline]) -> tuple[Any, ...]:
    """Returns the elements of a sample undone, each by its pipeline; those that have none as they are."""
    pairs = zip_longest(sample, pipelines[: len(sample)], fillvalue=Pipeline())
    return tuple(_undone_while_drawn(x, pipeline, sample[0]) for x, pipeline in pairs)


def _undone_while_drawn(x: Any, pipeline: Pipeline, first: Any) -> Any:
    for tfm in reversed(pipeline.tfms):
        undone = tfm.decode(x)
        if can_be_drawn(x, first) and not can_be_drawn(undone, first):
            return x
        x = undone
    return x


_NO_CLASSES = (
    "this data has no classes: no transform of the target has a vocabulary; say how many (n_out), or name them: codes= of "
    "masks, vocab= of a CategoryBlock"
)
