"""What the activations of a model's layers are like while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder
from dist_ai.callbacks.step_sums import StepSums
from dist_ai.core.nested import tensors_in
from dist_ai.errors import ConfigError
from dist_ai.layers import Hooks

__all__ = ["ActivationStats", "LayerStats"]


class LayerStats(NamedTuple):
    """A layer's activations in one step, over all samples of the step and all ranks.

    Attributes:
        step: counted over all fits, from 0.
        layer: the module's name.
        mean, std: of the activations.
        near_zero: share of them whose absolute value is at most 0.05.
    """

    step: int
    layer: str
    mean: float
    std: float
    near_zero: float


class ActivationStats(Callback):
    """Measures mean, deviation and the share near zero of layers' activations (fastai's ActivationStats).

    Costs a pass over the activations in the steps that are measured, and no wait for the device; the sums of all ranks are
    read once an epoch. TensorBoard shows them as ``activations/...``.

    Args:
        every: steps from one measurement to the next.
        layers: names of modules; by default all that hold parameters themselves.

    Attributes:
        stats: what was measured so far by this process, as `LayerStats`.

    Raises:
        ConfigError: `every` is not 1 or more; when a fit begins: there is no module of a name.
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after the Recorder, whose steps it counts in
    may_cancel: ClassVar[bool] = False

    def __init__(self, *, every: int = 10, layers: Iterable[str] | None = None) -> None:
        if every < 1:
            raise ConfigError(f"ActivationStats(every={every}): expected 1 step or more")
        self.every, self.layers = every, None if layers is None else list(layers)
        self.stats: list[LayerStats] = []
        self._names: list[str] = []
        self._hooks: Hooks | None = None
        self._sums = StepSums()
        self._of_batch: dict[str, torch.Tensor] = {}
        self._cancelled = False

    def before_fit(self) -> None:
        """Hooks the layers."""
        modules = dict(self.learn.model.named_modules())
        if unknown := [name for name in self.layers or () if name not in modules]:
            raise ConfigError(f"ActivationStats: there is no layer {unknown[0]!r}; there are {', '.join(modules)[2:]}")
        own = [name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))]
        self._names = own if self.layers is None else self.layers
        names = {id(modules[name]): name for name in self._names}

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._is_due:
                self._of_batch[names[id(module)]] = _sums_of(output)

        self._hooks = Hooks([modules[name] for name in self._names], look)
        self._sums.forget()
        self._cancelled = False

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
        """Takes down what the batch gave."""
        state = self.state
        of_batch, self._of_batch = self._of_batch, {}
        cancelled, self._cancelled = self._cancelled, False
        if not self._is_due or state.share is None:
            return
        if of_batch and not cancelled:
            nothing = torch.zeros_like(next(iter(of_batch.values())))
            rows = torch.stack([of_batch.get(name, nothing) for name in self._names])
            self._sums.add(rows if state.share.num_local else rows * 0)
        if state.last_microbatch or cancelled:
            self._sums.end_step(len(self._recorder.sizes) - 1, keep=not cancelled)

    def after_train(self) -> None:
        """Reads the epoch's."""
        self._read()

    def after_fit(self) -> None:
        """Removes the hooks."""
        if self._hooks is not None:
            self._hooks.remove()
        self._hooks, self._of_batch = None, {}
        self._sums.forget()

    def state_dict(self) -> dict[str, Any]:
        """Reads what waits, so that it is logged before the checkpoint. Collective."""
        self._read()
        return {}

    @property
    def _recorder(self) -> Recorder:
        return self.learn.callbacks.find(Recorder)

    @property
    def _is_due(self) -> bool:
        return self.state.training and self.state.fitting and (self.state.train_step + 1) % self.every == 0

    def _read(self) -> None:
        # Over all ranks: of those that compute a layer together each sees a part of its features, or what the others see too.
        for step, rows in self._sums.read(self.learn.collectives, "activations"):
            for name, (count, total, squares, near_zero) in zip(self._names, rows.tolist(), strict=True):
                if not count:
                    continue
                mean = total / count
                stats = LayerStats(step, name, mean, math.sqrt(max(0.0, squares / count - mean**2)), near_zero / count)
                self.stats.append(stats)
                for kind in ("mean", "std", "near_zero"):
                    self._recorder.add_scalar(f"activations/{name}/{kind}", getattr(stats, kind), step)


def _sums_of(output: Any) -> torch.Tensor:
    """Returns (count, sum, sum of squares, number near zero) of all floats in a layer's output, float64 (4,)."""
    tensors = tensors_in(output)
    rows = []
    for x in tensors:
        if x.is_floating_point():
            near_zero = (x.abs() <= 0.05).sum(dtype=torch.float64)
            squares = x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(dtype=torch.float64)
            rows.append(
                torch.stack([torch.full_like(near_zero, x.numel()), x.sum(dtype=torch.float64), squares, near_zero])
            )
    return torch.stack(rows).sum(0) if rows else torch.zeros(4, dtype=torch.float64)
