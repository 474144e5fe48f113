"""Small texts with a rule to learn, and small learners of them."""

from __future__ import annotations

import random
from typing import Any

from dist_ai.metrics import accuracy
from dist_ai.text import TextDataLoaders, language_model_learner, text_classifier_learner

SMALL = {"emb_sz": 12, "n_hid": 16, "n_layers": 2}
SMALL_GPT = {"emb_sz": 16, "n_heads": 2, "n_layers": 2}
_GOOD = ["good", "great", "fine", "lovely", "superb"]
_BAD = ["bad", "awful", "poor", "boring", "dreadful"]
_REST = ["the", "film", "is", "a", "story", "with", "music", "and", "actors", "in", "it"]


def reviews(num: int = 80) -> list[dict[str, str]]:
    """Returns reviews of 4 to 20 words, whose label says whether a good or a bad word is in them."""
    chance = random.Random(0)
    rows = []
    for i in range(num):
        label = ("neg", "pos")[i % 2]
        words = [chance.choice(_REST) for _ in range(chance.randint(3, 19))]
        words.insert(chance.randrange(len(words)), chance.choice(_GOOD if label == "pos" else _BAD))
        rows.append({"text": " ".join(words).capitalize() + ".", "label": label})
    return rows


def loaders(num: int = 80, **options: Any) -> TextDataLoaders:
    """Returns loaders of reviews."""
    given = {"text_col": "text", "label_col": "label", "bs": 16, "min_freq": 1, "num_workers": 0, **options}
    return TextDataLoaders.from_df(reviews(num), **given)


def classifier(dls: TextDataLoaders | None = None, arch: str = "awd_lstm", **options: Any) -> Any:
    """Returns a small classifier's learner that writes and shows nothing."""
    given = {
        "config": SMALL if arch == "awd_lstm" else SMALL_GPT,
        "metrics": accuracy,
        "run_dir": None,
        "progress": False,
        **options,
    }
    return text_classifier_learner(dls or loaders(), arch, **given)


def language_model(dls: TextDataLoaders | None = None, arch: str = "awd_lstm", **options: Any) -> Any:
    """Returns a small language model's learner that writes and shows nothing."""
    given = {"config": SMALL if arch == "awd_lstm" else SMALL_GPT, "run_dir": None, "progress": False, **options}
    return language_model_learner(dls or loaders(is_lm=True, bs=6, seq_len=7), arch, **given)
