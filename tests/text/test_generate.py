"""Text that a model writes: drawn, filtered, searched."""

from __future__ import annotations

import itertools

import pytest
import torch

from dist_ai.errors import ConfigError, DataError
from dist_ai.text.generate import beam_search, filtered, generate


class Table:
    """A language model of four tokens that knows the last two."""

    def __init__(self, seed: int = 0) -> None:
        self.logits = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2

    def continued(
        self, ids: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        before = ids[:, -2] if ids.shape[1] > 1 else state.get("last", torch.zeros(len(ids), dtype=torch.int64))
        return self.logits[before, ids[:, -1]], {"last": ids[:, -1]}

    def score(self, text: tuple[int, ...]) -> float:
        total, before, last = 0.0, 0, 0
        for token in text:
            total += float(self.logits[before, last].log_softmax(0)[token])
            before, last = last, token
        return total


def test_what_is_kept_by_top_k_top_p_and_min_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()

    def kept(**options: float) -> list[int]:
        return filtered(logits, **options)[0].isfinite().nonzero().flatten().tolist()  # type: ignore[arg-type]

    assert kept(top_k=1) == [0]
    assert kept(top_k=9) == [0, 1, 2, 3]
    assert filtered(torch.zeros(1, 4), top_k=2)[0].isfinite().tolist() == [
        True,
        True,
        False,
        False,
    ]  # of equals, the first
    assert kept(top_p=0.5) == [0]
    assert kept(top_p=0.6) == [0, 1]
    assert kept(top_p=1.0) == [0, 1, 2, 3]
    assert kept(min_p=0.1) == [0, 1, 2]
    assert kept(min_p=0.9) == [0]


def test_tokens_come_as_often_as_they_are_likely_and_the_same_for_a_seed() -> None:
    model = Table()
    begin = torch.tensor([0])
    drawn = [generate(model, begin, 1, seed=seed)[0] for seed in range(2000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / 2000
    torch.testing.assert_close(shares, model.logits[0, 0].softmax(0), atol=0.04, rtol=0)
    assert generate(model, begin, 9, seed=3) == generate(model, begin, 9, seed=3)


def test_at_temperature_0_the_likeliest_token_comes_and_forbidden_ones_never() -> None:
    model = Table()
    likeliest = int(model.logits[0, 0].argmax())
    assert generate(model, torch.tensor([0]), 1, temperature=0) == [likeliest]
    assert likeliest not in generate(model, torch.tensor([0]), 40, forbidden=(likeliest,))
    stopped = generate(model, torch.tensor([0]), 99, stop=2)
    assert stopped.index(2) == len(stopped) - 1


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_as_wide_as_all_texts_finds_the_likeliest(seed: int) -> None:
    model = Table(seed)
    best = max(itertools.product(range(4), repeat=4), key=model.score)
    assert beam_search(model, torch.tensor([0]), 4, beam=64) == list(best)
    greedy = beam_search(model, torch.tensor([0]), 4, beam=1)
    assert greedy == generate(model, torch.tensor([0]), 4, temperature=0)


def test_arguments_that_cannot_work_are_named() -> None:
    logits = torch.zeros(1, 3)
    with pytest.raises(ConfigError, match=r"top_p=1\.5: expected a probability above 0 and up to 1"):
        filtered(logits, top_p=1.5)
    for top_k in (0, 2.5):
        with pytest.raises(ConfigError, match=f"top_k={top_k}: expected a whole number of at least 1"):
            filtered(logits, top_k=top_k)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigError, match="temperature=-1: expected a number of 0 or more"):
        generate(Table(), torch.tensor([0]), 1, temperature=-1)
    for beam in (0, 2.0):
        with pytest.raises(ConfigError, match=f"beam={beam}: expected a whole number of at least 1"):
            beam_search(Table(), torch.tensor([0]), 1, beam=beam)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigError, match="n=0: expected a whole number of at least 1"):
        generate(Table(), torch.tensor([0]), 0)


def test_a_model_that_predicts_nan_is_named() -> None:
    model = Table()
    model.logits[:] = torch.nan
    for write in (generate, beam_search):
        with pytest.raises(DataError, match="the model predicts NaN or infinity for what follows, so nothing can be"):
            write(model, torch.tensor([0]), 3)
