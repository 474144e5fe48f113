"""Predictions and targets that belong together, number by number or class by class."""

from __future__ import annotations

import torch

from dist_ai.errors import DataError

__all__ = ["as_many", "by_class"]


def as_many(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns both as (batch, numbers of a sample); (batch, 1) and (batch,) go together.

    Raises:
        DataError: there are not as many numbers in one as in the other.

    >>> [each.shape for each in as_many(torch.zeros(3, 1), torch.zeros(3))]
    [torch.Size([3, 1]), torch.Size([3, 1])]
    """
    # By rows, because torch would make (64, 1) and (64,) a table of 64 x 64 differences.
    if pred.numel() != target.numel() or (pred.dim() and target.dim() and len(pred) != len(target)):
        raise DataError(
            f"a prediction of shape {tuple(pred.shape)} for a target of shape {tuple(target.shape)}; expected as many numbers: "
            "give the model as many outputs as a target has (n_out)"
        )
    rows = (len(pred) if pred.dim() else 1, -1) if pred.numel() else (0, 1)
    return pred.reshape(rows), target.reshape(rows)


def by_class(pred: torch.Tensor, target: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits and targets in the shape in which torch's cross-entropy is fastest, without a copy.

    Where many classes lie side by side in memory, as a language model's do: (predictions, classes) and (predictions,). Torch
    has another kernel for other shapes, whose log-softmax takes 57 ms for 16 x 1,024 tokens of 50,304 on an H200. Else (batch,
    classes, ...) and (batch, ...): of 2 to 15 classes a CPU takes 4 times as long by rows.

    Args:
        pred: logits; the classes are its dimension `axis`.
        target: class indices, of the other dimensions; or probabilities, of the same shape.

    >>> [each.shape for each in by_class(torch.zeros(2, 5, 900), torch.zeros(2, 5, dtype=torch.int64), -1)]
    [torch.Size([10, 900]), torch.Size([10])]
    """
    rows = pred.movedim(axis, -1)
    probabilities = target.is_floating_point()
    wanted = target.movedim(axis, -1) if probabilities else target
    fits = wanted.shape == (rows.shape if probabilities else rows.shape[:-1])  # where not, torch says so
    if fits and rows.dim() > 2 and rows.shape[-1] >= _MANY and rows.is_contiguous():
        return rows.flatten(0, -2), wanted.flatten(0, -2) if probabilities else wanted.flatten()
    return pred.movedim(axis, 1), wanted.movedim(-1, 1) if probabilities else target


_MANY = 64
"""Classes."""
