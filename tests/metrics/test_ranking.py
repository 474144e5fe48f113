"""Metrics of rankings beside scikit-learn's, and by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
import sklearn.metrics as skm
import torch

from dist_ai.errors import ConfigError, DataError
from dist_ai.metrics import MRR, NDCGAtK, RecallAtK, as_metrics


def data(num: int = 40, items: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(num, items, generator=generator, dtype=torch.float64)
    relevant = (torch.rand(num, items, generator=generator) < 0.3).long()
    relevant[:, 0] = 1
    return scores, relevant


@pytest.mark.parametrize("k", [1, 3, 12])
def test_ndcg_is_scikit_learn_s(k: int) -> None:
    scores, relevant = data()
    expected = skm.ndcg_score(relevant.numpy(), scores.numpy(), k=k)
    assert NDCGAtK(k)(scores, relevant).item() == pytest.approx(expected, rel=1e-9)


def test_recall_and_mrr_are_what_sorting_finds() -> None:
    scores, relevant = data()
    recalls, reciprocals = [], []
    for row, wanted in zip(scores.numpy(), relevant.numpy(), strict=True):
        hits = wanted[np.argsort(-row)]
        recalls.append(hits[:4].sum() / min(4, wanted.sum()))
        reciprocals.append(1 / (1 + int(np.flatnonzero(hits)[0])))
    assert RecallAtK(4)(scores, relevant).item() == pytest.approx(np.mean(recalls))
    assert MRR()(scores, relevant).item() == pytest.approx(np.mean(reciprocals))
    assert MRR(1)(scores, relevant).item() == pytest.approx(np.mean([r == 1 for r in reciprocals]))


def test_samples_without_relevant_items_do_not_count() -> None:
    scores, relevant = data()
    padded = torch.cat([scores, torch.randn(5, 12)]), torch.cat([relevant, torch.zeros(5, 12, dtype=torch.int64)])
    for metric in as_metrics([RecallAtK(4), NDCGAtK(4), MRR()]):
        values = []
        for pred, target in ((scores, relevant), padded):
            metric.reset()
            for part in torch.arange(len(pred)).split(7):
                metric.update(pred[part], target[part], num_local=len(part))
            values.append(metric.value(metric.statistics()))  # type: ignore[union-attr]
        assert values[0] == pytest.approx(values[1])


def test_a_model_that_says_the_same_of_all_items_has_found_none() -> None:
    same, relevant = torch.zeros(1, 5), torch.tensor([[1, 0, 0, 0, 0]])
    assert RecallAtK(4)(same, relevant).item() == 0
    assert MRR()(same, relevant).item() == pytest.approx(1 / 5)


def test_k_is_at_least_one() -> None:
    for metric in (RecallAtK, NDCGAtK, MRR):
        for k in (0, 2.5, "3", True):
            with pytest.raises(ConfigError, match=rf"k={k!r}: expected a whole number of first items that count"):
                metric(k)


def test_targets_of_another_shape_are_named() -> None:
    for target in (torch.ones(2, 4), torch.ones(2, 2), torch.tensor([1, 2])):
        shape = tuple(target.shape)
        message = (
            rf"scores \(2, 3\) and targets {re.escape(str(shape))}: a metric of rankings expects a target for each"
        )
        with pytest.raises(DataError, match=message):
            RecallAtK(2)(torch.rand(2, 3), target)


@pytest.mark.parametrize("items", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_ties_infinities_and_fewer_items_than_k_are_ranked_as_by_hand(items: int, k: int) -> None:
    random = np.random.default_rng(items)
    scores = random.integers(0, 4, (40, items)).astype(float)
    for value in (np.nan, np.inf, -np.inf):
        scores[random.random(scores.shape) < 0.05] = value
    relevant = (random.random(scores.shape) < 0.3).astype(int)
    relevant[0, 0] = 1
    expected = []
    for row, wanted in zip(scores, relevant, strict=True):
        if not wanted.any():
            continue
        best = sorted(
            range(items),
            key=lambda i, row=row, wanted=wanted: (
                -np.nan_to_num(row[i], nan=-np.inf, posinf=np.inf, neginf=-np.inf),
                wanted[i],
            ),
        )
        hits = [int(wanted[i]) for i in best]
        ideal = sum(1 / np.log2(r + 2) for r in range(min(k, sum(hits))))
        gain = sum(hit / np.log2(r + 2) for r, hit in enumerate(hits[:k]))
        first = hits.index(1) + 1
        expected.append((sum(hits[:k]) / min(k, sum(hits)), gain / ideal, 1 / first, (first <= k) / first))
    found = [
        metric(torch.tensor(scores), torch.tensor(relevant)).item()
        for metric in (RecallAtK(k), NDCGAtK(k), MRR(), MRR(k))
    ]
    assert found == pytest.approx(np.mean(expected, 0).tolist())


def test_a_score_that_is_no_number_is_the_lowest_there_is() -> None:
    nan, inf = torch.nan, torch.inf
    scores = torch.tensor([[nan, 1.0, 2.0], [nan, -inf, nan], [1.0, nan, inf]])
    relevant = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 0]])
    for one, rank in zip(torch.arange(3).split(1), (3, 3, 2), strict=True):
        assert MRR()(scores[one], relevant[one]).item() == pytest.approx(1 / rank)
        assert RecallAtK(1)(scores[one], relevant[one]).item() == 0
        assert NDCGAtK()(scores[one], relevant[one]).item() == pytest.approx(1 / np.log2(rank + 1))
    assert MRR()(torch.tensor([[7, 8]]), torch.tensor([[1, 0]])).item() == 0.5  # whole numbers have no NaN


def test_ratings_by_themselves_have_no_ranking() -> None:
    for shape in ((4, 1), (4,)):
        with pytest.raises(
            DataError, match=r"one a row: a metric of rankings compares a row's items.*take mae or rmse"
        ):
            NDCGAtK(5)(torch.rand(shape), torch.full(shape, 3.5))
