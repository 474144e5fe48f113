"""Ends a fit that does not get better any more."""

from __future__ import annotations

from typing import Any, ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.event import CancelFit
from dist_ai.callbacks.monitor import Monitor
from dist_ai.core.names import known_arguments
from dist_ai.errors import ConfigError

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Ends the fit after `patience` validations in a row that were no better than the best (fastai's EarlyStoppingCallback).

    Args:
        monitor: a column of the epoch's row: ``"valid_loss"``, ``"train_loss"`` or a metric's name.
        patience: validations without a better value that end the fit.
        min_delta: a value is better only if it is so by more than this.
        lower: whether less is better; by default what the name tells.

    Every fit begins anew; one that is resumed goes on counting. The weights are those of the last step: `SaveBest` gives
    those of the best.

    Raises:
        ConfigError: `patience` is not 1 or more; when a fit begins: there is no such column.

    >>> EarlyStopping("accuracy", patience=3)
    EarlyStopping('accuracy', patience=3)
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after the Recorder, which is attached first
    cancels_alike: ClassVar[bool] = True

    @known_arguments()
    def __init__(
        self, monitor: str = "valid_loss", patience: int = 1, *, min_delta: float = 0.0, lower: bool | None = None
    ) -> None:
        if patience < 1:
            raise ConfigError(f"EarlyStopping(patience={patience}): expected 1 or more")
        self.monitor = Monitor(monitor, lower=lower, min_delta=min_delta)
        self.patience = patience

    def before_fit(self) -> None:
        """Begins to count; a fit that was stopped, and killed before its end was written, stops again."""
        self.monitor.begin(self.learn)
        self._stop_if_it_is_time()

    def after_validate(self) -> None:
        """Judges a validation in the middle of an epoch."""
        if self.state.mid_epoch:
            self._judge()

    def after_epoch(self) -> None:
        """Judges the epoch."""
        self._judge()

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value and the count."""
        return self.monitor.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.monitor.load_state(state)

    def __repr__(self) -> str:
        return f"EarlyStopping({self.monitor.name!r}, patience={self.patience})"

    def _judge(self) -> None:
        if self.monitor.look() is False:
            self._stop_if_it_is_time()

    def _stop_if_it_is_time(self) -> None:
        if self.monitor.num_worse >= self.patience:
            raise CancelFit
