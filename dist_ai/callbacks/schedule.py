"""Schedules hyper-parameters step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.optimizer.schedules import Schedule

__all__ = ["ParamScheduler"]


class ParamScheduler(Callback):
    """Sets hyper-parameters before each training batch, as a function of how much of the fit is done.

    Args:
        schedules: by hyper-parameter, a schedule for all parameter groups or one for each.

    Raises:
        ConfigError: when a fit begins: the optimizer has no such hyper-parameter, or another number of groups.
        UnknownLengthError: when a fit begins: it is not known how many steps it has.
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def __init__(self, schedules: Mapping[str, Schedule | Sequence[Schedule]]) -> None:
        self.schedules = dict(schedules)

    def before_fit(self) -> None:
        """Sets the values at the beginning, so that what cannot be set shows here."""
        _ = self.state.pct_train  # as what cannot be known does
        self._set(0.0)

    def before_batch(self) -> None:
        """Sets the values of this step."""
        if self.state.training:
            self._set(self.state.pct_train)

    def _set(self, done: float) -> None:
        for name, schedule in self.schedules.items():
            value = schedule(done) if callable(schedule) else [each(done) for each in schedule]
            self.learn.opt.set_hyper(name, value)
