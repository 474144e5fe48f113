"""Lowers the learning rate when a metric stands still."""

from __future__ import annotations

from typing import Any, ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.monitor import Monitor
from dist_ai.callbacks.schedule import ParamScheduler
from dist_ai.core.names import known_arguments
from dist_ai.errors import ConfigError

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(Callback):
    """Multiplies the learning rates by `factor` after `patience` validations in a row that were no better.

    The rate stays lowered for the rest of the fit. It is for `fit`: a schedule sets the rate anew at each step.

    Args:
        monitor: a column of the epoch's row: ``"valid_loss"``, ``"train_loss"`` or a metric's name.
        patience: validations without a better value that lower the rate; the count then begins anew.
        factor: what the rates are multiplied by, as in torch; fastai divides, by 10.
        min_lr: no rate is lowered below it.
        min_delta: a value is better only if it is so by more than this.
        lower: whether less is better; by default what the name tells.

    Raises:
        ConfigError: `patience` is not 1 or more, or `factor` not between 0 and 1; when a fit begins: there is no such column,
            or a schedule sets the learning rate.

    >>> ReduceLROnPlateau(patience=2)
    ReduceLROnPlateau('valid_loss', patience=2, factor=0.1)
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after the Recorder, which is attached first
    may_cancel: ClassVar[bool] = False

    @known_arguments()
    def __init__(
        self,
        monitor: str = "valid_loss",
        patience: int = 1,
        *,
        factor: float = 0.1,
        min_lr: float = 0.0,
        min_delta: float = 0.0,
        lower: bool | None = None,
    ) -> None:
        if patience < 1:
            raise ConfigError(f"ReduceLROnPlateau(patience={patience}): expected 1 or more")
        if not 0 < factor < 1:
            raise ConfigError(
                f"ReduceLROnPlateau(factor={factor}): the rate is multiplied by it; expected between 0 and 1"
            )
        self.monitor = Monitor(monitor, lower=lower, min_delta=min_delta)
        self.patience, self.factor, self.min_lr = patience, factor, min_lr
        self._pardoned = 0  # how many of the validations since the best have had their consequence

    def before_fit(self) -> None:
        """Begins to count."""
        for each in self.learn.callbacks:
            if isinstance(each, ParamScheduler) and "lr" in each.schedules:
                raise ConfigError(
                    "ReduceLROnPlateau would have no effect: a schedule sets the learning rate at every step; use learn.fit()"
                )
        self.monitor.begin(self.learn)
        self._pardoned = min(self._pardoned, self.monitor.num_worse)  # 0 in a new fit

    def after_validate(self) -> None:
        """Judges a validation in the middle of an epoch."""
        if self.state.mid_epoch:
            self._judge()

    def after_epoch(self) -> None:
        """Judges the epoch."""
        self._judge()

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value and the counts; the rates are the optimizer's."""
        return {**self.monitor.state(), "pardoned": self._pardoned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.monitor.load_state(state)
        self._pardoned = state["pardoned"]

    def __repr__(self) -> str:
        return f"ReduceLROnPlateau({self.monitor.name!r}, patience={self.patience}, factor={self.factor})"

    def _judge(self) -> None:
        better = self.monitor.look()
        if better:
            self._pardoned = 0
        elif better is False and self.monitor.num_worse - self._pardoned >= self.patience:
            self._pardoned = self.monitor.num_worse
            opt = self.learn.opt
            opt.set_hyper("lr", [min(lr, max(lr * self.factor, self.min_lr)) for lr in opt.get_hyper("lr")])
