"""What recurrent networks need: their state carried or reset, and their activations kept small and slow."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError, DataError

__all__ = ["CarryState", "RNNRegularizer", "ResetRNN"]


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
        self.learn.model.reset()  # type: ignore[operator]  # torch takes attributes for modules


class CarryState(Callback):
    """Lets a model carry its state from batch to batch, within an epoch's training and within a validation.

    The model has an attribute ``carried``: None where nothing is carried; {} where a sequence begins; else what it has left
    there, tensors by name whose first dimension is the batch. Batches come from `TokenStreams`, whose row j always goes on where
    row j ended. A validation in the middle of an epoch leaves the training's state as it was, and a checkpoint holds it for
    the rows of all ranks, so a run goes on with it, on another number of ranks too.

    Raises:
        ConfigError: when a fit begins: the model has no such attribute.
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def __init__(self) -> None:
        self._restored: dict[str, torch.Tensor] | None = None
        self._of_training: dict[str, torch.Tensor] | None = None

    def before_fit(self) -> None:
        """Checks that the model carries."""
        if not hasattr(self.learn.model, "carried"):
            raise ConfigError(
                f"CarryState: {type(self.learn.model).__name__} has no attribute 'carried'; leave CarryState out"
            )

    def before_train(self) -> None:
        """Begins the sequences, or goes on with those of a checkpoint."""
        self._carry({} if self._restored is None else self._restored)
        self._restored = None

    def after_train(self) -> None:
        """Ends them."""
        self._carry(None)

    def before_validate(self) -> None:
        """Begins the sequences of validation."""
        self._of_training = getattr(self.learn.model, "carried", None)
        self._carry({})

    def after_validate(self) -> None:
        """Goes on with what was carried before."""
        self._carry(self._of_training)
        self._of_training = None

    def after_fit(self) -> None:
        """Ends all."""
        self._carry(None)
        self._restored = self._of_training = None

    def _carry(self, carried: dict[str, torch.Tensor] | None) -> None:
        if hasattr(self.learn.model, "carried"):
            self.learn.model.carried = carried  # type: ignore[assignment]  # torch takes attributes for tensors or modules

    def state_dict(self) -> dict[str, Any]:
        """Returns what is carried, the rows of all ranks in the order of the batch. Collective."""
        carried: Any = self.learn.model.carried
        ranks = self.learn.data_collectives
        names = sorted(carried or ())
        if not names:
            return {}
        share = self.state.share
        num_local = 0 if share is None else share.num_local
        rows = {name: ranks.all_gather_rows(carried[name][:num_local].detach(), what="carried state") for name in names}
        place = torch.arange(num_local) * ranks.world.world_size + ranks.world.rank  # dealt like cards
        order = ranks.all_gather_rows(place, what="carried rows").argsort()
        return {name: value[order] for name, value in rows.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores this rank's rows."""
        world = self.learn.data_collectives.world
        self._restored = {name: rows[world.rank :: world.world_size].clone() for name, rows in state.items()}


class RNNRegularizer(Callback):
    """Adds to the loss what large and fast changing activations cost (AR and TAR; Merity et al., arXiv:1708.01009).

    The model returns (prediction, raw outputs, dropped-out outputs) of its last recurrent layer, both (batch, time,
    features); the loss and metrics see the prediction alone. In training the loss becomes
    ``loss + alpha * mean(dropped²) + beta * mean((raw[:, 1:] - raw[:, :-1])²)``. Where sequences of several lengths are
    padded it returns a fourth value, which steps are no padding (bool, (batch, time)): then each sample counts the mean over
    its own steps, the same on any number of ranks. In evaluation the model may return the prediction alone.

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
        self._outputs: tuple[torch.Tensor, ...] = ()

    def after_pred(self) -> None:
        """Takes the prediction out of what the model returned."""
        pred = self.state.pred
        if isinstance(pred, torch.Tensor) and not self.state.training:
            return
        if not isinstance(pred, tuple | list) or len(pred) not in (3, 4):
            raise DataError(
                f"RNNRegularizer: the model returned a {type(pred).__name__}; expected (prediction, raw outputs, "
                "dropped-out outputs)"
            )
        self.state.pred, *outputs = pred
        self._outputs = tuple(outputs)

    def after_loss(self) -> None:
        """Adds to the loss of a training batch."""
        outputs, self._outputs = self._outputs, ()
        loss = self.state.loss
        if not self.state.training or loss is None or not outputs:
            return
        raw, dropped, *mask = (_at_least_float32(each) for each in outputs)
        counts = mask[0].to(raw) if mask else raw.new_ones(raw.shape[:2])
        loss = loss + self.alpha * _mean_of_samples(dropped.pow(2), counts)
        if raw.shape[1] > 1:
            change = (raw[:, 1:] - raw[:, :-1]).pow(2)
            loss = loss + self.beta * _mean_of_samples(change, counts[:, 1:])
        self.state.loss = loss

    def __repr__(self) -> str:
        return f"RNNRegularizer(alpha={self.alpha}, beta={self.beta})"


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _mean_of_samples(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Returns the mean over samples of the mean over the steps that count; values (batch, time, features)."""
    by_step = values.mean(2) * counts
    return (by_step.sum(1) / counts.sum(1).clamp(min=1)).mean()
