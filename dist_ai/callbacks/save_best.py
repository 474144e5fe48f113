"""Ends a fit with the weights of its best validation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.monitor import Monitor
from dist_ai.core.names import known_arguments
from dist_ai.distributed.sharded import is_sharded

__all__ = ["SaveBest"]


class SaveBest(Callback):
    """Keeps the weights of the best validation, and puts them in the model when the fit ends (fastai's SaveModelCallback).

    They are kept in memory, which takes the model's size once more, and in checkpoints, so that a resumed fit ends with the
    same ones. A fit that ends with an error keeps the weights of its last step. For files of the best epochs see
    ``Learner(keep_best=KeepBest(...))``.

    Args:
        monitor: a column of the epoch's row: ``"valid_loss"``, ``"train_loss"`` or a metric's name.
        min_delta: a value is better only if it is so by more than this.
        lower: whether less is better; by default what the name tells.

    Attributes:
        monitor: has the best value, as ``monitor.best``.

    Raises:
        ConfigError: when a fit begins: there is no such column.

    >>> SaveBest("accuracy")
    SaveBest('accuracy')
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after the Recorder, which is attached first
    may_cancel: ClassVar[bool] = False

    @known_arguments()
    def __init__(self, monitor: str = "valid_loss", *, min_delta: float = 0.0, lower: bool | None = None) -> None:
        self.monitor = Monitor(monitor, lower=lower, min_delta=min_delta)
        self._best: dict[str, torch.Tensor] = {}

    def before_fit(self) -> None:
        """Forgets the fit before; what a resumed one kept is there."""
        self.monitor.begin(self.learn)
        if self.monitor.best != self.monitor.best:  # NaN: nothing was judged yet
            self._best = {}

    def after_validate(self) -> None:
        """Judges a validation in the middle of an epoch."""
        if self.state.mid_epoch:
            self._judge()

    def after_epoch(self) -> None:
        """Judges the epoch."""
        self._judge()

    def after_fit(self) -> None:
        """Puts the best weights in the model."""
        if self.state.exception is None and self._best:
            with torch.no_grad():
                for name, tensor in self.learn.model.state_dict().items():
                    tensor.copy_(self._best[name])
        self._best = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value and its weights."""
        return {"monitor": self.monitor.state(), **{f"best.{name}": tensor for name, tensor in self._best.items()}}

    def state_layout(self) -> dict[str, torch.Tensor]:
        """Returns the sharded parameters: their copies lie as they do."""
        live = self.learn.model.state_dict()
        return {f"best.{name}": tensor for name, tensor in live.items() if is_sharded(tensor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.monitor.load_state(state["monitor"])
        saved = {name.removeprefix("best."): value for name, value in state.items() if name != "monitor"}
        live = self.learn.model.state_dict()
        self._best = {name: value.to(live[name].device) for name, value in saved.items() if name in live}

    def __repr__(self) -> str:
        return f"SaveBest({self.monitor.name!r})"

    def _judge(self) -> None:
        if self.monitor.look():
            self._best = {name: tensor.detach().clone() for name, tensor in self.learn.model.state_dict().items()}
