"""Logs of a run as files: one JSON object a line for programs, a CSV table of the epochs for people."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dist_ai.callbacks.recorder import Recorder
from dist_ai.callbacks.run_writer import RunWriter

__all__ = ["RunLog"]


class RunLog(RunWriter):
    """Writes ``log.jsonl`` (steps, epochs, commands from outside) and ``metrics.csv`` (epochs) to the run directory, on rank 0.

    A resumed run first cuts from them what lies after the checkpoint, so no step stands there twice.
    """

    def open(self, folder: Path) -> None:
        """Cuts from the log what lies after where the recorder stands."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        if not path.exists():
            return
        kept, epochs = [], 0
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a kill cut short
            epochs += entry["kind"] == "epoch"
            if (
                (entry["kind"] == "step" and entry["step"] < self.num_steps)
                or (entry["kind"] == "epoch" and epochs <= self.num_epochs)
                or (entry["kind"] == "command" and entry["step"] <= self.num_steps)
            ):
                kept.append(line + "\n")
        temporary = path.with_name(".log.jsonl.partial")
        temporary.write_text("".join(kept))
        temporary.replace(path)

    def write_steps(self, recorder: Recorder, steps: range) -> None:
        """Appends a line a step."""
        self._append(
            {"kind": "step", "fit": recorder.fit, "step": i, "loss": recorder.losses[i], "lr": recorder.lrs[i]}
            for i in steps
        )

    def write_epochs(self, recorder: Recorder, rows: list[dict[str, Any]]) -> None:
        """Appends a line an epoch, and writes the table anew."""
        self._append({"kind": "epoch", **row} for row in rows)
        temporary = self._folder / ".metrics.csv.partial"
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["fit", *recorder.names], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(recorder.epochs)
        temporary.replace(self._folder / "metrics.csv")

    def write_command(self, step: int, facts: dict[str, Any]) -> None:
        """Appends a line for a command from outside, done before training step `step`, counted over all fits."""
        if self._active:
            self._append([{"kind": "command", "step": step, **facts}])

    def _append(self, entries: Iterable[dict[str, Any]]) -> None:
        with (self._folder / "log.jsonl").open("a") as file:
            file.write("".join(map(_line, entries)))


def _line(entry: dict[str, Any]) -> str:
    # JSON has no NaN: a missing number is null, so that any reader can read the line.
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(plain) + "\n"
