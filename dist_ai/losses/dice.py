"""The Dice loss of segmentations, alone and beside the focal loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dist_ai.core.types import TensorCategory
from dist_ai.losses.classes import FocalLoss
from dist_ai.losses.composite import CompositeLoss
from dist_ai.losses.loss import losses

__all__ = ["DiceLoss", "FocalDiceLoss"]


@losses.register("DiceLoss")
class DiceLoss(nn.Module):
    """One minus the Dice coefficient of each class in each sample, on average (V-Net, arXiv:1606.04797).

    Args:
        axis: dimension of the classes in the prediction.
        smooth: added above and below the fraction, so that a class that is nowhere has one.
        square_in_union: square the probabilities below the fraction, as V-Net does.
        ignore_index: the target that counts nothing.

    Prediction: (batch, classes, ...) logits, float. Target: (batch, ...) class indices, int64.

    The coefficient is that of a *sample*: its classes' pixels, 2 * common / (predicted + true). So the loss is a mean over
    samples, the same on any number of ranks. That of all pixels of a batch (fastai sums over samples; others over
    the batch) is no sum over samples, and would depend on who has which.

    >>> round(DiceLoss()(torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]]), torch.tensor([[0, 1]])).item(), 4)
    0.0
    """

    def __init__(
        self,
        axis: int = 1,
        *,
        smooth: float = 1e-6,
        square_in_union: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.smooth = smooth
        self.square_in_union = square_in_union
        self.ignore_index = ignore_index

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over samples and classes."""
        return self.per_sample(pred, target).mean()

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's classes, (batch,)."""
        guess = pred.softmax(self.axis).movedim(self.axis, -1)  # (batch, ..., classes)
        counts = torch.ones_like(target, dtype=torch.bool) if self.ignore_index is None else target != self.ignore_index
        # Not one_hot, which on the CPU looks at every target first.
        truth = (target[..., None] == torch.arange(guess.shape[-1], device=target.device)).to(guess.dtype)
        guess, truth = (
            (each * counts[..., None]).reshape(len(each), -1, each.shape[-1])  # (batch, pixels, classes)
            for each in (guess, truth)
        )
        both = (guess * truth).sum(1)
        either = (guess.square() + truth if self.square_in_union else guess + truth).sum(1)
        return 1 - ((2 * both + self.smooth) / (either + self.smooth)).mean(1)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {
            "axis": self.axis,
            "smooth": self.smooth,
            "square_in_union": self.square_in_union,
            "ignore_index": self.ignore_index,
        }

    def activation(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the classes' probabilities."""
        return pred.softmax(self.axis)

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the likeliest class of each pixel, as a `TensorCategory`."""
        return TensorCategory(pred.argmax(self.axis))


def FocalDiceLoss(
    axis: int = 1, *, gamma: float = 2.0, dice: float = 1.0, ignore_index: int | None = None
) -> CompositeLoss:
    """Returns the focal loss plus `dice` times the Dice loss: pixels that are hard, and classes that are small.

    Args:
        axis: dimension of the classes in the prediction.
        gamma: see `FocalLoss`.
        dice: what the Dice loss counts against the focal loss.
        ignore_index: the target that counts nothing.

    >>> FocalDiceLoss().names
    ['focal', 'dice']
    """
    focal = FocalLoss(axis, gamma=gamma, ignore_index=ignore_index)
    return CompositeLoss({"focal": focal, "dice": (dice, DiceLoss(axis, ignore_index=ignore_index))})
