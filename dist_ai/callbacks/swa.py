"""Evaluates with the mean of the weights along the last part of a fit."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from dist_ai.callbacks.average import WeightAverage, check_not_averaged, refresh_batch_norm
from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError

__all__ = ["SWA"]


class SWA(Callback):
    """Stochastic weight averaging (Izmailov et al., arXiv:1803.05407): the mean of the weights at several moments.

    From the share `start` of the fit on, the weights at the end of each epoch, or after every so many steps, count into a
    plain mean. It is in the model from the end of an epoch's training until the next training batch, and after the fit; the
    next fit trains on from it. The learning rate should not have fallen by then: train with `fit`, or a cyclical rate. A fit
    that ends with an error keeps the weights of its last step.

    BatchNorm layers get the statistics of the mean, by a pass over the training data without gradients (about a third of an
    epoch) before each validation from `start` on; before one in the middle of an epoch, their running statistics are averaged
    instead.

    Args:
        start: share of the fit that is trained before, 0 to 1.
        every: steps from one set of weights to the next; by default an epoch's.
        update_bn: whether BatchNorm layers get statistics of their own.

    Raises:
        ConfigError: `start` is no share or `every` not 1 or more; when a fit begins: the optimizer averages too.
        UnknownLengthError: in a fit: it is not known how much of it is done.

    >>> SWA(start=0.5)
    SWA(start=0.5)
    """

    phase: ClassVar[Phase] = Phase.PREPARE  # the mean is there before others look at the weights
    may_cancel: ClassVar[bool] = False

    def __init__(self, start: float = 0.75, *, every: int | None = None, update_bn: bool = True) -> None:
        if not 0 <= start < 1:
            raise ConfigError(f"SWA(start={start}): expected a share of the fit, at least 0 and less than 1")
        if every is not None and every < 1:
            raise ConfigError(f"SWA(every={every}): expected 1 step or more")
        self.start, self.every, self.update_bn = start, every, update_bn
        self.average = WeightAverage()

    def before_fit(self) -> None:
        """Checks that the fit can be averaged."""
        check_not_averaged(self.learn, "SWA")
        _ = self.state.pct_train  # as what cannot be known does

    def before_batch(self) -> None:
        """Puts the weights to train with back."""
        if self.state.training:
            self.average.put_out(self.learn.model)

    def after_step(self) -> None:
        """Takes in the weights, if it is time by count."""
        if self.every is not None and (self.state.train_step + 1) % self.every == 0:
            self._add()

    def after_train(self) -> None:
        """Takes in the weights of the epoch's end."""
        if self.every is None:
            self._add()

    def before_validate(self) -> None:
        """Puts the mean in the model."""
        if self.state.fitting:
            self._put_in()

    def after_epoch(self) -> None:
        """Puts the mean in the model, if there was no validation."""
        self._put_in()

    def after_fit(self) -> None:
        """Leaves the mean in the model, if the fit ended well."""
        move = self.average.put_in if self.state.exception is None else self.average.put_out
        move(self.learn.model)
        self.average.forget()

    def state_dict(self) -> dict[str, Any]:
        """Returns the mean, and the weights that are put aside for it."""
        return self.average.state()

    def state_layout(self) -> dict[str, torch.Tensor]:
        """Returns the sharded parameters: their means lie as they do."""
        return self.average.layout(self.learn.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.average.load_state(state, self.learn.model)

    def __repr__(self) -> str:
        return f"SWA(start={self.start})"

    def _add(self) -> None:
        state = self.state
        total = state.total_steps
        done = state.pct_train if total is None else (state.steps_before + state.next_step) / max(1, total)
        if done >= self.start:  # with the step that has just ended
            self.average.add(self.learn.model, 1 / (self.average.num + 1))

    def _put_in(self) -> None:
        if self.average.num and not self.average.is_in:
            self.average.put_in(self.learn.model)
            if self.update_bn and not self.state.mid_epoch:
                refresh_batch_norm(self.learn)
