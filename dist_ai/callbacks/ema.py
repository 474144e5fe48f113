"""Evaluates with an exponential moving average of the weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from dist_ai.callbacks.average import WeightAverage, check_not_averaged
from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError

__all__ = ["EMA"]


class EMA(Callback):
    """Validates with an exponential moving average of the weights, and ends the fit with it (Polyak averaging).

    After each step ``average = decay * average + (1 - decay) * weights``. The average is in the model from the end of an
    epoch's training (or a validation in its middle) until the next training batch, and after the fit: so validation, exports
    and the checkpoints of whole epochs have it. The next fit trains on from it. BatchNorm's running statistics are averaged
    alike. A fit that ends with an error keeps the weights of its last step.

    Costs the model's size once more, and one pass over the weights a step. In checkpoints; sharded weights are averaged where
    they lie. In the weights' own dtype: bfloat16 is too coarse for a decay near 1.

    Args:
        decay: how much of the average stays.
        every: steps from one update to the next.
        warmup: begin with a smaller decay, ``(1 + n) / (10 + n)`` at update n, so that the first weights are soon forgotten.

    Raises:
        ConfigError: `decay` is not between 0 and 1 or `every` not 1 or more; when a fit begins: the optimizer averages too.

    >>> EMA(0.99)
    EMA(0.99)
    """

    phase: ClassVar[Phase] = Phase.PREPARE  # the average is there before others look at the weights
    may_cancel: ClassVar[bool] = False

    def __init__(self, decay: float = 0.999, *, every: int = 1, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"EMA(decay={decay}): expected between 0 and 1, such as 0.999")
        if every < 1:
            raise ConfigError(f"EMA(every={every}): expected 1 step or more")
        self.decay, self.every, self.warmup = decay, every, warmup
        self.average = WeightAverage()

    def before_fit(self) -> None:
        """Begins with the weights that are there, unless a resumed fit has an average already."""
        check_not_averaged(self.learn, "EMA")
        if not self.average.num:
            self.average.add(self.learn.model, 1.0)

    def before_batch(self) -> None:
        """Puts the weights to train with back."""
        if self.state.training:
            self.average.put_out(self.learn.model)

    def after_step(self) -> None:
        """Updates the average."""
        if (self.state.train_step + 1) % self.every == 0:
            n = self.average.num
            decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
            self.average.add(self.learn.model, 1 - decay)

    def before_validate(self) -> None:
        """Puts the average in the model."""
        if self.state.fitting:
            self.average.put_in(self.learn.model)

    def after_epoch(self) -> None:
        """Puts the average in the model, if there was no validation."""
        self.average.put_in(self.learn.model)

    def after_fit(self) -> None:
        """Leaves the average in the model, if the fit ended well."""
        move = self.average.put_in if self.state.exception is None else self.average.put_out
        move(self.learn.model)
        self.average.forget()

    def state_dict(self) -> dict[str, Any]:
        """Returns the average, and the weights that are put aside for it."""
        return self.average.state()

    def state_layout(self) -> dict[str, torch.Tensor]:
        """Returns the sharded parameters: their averages lie as they do."""
        return self.average.layout(self.learn.model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.average.load_state(state, self.learn.model)

    def __repr__(self) -> str:
        return f"EMA({self.decay})"
