"""Takes down losses, hyper-parameters and metrics, without waiting for the device at any step."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.metrics import Mean, Metric, reduce_metrics

__all__ = ["Recorder"]


class Recorder(Callback):
    """Records the loss of every training step and the metrics of every epoch, equal on every number of ranks.

    A step's loss stays on the device, and on each rank, until `flush_every` steps have gathered: then they are added
    over the ranks in one exchange and read in one go.

    Args:
        metrics: computed in validation.
        flush_every: steps between readings.

    Attributes:
        losses: mean loss of each global batch so far, over all fits; up to the last flush.
        lrs: learning rate of the last parameter group at each of those steps.
        sizes: samples of each of those batches.
        epochs: one dict for each epoch: fit, epoch, train_loss, valid_loss, each metric, samples_per_s, time (seconds).
        final: (valid_loss, *metrics) of the last validation.
    """

    phase: ClassVar[Phase] = Phase.RECORD
    may_cancel: ClassVar[bool] = False

    def __init__(self, metrics: list[Metric], *, flush_every: int = 50) -> None:
        self.valid_loss = Mean(lambda loss, _: loss, "valid_loss")
        self.metrics = metrics
        self.flush_every = flush_every
        self.losses: list[float] = []
        self.lrs: list[float] = []
        self.sizes: list[int] = []
        self.epochs: list[dict[str, Any]] = []
        self.final: list[float] = []
        self.fit = 0
        self._pending: list[torch.Tensor] = []
        self._epoch_began = 0
        self._spent = 0.0
        self._train_seconds = 0.0

    @property
    def names(self) -> list[str]:
        """The columns of an epoch's row."""
        return ["epoch", "train_loss", "valid_loss", *(metric.name for metric in self.metrics), "samples_per_s", "time"]

    @property
    def smooth_loss(self) -> float:
        """Exponential moving average of the flushed losses (factor 0.98, debiased); NaN before the first."""
        recent = self.losses[-200:]
        weights = [0.98 ** (len(recent) - 1 - i) for i in range(len(recent))]
        return sum(w * loss for w, loss in zip(weights, recent, strict=True)) / sum(weights) if recent else float("nan")

    def before_fit(self) -> None:
        """Forgets what an interrupted fit left unread."""
        self._drop_pending()
        self._epoch_began = min(self._epoch_began, len(self.losses))

    def before_train(self) -> None:
        """Starts the epoch's clock."""
        self._began = time.perf_counter()

    def after_batch(self) -> None:
        """Takes down the batch."""
        state = self.state
        if state.share is None or state.loss is None:
            return
        if not state.training:
            self.valid_loss.update(state.loss, None, state.share.num_local)
            for metric in self.metrics:
                metric.update(state.pred, state.yb if len(state.yb) > 1 else state.yb[0], state.share.num_local)
            return
        self._pending.append(
            state.loss.detach() * state.share.weight if state.share.weight != 1 else state.loss.detach()
        )
        self.lrs.append(self.learn.opt.get_hyper("lr")[-1])
        self.sizes.append(state.share.num_global)
        if len(self._pending) >= self.flush_every:
            self.flush()

    def after_train(self) -> None:
        """Reads the epoch's remaining losses."""
        self.flush()
        self._train_seconds = time.perf_counter() - self._began + self._spent

    def before_validate(self) -> None:
        """Starts the metrics over."""
        for metric in (self.valid_loss, *self.metrics):
            metric.reset()

    def after_validate(self) -> None:
        """Computes the metrics over all ranks."""
        self.final = reduce_metrics([self.valid_loss, *self.metrics], self.learn.collectives)

    def after_epoch(self) -> None:
        """Writes the epoch's row."""
        sizes, losses = self.sizes[self._epoch_began :], self.losses[self._epoch_began :]
        total = sum(sizes)
        self.epochs.append(
            {
                "fit": self.fit,
                "epoch": self.state.epoch,
                "train_loss": sum(s * loss for s, loss in zip(sizes, losses, strict=True)) / total
                if total
                else float("nan"),
                "valid_loss": self.final[0] if self.final else float("nan"),
                **dict(zip((metric.name for metric in self.metrics), self.final[1:], strict=False)),
                "samples_per_s": total / self._train_seconds if self._train_seconds else float("nan"),
                "time": time.perf_counter() - self._began + self._spent,
            }
        )
        self._epoch_began, self._spent = len(self.losses), 0.0

    def flush(self) -> None:
        """Reads the losses that wait on the device, over all ranks. Collective."""
        if self._pending:
            waiting = torch.stack(self._pending).double()
            self.losses += self.learn.collectives.all_reduce(waiting, what="losses").tolist()
            self._pending = []

    def plain_state(self) -> dict[str, Any]:
        """Returns what was recorded; collective."""
        self.flush()
        running = hasattr(self, "_began")
        return {
            "losses": self.losses,
            "lrs": self.lrs,
            "sizes": self.sizes,
            "epochs": self.epochs,
            "final": self.final,
            "epoch_began": self._epoch_began,
            "spent": time.perf_counter() - self._began + self._spent if running else 0.0,
        }

    def load_plain_state(self, state: dict[str, Any]) -> None:
        """Restores what was recorded."""
        self.losses, self.lrs, self.sizes = list(state["losses"]), list(state["lrs"]), list(state["sizes"])
        self.epochs, self.final = list(state["epochs"]), list(state["final"])
        self._epoch_began, self._spent = state["epoch_began"], state["spent"]
        self._pending = []

    def _drop_pending(self) -> None:
        self._pending = []
        del self.lrs[len(self.losses) :], self.sizes[len(self.losses) :]
