"""The loss over a whole validation: a mean over its samples, or the weighted mean that the loss says it is."""

from __future__ import annotations

import torch

from dist_ai.callbacks.state import LossParts
from dist_ai.losses import weighted_mean

__all__ = ["ValidLoss"]


class ValidLoss:
    """Adds up the losses of a validation's batches; a metric (see `dist_ai.metrics.Metric`).

    The totals and weights of a weighted mean are added up each by itself, so that the value does not depend on how the
    samples are batched. A batch whose loss a callback has replaced counts by its samples, as that of any other loss.
    """

    name = "valid_loss"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        # On the device: reading them at every batch would wait for it.
        self._mean: torch.Tensor | float = 0.0
        self._num_in_mean = self._num_in_parts = 0
        self._parts: torch.Tensor | None = None

    def update(self, loss: torch.Tensor, parts: LossParts | None, num_local: int) -> None:
        """Takes in a batch of which `num_local` samples count."""
        if parts is not None:
            added = torch.stack([parts.totals.double(), parts.weights.double()])
            counts = num_local > 0 and loss is parts.loss
            added = added if counts else torch.zeros_like(added)
            self._parts = added if self._parts is None else self._parts + added
            self._num_in_parts += num_local * counts
            num_local *= not counts
        if num_local:
            self._mean = self._mean + loss.detach().double() * num_local
            self._num_in_mean += num_local

    def statistics(self) -> torch.Tensor:
        """Returns (sum, number of samples in it, number of samples in the parts, totals, weights)."""
        first = torch.tensor([float(self._mean), self._num_in_mean, self._num_in_parts], dtype=torch.float64)
        return first if self._parts is None else torch.cat([first, self._parts.flatten().cpu()])

    def value(self, statistics: torch.Tensor) -> float:
        """Returns the loss."""
        total, num_in_mean, num_in_parts = statistics[:3].tolist()
        if not num_in_mean + num_in_parts:
            return float("nan")
        if num_in_parts:
            totals, weights = statistics[3:].chunk(2)
            if not bool(weights.any()):  # no target of the whole validation counts
                return float("nan")
            total += float(weighted_mean(totals, weights)) * num_in_parts
        return total / (num_in_mean + num_in_parts)
