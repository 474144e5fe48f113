"""Metrics of rankings. Predictions: scores (batch, items), higher is better; targets: 1 for relevant items, else 0.

Only samples that have a relevant item count. A tie ranks the relevant item behind: a model that says the same of all items has
found none. A score that is NaN counts as the lowest there is.
"""

from __future__ import annotations

import math

import torch

from dist_ai.errors import DataError, require_whole
from dist_ai.metrics.mean import MeanOf

__all__ = ["MRR", "NDCGAtK", "RecallAtK"]

Counted = tuple[torch.Tensor, torch.Tensor]


def RecallAtK(k: int = 10) -> MeanOf:
    """Returns which share of a sample's relevant items is among the first `k`; at most `k` of them can be, and count.

    >>> scores, relevant = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0, 1, 1]])
    >>> RecallAtK(2)(scores, relevant).item()
    0.5
    """
    _require(k)

    def recall(pred: torch.Tensor, target: torch.Tensor) -> Counted:
        ranks, relevant = _ranks(pred, target)
        found = (relevant & (ranks <= k)).sum(-1)
        total = relevant.sum(-1)
        return found / total.clamp(1, k), (total > 0).to(found.dtype)

    return MeanOf(recall, f"recall@{k}")


def NDCGAtK(k: int = 10) -> MeanOf:
    """Returns the discounted gain of the relevant items among the first `k`, by that of the best ranking.

    An item at rank r gains 1 / log2(r + 1) (Järvelin and Kekäläinen, 2002, doi:10.1145/582415.582418).
    """
    _require(k)

    def ndcg(pred: torch.Tensor, target: torch.Tensor) -> Counted:
        ranks, relevant = _ranks(pred, target)
        gains = 1 / torch.log2(torch.arange(1, k + 1, device=pred.device, dtype=torch.float64) + 1)
        best = torch.cat([gains.new_zeros(1), gains.cumsum(0)])
        total = relevant.sum(-1)
        at = 1 / torch.log2(ranks.double() + 1)
        found = (at * (relevant & (ranks <= k))).sum(-1)
        return found / best[total.clamp(1, k)], (total > 0).double()

    return MeanOf(ndcg, f"ndcg@{k}")


def MRR(k: int | None = None) -> MeanOf:
    """Returns the mean of 1 / rank of the first relevant item: of all, or 0 behind the first `k`."""
    if k is not None:
        _require(k)

    def mrr(pred: torch.Tensor, target: torch.Tensor) -> Counted:
        ranks, relevant = _ranks(pred, target)
        first = ranks.where(relevant, ranks.shape[-1] + 1).amin(-1)
        reciprocal = 1 / first.double()
        if k is not None:
            reciprocal = reciprocal.where(first <= k, 0.0)
        return reciprocal, relevant.any(-1).double()

    return MeanOf(mrr, "mrr" if k is None else f"mrr@{k}")


def _require(k: int) -> None:
    require_whole(k, f"k={k!r}", "first items that count")


def _ranks(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the rank of each item, from 1, ties behind irrelevant ones, and which are relevant."""
    if pred.shape != target.shape:
        raise DataError(
            f"scores {tuple(pred.shape)} and targets {tuple(target.shape)}: a metric of rankings expects a target for each "
            "score, 1 for relevant items and 0 for others"
        )
    if pred.dim() < 2 or (pred.shape[-1] == 1 and bool(((target != 0) & (target != 1)).any())):
        raise DataError(
            f"scores {tuple(pred.shape)}, one a row: a metric of rankings compares a row's items, such as a chosen one and "
            "others (CollabDataLoaders.from_df(..., negatives=4)); for ratings by themselves take mae or rmse"
        )
    relevant = target > 0.5 if target.is_floating_point() else target.bool()
    # Sorted as it is, NaN would be first.
    pred = pred.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    by_relevance = relevant.to(torch.int8).argsort(dim=-1, stable=True)
    by_score = pred.gather(-1, by_relevance).argsort(dim=-1, descending=True, stable=True)
    order = by_relevance.gather(-1, by_score)
    ranks = torch.empty_like(order)
    ranks.scatter_(-1, order, torch.arange(1, pred.shape[-1] + 1, device=pred.device).expand_as(order))
    return ranks, relevant
