"""When an event's handler runs: at every n-th step, once, in training only.

```python
class Norms(Callback):
    @when(every=100)
    def after_backward(self):
        print(sum(p.grad.norm() for p in self.learn.model.parameters()))
```

A filter counts in the fit's own numbers (steps, epochs) and remembers nothing, so that a resumed run does the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dist_ai.callbacks.event import EVENTS
from dist_ai.callbacks.state import TrainState
from dist_ai.errors import ConfigError, did_you_mean

__all__ = ["Filtered", "Handler", "when"]

Handler = Callable[[Any], object]

_OF_FIT = ("before_fit", "after_fit", "after_cancel_fit")
_OF_EPOCH = tuple(
    f"{moment}_{stage}" for stage in ("epoch", "train", "validate") for moment in ("before", "after", "after_cancel")
)


class when:  # it is written as a decorator
    """Makes a method of a callback run only now and then.

    Args:
        every: at every so many steps of the fit: the 10th, 20th, ... for ``every=10``. In validation, every so many of
            its batches; for events of epochs, epochs.
        once: only at the step (or batch, or epoch) of this number, counted from 1; ``once=True`` is the first.
        training: True for training batches only, False for validation batches only.

    Raises:
        ConfigError: the numbers are not 1 or more, or both are given.

    >>> from dist_ai.callbacks import Callback
    >>> class Hello(Callback):
    ...     @when(every=10, training=True)
    ...     def after_batch(self):
    ...         print("ten more")
    """

    def __init__(self, *, every: int = 1, once: int | None = None, training: bool | None = None) -> None:
        for name, number in (("every", every), ("once", once)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ConfigError(f"{name}={number!r}: expected a whole number, 1 or more")
        if once is not None and every != 1:
            raise ConfigError(f"every={every} and once={once}: give one of them")
        self.every, self.once, self.training = every, once, training

    def __call__(self, method: Handler) -> Filtered:
        """Returns `method` with this filter."""
        return Filtered(method, self)

    def check(self, event: str) -> None:
        """Checks that the filter makes sense for an event.

        Raises:
            ConfigError: there is no such event, or it comes once a fit.
        """
        if event not in EVENTS:
            raise ConfigError(
                f"{event!r} is not an event{did_you_mean(event, EVENTS)}; the events are drawn in dist_ai.callbacks.event"
            )
        if event in _OF_FIT and (self.every, self.once) != (1, None):
            raise ConfigError(f"{event} comes once a fit, so every= and once= have nothing to count; leave them out")
        if self.training is not None and event in (*_OF_FIT, *_OF_EPOCH):
            raise ConfigError(f"{event} is no event of a batch, so training={self.training} says nothing; leave it out")

    def admits(self, event: str, state: TrainState) -> bool:
        """Returns whether the event's handler runs now."""
        if self.training is not None and state.training != self.training:
            return False
        of_batch = state.train_step if state.training else state.step
        number = (state.epoch if event in _OF_EPOCH else of_batch) + 1
        return number == self.once if self.once is not None else number % self.every == 0


class Filtered:
    """A method of a callback that runs only when its filter admits it."""

    def __init__(self, method: Handler, filter_: when) -> None:
        self.method, self.filter = method, filter_
        self.event = method.__name__

    def __set_name__(self, owner: type, name: str) -> None:
        self.event = name

    def __get__(self, callback: Any, owner: type | None = None) -> Any:
        if callback is None:
            return self
        method, filter_, event = self.method, self.filter, self.event
        filter_.check(event)

        @functools.wraps(method)
        def handler() -> None:
            if filter_.admits(event, callback.state):
                method(callback)

        return handler
