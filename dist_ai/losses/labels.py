"""Losses of classes that are there or not, each by itself: binary cross-entropy and its focal form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.pairs import as_many
from dist_ai.core.types import TensorMultiCategory
from dist_ai.losses.loss import default_loss, losses

__all__ = ["BCEWithLogitsLoss", "BinaryFocalLoss"]


@losses.register("BCEWithLogitsLoss")
class BCEWithLogitsLoss(nn.Module):
    """Binary cross-entropy of each class by itself, with the sigmoid and the threshold that belong to it.

    Args:
        thresh: a class is there when its probability is above this.
        pos_weight: what a class that is there counts against one that is not: a number, or one for each class.

    Prediction: (batch, ...) logits, float. Target: the same shape, 0 or 1, of any dtype. The loss is the mean over
    samples and classes, also with `pos_weight`, as torch's is.

    >>> BCEWithLogitsLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([[1, 0]])).item()
    0.6931471824645996
    """

    pos_weight: torch.Tensor | None

    def __init__(
        self, thresh: float = 0.5, *, pos_weight: float | Sequence[float] | torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.thresh = thresh
        given = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float64)
        self.register_buffer("pos_weight", given, persistent=False)

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean binary cross-entropy."""
        return self._loss(pred, target, "mean")

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's classes, (batch,)."""
        return self._loss(pred, target, "none").mean(1)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"thresh": self.thresh} | ({} if self.pos_weight is None else {"pos_weight": self.pos_weight.tolist()})

    def activation(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the classes' probabilities, each by itself."""
        return pred.sigmoid()

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns which classes are there, bool, as a `TensorMultiCategory`."""
        return TensorMultiCategory(pred.sigmoid() > self.thresh)

    def _loss(self, pred: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        shape = pred.shape
        pred, target = as_many(pred, target)
        weight = self.pos_weight
        if weight is not None:
            weight = weight.to(pred)
            if weight.dim():  # torch aligns it with the last dimension
                weight = weight.expand(shape[1:]).reshape(-1)
        return F.binary_cross_entropy_with_logits(pred, target.to(pred.dtype), pos_weight=weight, reduction=reduction)


@losses.register("BinaryFocalLoss")
class BinaryFocalLoss(nn.Module):
    """Focal loss of each class by itself: what the model is sure of counts little (arXiv:1708.02002).

    Args:
        gamma: how little: the loss of a class is ``(1 - p) ** gamma * -log p``, p the probability of what is true of it.
        alpha: what a class that is there counts, 0 to 1, and 1 - alpha what one that is not; None: both count 1.
        thresh: a class is there when its probability is above this.

    Shapes as in `BCEWithLogitsLoss`; the loss is the mean over samples and classes.

    >>> BinaryFocalLoss(gamma=1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([[1, 0]])).item()
    0.3465735912322998
    """

    def __init__(self, *, gamma: float = 2.0, alpha: float | None = None, thresh: float = 0.5) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.thresh = thresh

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean focal loss."""
        return self._each(pred, target).mean()

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's classes, (batch,)."""
        return self._each(pred, target).mean(1)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"gamma": self.gamma, "alpha": self.alpha, "thresh": self.thresh}

    def activation(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the classes' probabilities, each by itself."""
        return pred.sigmoid()

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns which classes are there, bool, as a `TensorMultiCategory`."""
        return TensorMultiCategory(pred.sigmoid() > self.thresh)

    def _each(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        pred, target = as_many(pred, target)
        there = target.to(pred.dtype)
        loss = F.binary_cross_entropy_with_logits(pred, there, reduction="none")
        focal = (-torch.expm1(-loss)).clamp_min(torch.finfo(loss.dtype).tiny) ** self.gamma * loss
        return focal if self.alpha is None else focal * (self.alpha * there + (1 - self.alpha) * (1 - there))


@default_loss.register(TensorMultiCategory)
def _(target: TensorMultiCategory) -> BCEWithLogitsLoss:
    return BCEWithLogitsLoss()
