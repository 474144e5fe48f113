"""Scores of a ranking: areas under curves, exact with ties, and rank correlation; functions of all samples at once."""

from __future__ import annotations

import itertools

import torch

__all__ = ["average_precision", "average_ranks", "roc_auc", "roc_auc_of_pairs"]


def average_ranks(values: torch.Tensor) -> torch.Tensor:
    """Returns the rank of each value, from 1; equal values share the mean of theirs.

    >>> average_ranks(torch.tensor([5.0, 1.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[which]


def roc_auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Returns the area under the ROC curve: how often a positive scores above a negative, ties counting half.

    NaN without a positive or without a negative. (Mann and Whitney, 1947.)

    >>> roc_auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    0.75
    """
    positive = positive.bool()
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    above = average_ranks(scores)[positive].sum() - num_positive * (num_positive + 1) / 2
    return (above / (num_positive * num_negative)).item()


def roc_auc_of_pairs(scores: torch.Tensor, target: torch.Tensor, *, weighted: bool = False) -> float:
    """Returns the mean area over all pairs of classes that are there (Hand and Till, 2001).

    Args:
        scores: (samples, classes).
        target: class indices.
        weighted: weigh each pair by its share of the samples.
    """
    areas, weights = [], []
    for a, b in itertools.combinations(target.unique().long().tolist(), 2):
        among = (target == a) | (target == b)
        both = roc_auc(scores[among, a], target[among] == a), roc_auc(scores[among, b], target[among] == b)
        areas.append(sum(both) / 2)
        weights.append(float(among.sum()) if weighted else 1.0)
    return sum(w * a for w, a in zip(weights, areas, strict=True)) / sum(weights) if areas else float("nan")


def average_precision(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Returns the mean precision at each positive, the highest score first; equal scores are taken together.

    0 without a positive.

    >>> round(average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])), 4)
    0.8333
    """
    if not positive.any():
        return 0.0
    order = scores.argsort(descending=True)
    scores, hits = scores[order], positive.double()[order].cumsum(0)
    last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)]).nonzero().squeeze(1)
    found = hits[last]
    gained = found.diff(prepend=found.new_zeros(1))
    return ((gained * found / (last + 1)).sum() / found[-1]).item()
