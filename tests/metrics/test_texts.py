"""BLEU and ROUGE of decoded texts are those of the libraries over all texts, on any number of ranks."""

from __future__ import annotations

import re

import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer

from dist_ai.errors import ConfigError, MissingDependencyError
from dist_ai.metrics import RougeMetric, SacreBLEUMetric

WORDS = ["the", "a", "film", "story", "was", "is", "good", "bad", "with", "music", "and", "actors", "in"]


def text(ids: list[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def data(num: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns predictions (num, 12, words) and targets, alike in about two of three tokens."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(len(WORDS), (num, 12), generator=generator)
    guess = torch.where(torch.rand(num, 12, generator=generator) < 0.7, target, (target + 1) % len(WORDS))
    return torch.nn.functional.one_hot(guess, len(WORDS)).float(), target


@pytest.mark.parametrize("kind", ["bleu", "rouge1", "rouge2", "rougeL"])
def test_parts_of_the_data_add_up_to_what_the_library_says_of_all(kind: str) -> None:
    pred, target = data()
    guesses, truths = ([text(row) for row in rows.tolist()] for rows in (pred.argmax(-1), target))
    if kind == "bleu":
        wanted = sacrebleu.BLEU(force=True).corpus_score(guesses, [truths]).score
    else:
        scores = [RougeScorer([kind]).score(t, g)[kind].fmeasure for t, g in zip(truths, guesses, strict=True)]
        wanted = sum(scores) / len(scores)
    parts = [SacreBLEUMetric(text) if kind == "bleu" else RougeMetric(text, kind) for _ in range(2)]
    parts[0].update(pred[:7], target[:7], num_local=7)
    parts[1].update(pred[7:20], target[7:20], num_local=13)
    parts[1].update(torch.cat([pred[20:], pred[:3]]), torch.cat([target[20:], target[:3]]), num_local=4)
    assert parts[0].value(parts[0].statistics() + parts[1].statistics()) == pytest.approx(wanted)
    assert 0 < wanted < 100


def test_what_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"kind='rouge': .*; expected 'rouge1', 'rouge2' or 'rougeL'"):
        RougeMetric(text, "rouge")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    for make, package in ((SacreBLEUMetric, "sacrebleu"), (RougeMetric, "rouge-score")):
        with pytest.raises(MissingDependencyError, match=re.escape(f"needs it: pip install {package}")):
            make(text)
