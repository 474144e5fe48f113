"""Logs of a run as files: one JSON object a line for programs, a CSV table of the epochs for people."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder

__all__ = ["RunLog"]


class RunLog(Callback):
    """Writes ``log.jsonl`` (every step and epoch) and ``metrics.csv`` (every epoch) to the run directory, on rank 0.

    A resumed run first cuts from them what lies after the checkpoint, so no step stands there twice.
    """

    phase: ClassVar[Phase] = Phase.REPORT
    may_cancel: ClassVar[bool] = False

    def __init__(self) -> None:
        self._active = False  # until a fit begins: a validation on its own is not part of the run's log

    def before_fit(self) -> None:
        """Brings the files to where the recorder stands."""
        self._recorder: Recorder = self.learn.callbacks.find(Recorder)
        self._active = self.learn.collectives.world.is_main and self.learn.run_dir is not None
        if not self._active:
            return
        self._folder = Path(self.learn.run_dir)  # type: ignore[arg-type]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._steps, self._epochs = len(self._recorder.losses), len(self._recorder.epochs)
        self._cut()

    def after_batch(self) -> None:
        """Writes the steps that were read from the device since the last time."""
        if self._active and self.state.training and len(self._recorder.losses) > self._steps:
            self._write_steps()

    def after_train(self) -> None:
        """Writes the epoch's last steps."""
        if self._active:
            self._write_steps()

    def after_epoch(self) -> None:
        """Writes the epoch's row."""
        if not self._active:
            return
        rows = self._recorder.epochs[self._epochs :]
        self._append("log.jsonl", "".join(_line({"kind": "epoch", **row}) for row in rows))
        self._epochs = len(self._recorder.epochs)
        self._write_table()

    def after_fit(self) -> None:
        """Writes the last steps of a fit that was cut short, and leaves the log to the next one."""
        if self._active:
            self._write_steps()
        self._active = False

    def _write_steps(self) -> None:
        recorder = self._recorder
        lines = [
            _line({"kind": "step", "fit": recorder.fit, "step": i, "loss": recorder.losses[i], "lr": recorder.lrs[i]})
            for i in range(self._steps, len(recorder.losses))
        ]
        self._append("log.jsonl", "".join(lines))
        self._steps = len(recorder.losses)

    def _append(self, name: str, text: str) -> None:
        with (self._folder / name).open("a") as file:
            file.write(text)

    def _write_table(self) -> None:
        columns = ["fit", *self._recorder.names]
        temporary = self._folder / ".metrics.csv.partial"
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self._recorder.epochs)
        temporary.replace(self._folder / "metrics.csv")

    def _cut(self) -> None:
        path = self._folder / "log.jsonl"
        if not path.exists():
            return
        kept, epochs = [], 0
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a kill cut short
            epochs += entry["kind"] == "epoch"
            if (entry["kind"] == "step" and entry["step"] < self._steps) or (
                entry["kind"] == "epoch" and epochs <= self._epochs
            ):
                kept.append(line + "\n")
        temporary = path.with_name(".log.jsonl.partial")
        temporary.write_text("".join(kept))
        temporary.replace(path)


def _line(entry: dict[str, Any]) -> str:
    # JSON has no NaN: a missing number is null, so that any reader can read the line.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(plain) + "\n"
