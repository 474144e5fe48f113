"""Shows a fit's progress: a bar in a terminal or notebook, a line an epoch where the output is a file."""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder

__all__ = ["ProgressBar", "format_row"]

_REFRESH_S = 0.2


class ProgressBar(Callback):
    """Prints a row an epoch with the losses and metrics, and in a terminal a bar for the epoch under way.

    Only rank 0 shows anything. Between refreshes (5 a second) a step costs one look at the clock.

    Args:
        console: where to; by default standard output.
    """

    phase: ClassVar[Phase] = Phase.REPORT
    may_cancel: ClassVar[bool] = False

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Screen(highlight=False)
        self._bar: Progress | None = None
        self._shown = 0
        self._next = 0.0
        self._active = False

    def before_fit(self) -> None:
        """Prints the table's head."""
        self._recorder: Recorder = self.learn.callbacks.find(Recorder)
        self._active = self.learn.collectives.world.is_main
        if not self._active:
            return
        self._shown = len(self._recorder.epochs)
        self.console.print(format_row(self._recorder.names, None), soft_wrap=True)

    def before_train(self) -> None:
        """Starts the training bar."""
        self._start("train", self.state.num_steps, self.state.step)

    def before_validate(self) -> None:
        """Starts the validation bar."""
        self._start("valid", self.state.num_valid_steps, 0)

    def after_batch(self) -> None:
        """Moves the bar, if it is time."""
        if self._bar is None or (now := time.monotonic()) < self._next:
            return
        self._next = now + _REFRESH_S
        self._bar.update(self._task, completed=self.state.step + 1, loss=f"loss {self._recorder.smooth_loss:.4f}")
        self._bar.refresh()

    def after_train(self) -> None:
        """Ends the training bar."""
        self._stop()

    def after_validate(self) -> None:
        """Ends the validation bar, and goes on with the training bar in the middle of an epoch."""
        self._stop()
        if self.state.mid_epoch:
            self._print_rows()
            self._start("train", self.state.num_steps, self.state.next_step)

    def after_epoch(self) -> None:
        """Prints the epoch's row."""
        self._print_rows()

    def _print_rows(self) -> None:
        if not self._active:
            return
        for row in self._recorder.epochs[self._shown :]:
            self.console.print(format_row(self._recorder.names, row), soft_wrap=True)
        self._shown = len(self._recorder.epochs)

    def after_cancel_fit(self) -> None:
        """Says that the fit ends early, and where."""
        if self._active:
            self._stop()
            self.console.print(f"the fit was cancelled in epoch {self.state.epoch}, at step {self.state.step}")

    def after_fit(self) -> None:
        """Clears the bar, on every way out."""
        self._stop()
        self._active = False

    def _start(self, what: str, total: int | None, done: int) -> None:
        self._stop()
        if not (self._active and (self.console.is_terminal or self.console.is_jupyter)):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self.console,
            transient=True,
            auto_refresh=False,  # a refreshing thread would compete with the training for the interpreter
        )
        of = "" if self.state.n_epoch is None else f"/{self.state.n_epoch}"
        label = f"epoch {self.state.epoch + 1}{of} {what}"
        self._task = self._bar.add_task(label, total=total, completed=done, loss="")
        self._bar.start()
        self._next = 0.0

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Screen(Console):
    """A console that goes on in silence when nobody reads it any more (`python train.py | head`); rich's ends the program."""

    def on_broken_pipe(self) -> None:
        """Lets this and all that is printed later go nowhere."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


def format_row(names: list[str], row: dict[str, Any] | None) -> str:
    """Returns a row of the epoch table, or its head if `row` is None.

    >>> format_row(["epoch", "valid_loss"], {"epoch": 0, "valid_loss": 0.25})
    '       0    0.250000'
    """
    cells = []
    for name in names:
        width = max(len(name), 8)
        cells.append(f"{(name if row is None else _format(name, row.get(name))):>{width}}")
    return "  ".join(cells)


def _format(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "epoch":
        return str(value)
    if name == "time":
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes}:{seconds:02d}"
    if name == "samples_per_s":
        return f"{value:,.0f}"
    return f"{value:.6f}"
