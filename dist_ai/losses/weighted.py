"""Losses that are weighted means, and what makes them exact on any number of ranks.

Nearly every loss is a mean over samples: then the mean over the global batch follows from the ranks' means and the
numbers of their samples, which the plan knows. With class weights or ignored targets it does not: a rank's mean is divided
by what counts *there*. Such a loss says so by two more methods, what its mean is made of:

```python
class TokenLoss:
    def weights(self, target):  # what the mean is divided by: the tokens that are not padding
        return (target != 0).sum()[None]

    def totals(self, pred, target):  # what is divided
        return F.cross_entropy(pred.transpose(1, 2), target, reduction="sum", ignore_index=0)[None]

    def __call__(self, pred, target):
        return weighted_mean(self.totals(pred, target), self.weights(target))
```

Totals and weights add up, over ranks and over batches. The ranks add up their weights while the model runs (one exchange
of a few numbers a step), and each divides its totals by the weight of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["WeightedLoss", "as_weighted", "loss_weights", "weighted_mean"]


@runtime_checkable
class WeightedLoss(Protocol):
    """A loss that is a sum of weighted means: the sum of its totals, each divided by its weight."""

    def weights(self, *targets: Any) -> torch.Tensor | None:
        """Returns what each mean is divided by, (terms,), without a gradient; None if all samples weigh alike.

        It depends on the targets alone. Whether it is None, and the number of terms, is the same for every batch.
        """
        ...

    def totals(self, pred: Any, *targets: Any) -> torch.Tensor:
        """Returns what is divided, (terms,)."""
        ...


def weighted_mean(totals: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the sum of `totals`, each divided by its weight; a term that nothing counts in is 0.

    Args:
        totals: (..., terms).
        weights: (..., terms), 0 or more.

    >>> weighted_mean(torch.tensor([6.0, 0.0]), torch.tensor([3, 0])).item()
    2.0
    """
    divisors = torch.where(weights > 0, weights, 1).to(totals.dtype)
    return (totals / divisors).sum(-1)


def as_weighted(loss_func: Callable[..., Any]) -> WeightedLoss | None:
    """Returns `loss_func` as a weighted mean, or None if it does not say that it is one: then it is a mean over samples.

    torch's `cross_entropy` and `nll_loss`, as functions or modules, always are: they leave out the targets of their
    `ignore_index`, which is -100 unless they are given another.
    """
    if isinstance(loss_func, WeightedLoss):
        return loss_func
    if isinstance(loss_func, nn.CrossEntropyLoss):
        return _OfTorch(
            F.cross_entropy,
            weight=loss_func.weight,
            ignore_index=loss_func.ignore_index,
            label_smoothing=loss_func.label_smoothing,
        )
    if isinstance(loss_func, nn.NLLLoss):
        return _OfTorch(F.nll_loss, weight=loss_func.weight, ignore_index=loss_func.ignore_index)
    function = loss_func.func if isinstance(loss_func, partial) and not loss_func.args else loss_func
    if function in (F.cross_entropy, F.nll_loss):
        options = dict(getattr(loss_func, "keywords", {}))
        options.pop("reduction", None)
        return _OfTorch(function, **options)
    return None


def loss_weights(loss_func: Callable[..., Any], targets: tuple[Any, ...]) -> torch.Tensor | None:
    """Returns what the means of `loss_func` are divided by for these targets; None if all samples weigh alike."""
    weighted = as_weighted(loss_func)
    return None if weighted is None else weighted.weights(*targets)


class _OfTorch:
    """torch's cross-entropy or negative log-likelihood, seen as what it is: a weighted mean."""

    def __init__(
        self,
        function: Callable[..., torch.Tensor],
        *,
        weight: torch.Tensor | None = None,
        ignore_index: int = -100,
        **smoothing: float,
    ) -> None:
        self.function, self.weight, self.ignore_index, self.smoothing = function, weight, ignore_index, smoothing

    def weights(self, target: torch.Tensor) -> torch.Tensor | None:
        if target.is_floating_point():  # probabilities of the classes: torch divides by their number alone
            return None
        return weight_of_classes(target, self.weight, self.ignore_index).sum(dtype=torch.float64)[None]

    def totals(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        weight = None if self.weight is None else self.weight.to(pred)
        total = self.function(
            pred, target, weight=weight, ignore_index=self.ignore_index, reduction="sum", **self.smoothing
        )
        return total[None]


def weight_of_classes(target: torch.Tensor, weight: torch.Tensor | None, ignore_index: int | None) -> torch.Tensor:
    """Returns what each target counts: its class's weight, 1 without weights, and 0 where it is ignored."""
    counts = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    if weight is None:
        return counts
    return weight.to(target.device)[target.where(counts, 0)] * counts
