"""Every metric equals scikit-learn's (or its formula), in float64, of hard inputs, on any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
from metrics.cases import CASES, data, expected, values

import dist_ai.metrics

NOT_SCORES = {
    "AccumMetric",
    "AvgMetric",
    "ConfusionMatrix",
    "GatheredMetric",
    "LabelCounts",
    "LossMetric",
    "Mean",
    "MeanOf",
}
NOT_SCORES |= {"Metric", "Moments", "TorchMetric", "as_metrics", "reduce_metrics", "from_sklearn", "lower_is_better"}
ELSEWHERE = {"CorpusBLEUMetric", "MRR", "NDCGAtK", "RecallAtK", "RougeMetric", "SacreBLEUMetric"}


@pytest.mark.parametrize("name", CASES)
def test_a_metric_is_its_oracles(name: str) -> None:
    for what, (pred, target) in data()[CASES[name].kind].items():
        [value] = [value for key, value in values([name]).items() if key == f"{name}: {what}"]
        assert value == pytest.approx(expected(name, pred, target), rel=1e-9, abs=1e-9, nan_ok=True), what


def test_every_metric_is_among_those_tested() -> None:
    tested = {name.split()[0] for name in CASES} | NOT_SCORES | ELSEWHERE
    assert set(dist_ai.metrics.__all__) - tested == set()


@pytest.fixture(scope="module")
def alone() -> dict[str, float]:
    return values()


@pytest.mark.parametrize(
    ("world_size", "bs"), [(2, 8), (3, 9), pytest.param(4, 5, marks=pytest.mark.slow)]
)  # 9: only one sample in the last batch
def test_metrics_are_the_same_on_any_number_of_ranks(
    alone: dict[str, float], spawn: Any, world_size: int, bs: int
) -> None:
    for rank in spawn(world_size, values_on_ranks, bs=bs):
        for key, value in alone.items():
            assert rank[key] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), key


def values_on_ranks(bs: int) -> dict[str, float]:
    return values(bs=bs)
