"""Metrics of samples that have one class each. The names, and what they take, are fastai's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch.nn import functional as F

from dist_ai.errors import ConfigError, DataError
from dist_ai.metrics.counts import (
    Average,
    ConfusionMatrix,
    balanced_accuracy,
    cohen_kappa,
    f_beta,
    jaccard,
    matthews,
    of_classes,
    precision,
    recall,
)
from dist_ai.metrics.curves import average_precision, roc_auc, roc_auc_of_pairs
from dist_ai.metrics.mean import MeanOf
from dist_ai.metrics.rows import AccumMetric

__all__ = [
    "APScoreBinary",
    "BalancedAccuracy",
    "BrierScore",
    "CohenKappa",
    "F1Score",
    "FBeta",
    "HammingLoss",
    "Jaccard",
    "MatthewsCorrCoef",
    "Precision",
    "Recall",
    "RocAuc",
    "RocAucBinary",
    "accuracy",
    "error_rate",
    "top_k_accuracy",
]


@MeanOf
def accuracy(pred: torch.Tensor, target: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Whether the largest class of each prediction is the target; its mean is the accuracy.

    Prediction: logits or probabilities with the classes on `axis`; target: class indices of the remaining shape.

    >>> accuracy(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 1])).item()
    0.5
    """
    return pred.argmax(axis) == target


@MeanOf
def error_rate(pred: torch.Tensor, target: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Whether the largest class of each prediction is not the target; its mean is 1 - `accuracy`."""
    return pred.argmax(axis) != target


@MeanOf
def top_k_accuracy(pred: torch.Tensor, target: torch.Tensor, k: int = 5, axis: int = -1) -> torch.Tensor:
    """Whether the target is among the `k` largest classes of each prediction."""
    return (pred.topk(min(k, pred.shape[axis]), dim=axis).indices == target.unsqueeze(axis)).any(axis)


def Precision(
    axis: int = -1, *, average: Average = "binary", pos_label: int = 1, labels: Sequence[int] | None = None
) -> ConfusionMatrix:
    """Returns the precision: how many of those predicted to be of a class are.

    Args:
        axis: dimension of the classes in the prediction.
        average: over classes: ``"binary"``: only `pos_label` of two; ``"macro"``: the mean of those there or predicted;
            ``"weighted"`` by how often each is there; ``"micro"``: of the sums over classes.
        pos_label: the class that is meant where there are two.
        labels: only these classes.

    0 where nothing is predicted to be of the class; so with the other scores here.
    """
    return of_classes(precision, "precision", axis=axis, average=average, pos_label=pos_label, labels=labels)


def Recall(
    axis: int = -1, *, average: Average = "binary", pos_label: int = 1, labels: Sequence[int] | None = None
) -> ConfusionMatrix:
    """Returns the recall: how many of those of a class are predicted to be; arguments as in `Precision`."""
    return of_classes(recall, "recall", axis=axis, average=average, pos_label=pos_label, labels=labels)


def F1Score(
    axis: int = -1, *, average: Average = "binary", pos_label: int = 1, labels: Sequence[int] | None = None
) -> ConfusionMatrix:
    """Returns the harmonic mean of precision and recall; arguments as in `Precision`."""
    return of_classes(f_beta, "f1_score", axis=axis, average=average, pos_label=pos_label, labels=labels)


def FBeta(
    beta: float,
    axis: int = -1,
    *,
    average: Average = "binary",
    pos_label: int = 1,
    labels: Sequence[int] | None = None,
) -> ConfusionMatrix:
    """Returns the harmonic mean of precision and recall in which recall counts beta**2 times; see `Precision`."""
    score = partial(f_beta, beta=beta)
    return of_classes(score, "fbeta_score", axis=axis, average=average, pos_label=pos_label, labels=labels)


def Jaccard(
    axis: int = -1, *, average: Average = "binary", pos_label: int = 1, labels: Sequence[int] | None = None
) -> ConfusionMatrix:
    """Returns intersection over union of those of a class and those predicted to be; arguments as in `Precision`."""
    return of_classes(jaccard, "jaccard_score", axis=axis, average=average, pos_label=pos_label, labels=labels)


def MatthewsCorrCoef(axis: int = -1) -> ConfusionMatrix:
    """Returns Matthews's correlation of the true and the predicted class, of any number of classes."""
    return ConfusionMatrix(matthews, "matthews_corrcoef", axis=axis)


def CohenKappa(axis: int = -1, *, weights: Literal["linear", "quadratic"] | None = None) -> ConfusionMatrix:
    """Returns Cohen's kappa: the agreement beyond chance; NaN where all are and are predicted of one class.

    Args:
        axis: dimension of the classes in the prediction.
        weights: how much the distance of two classes counts, where they are ordered.
    """
    return ConfusionMatrix(partial(cohen_kappa, weights=weights), "cohen_kappa_score", axis=axis)


def BalancedAccuracy(axis: int = -1, *, adjusted: bool = False) -> ConfusionMatrix:
    """Returns the mean recall of the classes that are there.

    Args:
        axis: dimension of the classes in the prediction.
        adjusted: for chance, so that guessing gives 0 and perfection 1.
    """
    return ConfusionMatrix(partial(balanced_accuracy, adjusted=adjusted), "balanced_accuracy_score", axis=axis)


def HammingLoss(axis: int = -1) -> MeanOf:
    """Returns the share of wrong classes; where each sample has one, that is the error rate."""
    return MeanOf(partial(error_rate.function, axis=axis), "hamming_loss")


def BrierScore(axis: int = -1) -> MeanOf:
    """Returns the mean squared error of the probabilities (Brier, 1950): of the second class's if there are two, else summed.

    Args:
        axis: dimension of the classes in the prediction, which is logits.

    It lies in 0..1 with two classes and in 0..2 with more, as scikit-learn's does. (fastai's took classes for probabilities.)
    """

    def errors(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found = pred.double().softmax(axis).movedim(axis, -1)
        truth = target[..., None] == torch.arange(found.shape[-1], device=target.device)
        squares = (found - truth.double()).square()
        return squares[..., 1] if found.shape[-1] == 2 else squares.sum(-1)

    return MeanOf(errors, "brier_score_loss")


def RocAucBinary(axis: int = -1) -> AccumMetric:
    """Returns the area under the ROC curve of the second of two classes; NaN where only one is there."""
    return _of_second(roc_auc, "roc_auc_score", axis)


def APScoreBinary(axis: int = -1) -> AccumMetric:
    """Returns the average precision of the second of two classes; 0 where it is never there."""
    return _of_second(average_precision, "average_precision_score", axis)


def RocAuc(
    axis: int = -1,
    *,
    average: Literal["macro", "weighted"] = "macro",
    multi_class: Literal["ovr", "ovo"] = "ovr",
) -> AccumMetric:
    """Returns the area under the ROC curve, on average over classes; exact, for any number of classes.

    Args:
        axis: dimension of the classes in the prediction.
        average: over classes: all alike, or weighted by how often each is there.
        multi_class: ``"ovr"``: each class against the rest; ``"ovo"``: each against each.

    Classes that no sample has, or all have, have no area and are left out.

    Raises:
        ConfigError: `average` or `multi_class` is none of these.
    """
    if average not in ("macro", "weighted") or multi_class not in ("ovr", "ovo"):
        raise ConfigError(
            f"RocAuc(average={average!r}, multi_class={multi_class!r}): expected 'macro' or 'weighted', 'ovr' or 'ovo'"
        )

    def of_all(pred: torch.Tensor, target: torch.Tensor) -> float:
        scores = pred.softmax(1)  # of all at once; see `from_sklearn`
        if multi_class == "ovo":
            return roc_auc_of_pairs(scores, target, weighted=average == "weighted")
        truth = F.one_hot(target.long(), scores.shape[1])
        return mean_over_columns(roc_auc, scores, truth, weighted=average == "weighted")

    return AccumMetric(of_all, "roc_auc_score", prepare=lambda pred, target: (pred.movedim(axis, -1), target))


def mean_over_columns(
    score: Callable[[torch.Tensor, torch.Tensor], float], scores: torch.Tensor, truth: torch.Tensor, *, weighted: bool
) -> float:
    """Returns the mean of a score over columns, without those that have none; weighted by their positives if asked."""
    found = [(score(scores[:, i], truth[:, i]), float(truth[:, i].sum())) for i in range(scores.shape[1])]
    kept = [(value, num if weighted else 1.0) for value, num in found if not math.isnan(value)]
    total = sum(weight for _, weight in kept)
    return sum(value * weight for value, weight in kept) / total if total else float("nan")


def _of_second(score: Callable[[torch.Tensor, torch.Tensor], float], name: str, axis: int) -> AccumMetric:
    def prepare(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if pred.shape[axis] != 2:
            raise DataError(
                f"{name} of 2 classes, and the prediction has {pred.shape[axis]}; use RocAuc, or the one for several labels"
            )
        return pred.movedim(axis, -1), target

    # The second's probability grows with how far its logit lies above the first's.
    return AccumMetric(lambda pred, target: score(pred[:, 1] - pred[:, 0], target), name, prepare=prepare)
