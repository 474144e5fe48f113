"""What tokenizing costs: dist_ai's rules and words beside fastai's rules and spaCy, on 12,808 sentences of film reviews.

```
python benchmarks/text.py            # five rounds
python benchmarks/text.py --quick    # three, of 2,000 sentences
```

Both make token ids of texts in one process, with a vocabulary that is there. Time is the processor's, of all threads, because
another program may be running; "wall" is the clock's. The texts come from the test-data kit (``python tests/kit.py --ci``).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from harness import Contender, Report, Result, interleave, median_ratio, versions

OURS, THEIRS = "dist_ai", "fastai (spaCy)"
GOAL = 0.1
QUICK = 2_000


def contender(name: str) -> Contender:
    """Returns what tokenizes the texts once; `--quick` is in the program's arguments, which a fresh process has too."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import kit

    texts = [text for text, _, _ in kit.movie_reviews()][: QUICK if "--quick" in sys.argv else None]
    if name == OURS:
        from dist_ai.text import Tokenize

        tokenize = Tokenize()
        tokenize.setup(texts)

        def run() -> int:
            return sum(map(len, tokenize.encode_all(texts)))
    else:
        from fastai.text.core import SpacyTokenizer, TokenizeWithRules
        from fastai.text.data import Numericalize, make_vocab

        with_rules = TokenizeWithRules(SpacyTokenizer())
        from collections import Counter

        vocab = make_vocab(Counter(token for tokens in with_rules(texts) for token in tokens))
        numbers = Numericalize(vocab=vocab)

        def run() -> int:
            return sum(len(numbers(tokens)) for tokens in with_rules(texts))

    def measured() -> dict[str, float]:
        begin = time.process_time(), time.perf_counter()
        run()
        return {
            "us": (time.process_time() - begin[0]) / len(texts) * 1e6,
            "wall": (time.perf_counter() - begin[1]) / len(texts) * 1e6,
        }

    return measured


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer texts")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    rounds = 3 if args.quick else 5
    measured = interleave(contender, [OURS, THEIRS], rounds=rounds)
    results = []
    for what in ("us", "wall"):
        for name in (OURS, THEIRS):
            values = measured.get(name)
            compared = name == OURS and THEIRS in measured
            results.append(
                Result(
                    what=f"{name}, {'processor' if what == 'us' else 'wall'}",
                    value=None if values is None else statistics.median(values[what]),
                    unit="us a text",
                    against=THEIRS if compared else None,
                    ratio=median_ratio(measured[OURS][what], measured[THEIRS][what]) if compared else None,
                    goal=GOAL if compared else None,
                    note="" if values is not None else "not installed",
                )
            )
    Report(
        name="text",
        about=f"Time to tokenize a sentence, medians of {rounds} interleaved rounds.",
        versions=versions("dist_ai", "tokenizers", "fastai", "spacy"),
        results=results,
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
