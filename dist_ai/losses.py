"""Losses that know what the model's output means: its activation and its decoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.registry import Registry
from dist_ai.core.types import TensorCategory

__all__ = ["CrossEntropyLoss", "activation", "decodes", "default_loss", "loss_from_plain", "loss_to_plain", "losses"]

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


default_loss = Dispatch("default_loss")
"""(target) -> the loss function for targets of its type."""


@default_loss.register(TensorCategory)
def _(target: TensorCategory) -> CrossEntropyLoss:
    return CrossEntropyLoss()


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
