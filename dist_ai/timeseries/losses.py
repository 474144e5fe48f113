"""The loss of forecasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.pairs import as_many
from dist_ai.core.series_types import TensorForecast
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.losses import default_loss, losses

__all__ = ["ForecastLoss"]

_KINDS: dict[str, Callable[..., torch.Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": F.huber_loss}


@losses.register("ForecastLoss")
class ForecastLoss(nn.Module):
    """The mean error of forecasts over all steps and targets, in the scale in which the model sees them.

    Args:
        kind: ``"l1"`` (absolute; the default, for it is what forecasts are mostly judged by), ``"mse"`` (squared) or
            ``"huber"``.

    Prediction and target: (batch, targets, horizon), float. Steps whose target is missing (NaN) are left out of the mean of their
    window; of a window without any other the error is 0.

    >>> ForecastLoss()(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]])).item()
    2.0
    """

    leaves_out_missing: ClassVar[bool] = True

    def __init__(self, kind: str = "l1") -> None:
        super().__init__()
        if kind not in _KINDS:
            raise ConfigError(
                f"ForecastLoss({kind!r}): expected one of {', '.join(_KINDS)}{did_you_mean(kind, _KINDS)}"
            )
        self.kind = kind

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean error."""
        return self.per_sample(pred, target).mean()

    def per_sample(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the mean error of each forecast, (batch,)."""
        pred, target = as_many(pred, target)
        there = ~target.isnan()
        # Not only the error, for the gradient of NaN times zero is NaN.
        target = target.to(pred.dtype).where(there, pred.detach())
        errors = _KINDS[self.kind](pred, target, reduction="none").where(there, 0)
        return errors.sum(1) / there.sum(1).clamp(min=1)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"kind": self.kind}

    def decodes(self, pred: torch.Tensor) -> torch.Tensor:
        """Returns the prediction as a `TensorForecast`."""
        return TensorForecast(pred)


@default_loss.register(TensorForecast)
def _(target: TensorForecast) -> ForecastLoss:
    return ForecastLoss()
