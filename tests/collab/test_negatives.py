"""What is drawn beside what a user chose."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

from dist_ai.collab import CollabDataLoaders, SampleNegatives
from dist_ai.core import Draw, TabularRow


def drawn(
    sampler: SampleNegatives, pairs: list[tuple[int, int]], *, training: bool = False
) -> list[tuple[int, int, list[int]]]:
    """Returns (user, item, drawn items) of each pair."""
    cats = torch.tensor(pairs)
    draw = Draw(seed=0, epoch=0, samples=range(len(pairs))) if training else None
    row, y = sampler((TabularRow(cats, torch.empty(len(cats), 0)), torch.ones(len(cats))), draw)
    assert y.shape == (len(cats), row.cats.shape[1] - 1)
    assert y[:, 0].eq(1).all()
    assert not y[:, 1:].any()
    return [(user, item, others) for user, item, *others in row.cats.tolist()]


def random_pairs(num: int, users: int, items: int, seed: int) -> list[tuple[int, int]]:
    """Returns pairs with repetitions; 0 is an unknown user or item."""
    random = np.random.default_rng(seed)
    return list(zip(random.integers(0, users, num).tolist(), random.integers(0, items, num).tolist(), strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
@pytest.mark.parametrize("asked", [1, 3, 99])
@pytest.mark.parametrize(("users", "items", "num"), [(5, 8, 12), (20, 30, 200), (4, 6, 19), (3, 4, 9), (40, 150, 400)])
def test_only_what_was_not_chosen_is_drawn_and_as_rarely_twice_as_can_be(
    users: int, items: int, num: int, asked: int, training: bool
) -> None:
    train, valid = random_pairs(num, users, items, 0), random_pairs(num // 3, users, items, 1)
    sampler = SampleNegatives(items, train=asked, valid=asked)
    sampler.remember(torch.tensor(train), torch.tensor(valid))
    chosen = defaultdict(set)
    for user, item in train if training else train + valid:
        if user and item:
            chosen[user].add(item)
    rows = train + valid + random_pairs(50, users, items, 2)  # the last ones nobody told of
    width = min(asked, items - 1 - min(map(len, chosen.values())))
    for user, item, others in drawn(sampler, rows, training=training):
        assert len(others) == max(1, width)
        free = set(range(1, items)) - chosen[user] - {item}
        if not free:
            assert set(others) == {0}
            continue
        assert set(others) <= free
        assert len(set(others)) == min(len(others), len(free))
        times = Counter(others).values()
        assert max(times) - min(times) <= 1


def test_every_set_of_items_is_as_likely_as_any_other() -> None:
    sampler = SampleNegatives(8, valid=3)
    sampler.remember(torch.tensor([[1, 2], [1, 5]] + [[user, 2] for user in range(2, 20_002)]))
    cats = torch.tensor([[user, 5] for user in range(2, 20_002)])
    others = [tuple(sorted(each)) for _, _, each in drawn(sampler, cats.tolist())]
    counts = Counter(others)  # of 1, 3, 4, 6, 7
    assert len(counts) == 10
    assert max(counts.values()) < 2_000 + 5 * 2_000**0.5
    assert min(counts.values()) > 2_000 - 5 * 2_000**0.5


def test_what_validation_holds_is_among_no_row_s_others() -> None:
    random = np.random.default_rng(0)
    pairs = pd.DataFrame(
        {"user": random.integers(0, 100, 1400), "film": random.integers(0, 100, 1400)}
    ).drop_duplicates()
    dls = CollabDataLoaders.from_df(pairs, negatives=4, bs=512, num_workers=0)
    known = {tuple(pair) for part in (dls.train_ds, dls.valid_ds) for pair in part.rows.cats.tolist()}
    rows = [row for batch, _ in dls.valid for row in batch.cats.tolist()]
    assert len(rows) == len(dls.valid_ds)
    assert not known & {(user, other) for user, _, *others in rows if user for other in others}
    assert not [others for _, item, *others in rows if item in others]
    num_items = len(dls.classes["film"]) - 1
    left = [num_items - sum(user == each for each, _ in known) for user, *_ in rows]
    assert all(len(set(others)) == min(len(others), n) for (_, _, *others), n in zip(rows, left, strict=True))
