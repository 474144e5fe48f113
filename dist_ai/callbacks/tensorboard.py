"""TensorBoard events of a run. The one file that knows TensorBoard."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Writes loss and learning rate per step, metrics and samples/s per epoch, and a picture of predictions.

    Rank 0 writes to ``<run directory>/tensorboard``; look with ``tensorboard --logdir <run directory>``. A resumed run
    takes back what was written after its checkpoint (`purge_step`), so curves do not zig-zag.

    Args:
        pictures: whether to draw predictions at the end of a fit.
    """

    phase: ClassVar[Phase] = Phase.REPORT
    may_cancel: ClassVar[bool] = False

    def __init__(self, *, pictures: bool = True) -> None:
        self.pictures = pictures
        self._writer: SummaryWriter | None = None
        self._active = False

    def before_fit(self) -> None:
        """Opens the events file."""
        self._recorder: Recorder = self.learn.callbacks.find(Recorder)
        self._steps, self._epochs = len(self._recorder.losses), len(self._recorder.epochs)
        self._active = self.learn.collectives.world.is_main and self.learn.run_dir is not None
        if self._active and self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = Path(self.learn.run_dir or "") / "tensorboard"
            self._writer = SummaryWriter(str(folder), purge_step=self._steps)
            # One file for all fits of this process: TensorBoard takes the order of several from their names, which
            # tell only the second. It is flushed after every fit, and closed with the callback.
            weakref.finalize(self, self._writer.close)

    def after_batch(self) -> None:
        """Writes the steps that were read from the device since the last time."""
        if self._active and len(self._recorder.losses) > self._steps:
            self._write_steps()

    def after_train(self) -> None:
        """Writes the epoch's last steps."""
        if self._active:
            self._write_steps()

    def after_epoch(self) -> None:
        """Writes the epoch's metrics, at the step they were measured after."""
        if not self._active:
            return
        assert self._writer is not None
        for row in self._recorder.epochs[self._epochs :]:
            for name, value in row.items():
                if name not in ("fit", "epoch"):
                    self._writer.add_scalar(_TAGS.get(name, f"metrics/{name}"), value, self._steps)
        self._epochs = len(self._recorder.epochs)
        self._writer.flush()

    def after_fit(self) -> None:
        """Writes the last steps and, if the fit went well, draws the predictions."""
        if not self._active:
            return
        self._active = False
        assert self._writer is not None
        try:
            self._write_steps()
            if self.pictures and self.state.exception is None:
                self._draw(self._writer)
        finally:
            self._writer.flush()

    def _draw(self, writer: SummaryWriter) -> None:
        try:
            figure: Any = self.learn.show_results()
            if figure is not None:
                writer.add_figure("predictions", figure, self._steps)
        except Exception as error:  # a picture must not cost the fit whose end is not saved yet
            warnings.warn(f"no picture of predictions: {type(error).__name__}: {error}", stacklevel=2)

    def _write_steps(self) -> None:
        recorder, writer = self._recorder, self._writer
        assert writer is not None
        for step in range(self._steps, len(recorder.losses)):
            writer.add_scalar("loss/train_step", recorder.losses[step], step)
            writer.add_scalar("learning_rate", recorder.lrs[step], step)
        self._steps = len(recorder.losses)


_TAGS = {
    "train_loss": "loss/train",
    "valid_loss": "loss/valid",
    "samples_per_s": "throughput/samples_per_s",
    "time": "time/epoch_s",
}
