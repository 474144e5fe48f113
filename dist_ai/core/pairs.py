"""Predictions and targets that belong together number by number."""

from __future__ import annotations

import torch

from dist_ai.errors import DataError

__all__ = ["as_many"]


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
