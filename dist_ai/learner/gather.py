"""Collects predictions over all ranks, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.core.nested import map_tensors
from dist_ai.losses import sample_losses

__all__ = ["GatherPreds"]


class GatherPreds(Callback):
    """Keeps what a validation predicts on this rank; `result` puts the ranks' parts together.

    Args:
        loss_func: for the loss of each sample.
        with_loss: whether to compute it.
    """

    phase: ClassVar[Phase] = Phase.RECORD
    may_cancel: ClassVar[bool] = False

    def __init__(self, loss_func: Callable[..., torch.Tensor], *, with_loss: bool) -> None:
        self.loss_func = loss_func
        self.with_loss = with_loss
        self._indices: list[torch.Tensor] = []
        self._rows: dict[str, list[Any]] = {"pred": [], "target": [], "loss": []}

    def after_batch(self) -> None:
        """Keeps the batch's rows that count."""
        state, share = self.state, self.state.share
        if share is None or state.pred is None:
            return
        count = share.num_local
        self._indices.append(torch.from_numpy(share.keys[:count]))
        self._rows["pred"].append(map_tensors(lambda t: t[:count].detach().cpu(), state.pred))
        if state.yb:
            targets = tuple(y[:count].cpu() for y in state.yb)
            self._rows["target"].append(targets[0] if len(targets) == 1 else targets)
            if self.with_loss:
                rows = [map_tensors(lambda t: t[:count], value) for value in (state.pred, *state.yb)]
                self._rows["loss"].append(sample_losses(self.loss_func, *rows).detach().cpu())

    def result(self) -> tuple[Any, Any, torch.Tensor | None]:
        """Returns raw predictions, targets and losses of all samples, in order. Collective."""
        collectives = self.learn.collectives
        order = collectives.all_gather_rows(torch.cat(self._indices), what="indices").argsort()

        def of_all(name: str) -> Any:
            parts = self._rows[name]
            gathered = partial(collectives.all_gather_rows, what=name)
            return map_tensors(lambda rows: gathered(rows)[order], _joined(parts)) if parts else None

        return of_all("pred"), of_all("target"), of_all("loss")


def _joined(parts: list[Any]) -> Any:
    """Returns the batches' rows one after the other; each batch has the same structure of tensors."""
    columns: list[list[torch.Tensor]] = []
    for part in parts:
        columns.append([])
        map_tensors(columns[-1].append, part)
    joined = iter([torch.cat(rows) for rows in zip(*columns, strict=True)])
    return map_tensors(lambda _: next(joined), parts[0])
