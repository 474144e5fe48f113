"""What the writers to a run directory share: who writes, and what has not been written yet."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder

__all__ = ["RunWriter"]


class RunWriter(Callback):
    """Base of the callbacks that write what the recorder reads to the run directory, on rank 0, during fits.

    It writes when the recorder has read something from the device, so it never waits for the device itself. A validation
    on its own is not part of a run and is not written.

    Attributes:
        num_steps, num_epochs, num_scalars: how many of the recorder's steps, epochs and scalars are written.
    """

    phase: ClassVar[Phase] = Phase.REPORT
    may_cancel: ClassVar[bool] = False

    def __init__(self) -> None:
        self._active = False
        self.num_steps = self.num_epochs = self.num_scalars = 0

    @abstractmethod
    def open(self, folder: Path) -> None:
        """Begins a fit: brings the files in `folder` to `num_steps` and `num_epochs`."""

    @abstractmethod
    def write_steps(self, recorder: Recorder, steps: range) -> None:
        """Writes these steps."""

    @abstractmethod
    def write_epochs(self, recorder: Recorder, rows: list[dict[str, Any]]) -> None:
        """Writes these rows of `recorder.epochs`, once the steps of their epochs are written."""

    def write_scalars(self, scalars: list[tuple[int, str, float]]) -> None:
        """Writes what callbacks have measured beside, if there is a place for it; see `Recorder.scalars`."""

    def close(self) -> None:
        """Ends a fit, however it ended."""

    def before_fit(self) -> None:
        """Begins where the recorder stands."""
        self._recorder: Recorder = self.learn.callbacks.find(Recorder)
        if self.learn.collectives.world.is_main and self.learn.run_dir is not None:
            self._active = True
            self.num_steps, self.num_epochs = len(self._recorder.losses), len(self._recorder.epochs)
            self.num_scalars = len(self._recorder.scalars)
            self.open(self.learn.run_dir)

    def after_batch(self) -> None:
        """Writes the steps that were read from the device since the last time."""
        self._write_steps()

    def after_train(self) -> None:
        """Writes the epoch's last steps."""
        self._write_steps()

    def after_validate(self) -> None:
        """Writes the row of a validation in the middle of an epoch."""
        self._write_rows()

    def after_epoch(self) -> None:
        """Writes the epoch's row."""
        self._write_rows()

    def after_fit(self) -> None:
        """Writes the last steps of a fit that was cut short."""
        if self._active:
            self._active = False
            try:
                self._write_steps(ending=True)
            finally:
                self.close()

    def state_dict(self) -> dict[str, Any]:
        """Writes what the recorder has just read for a checkpoint: a run that goes on from it does not write it again."""
        self._write_steps()
        return {}

    def _write_rows(self) -> None:
        if self._active and (rows := self._recorder.epochs[self.num_epochs :]):
            self._write_steps()
            self.write_epochs(self._recorder, rows)
            self.num_epochs = len(self._recorder.epochs)

    def _write_steps(self, *, ending: bool = False) -> None:
        if (self._active or ending) and (num_read := len(self._recorder.losses)) > self.num_steps:
            self.write_steps(self._recorder, range(self.num_steps, num_read))
            self.num_steps = num_read
        if (self._active or ending) and (scalars := self._recorder.scalars[self.num_scalars :]):
            self.write_scalars(scalars)
            self.num_scalars += len(scalars)
