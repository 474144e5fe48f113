"""Metrics as statistics that add up over batches and ranks."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from dist_ai.data import EpochPlan
from dist_ai.distributed import join
from dist_ai.errors import ConfigError
from dist_ai.metrics import Mean, MeanOf, Metric, accuracy, as_metrics, error_rate, reduce_metrics


def value_over(metric: Metric, pred: torch.Tensor, target: torch.Tensor, sizes: list[int]) -> float:
    """Returns the metric over batches of these sizes."""
    metric.reset()
    for p, t in zip(pred.split(sizes), target.split(sizes), strict=True):
        metric.update(p, t, num_local=len(p))
    return metric.value(metric.statistics())


def make_data(num: int = 103) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 4, generator=generator), torch.randint(4, (num,), generator=generator)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_uneven_batches_weigh_what_they_hold(sizes: list[int]) -> None:
    pred, target = make_data(sum(sizes))
    [loss] = as_metrics(F.cross_entropy)
    got = value_over(loss, pred.double(), target, sizes)
    assert got == pytest.approx(F.cross_entropy(pred.double(), target).item(), rel=1e-12)
    [hits] = as_metrics(accuracy)
    assert value_over(hits, pred, target, sizes) == (pred.argmax(1) == target).sum().item() / len(pred)  # no rounding


def test_a_mean_of_means_would_be_wrong_where_a_mean_is_right() -> None:
    pred, target = torch.eye(4), torch.tensor([0, 0, 0, 3])
    metric = Mean(accuracy)
    assert value_over(metric, pred, target, [1, 3]) == pytest.approx(0.5)  # the mean of 1/1 and 1/3 is 2/3


def test_a_rank_that_only_runs_along_counts_nothing() -> None:
    metrics = as_metrics([accuracy, F.cross_entropy])
    for metric in metrics:
        metric.update(torch.eye(2), torch.tensor([0, 1]), num_local=0)
        assert metric.statistics().tolist() == [0.0, 0.0]


def test_nothing_counted_is_nan() -> None:
    assert all(math.isnan(value) for value in reduce_metrics(as_metrics([accuracy, F.cross_entropy]), join()))
    assert reduce_metrics([], join()) == []


def test_a_reset_forgets_everything() -> None:
    pred, target = make_data()
    for metric in as_metrics([accuracy, F.cross_entropy]):
        first = value_over(metric, pred, target, [103])
        assert value_over(metric, pred, target, [103]) == first
        metric.reset()
        assert math.isnan(metric.value(metric.statistics()))


def test_accuracy_and_error_rate_are_functions_of_a_batch_too() -> None:
    pred, target = make_data()
    share = (pred.argmax(1) == target).float().mean()
    assert accuracy(pred, target) == share
    assert error_rate(pred, target) == (pred.argmax(1) != target).float().mean()
    assert accuracy(pred.T[None], target[None], axis=1) == share


def test_options_are_given_with_partial() -> None:
    pred, target = make_data()
    [metric] = as_metrics(partial(accuracy, axis=1))
    images, masks = pred.view(-1, 1, 1, 4).movedim(-1, 1), target.view(-1, 1, 1)  # (batch, classes, 1, 1)
    metric.update(images, masks, num_local=len(images))
    assert metric.value(metric.statistics()) == (pred.argmax(1) == target).sum().item() / len(pred)
    assert metric.name == "accuracy"
    assert isinstance(metric, MeanOf)  # added up exactly, not as a mean of the function


def test_metrics_go_by_their_functions_names() -> None:
    class Distance:
        def __call__(self, pred: Any, target: Any) -> Any:
            return 0.0

    of_classes = MeanOf(lambda pred, target: pred > 0, "positive")
    metrics = [accuracy, F.cross_entropy, partial(F.cross_entropy, label_smoothing=0.1), Distance()]
    metrics += [of_classes, partial(of_classes), Mean(accuracy, "hits"), lambda pred, target: 0.0]
    names = ["accuracy", "cross_entropy", "cross_entropy", "Distance", "positive", "positive", "hits", "<lambda>"]
    assert [metric.name for metric in as_metrics(metrics)] == names


def test_several_targets_reach_the_function_one_by_one() -> None:
    def distance(pred: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return (pred - low).abs() + (pred - high).abs()

    pred, targets = torch.tensor([1.0, 2.0]), (torch.tensor([0.0, 0.0]), torch.tensor([4.0, 4.0]))
    for metric in (MeanOf(distance), Mean(lambda *args: distance(*args).mean())):
        metric.update(pred, targets, num_local=2)
        assert metric.value(metric.statistics()) == 4.0
    assert MeanOf(distance)(pred, *targets) == 4.0


def test_one_metric_or_several_or_none_may_be_given() -> None:
    assert as_metrics(None) == []
    assert [metric.name for metric in as_metrics(accuracy)] == ["accuracy"]
    assert [metric.name for metric in as_metrics((accuracy, error_rate))] == ["accuracy", "error_rate"]


def test_two_learners_never_share_a_metrics_sums() -> None:
    pred, target = make_data()
    [first], [second] = as_metrics(accuracy), as_metrics(accuracy)
    first.update(pred, target, num_local=103)
    assert second.statistics().tolist() == [0.0, 0.0]
    assert accuracy.statistics().tolist() == [0.0, 0.0]


def test_a_metric_of_ones_own_is_taken_as_it_is() -> None:
    class Largest:
        """Not a mean at all: how many predictions were above 1, as any statistics that add up."""

        name = "above_1"

        def reset(self) -> None:
            self.count = 0.0

        def update(self, pred: Any, target: Any, num_local: int) -> None:
            self.count += float((pred > 1).sum()) * (num_local > 0)

        def statistics(self) -> torch.Tensor:
            return torch.tensor([self.count], dtype=torch.float64)

        def value(self, statistics: torch.Tensor) -> float:
            return statistics.item()

    mine = Largest()
    assert as_metrics(mine) == [mine]
    pred, target = make_data()
    assert value_over(mine, pred, target, [100, 3]) == (pred > 1).sum().item()
    with pytest.raises(ConfigError, match=r"Largest is a class; did you mean Largest\(\)\?"):
        as_metrics([Largest])


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        as_metrics(["accuracy"])
    assert str(refused.value) == ("'accuracy' is not a metric: expected a function of (pred, target) or a Metric")


def metrics_over_ranks(bs: int = 8) -> list[str]:
    """Returns the metrics of 103 samples dealt to the ranks as a loader deals them, as hexadecimal: every bit."""

    @MeanOf
    def distance(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (pred[:, 0] * 2**20).round() / 2**20  # sums of these are exact in float64, in any order

    ranks = join()
    pred, target = make_data()
    metrics = as_metrics([accuracy, error_rate, distance])
    plan = EpochPlan(num_samples=len(pred), batch_size=bs, world_size=ranks.world.world_size, rank=ranks.world.rank)
    for share in plan:
        rows = torch.from_numpy(share.indices)
        for metric in metrics:
            metric.update(pred[rows], target[rows], share.num_local)
    return [value.hex() for value in reduce_metrics(metrics, ranks)]


def test_one_two_and_three_ranks_give_the_exact_same_bits(spawn: Any) -> None:
    expected = metrics_over_ranks()
    pred, target = make_data()
    assert expected[0] == ((pred.argmax(1) == target).sum().item() / 103).hex()
    # With 34 the last batch has one sample, so that two of three ranks only run along.
    assert metrics_over_ranks(bs=34) == expected
    for world_size in (2, 3):
        assert spawn(world_size, metrics_over_ranks, bs=34) == [expected] * world_size
