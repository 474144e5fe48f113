"""Metrics of torchmetrics as metrics of a Learner. torchmetrics itself is not imported: who has one of its metrics has it."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import torch

from dist_ai.distributed.collectives import Collectives
from dist_ai.errors import ConfigError

__all__ = ["TorchMetric"]


class TorchMetric:
    """A metric of torchmetrics, reduced over the ranks by what it declares of its states.

    Args:
        metric: a `torchmetrics.Metric` whose value is one number; it is copied. It sees the model's raw output.
        name: of the metric; by default its class's.

    A Learner makes one of any torchmetrics metric that it is given. Some of torchmetrics' look at the values of each batch
    to tell logits from probabilities; then how samples are batched may change the value, as it does without us.
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:
        self.metric = copy.deepcopy(metric)
        self.metric.distributed_available_fn = lambda: (
            True
        )  # it exchanges its states by our collectives, also with none
        self.metric.compute_with_cache = False
        self.name = name or type(metric).__name__
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.metric.reset()

    def update(self, pred: Any, target: Any, num_local: int) -> None:
        """Takes in a batch."""
        if num_local:
            if isinstance(pred, torch.Tensor) and self.metric.device != pred.device:
                self.metric.to(pred.device)
            self.metric.update(pred.detach(), *(target if isinstance(target, tuple) else (target,)))

    def reduced(self, collectives: Collectives) -> float:
        """Returns the value over all ranks."""
        counted = torch.tensor([float(self.metric.update_count)])
        if not collectives.all_reduce(counted, what=self.name).item():
            return float("nan")

        def from_all(tensor: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
            return [each.to(tensor.device) for each in _gather(tensor, collectives, self.name)]

        self.metric.dist_sync_fn = from_all
        with warnings.catch_warnings():  # a rank without samples computes too, and is warned of it
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            value = self.metric.compute()
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ConfigError(
                f"{self.name} gives {type(value).__name__} and not one number; choose one, such as average='macro'"
            )
        return value.item()


def _gather(tensor: torch.Tensor, collectives: Collectives, what: str) -> list[torch.Tensor]:
    """Returns the tensors of all ranks, which may differ in shape; one that is empty takes after the others."""
    facts = json.dumps([list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]).encode()
    described = [_decode(row) for row in collectives.all_gather_rows(_padded(facts), what=what)]
    # As bytes: ranks without a sample do not know the dtype and the width of what the others have.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    sizes = [_num_bytes(shape, dtype) for shape, dtype in described]
    parts = collectives.all_gather_rows(flat, what=what).split(sizes)
    filled = next(((shape, dtype) for shape, dtype in described if 0 not in shape), described[0])
    return [
        part.clone().view(getattr(torch, dtype)).reshape(shape)
        if 0 not in shape
        else torch.empty(0, *filled[0][1:], dtype=getattr(torch, filled[1]))
        for part, (shape, dtype) in zip(parts, described, strict=True)
    ]


_LONGEST = 256  # bytes of a description: a shape of 20 dimensions


def _padded(text: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(text.ljust(_LONGEST)), dtype=torch.uint8)[None]


def _decode(row: torch.Tensor) -> tuple[list[int], str]:
    shape, dtype = json.loads(bytes(row.tolist()))
    return shape, dtype


def _num_bytes(shape: list[int], dtype: str) -> int:
    return torch.Size(shape).numel() * getattr(torch, dtype).itemsize
