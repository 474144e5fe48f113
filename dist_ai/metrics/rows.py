"""Metrics that need all predictions at once, and scikit-learn's functions as metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from dist_ai.core.names import known_arguments
from dist_ai.distributed.collectives import Collectives
from dist_ai.errors import ConfigError
from dist_ai.metrics.mean import name_of

__all__ = ["AccumMetric", "from_sklearn"]

Prepare = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class AccumMetric:
    """A function of all predictions and targets, kept on the CPU of the rank that has them and gathered once an epoch.

    Args:
        function: (pred, target) -> number; float64 tensors of all samples.
        name: of the metric; by default the function's.
        prepare: (pred, target) -> what is kept of a batch, each (batch, ...), such as one probability instead of all.

    The order of the samples is that of their values, the same on any number of ranks. Memory: 8 bytes for each number kept,
    on every rank, when the epoch ends.

    >>> metric = AccumMetric(lambda pred, target: (pred - target).abs().max(), "worst")
    >>> metric.update(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 5.0]), num_local=2)
    >>> from dist_ai.distributed import join
    >>> metric.reduced(join())
    2.0
    """

    @known_arguments()
    def __init__(
        self, function: Callable[[Any, Any], Any], name: str | None = None, *, prepare: Prepare | None = None
    ) -> None:
        self.function = function
        self.name = name or name_of(function)
        self.prepare = prepare
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._rows: list[torch.Tensor] = []
        self._shapes: tuple[torch.Size, torch.Size] | None = None

    def update(self, pred: torch.Tensor, target: torch.Tensor, num_local: int) -> None:
        """Keeps the rows that count."""
        if self.prepare is not None:
            pred, target = self.prepare(pred, target)
        self._shapes = pred.shape[1:], target.shape[1:]
        numbers = [
            each[:num_local].detach().double().cpu().reshape(num_local, each[0].numel()) for each in (pred, target)
        ]
        self._rows.append(torch.cat(numbers, 1))

    def reduced(self, collectives: Collectives) -> float:
        """Returns the function of the samples of all ranks."""
        if self._shapes is None:
            return float("nan")
        rows = collectives.all_gather_rows(torch.cat(self._rows), what=self.name)
        if not len(rows):
            return float("nan")
        rows = rows[torch.from_numpy(np.lexsort(rows.numpy().T))]
        of_pred, of_target = self._shapes
        pred, target = rows.split([of_pred.numel(), of_target.numel()], dim=1)
        return float(self.function(pred.reshape(-1, *of_pred), target.reshape(-1, *of_target)))


@known_arguments()
def from_sklearn(
    function: Callable[..., Any],
    *,
    takes: Literal["classes", "labels", "probabilities", "label_probabilities", "numbers"],
    axis: int = -1,
    thresh: float = 0.5,
    name: str | None = None,
) -> AccumMetric:
    """Returns a function of scikit-learn's, `(y_true, y_pred) -> number`, as a metric of a model's raw output.

    Args:
        function: from `sklearn.metrics`; give it options with `functools.partial`.
        takes: what it wants as y_pred: ``"classes"``: the largest class; ``"labels"``: which classes are there, each by
            itself; ``"probabilities"`` of the classes, of the second one alone if there are two;
            ``"label_probabilities"``: of each by itself; ``"numbers"``: the output as it is.
        axis: dimension of the classes.
        thresh: a class is there when its probability is above this.
        name: of the metric; by default the function's.

    ```python
    metrics = [from_sklearn(partial(f1_score, average="macro"), takes="classes")]
    ```

    Raises:
        ConfigError: `takes` is none of these.
    """
    if takes not in _TAKES:
        raise ConfigError(f"takes={takes!r}: expected one of {', '.join(map(repr, _TAKES))}")

    decided = takes in ("classes", "labels")

    def prepare(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if decided:
            return _TAKES[takes](pred, axis, thresh), target
        return (pred if takes == "numbers" else pred.movedim(axis, -1)), target

    def of_all(pred: torch.Tensor, target: torch.Tensor) -> Any:
        # Of all at once: the last digit of an activation depends on where in a batch a number stands, and decides ties.
        pred = pred.long() if decided else _TAKES[takes](pred, -1, thresh)
        whole = [(target if takes == "numbers" else target.long()).numpy(), pred.numpy()]
        if takes in ("classes", "numbers"):
            whole = [each.reshape(-1) if each.ndim != 2 or each.shape[1] == 1 else each for each in whole]
        return function(*whole)

    return AccumMetric(of_all, name or name_of(function), prepare=prepare)


def _probabilities(pred: torch.Tensor, axis: int, _thresh: float) -> torch.Tensor:
    classes = pred.softmax(axis)
    return classes.select(axis, 1) if classes.shape[axis] == 2 else classes


_TAKES: dict[str, Callable[[torch.Tensor, int, float], torch.Tensor]] = {
    "classes": lambda pred, axis, _: pred.argmax(axis),
    "labels": lambda pred, _, thresh: pred.sigmoid() > thresh,
    "probabilities": _probabilities,
    "label_probabilities": lambda pred, *_: pred.sigmoid(),
    "numbers": lambda pred, *_: pred,
}
