"""Metrics of language models. Predictions: (batch, length, vocabulary) logits; targets: (batch, length) token ids."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch.nn import functional as F

from dist_ai.metrics.mean import MeanOf

__all__ = ["CorpusBLEUMetric", "Perplexity"]


def Perplexity(axis: int = -1, *, ignore_index: int | None = None) -> MeanOf:
    """Returns the exponential of the mean cross-entropy of all tokens; not the mean of the batches' perplexities.

    Args:
        axis: dimension of the vocabulary in the prediction.
        ignore_index: the target that counts nothing, such as padding.
    """

    def losses(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
        return F.cross_entropy(pred.movedim(axis, 1), target.where(counts, 0), reduction="none"), counts

    return MeanOf(losses, "perplexity", then=torch.exp)


class CorpusBLEUMetric:
    """BLEU of a corpus, from matches of 1 to 4 tokens (Papineni et al., 2002, aclanthology.org/P02-1040).

    Args:
        axis: dimension of the vocabulary in the prediction.
        pad_idx: the token that fills up a text; it is left out of both texts.

    The predicted text of a sample is the likeliest token at each place.
    """

    name = "corpus_bleu"

    def __init__(self, axis: int = -1, *, pad_idx: int | None = None) -> None:
        self.axis = axis
        self.pad_idx = pad_idx
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._sums = torch.zeros(
            2 + 2 * 4, dtype=torch.float64
        )  # lengths of both texts, matches, and n-grams predicted

    def update(self, pred: torch.Tensor, target: torch.Tensor, num_local: int) -> None:
        """Counts a batch."""
        texts = pred.argmax(self.axis)[:num_local].tolist(), target[:num_local].tolist()
        for guess, truth in zip(*texts, strict=True):
            if self.pad_idx is not None:
                guess, truth = ([token for token in text if token != self.pad_idx] for text in (guess, truth))
            matches, predicted = [], []
            for n in range(1, 5):
                ours, theirs = _ngrams(guess, n), _ngrams(truth, n)
                matches.append((ours & theirs).total())
                predicted.append(ours.total())
            self._sums += torch.tensor([len(guess), len(truth), *matches, *predicted], dtype=torch.float64)

    def statistics(self) -> torch.Tensor:
        """Returns the counts."""
        return self._sums

    def value(self, statistics: torch.Tensor) -> float:
        """Returns BLEU: the geometric mean of the four precisions, times the penalty for being too short."""
        length, wanted, *counts = statistics.tolist()
        matches, predicted = counts[:4], counts[4:]
        if not wanted:
            return float("nan")
        if not all(matches):
            return 0.0
        logs = sum(math.log(match / num) for match, num in zip(matches, predicted, strict=True)) / 4
        return math.exp(logs + min(0.0, 1 - wanted / length))


def _ngrams(tokens: list[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
