"""Figures of what the recorder took down: loss, learning rate, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dist_ai.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_loss", "draw_metrics", "draw_schedule"]


def draw_loss(
    losses: Sequence[float], rows: Sequence[Mapping[str, Any]], *, skip_start: int, smooth: float, with_valid: bool
) -> Figure:
    """Returns a figure of the training loss by step, smoothed, and of the validation loss of each row."""
    figure, axes = _axes(losses, skip_start)
    steps = range(skip_start, len(losses))
    axes.plot(steps, losses[skip_start:], color="C0", alpha=0.3)
    axes.plot(steps, _smoothed(losses[skip_start:], smooth), color="C0", label="train_loss")
    measured = [(row["step"], row["valid_loss"]) for row in rows if row["valid_loss"] == row["valid_loss"]]
    if with_valid and measured:
        axes.plot(*zip(*measured, strict=True), "o-", color="C1", markersize=3, label="valid_loss")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    return figure


def draw_schedule(lrs: Sequence[float]) -> Figure:
    """Returns a figure of the learning rate by step."""
    figure, axes = _axes(lrs, 0)
    axes.plot(lrs)
    axes.set(xlabel="step", ylabel="learning rate")
    return figure


def draw_metrics(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    """Returns a figure with a curve of each of these columns by step, each on its own axes."""
    from dist_ai.core.figures import Picture

    if not rows or not names:
        what = "epoch is recorded" if not rows else "metric was given: Learner(metrics=...)"
        raise DataError(f"there are no metrics to plot: no {what}")
    figure = Picture(figsize=(4 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot([row["step"] for row in rows], [row.get(name, float("nan")) for row in rows], "o-", markersize=3)
        axes.set(xlabel="step", title=name)
    return figure


def _axes(values: Sequence[float], skipped: int) -> tuple[Figure, Any]:
    from dist_ai.core.figures import Picture

    if len(values) <= skipped:
        raise DataError(
            f"there are {len(values)} recorded steps and {skipped} of them are skipped, so there is nothing to plot"
        )
    figure = Picture(figsize=(6, 4), layout="constrained")
    return figure, figure.subplots()


def _smoothed(values: Sequence[float], factor: float) -> list[float]:
    """Returns the exponential moving average of `values`, debiased."""
    average, weight, smoothed = 0.0, 0.0, []
    for value in values:
        average, weight = factor * average + (1 - factor) * value, factor * weight + 1 - factor
        smoothed.append(average / weight)
    return smoothed
