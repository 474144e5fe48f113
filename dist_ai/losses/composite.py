"""Losses made of others, each logged by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dist_ai.errors import ConfigError
from dist_ai.losses.loss import loss_from_plain, loss_to_plain, losses, sample_losses
from dist_ai.losses.weighted import as_weighted, loss_weights, weighted_mean

__all__ = ["CompositeLoss", "PartOfLoss", "loss_metrics"]

LossFunction = Callable[..., torch.Tensor]


@losses.register("CompositeLoss")
class CompositeLoss(nn.Module):
    """A weighted sum of losses. A Learner logs each of them by name, beside their sum.

    Args:
        parts: the losses by name, or pairs (what it counts in the sum, the loss). Each takes all targets.

    The parts may weigh targets differently (class weights, ignored pixels): each is exact by itself on any number of
    ranks. Activation and decoding are those of the first part that has them.

    Raises:
        ConfigError: there are no parts.

    >>> from dist_ai.losses import L1Loss, MSELoss
    >>> both = CompositeLoss({"mse": MSELoss(), "l1": (0.5, L1Loss())})
    >>> both(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0])).item()
    2.5
    """

    def __init__(self, parts: Mapping[str, LossFunction | tuple[float, LossFunction] | Sequence[Any]]) -> None:
        super().__init__()
        if not parts:
            raise ConfigError("CompositeLoss({}): give at least one loss, as in {'dice': DiceLoss()}")
        self._coefficients: dict[str, float] = {}
        self._functions: dict[str, LossFunction] = {}
        self._modules_of_parts = nn.ModuleDict()  # so that their class weights move with this loss
        for name, given in parts.items():
            coefficient, loss = (1.0, given) if callable(given) else given
            loss = loss_from_plain(loss) if isinstance(loss, dict) else loss  # as an export has it
            self._coefficients[name], self._functions[name] = float(coefficient), loss
            if isinstance(loss, nn.Module):
                self._modules_of_parts[name] = loss

    @property
    def names(self) -> list[str]:
        """The parts' names."""
        return list(self._functions)

    def part(self, name: str) -> LossFunction:
        """Returns a part."""
        return self._functions[name]

    def forward(self, pred: Any, *targets: Any) -> torch.Tensor:
        """Returns the weighted sum of the parts' means."""
        return torch.stack(
            [self._coefficients[name] * loss(pred, *targets) for name, loss in self._functions.items()]
        ).sum()

    def weights(self, *targets: Any) -> torch.Tensor | None:
        """Returns what each part's mean is divided by, (terms,); None if no part weighs. See `WeightedLoss`."""
        own = [loss_weights(loss, targets) for loss in self._functions.values()]
        if all(each is None for each in own):
            return None
        return torch.cat([_samples(targets) if each is None else each for each in own])

    def totals(self, pred: Any, *targets: Any) -> torch.Tensor:
        """Returns what is divided, times what it counts, (terms,)."""
        return torch.cat(
            [self._coefficients[name] * _totals(loss, pred, targets) for name, loss in self._functions.items()]
        )

    def per_sample(self, pred: Any, *targets: Any) -> torch.Tensor:
        """Returns the weighted sum of the parts' losses of each sample, (batch,)."""
        return torch.stack(
            [self._coefficients[name] * sample_losses(loss, pred, *targets) for name, loss in self._functions.items()]
        ).sum(0)

    def to_plain(self) -> dict[str, Any] | None:
        """Returns the arguments that make this loss again; None if a part cannot be written."""
        plain = {name: loss_to_plain(loss) for name, loss in self._functions.items()}
        if any(each is None for each in plain.values()):
            return None
        return {"parts": {name: [self._coefficients[name], each] for name, each in plain.items()}}

    def activation(self, pred: Any) -> Any:
        """Returns the prediction through the activation of the first part that has one."""
        return next((f.activation(pred) for f in self._functions.values() if hasattr(f, "activation")), pred)

    def decodes(self, pred: Any) -> Any:
        """Returns the prediction as the first part that can decodes it."""
        return next((f.decodes(pred) for f in self._functions.values() if hasattr(f, "decodes")), pred)


class PartOfLoss:
    """The mean of one part of a `CompositeLoss` over a validation; a metric (see `dist_ai.metrics.Metric`)."""

    def __init__(self, name: str, loss: LossFunction) -> None:
        self.name = name
        self.loss = loss
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._sums: torch.Tensor | None = None

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch of which `num_local` samples count."""
        targets = target if isinstance(target, tuple) else (target,)
        weights = loss_weights(self.loss, targets)
        sums = torch.stack(
            [
                _totals(self.loss, pred, targets).detach().double(),
                (_samples(targets) if weights is None else weights).double(),
            ]
        ) * (num_local > 0)
        self._sums = sums if self._sums is None else self._sums + sums

    def statistics(self) -> torch.Tensor:
        """Returns (totals, weights)."""
        return torch.zeros(0, dtype=torch.float64) if self._sums is None else self._sums.flatten().cpu()

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the mean."""
        if not len(statistics) or not bool(statistics.chunk(2)[1].any()):
            return float("nan")
        return float(weighted_mean(*statistics.chunk(2)))


def loss_metrics(loss_func: Any) -> list[PartOfLoss]:
    """Returns the metrics that log a loss by its parts: one for each part of a `CompositeLoss`, else none."""
    if not isinstance(loss_func, CompositeLoss):
        return []
    return [PartOfLoss(name, loss_func.part(name)) for name in loss_func.names]


def _totals(loss: LossFunction, pred: Any, targets: tuple[Any, ...]) -> torch.Tensor:
    weighted = as_weighted(loss)
    if weighted is None or weighted.weights(*targets) is None:
        return (loss(pred, *targets) * len(targets[0]))[None]
    return weighted.totals(pred, *targets)


def _samples(targets: tuple[Any, ...]) -> torch.Tensor:
    return torch.full((1,), float(len(targets[0])), dtype=torch.float64, device=targets[0].device)
