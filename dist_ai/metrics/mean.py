"""Metrics that are means over samples, or functions of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["AvgMetric", "LossMetric", "Mean", "MeanOf"]


class Mean:
    """The mean over samples of a function of (pred, target) that returns the mean over a batch.

    >>> from dist_ai.metrics import accuracy
    >>> metric = Mean(accuracy)
    >>> metric.update(torch.eye(4), torch.tensor([0, 1, 2, 0]), num_local=4)
    >>> metric.value(metric.statistics())
    0.75
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self.name = name or name_of(function)
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


AvgMetric = Mean
"""fastai's name of `Mean`."""


class MeanOf:
    """The mean of a function of (pred, target) that returns the values themselves, added up exactly.

    Args:
        function: returns one value for each sample, pixel or whatever is counted; or a pair (values, weights), if
            they do not all count alike.
        name: of the metric; by default the function's.
        then: what is made of the mean, such as its root.

    It is also a function of one batch: `accuracy(pred, target)`. Decorate a function with it to make a metric:

    >>> @MeanOf
    ... def is_positive(pred, target):
    ...     return pred > 0
    >>> is_positive(torch.tensor([1.0, -1.0]), None).item()
    0.5
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        *,
        then: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.function = function
        self.name = name or name_of(function)
        self.then = then
        self.__doc__ = function.__doc__
        self.reset()

    def __call__(self, pred: Any, *targets: Any, **options: Any) -> torch.Tensor:
        """Returns the metric of a batch."""
        found = self.function(pred, *targets, **options)
        if isinstance(found, tuple):
            values, weights = found
            mean = (values * weights).sum() / weights.sum()
        else:
            mean = (found if found.is_floating_point() else found.float()).mean()
        return mean if self.then is None else self.then(mean)

    def reset(self) -> None:
        """Forgets everything."""
        self._total: torch.Tensor | float = 0.0
        self._count: torch.Tensor | float = 0.0

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch."""
        if num_local:
            found = _call(self.function, pred, target)
            values, weights = found if isinstance(found, tuple) else (found, None)
            values = values.detach().double()
            self._total = self._total + (values if weights is None else values * weights).sum()
            self._count = self._count + (values.numel() if weights is None else weights.sum())

    def statistics(self) -> torch.Tensor:
        """Returns (sum, count)."""
        return torch.tensor([float(self._total), float(self._count)], dtype=torch.float64)

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the mean, or what `then` makes of it."""
        total, count = statistics.tolist()
        if not count:
            return float("nan")
        mean = total / count
        return mean if self.then is None else self.then(torch.tensor(mean, dtype=torch.float64)).item()


def LossMetric(loss_func: Any, attr: str, name: str | None = None) -> Mean:
    """Returns the mean over samples of an attribute that `loss_func` sets each time it is called.

    The parts of a `dist_ai.losses.CompositeLoss` are logged without it.

    Args:
        loss_func: the Learner's loss.
        attr: its attribute, the mean over the batch of a part of it.
        name: of the metric; by default `attr`.
    """
    return Mean(lambda *_: getattr(loss_func, attr), name or attr)


def name_of(function: Any) -> str:
    """Returns what a metric of this function is called; a `functools.partial` goes by its function's name."""
    named = getattr(function, "func", function)
    return getattr(named, "__name__", type(named).__name__)


def _call(function: Callable[..., Any], pred: Any, target: Any) -> Any:
    return function(pred, *target) if isinstance(target, tuple) else function(pred, target)
