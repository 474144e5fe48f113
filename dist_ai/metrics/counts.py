"""Counts of hits and misses, and the scores that are functions of them.

Every score here is a function of counts that add up: of a confusion matrix where each sample has one class, of true and
false positives and negatives where each class is there or not by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from dist_ai.errors import ConfigError, DataError

__all__ = [
    "Average",
    "ConfusionMatrix",
    "Counts",
    "LabelCounts",
    "averaged",
    "balanced_accuracy",
    "cohen_kappa",
    "counts_of_classes",
    "f_beta",
    "jaccard",
    "matthews",
    "precision",
    "ratio",
    "recall",
]

Average = Literal["binary", "macro", "micro", "weighted", "samples"]

Counts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""True positives, false positives and false negatives; any shape, float64."""

# ------------------------------------------------------------------------ scores of counts


def ratio(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """Returns above / below, 0 where there is nothing below."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), 0.0)


def precision(counts: Counts) -> torch.Tensor:
    """Returns tp / (tp + fp): how much of what was predicted is there."""
    tp, fp, _ = counts
    return ratio(tp, tp + fp)


def recall(counts: Counts) -> torch.Tensor:
    """Returns tp / (tp + fn): how much of what is there was predicted."""
    tp, _, fn = counts
    return ratio(tp, tp + fn)


def jaccard(counts: Counts) -> torch.Tensor:
    """Returns tp / (tp + fp + fn): intersection over union."""
    tp, fp, fn = counts
    return ratio(tp, tp + fp + fn)


def f_beta(counts: Counts, beta: float = 1.0) -> torch.Tensor:
    """Returns the harmonic mean of precision and recall, recall counting beta**2 times; with beta 1 it is the Dice score.

    >>> f_beta((torch.tensor(2.0), torch.tensor(1.0), torch.tensor(1.0))).item()
    0.6666666865348816
    """
    tp, fp, fn = counts
    above = (1 + beta**2) * tp
    return ratio(above, above + fp + beta**2 * fn)


def counts_of_classes(matrix: torch.Tensor) -> Counts:
    """Returns each class's counts from a confusion matrix [true, predicted]."""
    tp = matrix.diagonal()
    return tp, matrix.sum(0) - tp, matrix.sum(1) - tp


def averaged(
    score: Callable[[Counts], torch.Tensor], counts: Counts, average: str, *, all_count: bool = False
) -> float:
    """Returns a score of several classes as one number.

    Args:
        score: of counts.
        counts: of each class.
        average: ``"macro"``: the mean over classes; ``"weighted"``: weighted by how often each is there; ``"micro"``: of
            the sums of the counts.
        all_count: of the macro mean, also classes that are neither there nor predicted.
    """
    tp, fp, fn = counts
    if average == "micro":
        return score((tp.sum(), fp.sum(), fn.sum())).item()
    each = score(counts)
    weights = tp + fn
    if average == "macro":
        weights = torch.ones_like(tp) if all_count else (tp + fp + fn > 0).to(tp.dtype)
    return ratio((each * weights).sum(), weights.sum()).item()


def matthews(matrix: torch.Tensor) -> torch.Tensor:
    """Returns Matthews's correlation coefficient of a confusion matrix, of any number of classes (Gorodkin, 2004).

    0 where all samples are, or are predicted, of one class.
    """
    true, guessed, num = matrix.sum(1), matrix.sum(0), matrix.sum()
    common = matrix.trace() * num - (true * guessed).sum()
    spread = (num**2 - guessed.square().sum()) * (num**2 - true.square().sum())
    return ratio(common, spread.sqrt())


def cohen_kappa(matrix: torch.Tensor, weights: Literal["linear", "quadratic"] | None = None) -> torch.Tensor:
    """Returns Cohen's kappa of a confusion matrix: the agreement beyond chance; NaN where chance alone would agree.

    Args:
        matrix: [true, predicted].
        weights: how much the distance of two classes counts; by default any two differ alike.
    """
    num = len(matrix)
    expected = torch.outer(matrix.sum(1), matrix.sum(0)) / matrix.sum()
    at = torch.arange(num, dtype=matrix.dtype)
    apart = (at[:, None] - at).abs()
    cost = {None: (apart > 0).to(matrix.dtype), "linear": apart, "quadratic": apart**2}[weights]
    return 1 - (cost * matrix).sum() / (cost * expected).sum()


def balanced_accuracy(matrix: torch.Tensor, *, adjusted: bool = False) -> torch.Tensor:
    """Returns the mean recall of the classes that are there; `adjusted` for chance, 0 is guessing and 1 perfect."""
    there = matrix.sum(1) > 0
    score = (matrix.diagonal()[there] / matrix.sum(1)[there]).mean()
    if adjusted:
        chance = 1 / there.sum().double()
        score = (score - chance) / (1 - chance)
    return score


# ------------------------------------------------------------------------ metrics of counts


class ConfusionMatrix:
    """How often each class was predicted as each, and a score of that.

    Args:
        score: of the matrix, (classes, classes) float64, rows true and columns predicted classes.
        name: of the metric.
        axis: dimension of the classes in the prediction.
        ignore_index: the target that counts nothing.
        num_classes: the number of classes that the score is of, if it is not for any.

    Prediction: (batch, ...) with one number a class; the largest is the predicted one. Target: class indices.

    >>> metric = ConfusionMatrix(lambda matrix: matrix.trace() / matrix.sum(), "hits")
    >>> metric.update(torch.eye(3), torch.tensor([0, 1, 1]), num_local=3)
    >>> metric.matrix.tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        score: Callable[[torch.Tensor], torch.Tensor | float],
        name: str,
        *,
        axis: int = -1,
        ignore_index: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.score = score
        self.name = name
        self.axis = axis
        self.ignore_index = ignore_index
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._matrix: torch.Tensor | None = None

    @property
    def matrix(self) -> torch.Tensor:
        """What this rank has counted so far, on the CPU; without a row before the first batch."""
        return torch.zeros(0, 0, dtype=torch.float64) if self._matrix is None else self._matrix.cpu()

    def update(self, pred: torch.Tensor, target: torch.Tensor, num_local: int) -> None:
        """Counts a batch.

        Raises:
            DataError: the prediction has another number of classes than the score is of.
        """
        num = pred.shape[self.axis]
        if self.num_classes not in (None, num):
            raise DataError(
                f"{self.name} is of {self.num_classes} classes, and the prediction has {num}; give an average over "
                "classes (average='macro'), or the metric for several"
            )
        self.count(pred.argmax(self.axis), target, num, num_local)

    def count(self, guess: torch.Tensor, target: torch.Tensor, num_classes: int, num_local: int) -> None:
        """Counts a batch that is decoded already: `guess` are the predicted classes, in the shape of `target`."""
        if self._matrix is None:
            self._matrix = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=guess.device)
        if num_local:
            truth = target.reshape(-1)
            counts = torch.ones_like(truth, dtype=torch.float64)
            if self.ignore_index is not None:
                counts = (truth != self.ignore_index).double()
                truth = truth.where(counts > 0, 0)
            # Not bincount, which on a GPU waits for the largest value.
            self._matrix.view(-1).scatter_add_(0, truth.long() * num_classes + guess.reshape(-1), counts)

    def statistics(self) -> torch.Tensor:
        """Returns the counts."""
        return self.matrix.flatten()

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the score of the counts."""
        num = round(len(statistics) ** 0.5)
        return float(self.score(statistics.view(num, num))) if statistics.sum() else float("nan")


class LabelCounts:
    """How often each class was rightly and wrongly said to be there, or not, and a score of that.

    Args:
        score: of (4, classes), float64: true positives, false positives, false negatives, true negatives.
        name: of the metric.
        thresh: a class is there when its probability is above this.
        sigmoid: whether the prediction is logits; otherwise it is probabilities.

    Prediction and target: (batch, classes).
    """

    def __init__(
        self, score: Callable[[torch.Tensor], float], name: str, *, thresh: float = 0.5, sigmoid: bool = True
    ) -> None:
        self.score = score
        self.name = name
        self.thresh = thresh
        self.sigmoid = sigmoid
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._counts: torch.Tensor | None = None

    def update(self, pred: torch.Tensor, target: torch.Tensor, num_local: int) -> None:
        """Counts a batch."""
        if self._counts is None:
            self._counts = torch.zeros(4, pred.shape[-1], dtype=torch.float64, device=pred.device)
        if num_local:
            guess = (pred.sigmoid() if self.sigmoid else pred) > self.thresh
            guess, truth = guess.flatten(0, -2), target.bool().flatten(0, -2)
            self._counts += torch.stack(
                [(guess & truth).sum(0), (guess & ~truth).sum(0), (~guess & truth).sum(0), (~guess & ~truth).sum(0)]
            )

    def statistics(self) -> torch.Tensor:
        """Returns the counts."""
        return torch.zeros(0, dtype=torch.float64) if self._counts is None else self._counts.flatten().cpu()

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the score of the counts."""
        return self.score(statistics.view(4, -1)) if statistics.sum() else float("nan")


def of_classes(
    score: Callable[[Counts], torch.Tensor],
    name: str,
    *,
    axis: int,
    average: str,
    pos_label: int,
    labels: Sequence[int] | None,
) -> ConfusionMatrix:
    """Returns the metric of a score of counts where each sample has one class.

    Raises:
        ConfigError: there is no such average.
    """
    if average not in ("binary", "macro", "micro", "weighted"):
        raise ConfigError(f"{name}: average={average!r}; expected 'binary', 'macro', 'micro' or 'weighted'")

    def of_matrix(matrix: torch.Tensor) -> float:
        counts = counts_of_classes(matrix)
        if average == "binary":
            tp, fp, fn = (each[pos_label] for each in counts)
            return score((tp, fp, fn)).item()
        if labels is not None:
            tp, fp, fn = (each[list(labels)] for each in counts)
            counts = tp, fp, fn
        return averaged(score, counts, average, all_count=labels is not None)

    return ConfusionMatrix(of_matrix, name, axis=axis, num_classes=2 if average == "binary" else None)
