"""Losses that know what the model's output means: its activation and its decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.registry import Registry
from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.errors import DataError

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "MSELoss",
    "activation",
    "decodes",
    "default_loss",
    "loss_from_plain",
    "loss_to_plain",
    "losses",
]

losses: Registry[type[nn.Module]] = Registry(
    "loss", "register its class with dist_ai.losses.losses.register(name) before loading"
)


@losses.register("CrossEntropyLoss")
class CrossEntropyLoss(nn.Module):
    """Cross-entropy over the class dimension, with the softmax and arg-max that belong to it.

    Args:
        axis: dimension of the classes in the prediction.
        label_smoothing: share of the target spread evenly over all classes.

    Prediction: (batch, classes, ...) logits, float. Target: (batch, ...) class indices, int64. The loss is the mean.

    >>> CrossEntropyLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item()
    0.6931471824645996
    """

    def __init__(self, axis: int = 1, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.axis = axis
        self.label_smoothing = label_smoothing

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean cross-entropy."""
        return F.cross_entropy(pred.movedim(self.axis, 1), target, label_smoothing=self.label_smoothing)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"axis": self.axis, "label_smoothing": self.label_smoothing}

    def activation(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the classes' probabilities."""
        return pred.softmax(self.axis)

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the likeliest class of each prediction, as a `TensorCategory`."""
        return TensorCategory(pred.argmax(self.axis))


@losses.register("BCEWithLogitsLoss")
class BCEWithLogitsLoss(nn.Module):
    """Binary cross-entropy of each class by itself, with the sigmoid and the threshold that belong to it.

    Args:
        thresh: a class is there when its probability is above this.

    Prediction: (batch, ...) logits, float. Target: the same shape, 0 or 1, of any dtype. The loss is the mean over
    samples and classes.

    >>> BCEWithLogitsLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([[1, 0]])).item()
    0.6931471824645996
    """

    def __init__(self, thresh: float = 0.5) -> None:
        super().__init__()
        self.thresh = thresh

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean binary cross-entropy."""
        pred, target = _as_many(pred, target)
        return F.binary_cross_entropy_with_logits(pred, target.to(pred.dtype))

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"thresh": self.thresh}

    def activation(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the classes' probabilities, each by itself."""
        return pred.sigmoid()

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns which classes are there, bool, as a `TensorMultiCategory`."""
        return TensorMultiCategory(pred.sigmoid() > self.thresh)


@losses.register("MSELoss")
class MSELoss(nn.Module):
    """The mean squared error of numbers.

    Prediction and target: as many numbers, float; (batch, 1) and (batch,) go together. The loss is the mean over all.

    >>> MSELoss()(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item()
    2.0
    """

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean squared error."""
        pred, target = _as_many(pred, target)
        return F.mse_loss(pred, target.to(pred.dtype))

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {}

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the prediction as a `TensorRegression`."""
        return TensorRegression(pred)


def _as_many(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # Flat, because torch would make (64, 1) and (64,) a table of 64 x 64 differences.
    if pred.numel() != target.numel() or (pred.dim() and target.dim() and len(pred) != len(target)):
        raise DataError(
            f"a prediction of shape {tuple(pred.shape)} for a target of shape {tuple(target.shape)}; expected as many numbers: "
            "give the model as many outputs as a target has (n_out)"
        )
    return pred.flatten(), target.flatten()


default_loss = Dispatch("default_loss")
"""(target) -> the loss function for targets of its type."""


@default_loss.register(TensorCategory)
def _(target: TensorCategory) -> CrossEntropyLoss:
    return CrossEntropyLoss()


@default_loss.register(TensorMultiCategory)
def _(target: TensorMultiCategory) -> BCEWithLogitsLoss:
    return BCEWithLogitsLoss()


@default_loss.register(TensorRegression)
def _(target: TensorRegression) -> MSELoss:
    return MSELoss()


def activation(loss_func: Any, pred: Any) -> Any:
    """Returns `pred` through the activation that `loss_func` declares, or as it is."""
    return loss_func.activation(pred) if hasattr(loss_func, "activation") else pred


def decodes(loss_func: Any, pred: Any) -> Any:
    """Returns `pred` decoded as `loss_func` declares, or as it is."""
    return loss_func.decodes(pred) if hasattr(loss_func, "decodes") else pred


def loss_to_plain(loss_func: Any) -> dict[str, Any] | None:
    """Returns the loss as plain data for an export, or None if it is not a registered one (then outputs stay raw)."""
    name = type(loss_func).__name__
    return {"loss": name, **loss_func.to_plain()} if name in losses and hasattr(loss_func, "to_plain") else None


def loss_from_plain(data: dict[str, Any] | None) -> Any:
    """Returns the loss that `loss_to_plain` wrote; None gives None."""
    if data is None:
        return None
    arguments = dict(data)
    return losses.find(arguments.pop("loss"))(**arguments)
