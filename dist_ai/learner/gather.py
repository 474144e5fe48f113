"""Collects predictions over all ranks, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch.nn import functional as F

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.core.nested import map_tensors
from dist_ai.losses import sample_losses

__all__ = ["GatherPreds", "Predictions"]


class Predictions(NamedTuple):
    """What a model made of samples, in their order, on the CPU: a row a sample.

    Attributes:
        raw: its output.
        targets: None where there are none.
        losses: (samples,), and None where they were not asked for.
        inputs: what it was given, and None where they were not asked for.
    """

    raw: Any
    targets: Any
    losses: torch.Tensor | None
    inputs: Any


class GatherPreds(Callback):
    """Keeps what a validation predicts on this rank; `result` puts the ranks' parts together.

    Args:
        loss_func: for the loss of each sample.
        with_loss: whether to compute it.
        with_input: whether to keep what the model is given.
    """

    phase: ClassVar[Phase] = Phase.RECORD
    may_cancel: ClassVar[bool] = False

    def __init__(self, loss_func: Callable[..., torch.Tensor], *, with_loss: bool, with_input: bool = False) -> None:
        self.loss_func = loss_func
        self.with_loss, self.with_input = with_loss, with_input
        self._indices: list[torch.Tensor] = []
        self._rows: dict[str, list[Any]] = {"pred": [], "target": [], "loss": [], "input": []}

    def after_batch(self) -> None:
        """Keeps the batch's rows that count."""
        state, share = self.state, self.state.share
        if share is None or state.pred is None:
            return
        count = share.num_local
        self._indices.append(torch.from_numpy(share.keys[:count]))
        self._rows["pred"].append(map_tensors(lambda t: t[:count].detach().cpu(), state.pred))
        if self.with_input:
            inputs = map_tensors(lambda t: t[:count].cpu(), state.xb)
            self._rows["input"].append(inputs[0] if len(inputs) == 1 else inputs)
        if state.yb:
            targets = tuple(y[:count].cpu() for y in state.yb)
            self._rows["target"].append(targets[0] if len(targets) == 1 else targets)
            if self.with_loss:
                rows = [map_tensors(lambda t: t[:count], value) for value in (state.pred, *state.yb)]
                self._rows["loss"].append(sample_losses(self.loss_func, *rows).detach().cpu())

    def result(self) -> Predictions:
        """Returns what was kept of all samples, in order. Collective."""
        collectives = self.learn.data_collectives
        order = collectives.all_gather_rows(torch.cat(self._indices), what="indices").argsort()

        def of_all(name: str) -> Any:
            parts = self._rows[name]
            if not parts:
                return None
            joined = _joined(parts)
            if any(each.dim() > 1 for each in _tensors(joined)):
                joined = self._as_wide_on_all_ranks(joined, name)
            gathered = partial(collectives.all_gather_rows, what=name)
            return map_tensors(lambda rows: gathered(rows)[order], joined)

        return Predictions(of_all("pred"), of_all("target"), of_all("loss"), of_all("input"))

    def _as_wide_on_all_ranks(self, joined: Any, name: str) -> Any:
        """Returns rows filled up to the shape of the longest on any rank: how much a batch was padded is its rank's affair."""
        shapes = [size for each in _tensors(joined) for size in each.shape[1:]]
        agreed = self.learn.data_collectives.all_reduce(torch.tensor(shapes, dtype=torch.float64), "max", what=name)
        sizes = iter(agreed.long().tolist())
        return map_tensors(lambda rows: _filled(rows, [next(sizes) for _ in rows.shape[1:]]), joined)


def _joined(parts: list[Any]) -> Any:
    """Returns the batches' rows one after the other; each batch has the same structure of tensors."""
    columns = [_tensors(part) for part in parts]
    joined = iter([torch.cat(_as_wide(rows)) for rows in zip(*columns, strict=True)])
    return map_tensors(lambda _: next(joined), parts[0])


def _tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tensors(found.append, value)
    return found


def _as_wide(batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Returns batches whose rows have the shape of the longest, zeros behind them."""
    shapes = {each.shape[1:] for each in batches}
    if len(shapes) == 1:
        return list(batches)
    sizes = [max(each) for each in zip(*shapes, strict=True)]
    return [_filled(each, sizes) for each in batches]


def _filled(rows: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Returns rows of these sizes, zeros behind what there is."""
    # F.pad counts from the last dimension, and none of them begins earlier.
    ends = [end for size, there in zip(sizes, rows.shape[1:], strict=True) for end in (size - there, 0)][::-1]
    return F.pad(rows, ends) if any(ends) else rows
