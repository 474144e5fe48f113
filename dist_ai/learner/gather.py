"""Collects predictions over all ranks, in the order of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
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
        self._positions: list[torch.Tensor] = []
        self._rows: dict[str, list[torch.Tensor]] = {"pred": [], "target": [], "loss": []}

    def after_batch(self) -> None:
        """Keeps the batch's rows that count."""
        state, share = self.state, self.state.share
        if share is None or state.pred is None:
            return
        count = share.num_local
        self._positions.append(torch.from_numpy(share.positions[:count]))
        self._rows["pred"].append(state.pred[:count].detach().cpu())
        if state.yb:
            self._rows["target"].append(state.yb[0][:count].cpu())
            if self.with_loss:
                each = sample_losses(self.loss_func, state.pred[:count], *(y[:count] for y in state.yb))
                self._rows["loss"].append(each.detach().cpu())

    def result(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Returns raw predictions, targets and losses of all samples, in order. Collective."""
        collectives = self.learn.collectives
        positions = collectives.all_gather_rows(torch.cat(self._positions), what="positions")
        order = positions.argsort()
        pred, target, loss = (
            collectives.all_gather_rows(torch.cat(rows), what=name)[order] if rows else None
            for name, rows in self._rows.items()
        )
        assert pred is not None
        return pred, target, loss
