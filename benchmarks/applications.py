"""What texts, tables and ratings cost: our loaders, tokens and an epoch's training, beside fastai's, on one machine.

```
python benchmarks/applications.py                # a quarter of an hour on a calm machine
python benchmarks/applications.py --quick        # some minutes: fewer rounds of less
python benchmarks/applications.py --only tokens  # one of them
```

Both have the same data and take turns, each in a process of its own with one thread. Tables and ratings are generated; texts are
those of the test-data kit (``python tests/kit.py --ci``). Time is the processor's, of all threads, because another program may be
running; where nothing else runs, it is the clock's too.

- "rows": an epoch of the loader alone, eight columns of categories and six of numbers, in batches of 64, 1024 and 4096.
- "tabular": an epoch of `tabular_learner(dls, layers=[200, 100])` on them, with its validation.
- "ratings": an epoch of `collab_learner(dls, 50, y_range=(0, 5.5))` on the ratings of 943 users of 1,682 films.
- "tokens": token ids of sentences of film reviews, by words and fastai's rules, beside spaCy; the vocabulary is there.
- "language model": an epoch of a small AWD-LSTM on them, with its validation.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import INSTALL, Contender, Report, Result, interleave, median_ratio, versions

Work = Callable[[], Any]

CATS, CONTS = [f"c{i}" for i in range(8)], [f"x{i}" for i in range(6)]
SIZE = {"emb_sz": 100, "n_hid": 150, "n_layers": 2}


# ------------------------------------------------------------------------------------ what both learn from


def people(num: int) -> pd.DataFrame:
    """Returns rows of categories and numbers, and what follows from them."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({name: random.normal(size=num) for name in CONTS})
    for i, name in enumerate(CATS):
        frame[name] = [f"v{v}" for v in random.integers(0, 2 + 5 * i, num)]
    frame["y"] = np.where(frame["x0"] + (frame["c3"] > "v5") > 0.5, "yes", "no")
    return frame


def ratings(num: int) -> pd.DataFrame:
    """Returns who rated which film how."""
    random = np.random.default_rng(0)
    user, film = random.integers(0, 943, num), random.integers(0, 1682, num)
    stars = np.clip(3 + np.sin(user) * np.cos(film) + random.normal(0, 0.5, num), 1, 5).round()
    return pd.DataFrame({"user": user, "film": film, "stars": stars})


def sentences(num: int) -> list[str]:
    """Returns sentences of film reviews."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import kit

    return [text for text, _, _ in kit.movie_reviews()][:num]


# ------------------------------------------------------------------------------------ ours and theirs


def our_rows(num: int, bs: int) -> Work:
    """Returns an epoch of our loader."""
    from dist_ai.tabular import TabularDataLoaders

    dls = TabularDataLoaders.from_df(people(num), cat_names=CATS, cont_names=CONTS, y_names="y", bs=bs)
    return lambda: sum(1 for _ in dls.train)


def their_rows(num: int, bs: int) -> Work:
    """Returns an epoch of fastai's loader."""
    dls = _their_tables(num, bs)
    return lambda: sum(1 for _ in dls.train)


def our_tabular(num: int) -> Work:
    """Returns an epoch of our training."""
    from dist_ai.tabular import TabularDataLoaders, tabular_learner

    dls = TabularDataLoaders.from_df(people(num), cat_names=CATS, cont_names=CONTS, y_names="y", bs=64)
    learn = tabular_learner(dls, [200, 100], run_dir=None)
    return lambda: learn.fit(1, 1e-3)


def their_tabular(num: int) -> Work:
    """Returns an epoch of fastai's training."""
    from fastai.tabular.all import tabular_learner

    learn = tabular_learner(_their_tables(num, 64), layers=[200, 100])
    return lambda: learn.fit(1, 1e-3)


def _their_tables(num: int, bs: int) -> Any:
    from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularDataLoaders

    procs = [Categorify, FillMissing, Normalize]
    return TabularDataLoaders.from_df(
        people(num), procs=procs, cat_names=CATS, cont_names=CONTS, y_names="y", bs=bs, num_workers=0
    )


def our_ratings(num: int) -> Work:
    """Returns an epoch of our training."""
    from dist_ai.collab import CollabDataLoaders, collab_learner

    learn = collab_learner(CollabDataLoaders.from_df(ratings(num), bs=64), 50, y_range=(0, 5.5), run_dir=None)
    return lambda: learn.fit(1, 1e-3)


def their_ratings(num: int) -> Work:
    """Returns an epoch of fastai's training."""
    from fastai.collab import CollabDataLoaders, collab_learner

    dls = CollabDataLoaders.from_df(ratings(num), bs=64, num_workers=0)
    learn = collab_learner(dls, n_factors=50, y_range=(0, 5.5))
    return lambda: learn.fit(1, 1e-3)


def our_tokens(num: int) -> Work:
    """Returns what makes our tokens of the sentences."""
    from dist_ai.text import Tokenize

    tokenize, texts = Tokenize(), sentences(num)
    tokenize.setup(texts)
    return lambda: sum(map(len, tokenize.encode_all(texts)))


def their_tokens(num: int) -> Work:
    """Returns what makes fastai's."""
    from collections import Counter

    from fastai.text.core import SpacyTokenizer, TokenizeWithRules
    from fastai.text.data import Numericalize, make_vocab

    with_rules, texts = TokenizeWithRules(SpacyTokenizer()), sentences(num)
    vocab = make_vocab(Counter(token for tokens in with_rules(texts) for token in tokens))
    numbers = Numericalize(vocab=vocab)
    return lambda: sum(len(numbers(tokens)) for tokens in with_rules(texts))


def our_language_model(num: int) -> Work:
    """Returns an epoch of our training."""
    from dist_ai.text import TextDataLoaders, language_model_learner

    frame = pd.DataFrame({"text": sentences(num)})
    dls = TextDataLoaders.from_df(frame, text_col="text", is_lm=True, bs=64, seq_len=72, num_workers=0)
    learn = language_model_learner(dls, "awd_lstm", config=SIZE, run_dir=None)
    return lambda: learn.fit(1, 1e-3)


def their_language_model(num: int) -> Work:
    """Returns an epoch of fastai's training."""
    from fastai.text.all import AWD_LSTM, TextDataLoaders, awd_lstm_lm_config, language_model_learner

    frame = pd.DataFrame({"text": sentences(num)})
    with tempfile.TemporaryDirectory() as folder:
        dls = TextDataLoaders.from_df(frame, path=folder, text_col="text", is_lm=True, bs=64, seq_len=72, num_workers=0)
    learn = language_model_learner(dls, AWD_LSTM, config={**awd_lstm_lm_config, **SIZE}, pretrained=False)
    return lambda: learn.fit(1, 1e-3)


# ------------------------------------------------------------------------------------ side by side


@dataclass(frozen=True)
class Task:
    """One thing that both do.

    Attributes:
        ours, theirs: of how many rows or texts, what does it once.
        num: how many; a quarter of them with ``--quick``.
        goal: our time, in theirs.
        each: whether the time is told of one row or text in microseconds, or of all in seconds.
    """

    ours: Callable[[int], Work]
    theirs: Callable[[int], Work]
    num: int
    goal: float
    each: bool = False


TASKS = {
    **{
        f"rows by {bs}": Task(partial(our_rows, bs=bs), partial(their_rows, bs=bs), 40_000, 0.5, each=True)
        for bs in (64, 1024, 4096)
    },
    "tabular": Task(our_tabular, their_tabular, 40_000, 0.7),
    "ratings": Task(our_ratings, their_ratings, 80_000, 0.5),
    "tokens": Task(our_tokens, their_tokens, 12_808, 0.1, each=True),
    "language model": Task(our_language_model, their_language_model, 12_808, 0.8),
}
NAMES = ["dist_ai", "fastai"]


def timed(name: str, what: str, num: int) -> Contender:
    """Returns what does a task once, and says how long it took."""
    task = TASKS[what]
    work = (task.ours if name == "dist_ai" else task.theirs)(num)

    def run() -> dict[str, float]:
        began = time.process_time(), time.perf_counter()
        work()
        return {"processor": time.process_time() - began[0], "wall": time.perf_counter() - began[1]}

    return run


def lines(what: str, *, quick: bool, rounds: int) -> list[Result]:
    """Returns a task's lines, ours first."""
    task = TASKS[what]
    num = task.num // 4 if quick else task.num
    times = interleave(partial(timed, what=what, num=num), NAMES, rounds=rounds)
    scale, unit = (1e6 / num, "us each") if task.each else (1.0, "s an epoch")
    results = []
    for name in NAMES:
        if name not in times:
            results.append(Result(what=f"{what}: {name}", value=None, unit=unit, note=INSTALL))
            continue
        compared: dict[str, Any] = {}
        if name == "dist_ai" and "fastai" in times:
            ratio = median_ratio(times["dist_ai"]["processor"], times["fastai"]["processor"])
            compared = {"against": f"{what}: fastai", "ratio": ratio, "goal": task.goal}
        value, wall = (statistics.median(times[name][kind]) * scale for kind in ("processor", "wall"))
        results.append(
            Result(what=f"{what}: {name}", value=value, unit=unit, note=f"{wall:.4g} by the clock", **compared)
        )
    return results


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of a quarter of the rows and texts")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--only", choices=TASKS, help="measure one of them")
    args = parser.parse_args()
    rounds = 3 if args.quick else 5
    results = [
        line for what in ([args.only] if args.only else TASKS) for line in lines(what, quick=args.quick, rounds=rounds)
    ]
    Report(
        name="applications",
        only=args.only,
        about=f"Processor time, medians of {rounds} interleaved rounds; one thread.",
        versions=versions("dist_ai", "torch", "pandas", "tokenizers", "fastai", "spacy"),
        results=results,
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
