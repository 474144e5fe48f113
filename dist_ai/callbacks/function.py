"""Callbacks made of a function, for what is too short for a class.

```python
learn.fit(3, cbs=on("after_step", lambda learn: print(learn.state.loss), every=100))

@on("after_epoch")
def report(learn):
    print(learn.recorder.final)

learn.fit(3, cbs=report)
```
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from dist_ai.callbacks.callback import Callback, Phase, Trainer
from dist_ai.callbacks.filters import when

__all__ = ["FunctionCallback", "on"]


class FunctionCallback(Callback):
    """Calls a function of the Learner at one event; `on` makes it."""

    def __init__(self, event: str, function: Callable[[Any], object], filter_: when, phase: Phase) -> None:
        filter_.check(event)
        self.event, self.function, self.filter = event, function, filter_
        self.phase = phase  # type: ignore[misc]  # a class has one for all its instances; here each is its own
        self._name = getattr(function, "__qualname__", repr(function))

    def attach(self, learn: Trainer) -> None:
        """Binds the callback to a Learner."""

        def handler() -> None:
            if self.filter.admits(self.event, learn.state):
                self.function(learn)

        handler.__qualname__ = self._name  # by which errors call it
        setattr(self, self.event, handler)
        super().attach(learn)

    def __repr__(self) -> str:
        return f"on({self.event!r}, {self._name})"


@overload
def on(
    event: str,
    function: Callable[[Any], object],
    *,
    every: int = 1,
    once: int | None = None,
    training: bool | None = None,
    phase: Phase = Phase.CHANGE,
) -> FunctionCallback: ...


@overload
def on(
    event: str,
    function: None = None,
    *,
    every: int = 1,
    once: int | None = None,
    training: bool | None = None,
    phase: Phase = Phase.CHANGE,
) -> Callable[[Callable[[Any], object]], FunctionCallback]: ...


def on(
    event: str,
    function: Callable[[Any], object] | None = None,
    *,
    every: int = 1,
    once: int | None = None,
    training: bool | None = None,
    phase: Phase = Phase.CHANGE,
) -> FunctionCallback | Callable[[Callable[[Any], object]], FunctionCallback]:
    """Returns a callback that calls `function` with the Learner at an event; without `function`, a decorator.

    Args:
        event: its name; see `dist_ai.callbacks.event`.
        function: takes the Learner. It may write to ``learn.state`` and raise a cancel, as any callback.
        every, once, training: when it runs; see `when`.
        phase: among the callbacks of the event.

    Raises:
        ConfigError: there is no such event, or the filter makes no sense for it.

    >>> on("after_step", print, every=10)
    on('after_step', print)
    """
    filter_ = when(every=every, once=once, training=training)
    filter_.check(event)
    if function is None:
        return partial(FunctionCallback, event, filter_=filter_, phase=phase)
    return FunctionCallback(event, function, filter_, phase)
