"""What recurrent networks need: their state reset, and their activations kept small and slow."""

from __future__ import annotations

from typing import ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError, DataError

__all__ = ["RNNRegularizer", "ResetRNN"]


class ResetRNN(Callback):
    """Calls the model's ``reset()`` before each epoch's training and each validation, and after the fit.

    For models that carry a hidden state from batch to batch (fastai's ModelResetter).

    Raises:
        ConfigError: when a fit begins: the model has no such method.
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def before_fit(self) -> None:
        """Checks that there is something to reset."""
        if not callable(getattr(self.learn.model, "reset", None)):
            raise ConfigError(f"ResetRNN: {type(self.learn.model).__name__} has no method reset(); leave ResetRNN out")

    def before_train(self) -> None:
        """Resets the state."""
        self._reset()

    def before_validate(self) -> None:
        """Resets the state."""
        self._reset()

    def after_fit(self) -> None:
        """Resets the state."""
        if callable(getattr(self.learn.model, "reset", None)):
            self._reset()

    def _reset(self) -> None:
        self.learn.model.reset()  # type: ignore[operator]


class RNNRegularizer(Callback):
    """Adds to the loss what large and fast changing activations cost (AR and TAR; Merity et al., arXiv:1708.01009).

    The model returns (prediction, raw outputs, dropped-out outputs) of its last recurrent layer, both (batch, time,
    features); the loss and metrics see the prediction alone. In training the loss becomes
    ``loss + alpha * mean(dropped²) + beta * mean((raw[:, 1:] - raw[:, :-1])²)``. The same on any number of ranks, for
    sequences of one length in a batch.

    Args:
        alpha: of the activations' size.
        beta: of their change from one time step to the next.

    Raises:
        ConfigError: one of them is negative.
        DataError: in a fit: the model returns something else.

    >>> RNNRegularizer(alpha=1.0)
    RNNRegularizer(alpha=1.0, beta=1.0)
    """

    may_cancel: ClassVar[bool] = False

    def __init__(self, alpha: float = 2.0, beta: float = 1.0) -> None:
        if alpha < 0 or beta < 0:
            raise ConfigError(f"RNNRegularizer(alpha={alpha}, beta={beta}): expected 0 or more")
        self.alpha, self.beta = alpha, beta
        self._raw: torch.Tensor | None = None
        self._dropped: torch.Tensor | None = None

    def after_pred(self) -> None:
        """Takes the prediction out of what the model returned."""
        pred = self.state.pred
        if not isinstance(pred, tuple | list) or len(pred) != 3:
            raise DataError(
                f"RNNRegularizer: the model returned a {type(pred).__name__}; expected (prediction, raw outputs, "
                "dropped-out outputs)"
            )
        self.state.pred, self._raw, self._dropped = pred

    def after_loss(self) -> None:
        """Adds to the loss of a training batch."""
        raw, dropped, self._raw, self._dropped = self._raw, self._dropped, None, None
        loss = self.state.loss
        if not self.state.training or loss is None or raw is None or dropped is None:
            return
        loss = loss + self.alpha * dropped.float().pow(2).mean()
        if raw.shape[1] > 1:
            loss = loss + self.beta * (raw[:, 1:] - raw[:, :-1]).float().pow(2).mean()
        self.state.loss = loss

    def __repr__(self) -> str:
        return f"RNNRegularizer(alpha={self.alpha}, beta={self.beta})"
