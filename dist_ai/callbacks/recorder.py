"""Takes down losses, hyper-parameters and metrics, without waiting for the device at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.curves import draw_loss, draw_metrics, draw_schedule
from dist_ai.callbacks.valid_loss import ValidLoss
from dist_ai.checkpoint import Growing
from dist_ai.errors import ConfigError
from dist_ai.metrics import GatheredMetric, Metric, reduce_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Recorder"]


class Recorder(Callback):
    """Records the loss of every training step and the metrics of every epoch, equal on every number of ranks.

    A step's loss stays on the device, and on each rank, until `flush_every` steps have gathered: then they are added
    over the ranks in one exchange and read in one go.

    Args:
        metrics: computed in validation.
        flush_every: steps between readings, once the first have been made.

    Attributes:
        losses: mean loss of each step so far, over all fits; up to the last flush.
        lrs: learning rate of the last parameter group at each of those steps.
        sizes: samples of each of those steps.
        epochs: one dict for each epoch, or for each validation if there are more: fit (from 1), epoch (from 0), step (steps
            so far), train_loss (since the last), valid_loss, each metric, samples_per_s, time (seconds).
        final: (valid_loss, *metrics) of the last validation.
        scalars: other numbers that callbacks have measured in this process, as (step over all fits, name, value), for logs.
    """

    phase: ClassVar[Phase] = Phase.RECORD
    may_cancel: ClassVar[bool] = False

    def __init__(self, metrics: Sequence[Metric | GatheredMetric], *, flush_every: int = 50) -> None:
        self.valid_loss = ValidLoss()
        self.flush_every = flush_every
        self.losses: list[float] = []
        self.lrs: list[float] = []
        self.sizes: list[int] = []
        self.epochs: list[dict[str, Any]] = []
        self.final: list[float] = []
        self.scalars: list[tuple[int, str, float]] = []
        self.fit = 0
        self._pending: list[torch.Tensor] = []
        self._partial: torch.Tensor | None = None  # what the batches of a step add up to so far
        self._epoch_began = 0
        self._began = time.perf_counter()
        self._spent = 0.0
        self._train_seconds = 0.0
        self._has_warned = False
        self._num_left_out = 0  # steps of this epoch
        self._running = self._cancelled = self._validated = self._row_is_due = False
        self.measure(metrics)

    def measure(self, metrics: Sequence[Metric | GatheredMetric]) -> None:
        """Has validations compute these metrics from now on.

        Raises:
            ConfigError: two have the same name.
        """
        names = _columns(metrics)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(
                f"two columns of the epoch's row are called {twice!r}: {', '.join(names)}; "
                "give one metric another name, as in metrics={'name': metric, ...}"
            )
        self.metrics = metrics

    @property
    def names(self) -> list[str]:
        """The columns of an epoch's row."""
        return _columns(self.metrics)

    @property
    def smooth_loss(self) -> float:
        """Exponential moving average of the flushed losses (factor 0.98, debiased); NaN before the first."""
        recent = self.losses[-200:]
        weights = [0.98 ** (len(recent) - 1 - i) for i in range(len(recent))]
        return sum(w * loss for w, loss in zip(weights, recent, strict=True)) / sum(weights) if recent else float("nan")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Hands a number to the logs that show numbers by name, such as TensorBoard.

        Args:
            name: with slashes between groups, such as ``"activations/0/mean"``.
            value: the number.
            step: counted over all fits; ``len(recorder.sizes) - 1`` is the one that has just ended.
        """
        self.scalars.append((step, name, value))

    def plot_loss(self, *, skip_start: int = 0, smooth: float = 0.98, with_valid: bool = True) -> Figure:
        """Returns a figure of the loss of every step, over all fits, and of each validation's.

        Args:
            skip_start: steps that are left out at the beginning, where the loss is largest.
            smooth: how much of the moving average stays from step to step; 0 for none.
            with_valid: whether to draw the validation loss.

        Raises:
            DataError: there is no step to plot.
        """
        return draw_loss(self.losses, self.epochs, skip_start=skip_start, smooth=smooth, with_valid=with_valid)

    def plot_schedule(self) -> Figure:
        """Returns a figure of the learning rate of every step: the last parameter group's.

        Raises:
            DataError: there is no step to plot.
        """
        return draw_schedule(self.lrs)

    def plot_metrics(self) -> Figure:
        """Returns a figure with a curve of each metric.

        Raises:
            DataError: there are no metrics, or no epochs.
        """
        return draw_metrics(self.epochs, [metric.name for metric in self.metrics])

    def before_fit(self) -> None:
        """Begins to count; what a resumed epoch had counted before is there already."""
        self._running = True

    def before_epoch(self) -> None:
        """Starts the epoch's clock."""
        self._began = time.perf_counter()
        self._train_seconds = 0.0
        self._num_left_out = 0
        self._validated, self._row_is_due = False, True

    def after_cancel_backward(self) -> None:
        """Leaves the batch out; it changed nothing, and not every rank need know its loss."""
        self._cancelled = True

    def after_cancel_step(self) -> None:
        """Leaves the batch out."""
        self._cancelled = True
        self._num_left_out += 1

    def after_cancel_batch(self) -> None:
        """Leaves the batch out."""
        self._cancelled = True

    def after_batch(self) -> None:
        """Takes down the batch, unless it was cancelled."""
        state = self.state
        cancelled, self._cancelled = self._cancelled, False
        if cancelled or state.share is None or state.loss is None:
            self._partial = None
            return
        if not state.training:
            self.valid_loss.update(state.loss, state.loss_parts, state.share.num_local)
            for metric in self.metrics:
                metric.update(state.pred, state.yb if len(state.yb) > 1 else state.yb[0], state.share.num_local)
            return
        weight = state.weight
        loss = state.loss.detach() * weight if weight != 1 else state.loss.detach()
        loss = loss if self._partial is None else self._partial + loss
        if not state.last_microbatch:
            self._partial = loss
            return
        self._partial = None
        self._pending.append(loss)
        self.lrs.append(self.learn.opt.get_hyper("lr")[-1])
        self.sizes.append(state.num_global)
        # The first readings come early (after 1, 2, 4, ... steps): somebody watches how it begins.
        if len(self._pending) >= min(self.flush_every, len(self.losses) + 1):
            self.flush()

    def after_train(self) -> None:
        """Reads the epoch's remaining losses."""
        self.flush()
        self._train_seconds = time.perf_counter() - self._began + self._spent

    def before_validate(self) -> None:
        """Starts the metrics over."""
        if self.state.mid_epoch:
            self.after_train()
        for metric in (self.valid_loss, *self.metrics):
            metric.reset()

    def after_validate(self) -> None:
        """Computes the metrics over all ranks."""
        self.final = reduce_metrics([self.valid_loss, *self.metrics], self.learn.data_collectives)
        self._validated = self.state.fitting
        if self.state.mid_epoch:
            self._write_row()

    def after_epoch(self) -> None:
        """Writes the row of the epoch, or of what came of it since the last validation."""
        self.flush()  # what a cancelled epoch left waiting
        if self._validated or self._row_is_due or len(self.losses) > self._epoch_began:
            self._write_row()

    def _write_row(self) -> None:
        final = self.final if self._validated else []
        sizes, losses = self.sizes[self._epoch_began :], self.losses[self._epoch_began :]
        total = sum(sizes)
        self.epochs.append(
            {
                "fit": self.fit,
                "epoch": self.state.epoch,
                "step": len(self.losses),
                "train_loss": sum(s * loss for s, loss in zip(sizes, losses, strict=True)) / total
                if total
                else float("nan"),
                "valid_loss": final[0] if final else float("nan"),
                **dict(zip((metric.name for metric in self.metrics), final[1:], strict=False)),
                "samples_per_s": total / self._train_seconds if self._train_seconds else float("nan"),
                "time": time.perf_counter() - self._began + self._spent,
            }
        )
        if not total and self._num_left_out:
            self._warn_of_nothing_taken()
        self._epoch_began, self._spent = len(self.losses), 0.0
        self._began, self._validated, self._row_is_due = time.perf_counter(), False, False

    def after_cancel_fit(self) -> None:
        """Reads the losses of the steps before the cancel."""
        self.flush()

    def after_fit(self) -> None:
        """Ends the epoch, however the fit ended: its losses are not part of the next fit's first epoch."""
        self._partial = None
        self._pending = []  # of a fit that an error ended on this rank: the others may not answer
        del self.lrs[len(self.losses) :], self.sizes[len(self.losses) :]
        self._epoch_began, self._spent = len(self.losses), 0.0
        self._running = False

    def flush(self) -> None:
        """Reads the losses that wait on the device, over all ranks. Collective."""
        if self._pending:
            waiting, begin = torch.stack(self._pending).double(), len(self.losses)
            self.losses += self.learn.data_collectives.all_reduce(waiting, what="losses").tolist()
            self._pending = []
            if not self._has_warned:
                self._warn_if_not_finite(begin)

    def _warn_if_not_finite(self, begin: int) -> None:
        """Says once, on rank 0, that the loss is NaN or infinite, unless a callback is there to deal with it."""
        step = next((step for step in range(begin, len(self.losses)) if not math.isfinite(self.losses[step])), None)
        if step is None:
            return
        self._has_warned = True
        if self.learn.collectives.world.is_main and not any(each.handles_nan for each in self.learn.callbacks):
            print(
                f"warning: the loss of step {step} is {self.losses[step]}, and training goes on. What may help: a lower learning "
                "rate (learn.lr_find() suggests one), GradientClip(1.0), inputs and targets without NaN, precision='bf16' "
                "instead of 'fp16'. SkipNaN() leaves such steps out, TerminateOnNaN() ends the fit there",
                flush=True,
            )

    def _warn_of_nothing_taken(self) -> None:
        """Says, on rank 0, why an epoch has no training loss where gradients may overflow."""
        precision = self.learn.precision
        if precision.may_overflow and self.learn.collectives.world.is_main:
            print(
                f"warning: epoch {self.state.epoch} has no train_loss, and nothing was learned: all of its {self._num_left_out} "
                f"step(s) were left out, because gradients overflowed in {precision.name}. The loss is scaled by half as much "
                "after each, so a few at the beginning are usual; longer epochs or precision='bf16' avoid it",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns what was recorded; collective."""
        self.flush()
        return {
            "losses": Growing(self.losses, torch.float64),
            "lrs": Growing(self.lrs, torch.float64),
            "sizes": Growing(self.sizes, torch.int64),
            "epochs": self.epochs,
            "final": self.final,
            "epoch_began": self._epoch_began,
            "spent": time.perf_counter() - self._began + self._spent if self._running else 0.0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what was recorded."""
        self.losses, self.lrs, self.sizes = (state[name].tolist() for name in ("losses", "lrs", "sizes"))
        self.epochs, self.final = list(state["epochs"]), list(state["final"])
        self._epoch_began, self._spent = state["epoch_began"], state["spent"]
        self._pending = []


def _columns(metrics: Sequence[Metric | GatheredMetric]) -> list[str]:
    return ["epoch", "train_loss", "valid_loss", *(metric.name for metric in metrics), "samples_per_s", "time"]
