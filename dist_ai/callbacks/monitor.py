"""Follows one column of the epochs' rows: what several callbacks decide by."""

from __future__ import annotations

import math
from typing import Any

from dist_ai.callbacks.callback import Trainer
from dist_ai.callbacks.recorder import Recorder
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.metrics import lower_is_better

__all__ = ["Monitor"]


class Monitor:
    """Follows a metric from validation to validation. It is reduced over the ranks, so all of them see the same.

    Args:
        name: a column of the epoch's row: ``"valid_loss"``, ``"train_loss"`` or a metric's name.
        lower: whether less is better; by default what the name tells.
        min_delta: a value counts as better only if it is better by more than this.

    Attributes:
        value: the newest value; NaN before the first.
        best: the best value of this fit; NaN before the first.
        num_worse: values since the best.
    """

    def __init__(self, name: str, *, lower: bool | None = None, min_delta: float = 0.0) -> None:
        if min_delta < 0:
            raise ConfigError(f"min_delta={min_delta}: expected 0 or more; `lower` says which way is better")
        self.name, self.min_delta = name, min_delta
        self.lower = lower_is_better(name) if lower is None else lower
        self._fit = 0
        self._forget()

    def begin(self, learn: Trainer) -> None:
        """Begins a fit, or goes on with one that was resumed.

        Raises:
            ConfigError: there will be no such column.
        """
        recorder: Recorder | None = learn.callbacks.find(Recorder)
        if recorder is None:
            raise ConfigError(f"monitor={self.name!r}: the learner's Recorder, which takes it down, was removed")
        names = [name for name in recorder.names if name not in ("epoch", "samples_per_s", "time")]
        if self.name not in names:
            raise ConfigError(
                f"monitor={self.name!r} is no column of the epoch's row{did_you_mean(self.name, names)}; "
                f"there are {', '.join(names)}"
            )
        if self.name != "train_loss" and learn.dls.valid is None:
            raise ConfigError(
                f"monitor={self.name!r}: there is no validation data to compute it on; give DataLoaders(train, valid), or "
                "monitor='train_loss'"
            )
        self._recorder, self._num_rows = recorder, len(recorder.epochs)
        if self._fit != recorder.fit:
            self._fit = recorder.fit
            self._forget()

    def look(self) -> bool | None:
        """Returns whether the newest value is the best so far; None if there is no new one. NaN is never better."""
        if len(self._recorder.epochs) == self._num_rows:
            return None
        self._num_rows = len(self._recorder.epochs)
        self.value = self._recorder.epochs[-1].get(self.name, math.nan)
        better = self._is_better(self.value)
        if better:
            self.best, self.num_worse = self.value, 0
        else:
            self.num_worse += 1
        return better

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold, as plain data."""
        return {"fit": self._fit, "best": None if math.isnan(self.best) else self.best, "num_worse": self.num_worse}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        self._fit, self.num_worse = state["fit"], state["num_worse"]
        self.best = math.nan if state["best"] is None else state["best"]

    def _is_better(self, value: float) -> bool:
        if math.isnan(value) or math.isnan(self.best):
            return not math.isnan(value)
        return value < self.best - self.min_delta if self.lower else value > self.best + self.min_delta

    def _forget(self) -> None:
        self.value = self.best = math.nan
        self.num_worse = 0
