"""Metrics of pixels. Predictions: (batch, classes, height, width); targets: (batch, height, width) class indices."""

from __future__ import annotations

import torch

from dist_ai.metrics.counts import ConfusionMatrix, Counts, averaged, counts_of_classes, f_beta, jaccard
from dist_ai.metrics.mean import MeanOf

__all__ = ["Dice", "DiceMulti", "JaccardCoeff", "JaccardCoeffMulti", "foreground_acc"]


@MeanOf
def foreground_acc(
    pred: torch.Tensor, target: torch.Tensor, bkg_idx: int = 0, axis: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each pixel that is not background, class `bkg_idx`, has its class."""
    target = target.squeeze(axis) if target.dim() == pred.dim() else target
    return (pred.argmax(axis) == target), (target != bkg_idx)


def Dice(axis: int = 1, *, ignore_index: int | None = None) -> ConfusionMatrix:
    """Returns the Dice coefficient of the second of two classes over all pixels: 2 * common / (predicted + true).

    Args:
        axis: dimension of the classes in the prediction.
        ignore_index: the target that counts nothing.
    """
    return ConfusionMatrix(
        lambda matrix: f_beta(_second(matrix)), "dice", axis=axis, ignore_index=ignore_index, num_classes=2
    )


def JaccardCoeff(axis: int = 1, *, ignore_index: int | None = None) -> ConfusionMatrix:
    """Returns intersection over union of the second of two classes over all pixels; arguments as in `Dice`."""
    return ConfusionMatrix(
        lambda matrix: jaccard(_second(matrix)), "jaccard_coeff", axis=axis, ignore_index=ignore_index, num_classes=2
    )


def DiceMulti(axis: int = 1, *, ignore_index: int | None = None) -> ConfusionMatrix:
    """Returns the mean Dice coefficient of the classes that are there or predicted; arguments as in `Dice`."""
    return ConfusionMatrix(
        lambda matrix: averaged(f_beta, counts_of_classes(matrix), "macro"),
        "dice_multi",
        axis=axis,
        ignore_index=ignore_index,
    )


def JaccardCoeffMulti(axis: int = 1, *, ignore_index: int | None = None) -> ConfusionMatrix:
    """Returns the mean intersection over union of the classes that are there or predicted; arguments as in `Dice`."""
    return ConfusionMatrix(
        lambda matrix: averaged(jaccard, counts_of_classes(matrix), "macro"),
        "jaccard_coeff_multi",
        axis=axis,
        ignore_index=ignore_index,
    )


def _second(matrix: torch.Tensor) -> Counts:
    tp, fp, fn = (each[1] for each in counts_of_classes(matrix))
    return tp, fp, fn
