"""An average of a model's weights beside the weights that are trained, and the way in and out of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_ai.callbacks.callback import Trainer
from dist_ai.core.nested import parts
from dist_ai.core.types import plain
from dist_ai.distributed.sharded import is_sharded, local_part
from dist_ai.errors import ConfigError

__all__ = ["WeightAverage", "check_not_averaged", "refresh_batch_norm"]


class WeightAverage:
    """The average of a model's floating-point parameters and buffers; sharded ones are averaged where they lie.

    It takes the model's size once more, and twice while the average is in the model.

    Attributes:
        num: how many sets of weights it is the average of; 0 while there is none.
        is_in: whether the average is in the model, and the weights that are trained are put aside.
    """

    def __init__(self) -> None:
        self.forget()

    @property
    def is_in(self) -> bool:
        """Whether the average is in the model."""
        return bool(self._trained)

    def forget(self) -> None:
        """Drops everything; what is in the model stays there."""
        self.num = 0
        self._average: dict[str, torch.Tensor] = {}
        self._trained: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, model: nn.Module, weight: float) -> None:
        """Moves the average towards the model's weights by `weight`, 0 to 1; the first weights are taken as they are."""
        now = _averaged(model)
        if self.num == 0:
            self._average = {name: tensor.clone() for name, tensor in now.items()}
        else:
            averages = [local_part(self._average[name]) for name in now]
            torch._foreach_lerp_(averages, [local_part(tensor) for tensor in now.values()], weight)
        self.num += 1

    @torch.no_grad()
    def put_in(self, model: nn.Module) -> None:
        """Puts the average in the model, if there is one and it is not there."""
        if self.num and not self.is_in:
            now = _averaged(model)
            self._trained = {name: tensor.clone() for name, tensor in now.items()}
            _copy(self._average, into=now)

    @torch.no_grad()
    def put_out(self, model: nn.Module) -> None:
        """Puts the weights that are trained back in the model, to the same bits."""
        if self.is_in:
            _copy(self._trained, into=_averaged(model))
            self._trained = {}

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold: tensors and plain data; {} if there is no average."""
        if not self.num:
            return {}
        kept = {"average": self._average, "trained": self._trained}
        return {"num": self.num, **{f"{kind}.{name}": t for kind, each in kept.items() for name, t in each.items()}}

    def layout(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Returns the sharded tensors of the model by their names in `state`."""
        sharded = {name: tensor for name, tensor in _averaged(model).items() if is_sharded(tensor)}
        return {f"{kind}.{name}": tensor for kind in ("average", "trained") for name, tensor in sharded.items()}

    def load_state(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """Restores what `state` returned."""
        self.forget()
        self.num = state["num"]
        for name, tensor in _averaged(model).items():
            self._average[name] = state[f"average.{name}"].to(tensor.device)
            if f"trained.{name}" in state:
                self._trained[name] = state[f"trained.{name}"].to(tensor.device)


def check_not_averaged(learn: Trainer, name: str) -> None:
    """Checks that the optimizer does not average by itself.

    Raises:
        ConfigError: it does.
    """
    if getattr(learn.opt, "average", None) is not None:
        raise ConfigError(
            f"{name}: the optimizer ({learn.opt.kind}) already evaluates with an average of its own; take another "
            f"optimizer, or leave {name} out"
        )


@torch.no_grad()
def refresh_batch_norm(learn: Trainer) -> None:
    """Gives BatchNorm layers the statistics of the weights that are in the model, over an epoch of training data. Collective.

    As `torch.optim.swa_utils.update_bn` does; over the global batches, so that any number of ranks finds the same.
    """
    model = learn.model
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        for number, (share, batch) in enumerate(learn.dls.train.batches(learn.state.epoch), 1):
            for norm in norms:  # the plain mean over the batches; with None torch reads its own count from the device
                norm.momentum = 1 / number
            learn.strategy.begin_batch(num_local=share.num_local)
            learn.precision.forward(model, tuple(map(plain, parts(batch)))[: learn.dls.n_inp])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training


def _averaged(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def _copy(tensors: Mapping[str, torch.Tensor], *, into: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(tensors[name])
