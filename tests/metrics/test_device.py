"""No loss and no metric of sums waits for the device at a batch: on the meta device there is nothing to wait for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dist_ai.losses import BCEWithLogitsLoss, CrossEntropyLoss, DiceLoss, FocalDiceLoss, FocalLoss, weighted_mean
from dist_ai.metrics import (
    BalancedAccuracy,
    BrierScore,
    Dice,
    F1ScoreMulti,
    HammingLossMulti,
    Perplexity,
    Precision,
    R2Score,
    accuracy,
    as_metrics,
    foreground_acc,
    rmse,
    top_k_accuracy,
)


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def classes(*shape: int) -> torch.Tensor:
    return on_meta(*shape, dtype=torch.int64)


BATCHES: dict[str, tuple[list[Any], torch.Tensor, torch.Tensor]] = {
    "classes": ([accuracy, top_k_accuracy, BalancedAccuracy(), BrierScore()], on_meta(8, 5), classes(8)),
    "two classes": ([Precision(), BrierScore()], on_meta(8, 2), classes(8)),
    "labels": ([F1ScoreMulti(), F1ScoreMulti(average="samples"), HammingLossMulti()], on_meta(8, 5), classes(8, 5)),
    "numbers": ([rmse, R2Score()], on_meta(8), on_meta(8)),
    "pixels": ([Dice(ignore_index=255), foreground_acc], on_meta(8, 2, 3, 3), classes(8, 3, 3)),
    "tokens": ([Perplexity(ignore_index=0)], on_meta(8, 4, 9), classes(8, 4)),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_metric_takes_in_a_batch_without_reading_a_number_of_it(kind: str) -> None:
    metrics, pred, target = BATCHES[kind]
    for metric in as_metrics(metrics):
        metric.reset()
        metric.update(pred, target, 8)
        metric.update(pred, target, 8)
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # reading it does wait
            float(metric.statistics().sum()) if hasattr(metric, "statistics") else metric.value()
        metric.reset()


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(weight=[1, 2, 3], ignore_index=0),
        FocalLoss(weight=[1, 2, 3], ignore_index=0),
        DiceLoss(ignore_index=0),
        FocalDiceLoss(ignore_index=0),
        BCEWithLogitsLoss(pos_weight=2.0),
    ],
)
def test_a_loss_is_computed_without_reading_a_number_of_it(loss: Any) -> None:
    pred, target = on_meta(8, 3, 4, 4).requires_grad_(), classes(8, 4, 4)
    if isinstance(loss, BCEWithLogitsLoss):
        target = classes(8, 3, 4, 4)
    loss.to("meta")
    loss(pred, target).backward()
    assert loss.per_sample(pred, target).shape == (8,)
    if hasattr(loss, "weights") and loss.weights(target) is not None:
        weighted_mean(loss.totals(pred, target), loss.weights(target) * 0.5).backward()
