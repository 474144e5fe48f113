"""Metrics of language models. Predictions: (batch, length, vocabulary) logits; targets: (batch, length) token ids."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from dist_ai.core.pairs import by_class
from dist_ai.errors import ConfigError, MissingDependencyError
from dist_ai.metrics.mean import MeanOf

__all__ = ["CorpusBLEUMetric", "Perplexity", "RougeMetric", "SacreBLEUMetric"]


def Perplexity(axis: int = -1, *, ignore_index: int | None = None) -> MeanOf:
    """Returns the exponential of the mean cross-entropy of all tokens; not the mean of the batches' perplexities.

    Args:
        axis: dimension of the vocabulary in the prediction.
        ignore_index: the target that counts nothing, such as padding.
    """

    def losses(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
        each = F.cross_entropy(*by_class(pred, target.where(counts, 0), axis), reduction="none")
        return each.reshape(target.shape), counts

    return MeanOf(losses, "perplexity", then=torch.exp)


class CorpusBLEUMetric:
    """BLEU of a corpus, from matches of 1 to 4 tokens (Papineni et al., 2002, aclanthology.org/P02-1040).

    Args:
        axis: dimension of the vocabulary in the prediction.
        pad_idx: the token that fills up a text; it is left out of both texts.

    The predicted text of a sample is the likeliest token at each place. The value is that of nltk's `corpus_bleu`; that of
    fastai's metric differs by up to 0.02.
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


class _OfTexts(ABC):
    """What metrics of decoded texts share: the likeliest token at each place makes the predicted text.

    Args:
        decode: from the ids of a text to the text, such as ``dls.tokenize.text``, which leaves padding out.
        axis: dimension of the vocabulary in the prediction.
    """

    def __init__(self, decode: Callable[[list[int]], str], axis: int, num_sums: int) -> None:
        self.decode = decode
        self.axis = axis
        self.num_sums = num_sums
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._sums = torch.zeros(self.num_sums, dtype=torch.float64)

    def update(self, pred: torch.Tensor, target: torch.Tensor, num_local: int) -> None:
        """Counts a batch."""
        guesses, truths = pred.argmax(self.axis)[:num_local].tolist(), target[:num_local].tolist()
        for guess, truth in zip(guesses, truths, strict=True):
            self._sums += torch.tensor(self.of_one(self.decode(guess), self.decode(truth)), dtype=torch.float64)

    def statistics(self) -> torch.Tensor:
        """Returns the sums."""
        return self._sums

    @abstractmethod
    def of_one(self, guess: str, truth: str) -> list[float]:
        """Returns what one sample adds to the sums."""


class SacreBLEUMetric(_OfTexts):
    """BLEU of texts as sacreBLEU counts it, 0 to 100, with its tokenisation (Post, arXiv:1804.08771).

    Args:
        decode, axis: see `RougeMetric`.

    Raises:
        MissingDependencyError: sacrebleu is not installed.
    """

    name = "sacrebleu"

    def __init__(self, decode: Callable[[list[int]], str], axis: int = -1) -> None:
        self._bleu = _imported("sacrebleu", "sacrebleu").BLEU(force=True)
        super().__init__(decode, axis, 2 + 2 * 4)

    def of_one(self, guess: str, truth: str) -> list[float]:
        """Returns the lengths, the matches and the n-grams of a text."""
        score = self._bleu.corpus_score([guess], [[truth]])
        return [score.sys_len, score.ref_len, *score.counts, *score.totals]

    def value(self, statistics: torch.Tensor) -> float:
        """Returns BLEU."""
        length, wanted, *counts = (round(each) for each in statistics.tolist())
        if not wanted:
            return float("nan")
        return float(self._bleu.compute_bleu(counts[:4], counts[4:], length, wanted, smooth_method="exp").score)


class RougeMetric(_OfTexts):
    """The mean ROUGE F-measure of the texts, 0 to 1 (Lin, 2004, aclanthology.org/W04-1013), as Google's rouge-score counts it.

    Args:
        decode: from the ids of a text to the text, such as ``dls.tokenize.text``, which leaves padding out.
        kind: ``"rouge1"``, ``"rouge2"``, ``"rougeL"`` and so on.
        axis: dimension of the vocabulary in the prediction.

    The predicted text of a sample is the likeliest token at each place.

    Raises:
        ConfigError: there is no such kind.
        MissingDependencyError: rouge-score is not installed.
    """

    def __init__(self, decode: Callable[[list[int]], str], kind: str = "rougeL", axis: int = -1) -> None:
        self.name = kind
        self._scorer = _imported("rouge_score.rouge_scorer", "rouge-score").RougeScorer([kind])
        try:
            self._scorer.score("a", "a")
        except ValueError as error:
            raise ConfigError(f"kind={kind!r}: {error}; expected 'rouge1', 'rouge2' or 'rougeL'") from error
        super().__init__(decode, axis, 2)

    def of_one(self, guess: str, truth: str) -> list[float]:
        """Returns the F-measure of a text, and 1."""
        return [self._scorer.score(truth, guess)[self.name].fmeasure, 1.0]

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the mean."""
        total, count = statistics.tolist()
        return total / count if count else float("nan")


def _imported(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{package} is not installed, and this metric needs it: pip install {package}"
        ) from error


def _ngrams(tokens: list[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
