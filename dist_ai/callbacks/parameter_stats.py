"""How large weights and gradients are while a model trains."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder
from dist_ai.callbacks.step_sums import StepSums
from dist_ai.distributed.sharded import is_sharded, local_part
from dist_ai.errors import ConfigError

__all__ = ["Norms", "ParameterStats"]


class Norms(NamedTuple):
    """The Euclidean norms of a parameter and its gradient before one step, whole, however it is sharded.

    Attributes:
        step: counted over all fits, from 0.
        name: the parameter's; "" for all together.
        weight, gradient: the norms; the gradient's is 0 where it has none.
    """

    step: int
    name: str
    weight: float
    gradient: float


class ParameterStats(Callback):
    """Measures the norms of weights and of the gradients that a step is taken with: exchanged, of their own size, clipped.

    No wait for the device; the sums of all ranks are read once an epoch. TensorBoard shows them as ``gradient_norm/...`` and
    ``weight_norm/...``.

    Args:
        every: steps from one measurement to the next.

    Attributes:
        stats: what was measured so far by this process, as `Norms`.

    Raises:
        ConfigError: `every` is not 1 or more.
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after what changes gradients
    may_cancel: ClassVar[bool] = False

    def __init__(self, *, every: int = 10) -> None:
        if every < 1:
            raise ConfigError(f"ParameterStats(every={every}): expected 1 step or more")
        self.every = every
        self.stats: list[Norms] = []
        self._sums = StepSums()
        self._names: list[str] = []
        self._cancelled = False

    def before_fit(self) -> None:
        """Begins to measure."""
        self._names = [name for name, p in self.learn.model.named_parameters() if p.requires_grad]
        self._cancelled = False
        self._sums.forget()

    def before_step(self) -> None:
        """Measures this rank's part."""
        if (self.state.train_step + 1) % self.every == 0:
            params = [p for p in self.learn.model.parameters() if p.requires_grad]
            world_size = self.learn.collectives.world.world_size
            self._sums.add(torch.stack([_squares(p, world_size=world_size) for p in params]))

    def after_cancel_backward(self) -> None:
        """Leaves the step out."""
        self._cancelled = True

    def after_cancel_step(self) -> None:
        """Leaves the step out."""
        self._cancelled = True

    def after_cancel_batch(self) -> None:
        """Leaves the step out."""
        self._cancelled = True

    def after_batch(self) -> None:
        """Takes down what the step was taken with, unless it was cancelled."""
        cancelled, self._cancelled = self._cancelled, False
        if self.state.training and self.state.last_microbatch:
            self._sums.end_step(len(self._recorder.sizes) - 1, keep=not cancelled)

    def after_train(self) -> None:
        """Reads the epoch's."""
        self._read()

    def after_fit(self) -> None:
        """Forgets what was not read."""
        self._sums.forget()

    def state_dict(self) -> dict[str, Any]:
        """Reads what waits, so that it is logged before the checkpoint. Collective."""
        self._read()
        return {}

    @property
    def _recorder(self) -> Recorder:
        return self.learn.callbacks.find(Recorder)

    def _read(self) -> None:
        for step, rows in self._sums.read(self.learn.collectives, "norms"):
            for name, (weight, gradient) in zip(
                ["", *self._names], [rows.sum(0).tolist(), *rows.tolist()], strict=True
            ):
                norms = Norms(step, name, math.sqrt(weight), math.sqrt(gradient))
                self.stats.append(norms)
                self._recorder.add_scalar(f"weight_norm/{name or 'all'}", norms.weight, step)
                self._recorder.add_scalar(f"gradient_norm/{name or 'all'}", norms.gradient, step)


def _squares(p: nn.Parameter, *, world_size: int) -> torch.Tensor:
    """Returns the sums of squares of this rank's part of a parameter and of its gradient, float64 (2,).

    What several ranks hold counts once: each has its share of it.
    """
    num_parts = 1
    if is_sharded(p):
        num_parts = math.prod(
            p.device_mesh.size(i) for i, placement in enumerate(p.placements) if not placement.is_replicate()
        )
    part = local_part(p)
    grad = torch.zeros_like(part) if p.grad is None else local_part(p.grad)
    return torch.stack([each.detach().double().square().sum() for each in (part, grad)]) * num_parts / world_size
