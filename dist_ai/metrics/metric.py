"""What a metric is: statistics that reduce over batches and ranks, so that no mean of means is ever taken.

Most metrics are functions of sums: a `Metric` declares them, and the sums of all ranks are added in one exchange for all
metrics. What needs every prediction (the area under a curve, a rank correlation) or a reduction of its own is a
`GatheredMetric`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from dist_ai.distributed.collectives import Collectives

__all__ = ["GatheredMetric", "Metric", "lower_is_better"]


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


@runtime_checkable
class GatheredMetric(Protocol):
    """A value computed over an epoch from what the ranks exchange in a way of their own."""

    name: str

    def reset(self) -> None:
        """Forgets everything."""
        ...

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch of which `num_local` samples count (0: the rank only runs along)."""
        ...

    def reduced(self, collectives: Collectives) -> float:
        """Returns the metric over all ranks; NaN if nothing was counted. Collective."""
        ...


def lower_is_better(name: str) -> bool:
    """Returns whether less of a metric is better, as far as its name tells.

    >>> [lower_is_better(name) for name in ("valid_loss", "error_rate", "rmse", "accuracy")]
    [True, True, True, False]
    """
    return any(word in name.lower() for word in _LESS)


_LESS = ("loss", "error", "mse", "mae", "rmspe", "msle", "perplexity", "brier")
