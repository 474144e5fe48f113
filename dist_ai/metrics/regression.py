"""Metrics of numbers. Predictions and targets: as many numbers; (batch, 1) and (batch,) go together.

Where there are several numbers a sample, means are over all of them, and scores of a column (R2, correlations) are the
mean over the columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from dist_ai.core.pairs import as_many
from dist_ai.distributed.collectives import Collectives
from dist_ai.metrics.curves import average_ranks
from dist_ai.metrics.mean import MeanOf
from dist_ai.metrics.rows import AccumMetric

__all__ = [
    "ExplainedVariance",
    "Moments",
    "PearsonCorrCoef",
    "R2Score",
    "SpearmanCorrCoef",
    "exp_rmspe",
    "mae",
    "mse",
    "msle",
    "rmse",
]


def _wide(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = as_many(pred, target)
    return pred.double(), target.double()


@MeanOf
def mse(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The squared error of each number; its mean is the mean squared error."""
    pred, target = _wide(pred, target)
    return (pred - target).square()


@MeanOf
def mae(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The absolute error of each number."""
    pred, target = _wide(pred, target)
    return (pred - target).abs()


@MeanOf
def msle(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The squared difference of log(1 + number)."""
    pred, target = _wide(pred, target)
    return (pred.log1p() - target.log1p()).square()


rmse = MeanOf(mse.function, "rmse", then=torch.sqrt)
"""The root of the mean squared error of all numbers; not the mean of the batches' roots."""


def _relative(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    pred, target = _wide(pred, target)
    return (1 - (pred - target).exp()).square()


exp_rmspe = MeanOf(_relative, "exp_rmspe", then=torch.sqrt)
"""The root of the mean squared relative error of exp(number), for numbers that are logarithms."""


class Moments:
    """Means and central second moments of predictions and targets, and a score of them.

    Args:
        score: of (7, columns), float64: the number of samples, the means of prediction and target, and the sums of
            squares about them: of the prediction, the target, both, and of the error.
        name: of the metric.

    Added up in one pass without cancellation, however large the mean is (Chan, Golub and LeVeque, 1979).
    """

    def __init__(self, score: Callable[[torch.Tensor], torch.Tensor], name: str) -> None:
        self.score = score
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._moments: torch.Tensor | None = None

    def update(self, pred: torch.Tensor, target: torch.Tensor, num_local: int) -> None:
        """Takes in a batch."""
        p, t = _wide(pred, target)
        if num_local == 0:
            found = torch.zeros(7, p.shape[1], dtype=torch.float64, device=p.device)
        else:
            num = torch.full_like(p[0], num_local)
            p0, t0 = p - p.mean(0), t - t.mean(0)
            sums = [(p0 * p0).sum(0), (t0 * t0).sum(0), (p0 * t0).sum(0), (p - t).square().sum(0)]
            found = torch.stack([num, p.mean(0), t.mean(0), *sums])
        self._moments = found if self._moments is None else _merged(self._moments, found)

    def value(self) -> float:
        """Returns the score of this rank's samples; NaN with fewer than two."""
        return float("nan") if self._moments is None else self._score_of(self._moments.cpu())

    def reduced(self, collectives: Collectives) -> float:
        """Returns the score of all ranks' samples; NaN with fewer than two."""
        if self._moments is None:
            return float("nan")
        [moments, *others] = collectives.all_gather_rows(self._moments[None], what=self.name)
        for other in others:
            moments = _merged(moments, other)
        return self._score_of(moments)

    def _score_of(self, moments: torch.Tensor) -> float:
        return self.score(moments).mean().item() if moments[0, 0] >= 2 else float("nan")


def _merged(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns the moments of two sets of samples together."""
    num = a[0] + b[0]
    part = torch.where(num > 0, b[0] / num.clamp_min(1), 0.0)
    apart = b[1:3] - a[1:3]
    spread = a[0] * part
    squares = torch.stack([apart[0] ** 2, apart[1] ** 2, apart[0] * apart[1]]) * spread
    return torch.cat([num[None], a[1:3] + apart * part, a[3:6] + b[3:6] + squares, (a[6] + b[6])[None]])


def R2Score() -> Moments:
    """Returns the share of the target's variance that the prediction explains, counting its offset as error.

    Of a constant target: 1 if it is met, else 0.
    """
    return Moments(lambda m: _share_explained(m[6], m[4]), "r2_score")


def ExplainedVariance() -> Moments:
    """Returns the share of the target's variance that the prediction explains, whatever its offset."""
    return Moments(lambda m: _share_explained(m[3] + m[4] - 2 * m[5], m[4]), "explained_variance_score")


def PearsonCorrCoef() -> Moments:
    """Returns Pearson's correlation of prediction and target; NaN if one of them is constant."""
    return Moments(lambda m: (m[5] / (m[3].sqrt() * m[4].sqrt())).clamp(-1, 1), "pearsonr")


def SpearmanCorrCoef() -> AccumMetric:
    """Returns the correlation of the ranks of prediction and target, ties sharing theirs; NaN if one is constant."""

    def of_all(pred: torch.Tensor, target: torch.Tensor) -> float:
        found = []
        for p, t in zip(pred.T, target.T, strict=True):
            p0, t0 = (ranks - ranks.mean() for ranks in (average_ranks(p), average_ranks(t)))
            found.append((p0 * t0).sum() / ((p0 * p0).sum() * (t0 * t0).sum()).sqrt())
        return torch.stack(found).mean().item()

    return AccumMetric(of_all, "spearmanr", prepare=_wide)


def _share_explained(unexplained: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    share = 1 - unexplained / torch.where(whole > 0, whole, 1)
    return torch.where(whole > 0, share, (unexplained == 0).double())
