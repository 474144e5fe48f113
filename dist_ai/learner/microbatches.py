"""How the batches of a step are gone through: one by one, each in parts if memory is short, and again if it ran out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from dist_ai.callbacks.auto_microbatch import AutoMicrobatch
from dist_ai.core.nested import is_container, parts, rebuilt
from dist_ai.data.loaders import DataLoaders
from dist_ai.data.plan import Share
from dist_ai.errors import ConfigError
from dist_ai.learner.length import Steps
from dist_ai.learner.weighing import Weighing

__all__ = ["Microbatch", "Microbatches", "cut", "cut_share"]


class Microbatch(NamedTuple):
    """What goes through the model at once.

    Attributes:
        share: which samples this rank has of it.
        batch: those samples.
        step: the step of this epoch that it is part of.
        position: which of the step's it is, from 0.
        is_last: whether the step follows it.
        again: whether its step is done again.
    """

    share: Share
    batch: Any
    step: int
    position: int
    is_last: bool
    again: bool = False


class Microbatches:
    """Goes through the training batches.

    Args:
        steps: how batches make up steps.
        weighing: must know the targets of all of a step before it begins, for some losses.
        auto: says in how many parts; None for whole batches.
        dls: the loaders; that of training may deal its samples out in pairs, which then stay together.
        world_size: number of ranks.

    Attributes:
        redo: set to True to do the step under way again from its first batch.
    """

    def __init__(
        self, steps: Steps, weighing: Weighing, auto: AutoMicrobatch | None, dls: DataLoaders, world_size: int
    ) -> None:
        self._steps, self._weighing, self.auto = steps, weighing, auto
        self._dls, self._world_size = dls, world_size
        self.redo = False

    def of(self, batches: Iterable[tuple[Share, Any]]) -> Iterator[Microbatch]:
        """Yields all batches of an epoch, from wherever `batches` begin."""
        for group in self._groups(batches):
            again = False
            while True:
                self.redo = False
                for micro in self._cut(group, again=again):
                    yield micro
                    if self.redo:
                        break
                if not self.redo:
                    break
                again = True

    def most_parts(self, num_global: int) -> int:
        """Returns into how many parts the shares of a batch can be cut: the most samples that any rank has of it."""
        units = -(-num_global // self._unit)
        return max(1, -(-units // self._world_size))

    @property
    def _unit(self) -> int:
        return 2 if getattr(self._dls.train, "in_pairs", False) else 1

    def _groups(self, batches: Iterable[tuple[Share, Any]]) -> Iterator[list[tuple[Share, Any]]]:
        """Yields the batches: each alone, or those of a step together if they must be there before it begins."""
        weighs = self._weighing.looks_ahead or self.auto is not None
        held: list[tuple[Share, Any]] = []
        for share, batch in batches:
            held.append((share, batch))
            if not weighs or self._ends_step(share):
                if weighs:
                    self._weighing.begin_step(held)
                yield held
                held = []

    def _ends_step(self, share: Share) -> bool:
        return (share.step + 1) % self._steps.batches == 0 or share.step + 1 == self._steps.num_batches

    def _cut(self, group: list[tuple[Share, Any]], *, again: bool) -> Iterator[Microbatch]:
        if self.auto is None:
            for share, batch in group:
                step, index = divmod(share.step, self._steps.batches)
                yield Microbatch(share, batch, step, index, self._ends_step(share))
            return
        index = 0
        for number, (share, batch) in enumerate(group):
            count = min(self.auto.parts, self.most_parts(share.num_global))  # the same on every rank
            for part in range(count):
                piece, rows = cut_share(share, part, count, unit=self._unit)
                is_last = number == len(group) - 1 and part == count - 1
                samples = cut(batch, rows, num_samples=len(share.indices)) if count > 1 else batch
                yield Microbatch(piece, samples, share.step // self._steps.batches, index, is_last, again)
                index += 1


def cut_share(share: Share, part: int, num_parts: int, *, unit: int = 1) -> tuple[Share, slice]:
    """Returns part `part` of a share, and which of its rows that is; one of a rank with fewer samples only runs along.

    Args:
        share: a rank's samples of a batch.
        part: which part, from 0.
        num_parts: of how many.
        unit: samples that stay together.

    >>> ids = np.arange(5)
    >>> five = Share(epoch=0, step=0, indices=ids, positions=ids, keys=ids, num_local=5, num_global=5)
    >>> [cut_share(five, part, 2)[0].indices.tolist() for part in range(2)]
    [[0, 1, 2], [3, 4]]
    """
    num_units = -(-share.num_local // unit)
    size, rest = divmod(num_units, num_parts)
    begin = (part * size + min(part, rest)) * unit
    end = min(begin + (size + (part < rest)) * unit, share.num_local)
    counts = end - begin
    rows = slice(begin, end) if counts > 0 else slice(0, 1)
    return share._replace(
        indices=share.indices[rows], positions=share.positions[rows], keys=share.keys[rows], num_local=max(0, counts)
    ), rows


def cut(batch: Any, rows: slice, *, num_samples: int) -> Any:
    """Returns some rows of a batch: of every tensor, and of every list of one value a sample.

    Raises:
        ConfigError: a tensor has another first dimension than there are samples.

    >>> cut((torch.arange(4), ["a", "b", "c", "d"]), slice(0, 2), num_samples=4)
    (tensor([0, 1]), ['a', 'b'])
    """
    if isinstance(batch, torch.Tensor | np.ndarray):
        if not batch.ndim or len(batch) != num_samples:
            raise ConfigError(
                f"AutoMicrobatch cuts batches along their first dimension, and of {num_samples} samples there is a tensor of "
                f"shape {tuple(batch.shape)}; collate it with the samples first"
            )
        return batch[rows]
    if isinstance(batch, list) and len(batch) == num_samples and not all(map(_is_column(num_samples), batch)):
        return batch[rows]
    if is_container(batch):
        return rebuilt(batch, [cut(each, rows, num_samples=num_samples) for each in parts(batch)])
    return batch


def _is_column(num_samples: int) -> Any:
    return lambda value: isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == num_samples
