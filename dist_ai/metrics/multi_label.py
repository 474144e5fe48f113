"""Metrics of samples of which each class is there or not, by itself. The names, and what they take, are fastai's.

Predictions are logits, (batch, classes), and go through a sigmoid; with ``sigmoid=False`` they are probabilities already.
Targets are 0 or 1, of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch

from dist_ai.errors import ConfigError
from dist_ai.metrics.counts import (
    Average,
    Counts,
    LabelCounts,
    averaged,
    f_beta,
    jaccard,
    matthews,
    precision,
    recall,
)
from dist_ai.metrics.curves import average_precision, roc_auc
from dist_ai.metrics.mean import MeanOf
from dist_ai.metrics.rows import AccumMetric
from dist_ai.metrics.single_label import mean_over_columns

__all__ = [
    "APScoreMulti",
    "BrierScoreMulti",
    "F1ScoreMulti",
    "FBetaMulti",
    "HammingLossMulti",
    "JaccardMulti",
    "MatthewsCorrCoefMulti",
    "PrecisionMulti",
    "RecallMulti",
    "RocAucMulti",
    "accuracy_multi",
]


@MeanOf
def accuracy_multi(pred: torch.Tensor, target: torch.Tensor, thresh: float = 0.5, sigmoid: bool = True) -> torch.Tensor:
    """Whether each class is rightly said to be there or not.

    >>> accuracy_multi(torch.tensor([[3.0, -3.0]]), torch.tensor([[1, 1]])).item()
    0.5
    """
    return ((pred.sigmoid() if sigmoid else pred) > thresh) == target.bool()


def PrecisionMulti(thresh: float = 0.5, *, sigmoid: bool = True, average: Average = "macro") -> LabelCounts | MeanOf:
    """Returns the precision: how many of the classes that are said to be there are.

    Args:
        thresh: a class is there when its probability is above this.
        sigmoid: whether predictions are logits.
        average: ``"macro"``: the mean over classes; ``"weighted"`` by how often each is there; ``"micro"``: of all
            decisions together; ``"samples"``: the mean over samples.

    0 where nothing is said to be there; so with the other scores here.
    """
    return _of_labels(precision, "precision_score", thresh, sigmoid, average)


def RecallMulti(thresh: float = 0.5, *, sigmoid: bool = True, average: Average = "macro") -> LabelCounts | MeanOf:
    """Returns the recall: how many of the classes that are there are said to be; arguments as in `PrecisionMulti`."""
    return _of_labels(recall, "recall_score", thresh, sigmoid, average)


def F1ScoreMulti(thresh: float = 0.5, *, sigmoid: bool = True, average: Average = "macro") -> LabelCounts | MeanOf:
    """Returns the harmonic mean of precision and recall; arguments as in `PrecisionMulti`."""
    return _of_labels(f_beta, "f1_score", thresh, sigmoid, average)


def FBetaMulti(
    beta: float, thresh: float = 0.5, *, sigmoid: bool = True, average: Average = "macro"
) -> LabelCounts | MeanOf:
    """Returns the harmonic mean of precision and recall in which recall counts beta**2 times; see `PrecisionMulti`."""
    return _of_labels(partial(f_beta, beta=beta), "fbeta_score", thresh, sigmoid, average)


def JaccardMulti(thresh: float = 0.5, *, sigmoid: bool = True, average: Average = "macro") -> LabelCounts | MeanOf:
    """Returns intersection over union of what is there and what is said to be; arguments as in `PrecisionMulti`."""
    return _of_labels(jaccard, "jaccard_score", thresh, sigmoid, average)


def HammingLossMulti(thresh: float = 0.5, *, sigmoid: bool = True) -> MeanOf:
    """Returns the share of wrong decisions over samples and classes."""

    def wrong(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ~accuracy_multi.function(pred, target, thresh, sigmoid)

    return MeanOf(wrong, "hamming_loss")


def MatthewsCorrCoefMulti(
    thresh: float = 0.5, *, sigmoid: bool = True, average: Literal["macro", "micro"] = "macro"
) -> LabelCounts:
    """Returns Matthews's correlation of what is there and what is said to be: of each class, or of all decisions together.

    Raises:
        ConfigError: there is no such average.
    """
    if average not in ("macro", "micro"):
        raise ConfigError(f"matthews_corrcoef: average={average!r}; expected 'macro' or 'micro'")

    def of_counts(counts: torch.Tensor) -> float:
        each = counts.sum(1, keepdim=True) if average == "micro" else counts
        return (
            torch.stack([matthews(torch.stack([tn, fp, fn, tp]).view(2, 2)) for tp, fp, fn, tn in each.T]).mean().item()
        )

    return LabelCounts(of_counts, "matthews_corrcoef", thresh=thresh, sigmoid=sigmoid)


def BrierScoreMulti(*, sigmoid: bool = True) -> MeanOf:
    """Returns the mean squared error of the probabilities, over samples and classes."""
    return MeanOf(
        lambda pred, target: ((pred.double().sigmoid() if sigmoid else pred.double()) - target).square(),
        "brier_score_loss",
    )


def RocAucMulti(*, average: Literal["macro", "micro", "weighted"] = "macro") -> AccumMetric:
    """Returns the area under the ROC curve, exact; classes that no sample has, or all have, are left out.

    Args:
        average: over classes; ``"micro"``: the area of all decisions together.

    Only the order of the predictions counts, so logits and probabilities give the same.
    """
    return _of_columns(roc_auc, "roc_auc_score", average)


def APScoreMulti(*, average: Literal["macro", "micro", "weighted"] = "macro") -> AccumMetric:
    """Returns the average precision; 0 for a class that no sample has. See `RocAucMulti`."""
    return _of_columns(average_precision, "average_precision_score", average)


def _of_labels(
    score: Callable[[Counts], torch.Tensor], name: str, thresh: float, sigmoid: bool, average: str
) -> LabelCounts | MeanOf:
    if average not in ("macro", "micro", "weighted", "samples"):
        raise ConfigError(f"{name}: average={average!r}; expected 'macro', 'micro', 'weighted' or 'samples'")
    if average == "samples":

        def of_samples(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            guess, truth = (pred.sigmoid() if sigmoid else pred) > thresh, target.bool()
            found = ((guess & truth), (guess & ~truth), (~guess & truth))
            tp, fp, fn = (each.sum(-1).double() for each in found)
            return score((tp, fp, fn))

        return MeanOf(of_samples, name)

    def of_counts(counts: torch.Tensor) -> float:
        tp, fp, fn, _ = counts
        return averaged(score, (tp, fp, fn), average, all_count=True)

    return LabelCounts(of_counts, name, thresh=thresh, sigmoid=sigmoid)


def _of_columns(score: Callable[[torch.Tensor, torch.Tensor], float], name: str, average: str) -> AccumMetric:
    if average not in ("macro", "micro", "weighted"):
        raise ConfigError(f"{name}: average={average!r}; expected 'macro', 'micro' or 'weighted'")

    def of_all(pred: torch.Tensor, truth: torch.Tensor) -> float:
        if average == "micro":
            return score(pred.reshape(-1), truth.reshape(-1))
        return mean_over_columns(score, pred, truth, weighted=average == "weighted")

    return AccumMetric(of_all, name)
