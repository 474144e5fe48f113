"""What a user gives as metrics, as metrics; and their values over all ranks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from dist_ai.distributed.collectives import Collectives
from dist_ai.errors import ConfigError
from dist_ai.metrics.mean import Mean, MeanOf, name_of
from dist_ai.metrics.metric import GatheredMetric, Metric
from dist_ai.metrics.torchmetrics import TorchMetric

__all__ = ["as_metrics", "reduce_metrics"]


def as_metrics(metrics: Any) -> list[Metric | GatheredMetric]:
    """Returns a list of metrics from a function, a `Metric`, a metric of torchmetrics, or several.

    Args:
        metrics: one, a list, or a dict of names and metrics: their columns in the epoch's row.

    Raises:
        ConfigError: something in it is none of these.

    >>> from dist_ai.metrics import F1Score
    >>> [metric.name for metric in as_metrics({"f1": F1Score(), "f1_macro": F1Score(average="macro")})]
    ['f1', 'f1_macro']
    """
    if metrics is None:
        return []
    if isinstance(metrics, Mapping):
        # Copies: a metric of the user's keeps its name, and may have two.
        named = dict(zip(metrics, map(copy.copy, as_metrics([*metrics.values()])), strict=True))
        for name, metric in named.items():
            metric.name = str(name)
        return [*named.values()]
    if not isinstance(metrics, list | tuple):
        metrics = [metrics]
    return [_as_metric(metric) for metric in metrics]


def reduce_metrics(metrics: list[Any], collectives: Collectives) -> list[float]:
    """Returns the metrics' values over all ranks; the sums of all of them take one exchange. Collective."""
    values: dict[int, float] = {}
    of_sums = [metric for metric in metrics if not isinstance(metric, GatheredMetric)]
    if of_sums:
        statistics = [metric.statistics() for metric in of_sums]
        reduced = collectives.all_reduce(torch.cat(statistics), what="metrics")
        parts = reduced.split([len(each) for each in statistics])
        values = {id(metric): metric.value(part) for metric, part in zip(of_sums, parts, strict=True)}
    return [
        metric.reduced(collectives) if isinstance(metric, GatheredMetric) else values[id(metric)] for metric in metrics
    ]


def _as_metric(metric: Any) -> Metric | GatheredMetric:
    if isinstance(metric, partial) and isinstance(metric.func, MeanOf):
        whole = metric.func
        return MeanOf(partial(whole.function, *metric.args, **metric.keywords), whole.name, then=whole.then)
    if isinstance(metric, MeanOf):  # a copy: `accuracy` itself is shared by all Learners
        return MeanOf(metric.function, metric.name, then=metric.then)
    if isinstance(metric, type):
        raise ConfigError(f"{metric.__name__} is a class; did you mean {metric.__name__}()?")
    if isinstance(metric, Metric | GatheredMetric):
        if not hasattr(metric, "name"):
            kind = type(metric).__name__
            raise ConfigError(
                f"the metric {kind} has no name, which is its column in the epoch's row; set one in its class: "
                f"name = {kind.lower()!r}. A Metric has name, reset, update, statistics and value"
            )
        return metric
    if (torchmetrics := sys.modules.get("torchmetrics")) and isinstance(metric, torchmetrics.Metric):
        return TorchMetric(metric)
    function = metric.func if isinstance(metric, partial) else metric
    module = getattr(function, "__module__", None) or ""
    if module.startswith(f"{__package__}.") and name_of(function)[0].isupper():
        raise ConfigError(f"{function.__name__} makes a metric; did you mean {function.__name__}()?")
    if module.startswith("sklearn."):
        raise ConfigError(
            f"{function.__name__} is scikit-learn's: it takes the targets first and means all samples at once; give "
            f"from_sklearn({function.__name__}, takes=...)"
        )
    if callable(metric):
        return Mean(metric)
    raise ConfigError(f"{metric!r} is not a metric: expected a function of (pred, target) or a Metric")
