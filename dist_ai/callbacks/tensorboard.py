"""TensorBoard events of a run. The one file that knows TensorBoard."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_ai.callbacks.recorder import Recorder
from dist_ai.callbacks.run_writer import RunWriter

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoard"]


class TensorBoard(RunWriter):
    """Writes loss and learning rate per step, metrics and samples/s per epoch, and pictures of data and predictions.

    Rank 0 writes to ``<run directory>/tensorboard``; look with ``tensorboard --logdir <run directory>``. A resumed run
    takes back what was written after its checkpoint (`purge_step`), so curves do not zig-zag.

    Args:
        pictures: whether to draw the first training samples before the first fit, and predictions at the end of each;
            where it is known how to undo the data's transforms.
    """

    def __init__(self, *, pictures: bool = True) -> None:
        super().__init__()
        self.pictures = pictures
        self._writer: SummaryWriter | None = None

    def open(self, folder: Path) -> None:
        """Opens the events file, at the first fit."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=self.num_steps)
            # One file for all fits of this process: TensorBoard takes the order of several from their names, which
            # tell only the second. It is flushed after every fit, and closed with the callback.
            weakref.finalize(self, self._writer.close)
            self._draw("batch", lambda: self.learn.dls.show_batch())

    def write_steps(self, recorder: Recorder, steps: range) -> None:
        """Writes the steps' losses and learning rates."""
        assert self._writer is not None
        for step in steps:
            self._writer.add_scalar("loss/train_step", recorder.losses[step], step)
            self._writer.add_scalar("learning_rate", recorder.lrs[step], step)

    def write_epochs(self, recorder: Recorder, rows: list[dict[str, Any]]) -> None:
        """Writes the epochs' metrics, at the step they were measured after."""
        assert self._writer is not None
        for row in rows:
            for name, value in row.items():
                if name not in ("fit", "epoch", "step"):
                    self._writer.add_scalar(_TAGS.get(name, f"metrics/{name}"), value, self.num_steps)
        self._writer.flush()

    def write_scalars(self, scalars: list[tuple[int, str, float]]) -> None:
        """Writes what callbacks have measured beside."""
        assert self._writer is not None
        for step, name, value in scalars:
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Draws the predictions, if the fit went well."""
        assert self._writer is not None
        try:
            # Not where a forward takes all ranks: only this one is here.
            if self.state.exception is None and not self.learn.strategy.forward_is_collective:
                self._draw("predictions", lambda: self.learn.show_results())
        finally:
            self._writer.flush()

    def _draw(self, what: str, figure: Callable[[], Any]) -> None:
        assert self._writer is not None
        if not self.pictures or not self.learn.dls.has_recipe:
            return
        try:
            self._writer.add_figure(what, figure(), self.num_steps)
        except Exception as error:  # a picture must not cost the fit whose end is not saved yet
            warnings.warn(f"no picture of {what}: {type(error).__name__}: {error}", stacklevel=2)


_TAGS = {
    "train_loss": "loss/train",
    "valid_loss": "loss/valid",
    "samples_per_s": "throughput/samples_per_s",
    "time": "time/epoch_s",
}
