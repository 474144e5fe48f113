"""What came of a search: a table, and which trial was the best."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_ai.errors import ConfigError

__all__ = ["Results", "TrialResult"]


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """One trial.

    Attributes:
        name: also of its folder in the search's run directory.
        config: its parameters.
        state: "ended", "stopped" (early) or "failed".
        epochs: how many rows it reported.
        value: the best value of the metric in them; NaN if there is none.
        run_dir: where its log and checkpoints are.
        error: why it failed; "" if it did not.
    """

    name: str
    config: dict[str, Any]
    state: str
    epochs: int
    value: float
    run_dir: Path
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Results:
    """All trials of a search, in the order they were drawn.

    Attributes:
        metric: the column they were compared by.
        lower: whether less of it is better.
        trials: what came of each.
    """

    metric: str
    lower: bool
    trials: list[TrialResult] = field(default_factory=list)

    @property
    def best(self) -> TrialResult:
        """The trial with the best value of the metric in any of its epochs; one that failed only if all did.

        Raises:
            ConfigError: no trial has a value.
        """
        found = [trial for trial in self.ranked() if not math.isnan(trial.value)]
        if not found:
            raise ConfigError(f"no trial has a value of {self.metric!r}")
        return found[0]

    def ranked(self) -> list[TrialResult]:
        """Returns the trials, the best first, then those that failed, and those without a value last."""
        sign = 1.0 if self.lower else -1.0
        return sorted(self.trials, key=lambda each: (math.isnan(each.value), each.state == "failed", sign * each.value))

    def table(self) -> str:
        """Returns the trials as lines of text, the best first."""
        rows = [self._head(), *(self._row(each, "{:.6g}") for each in self.ranked())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def csv(self) -> str:
        """Returns the trials as CSV, in the order they were drawn."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._head())
        writer.writerows(self._row(each, "{!r}") for each in self.trials)
        return text.getvalue()

    def _head(self) -> list[str]:
        return ["trial", *(self.trials[0].config if self.trials else ()), self.metric, "epochs", "state"]

    def _row(self, trial: TrialResult, number: str) -> list[str]:
        values = [number.format(v) if isinstance(v, float) else str(v) for v in (*trial.config.values(), trial.value)]
        return [trial.name, *values, str(trial.epochs), trial.state]
