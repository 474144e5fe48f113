"""Losses of one class for each sample, pixel or token: cross-entropy and focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.pairs import by_class
from dist_ai.core.types import TensorCategory
from dist_ai.errors import ConfigError, DataError
from dist_ai.losses.loss import default_loss, losses
from dist_ai.losses.weighted import weight_of_classes, weighted_mean

__all__ = ["CrossEntropyLoss", "FocalLoss"]


@losses.register("CrossEntropyLoss")
class CrossEntropyLoss(nn.Module):
    """Cross-entropy over the class dimension, with the softmax and arg-max that belong to it.

    Args:
        axis: dimension of the classes in the prediction.
        label_smoothing: share of the target spread evenly over all classes (arXiv:1512.00567).
        weight: of each class; the loss is then the mean in which a target counts its class's weight.
        ignore_index: the target that counts nothing, such as padding or unlabelled pixels; by default there is none.

    Prediction: (batch, classes, ...) logits, float. Target: (batch, ...) class indices, int64; or probabilities in the
    prediction's shape. The loss is the mean over all targets that count, over all ranks and however uneven their shares; 0
    where none does (torch's would be NaN).

    Raises:
        DataError: a target is none of the classes, on the CPU (a GPU fails with an assertion of its own).

    >>> CrossEntropyLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item()
    0.6931471824645996
    """

    weight: torch.Tensor | None

    def __init__(
        self,
        axis: int = 1,
        *,
        label_smoothing: float = 0.0,
        weight: Sequence[float] | torch.Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.register_buffer("weight", _class_weights(weight), persistent=False)

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean cross-entropy."""
        weights = self.weights(target)
        if weights is None:
            return self._loss(pred, target, "mean")
        return weighted_mean(self.totals(pred, target), weights)

    def weights(self, target: torch.Tensor) -> torch.Tensor | None:
        """Returns what the targets count together, (1,); None if they all count alike. See `WeightedLoss`."""
        if target.is_floating_point() or (self.weight is None and self.ignore_index is None):
            return None
        return weight_of_classes(target, self.weight, self.ignore_index).sum(dtype=torch.float64)[None]

    def totals(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the weighted losses, (1,)."""
        return self._loss(pred, target, "sum")[None]

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's own targets, (batch,)."""
        each = self._loss(pred, target, "none")
        if target.is_floating_point():
            return each.flatten(1).mean(1) if each.dim() > 1 else each
        return _by_sample(each, weight_of_classes(target, self.weight, self.ignore_index))

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"axis": self.axis, "label_smoothing": self.label_smoothing, **_plain(self.weight, self.ignore_index)}

    def activation(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the classes' probabilities."""
        return pred.softmax(self.axis)

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the likeliest class of each prediction, as a `TensorCategory`."""
        return TensorCategory(pred.argmax(self.axis))

    def _loss(self, pred: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        return _cross_entropy(
            pred,
            target,
            self.axis,
            weight=None if self.weight is None else self.weight.to(pred),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=reduction,
        )


@losses.register("FocalLoss")
class FocalLoss(nn.Module):
    """Focal loss: cross-entropy in which a target counts the less the surer the model is of it (arXiv:1708.02002).

    Args:
        axis: dimension of the classes in the prediction.
        gamma: how much less: the loss of a target is ``(1 - p) ** gamma * -log p`` with p its class's probability.
        weight: of each class; see `CrossEntropyLoss`.
        ignore_index: the target that counts nothing.

    Shapes and means as in `CrossEntropyLoss`; with ``gamma=0`` it is that. For classes that are there or not, each by
    itself, see `BinaryFocalLoss`.

    >>> FocalLoss(gamma=1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item()
    0.3465735912322998
    """

    weight: torch.Tensor | None

    def __init__(
        self,
        axis: int = 1,
        *,
        gamma: float = 2.0,
        weight: Sequence[float] | torch.Tensor | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.register_buffer("weight", _class_weights(weight), persistent=False)

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean focal loss."""
        weights = self.weights(target)
        if weights is None:
            return self._each(pred, target).mean()
        return weighted_mean(self.totals(pred, target), weights)

    def weights(self, target: torch.Tensor) -> torch.Tensor | None:
        """Returns what the targets count together, (1,); None if they all count alike. See `WeightedLoss`."""
        if self.weight is None and self.ignore_index is None:
            return None
        return self._counts(target).sum(dtype=torch.float64)[None]

    def totals(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the weighted losses, (1,)."""
        return self._each(pred, target).sum()[None]

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean over each sample's own targets, (batch,)."""
        return _by_sample(self._each(pred, target), self._counts(target))

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"axis": self.axis, "gamma": self.gamma, **_plain(self.weight, self.ignore_index)}

    def activation(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the classes' probabilities."""
        return pred.softmax(self.axis)

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the likeliest class of each prediction, as a `TensorCategory`."""
        return TensorCategory(pred.argmax(self.axis))

    def _each(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # The probability comes from the loss without weights: with them exp(-loss) would be a power of it.
        loss = _cross_entropy(pred, target, self.axis, ignore_index=self.ignore_index, reduction="none")
        # 1 - exp(-loss) without the cancellation that makes sure predictions exactly 0, whose gradient is then infinite.
        focal = (-torch.expm1(-loss)).clamp_min(torch.finfo(loss.dtype).tiny) ** self.gamma * loss
        return focal if self.weight is None else focal * self._counts(target).to(focal.dtype)

    def _counts(self, target: torch.Tensor) -> torch.Tensor:
        return weight_of_classes(target, self.weight, self.ignore_index)


@default_loss.register(TensorCategory)
def _(target: TensorCategory) -> CrossEntropyLoss:
    return CrossEntropyLoss()


_NO_INDEX = -(2**62)  # torch always ignores some target; this one nobody has


def _cross_entropy(
    pred: torch.Tensor,
    target: torch.Tensor,
    axis: int,
    *,
    ignore_index: int | None,
    reduction: str,
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Returns torch's cross-entropy, and says so where a target is none of the classes."""
    shape = pred.movedim(axis, -1).shape[:-1]
    pred, target = by_class(pred, target, axis)
    try:
        loss = F.cross_entropy(
            pred,
            target,
            weight=weight,
            ignore_index=_NO_INDEX if ignore_index is None else ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        return loss.reshape(shape) if reduction == "none" else loss
    except IndexError as error:
        given = target if ignore_index is None else target[target != ignore_index]
        wrong = given[(given < 0) | (given >= pred.shape[1])]
        hint = (
            "" if ignore_index is not None else f"; if it marks what does not count, give ignore_index={int(wrong[0])}"
        )
        raise DataError(
            f"the target {int(wrong[0])} is none of the prediction's {pred.shape[1]} classes, 0 to {pred.shape[1] - 1}: give "
            f"the model as many outputs as there are classes (n_out){hint}"
        ) from error


def _by_sample(each: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Returns the weighted mean of each row of losses that are weighted already."""
    each, counts = each.reshape(len(each), -1), counts.reshape(len(each), -1)
    return weighted_mean(each.sum(1, keepdim=True), counts.sum(1, keepdim=True))


def _class_weights(weight: Sequence[float] | torch.Tensor | None) -> torch.Tensor | None:
    if weight is None:
        return None
    given = torch.as_tensor(weight, dtype=torch.float64)
    if given.dim() != 1 or bool((given < 0).any()):
        raise ConfigError(f"weight={given.tolist()}: expected one number for each class, 0 or more")
    return given


def _plain(weight: torch.Tensor | None, ignore_index: int | None) -> dict[str, Any]:
    given = {"weight": None if weight is None else weight.tolist(), "ignore_index": ignore_index}
    return {name: value for name, value in given.items() if value is not None}
