"""Losses of numbers: squared, absolute and Huber's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.pairs import as_many
from dist_ai.core.types import TensorRegression
from dist_ai.losses.loss import default_loss, losses

__all__ = ["HuberLoss", "L1Loss", "MSELoss"]


@losses.register("MSELoss")
class MSELoss(nn.Module):
    """The mean squared error of numbers.

    Prediction and target: as many numbers, float; (batch, 1) and (batch,) go together. The loss is the mean over all.

    >>> MSELoss()(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item()
    2.0
    """

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean squared error."""
        return F.mse_loss(*_numbers(pred, target))

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's numbers, (batch,)."""
        return F.mse_loss(*_numbers(pred, target), reduction="none").mean(1)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {}

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the prediction as a `TensorRegression`."""
        return TensorRegression(pred)


@losses.register("L1Loss")
class L1Loss(nn.Module):
    """The mean absolute error of numbers; shapes as in `MSELoss`.

    >>> L1Loss()(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item()
    1.0
    """

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean absolute error."""
        return F.l1_loss(*_numbers(pred, target))

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's numbers, (batch,)."""
        return F.l1_loss(*_numbers(pred, target), reduction="none").mean(1)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {}

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the prediction as a `TensorRegression`."""
        return TensorRegression(pred)


@losses.register("HuberLoss")
class HuberLoss(nn.Module):
    """Huber's loss: half the squared error where it is small, linear beyond; shapes as in `MSELoss`.

    Args:
        delta: the error from which on it is linear, in the target's units.

    (Huber, "Robust estimation of a location parameter", 1964.)

    >>> HuberLoss()(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item()
    0.75
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean loss."""
        return F.huber_loss(*_numbers(pred, target), delta=self.delta)

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's numbers, (batch,)."""
        return F.huber_loss(*_numbers(pred, target), delta=self.delta, reduction="none").mean(1)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"delta": self.delta}

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the prediction as a `TensorRegression`."""
        return TensorRegression(pred)


@default_loss.register(TensorRegression)
def _(target: TensorRegression) -> MSELoss:
    return MSELoss()


def _numbers(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = as_many(pred, target)
    return pred, target.to(pred.dtype)
