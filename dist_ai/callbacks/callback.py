"""Callbacks: objects with methods named after events.

```python
class StopAtLoss(Callback):
    def after_loss(self):
        if self.state.loss < 0.1:
            raise CancelFit
```

They read and write `self.state` and act on `self.learn`. A method whose name looks like an event and is none
(`before_bacth`) is an error when the callback is attached. `when` makes a method run now and then only; `on` makes a
callback of a function.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
from torch import nn

from dist_ai.callbacks.event import EVENTS, CancelException
from dist_ai.callbacks.state import TrainState
from dist_ai.core.names import missing_attribute, other_words
from dist_ai.data.loaders import DataLoaders
from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.coordination import Decisions
from dist_ai.distributed.strategies import Precision, Strategy
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = ["Callback", "Callbacks", "Phase", "Trainer"]


class Trainer(Protocol):
    """What callbacks use of a Learner."""

    dls: DataLoaders
    model: nn.Module
    loss_func: Callable[..., torch.Tensor]
    opt: AnyOptimizer
    state: TrainState
    callbacks: Callbacks
    collectives: Collectives
    data_collectives: Collectives
    decisions: Decisions
    strategy: Strategy
    precision: Precision
    run_dir: Path | None

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        ...

    def save_checkpoint(self, *, epoch_ended: bool = False) -> None:
        """Begins to write a checkpoint of this moment; collective."""
        ...

    def wait_for_checkpoint(self) -> None:
        """Waits until the checkpoint that is being written is complete, or given up."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Back-propagates a batch's loss as the loop does; see `CancelBackward`."""
        ...

    def get_preds(self, dl: Any = None) -> tuple[Any, ...]:
        """Returns (predictions, targets), also in the middle of a fit. Collective."""
        ...

    def show_results(self, max_n: int = 9) -> Any:
        """Returns a figure of predictions."""
        ...


class Phase(IntEnum):
    """When a callback runs among those of the same event."""

    PREPARE = 10
    """Sets up what the others count on: device, mode, schedule."""
    CHANGE = 20
    """Changes the batch, the loss, the gradients (the default)."""
    RECORD = 30
    """Takes down what came of it."""
    REPORT = 40
    """Shows or writes what was recorded."""
    SAVE = 50
    """Saves the state, last of all."""


class Callback:
    """Base of the callbacks; define methods named after the events of `dist_ai.callbacks.event`.

    Attributes:
        phase: when it runs among the callbacks of one event.
        may_cancel: whether it may raise a cancel. The ranks exchange decisions once more a batch if any may.
        cancels_alike: whether every rank raises the same cancels in the same events, because it decides by what is equal on
            all of them, such as a metric: then nothing need be exchanged.
        exchanges_in: the events of a training batch in which it exchanges with the other ranks: a rank that has cancelled runs
            it there all the same, since the others wait for it.
        handles_nan: whether it deals with losses that are NaN or infinite, so that nobody need be warned of them.
        learn: the Learner it is attached to.
        state: the Learner's training state.
    """

    phase: ClassVar[Phase] = Phase.CHANGE
    may_cancel: ClassVar[bool] = True
    cancels_alike: ClassVar[bool] = False
    exchanges_in: ClassVar[frozenset[str]] = frozenset()
    handles_nan: ClassVar[bool] = False
    learn: Trainer
    state: TrainState

    def attach(self, learn: Trainer) -> None:
        """Binds the callback to a Learner.

        Raises:
            ConfigError: it has a method that looks like an event and is none, or a phase that is none; or it defines what
                other libraries' callbacks do and nothing reads here.
        """
        kind = type(self).__name__
        others, settings = other_words("a callback defines"), other_words("a callback sets")
        for name in dir(type(self)):
            if name in settings and not inspect.isroutine(getattr(type(self), name)):
                raise ConfigError(f"{kind}.{name} is read by nothing; {settings[name]}")
            if name in others:
                raise ConfigError(f"{kind}.{name} is read by nothing; {others[name]}")
        for name in dir(self):
            if name not in EVENTS and _looks_like_an_event(self, name):
                raise ConfigError(
                    f"{kind}.{name} is not an event{did_you_mean(name, EVENTS)}; "
                    "the events are drawn in dist_ai.callbacks.event"
                )
        if not isinstance(self.phase, Phase):
            phases = ", ".join(f"Phase.{phase.name}" for phase in Phase)
            raise ConfigError(f"{kind}.phase is {self.phase!r}; expected one of {phases}")
        self.learn = learn
        self.state = learn.state

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold of this callback, by name: tensors, and plain data for JSON. Collective.

        What only ever gains rows is best given as `dist_ai.checkpoint.Growing`.
        """
        return {}

    def state_layout(self) -> dict[str, torch.Tensor]:
        """Returns live sharded tensors (`DTensor`) by the names in `state_dict`: what is read back lies as they do."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; tensors come on the CPU, or as `state_layout` says."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute


def _looks_like_an_event(callback: Callback, name: str) -> bool:
    if name.startswith(("before_", "after_")):
        return True
    # Another slip of the pen, such as `befor_fit`: a method that nobody would ever call.
    own = not name.startswith("_") and not hasattr(Callback, name)
    return own and bool(difflib.get_close_matches(name, EVENTS, 1, 0.87)) and callable(getattr(callback, name))


class _Handler(NamedTuple):
    """What runs in an event: a callback's method."""

    callback: Callback
    call: Callable[[], None]


class Callbacks:
    """The callbacks of a Learner, in order of phase, and their calls by event.

    Args:
        callbacks: the callbacks.
        learn: the Learner they are attached to.
    """

    def __init__(self, callbacks: Iterable[Callback], learn: Trainer) -> None:
        self._learn = learn
        self._all: list[Callback] = []
        self._handlers: dict[str, list[_Handler]] = {event: [] for event in EVENTS}
        self.add(callbacks)

    def add(self, callbacks: Iterable[Callback]) -> None:
        """Attaches callbacks.

        Raises:
            ConfigError: one of them is no callback, is attached already, or has a method that is no event.
        """
        callbacks = list(callbacks)
        attached = {id(callback) for callback in self._all}
        for callback in callbacks:
            if not isinstance(callback, Callback):
                hint = f"; did you mean {callback.__name__}()?" if isinstance(callback, type) else ""
                raise ConfigError(f"{callback!r} is not a Callback{hint}")
            if id(callback) in attached:
                raise ConfigError(f"{callback!r} is attached already, and would run twice at every event; give it once")
            callback.attach(self._learn)
            attached.add(id(callback))
        self._all += callbacks  # only now: where one of them is refused, none is attached
        self._wire()

    def remove(self, callbacks: Iterable[Callback]) -> None:
        """Detaches callbacks; those that are not attached are passed over."""
        gone = {id(callback) for callback in callbacks}
        self._all = [callback for callback in self._all if id(callback) not in gone]
        self._wire()

    def find(self, kind: type[Callback]) -> Any:
        """Returns the first callback of class `kind`, or None."""
        return next((callback for callback in self._all if isinstance(callback, kind)), None)

    def of_event(self, event: str) -> list[Callback]:
        """Returns the callbacks that do something in an event, in their order."""
        return [handler.callback for handler in self._handlers[event]]

    def __call__(self, event: str, vote: Callable[[CancelException], None] | None = None) -> None:
        """Runs an event's handlers. An error in one says which, in a note, and keeps its traceback.

        Args:
            event: its name.
            vote: takes the cancels that are raised, and the other handlers run all the same; without it, the first
                cancel is raised at once.
        """
        for i, handler in enumerate(self._handlers[event]):
            try:
                try:
                    handler.call()
                except CancelException as cancel:
                    self._check_may_cancel(handler.callback, cancel)
                    cancel.alike = handler.callback.cancels_alike
                    if vote is None:
                        self.exchange(event, i + 1)
                        raise
                    vote(cancel)
            except CancelException:
                raise
            except Exception as error:
                error.add_note(self._place(handler, event))
                raise

    def exchange(self, event: str, begin: int = 0) -> None:
        """Runs those of an event's handlers that exchange there, on a rank that has cancelled; what they cancel is lost.

        Args:
            event: its name.
            begin: the first that has not had its turn.
        """
        for handler in self._handlers[event][begin:]:
            if event in handler.callback.exchanges_in:
                with contextlib.suppress(CancelException):
                    handler.call()

    def finish(self, event: str, error: BaseException | None) -> None:
        """Runs all of an event's handlers, whatever happens in one of them; there is nothing left to cancel.

        Args:
            event: its name.
            error: what ends the fit, if it did not end well. It stays the error that the user sees, and those of the
                handlers become its notes; otherwise the first of theirs is raised.
        """
        first: Exception | None = None
        for handler in self._handlers[event]:
            try:
                handler.call()
            except CancelException:
                pass
            except Exception as failure:
                failure.add_note(self._place(handler, event))
                if error is None:
                    first = error = failure
                else:
                    error.add_note(f"then {type(failure).__name__}: {failure}, {self._place(handler, event)}")
        if first is not None:
            raise first

    def _place(self, handler: _Handler, event: str) -> str:
        state, world = self._learn.state, self._learn.collectives.world
        name = getattr(handler.call, "__qualname__", repr(handler.call))
        return f"raised in {name} (event {event}, epoch {state.epoch}, step {state.step}, rank {world.rank})"

    def _check_may_cancel(self, callback: Callback, cancel: CancelException) -> None:
        if not callback.may_cancel:
            kind = type(callback).__name__
            raise ConfigError(
                f"{kind} raised {type(cancel).__name__}, but says may_cancel = False, so the ranks do not exchange what "
                f"it decides; set {kind}.may_cancel = True"
            ) from cancel

    @property
    def may_cancel(self) -> bool:
        """Whether any of them may raise a cancel on this rank alone."""
        return self._may_cancel

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def _wire(self) -> None:
        self._all.sort(key=lambda callback: callback.phase)
        self._may_cancel = any(each.may_cancel and not each.cancels_alike for each in self._all)
        for event in EVENTS:
            having = (callback for callback in self._all if hasattr(callback, event))
            self._handlers[event] = [_Handler(each, getattr(each, event)) for each in having]
