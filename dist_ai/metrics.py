"""Metrics as statistics that add up over batches and ranks, so that no mean of means is ever taken.

A metric is a `Metric`, or a plain function `(pred, target) -> mean over the batch`: then the mean is weighted by the
number of samples that count and added up. The sums of all ranks are added once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch

from dist_ai.distributed.collectives import Collectives
from dist_ai.errors import ConfigError

__all__ = ["Mean", "MeanOf", "Metric", "accuracy", "as_metrics", "error_rate", "reduce_metrics"]


@runtime_checkable
class Metric(Protocol):
    """A value computed over an epoch from statistics that add up."""

    name: str

    def reset(self) -> None:
        """Forgets everything."""
        ...

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch of which `num_local` samples count (0: the rank only runs along)."""
        ...

    def statistics(self) -> torch.Tensor:
        """Returns the statistics so far, a float64 vector that is added up over ranks."""
        ...

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the metric from statistics added up over ranks; NaN if nothing was counted."""
        ...


def _name(function: Any) -> str:
    named = getattr(function, "func", function)  # a `functools.partial` goes by its function's name
    return getattr(named, "__name__", type(named).__name__)


def _call(function: Callable[..., Any], pred: Any, target: Any) -> Any:
    return function(pred, *target) if isinstance(target, tuple) else function(pred, target)


class Mean:
    """The mean over samples of a function of (pred, target) that returns the mean over a batch.

    >>> metric = Mean(accuracy)
    >>> metric.update(torch.eye(4), torch.tensor([0, 1, 2, 0]), num_local=4)
    >>> metric.value(metric.statistics())
    0.75
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self.name = name or _name(function)
        self.__doc__ = function.__doc__
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._total: torch.Tensor | float = 0.0
        self._count = 0

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch."""
        if num_local:
            # Stays on the device: reading it here would wait for the device at every batch.
            value = torch.as_tensor(_call(self.function, pred, target))
            self._total = self._total + value.detach().double() * num_local
            self._count += num_local

    def statistics(self) -> torch.Tensor:
        """Returns (sum, count)."""
        return torch.tensor([float(self._total), float(self._count)], dtype=torch.float64)

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the mean."""
        total, count = statistics.tolist()
        return total / count if count else float("nan")


class MeanOf(Mean):
    """The mean over samples of a function of (pred, target) that returns a value for each of them, added up exactly.

    It is also that function's mean: `accuracy(pred, target)`. Decorate a function with it to make a metric:

    >>> @MeanOf
    ... def is_positive(pred, target):
    ...     return pred > 0
    >>> is_positive(torch.tensor([1.0, -1.0]), None).item()
    0.5
    """

    def __call__(self, pred: Any, *targets: Any, **options: Any) -> torch.Tensor:
        """Returns the mean over a batch."""
        return self.function(pred, *targets, **options).float().mean()

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch."""
        if num_local:
            values = _call(self.function, pred, target).detach()
            self._total = self._total + values.double().sum()
            self._count += values.numel()


@MeanOf
def accuracy(pred: torch.Tensor, target: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Whether the largest class of each prediction is the target; its mean is the accuracy.

    Prediction: logits or probabilities with the classes on `axis`; target: class indices of the remaining shape.

    >>> accuracy(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 1])).item()
    0.5
    """
    return pred.argmax(axis) == target


@MeanOf
def error_rate(pred: torch.Tensor, target: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Whether the largest class of each prediction is not the target; its mean is 1 - `accuracy`."""
    return pred.argmax(axis) != target


def as_metrics(metrics: Any) -> list[Metric]:
    """Returns a list of metrics from a function, a `Metric`, or several.

    Raises:
        ConfigError: something in it is neither.
    """
    if metrics is None:
        return []
    if not isinstance(metrics, list | tuple):
        metrics = [metrics]
    return [_as_metric(metric) for metric in metrics]


def reduce_metrics(metrics: list[Metric], collectives: Collectives) -> list[float]:
    """Returns the metrics' values over all ranks, with one exchange for all of them. Collective."""
    if not metrics:
        return []
    statistics = [metric.statistics() for metric in metrics]
    reduced = collectives.all_reduce(torch.cat(statistics), what="metrics")
    parts = reduced.split([len(each) for each in statistics])
    return [metric.value(part) for metric, part in zip(metrics, parts, strict=True)]


def _as_metric(metric: Any) -> Metric:
    if isinstance(metric, partial) and isinstance(metric.func, MeanOf):
        return MeanOf(partial(metric.func.function, *metric.args, **metric.keywords), metric.func.name)
    if isinstance(metric, MeanOf):
        return MeanOf(metric.function, metric.name)  # a copy: `accuracy` itself is shared by all Learners
    if isinstance(metric, type):
        raise ConfigError(f"{metric.__name__} is a class; did you mean {metric.__name__}()?")
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Mean(metric)
    raise ConfigError(f"{metric!r} is not a metric: expected a function of (pred, target) or a Metric")
