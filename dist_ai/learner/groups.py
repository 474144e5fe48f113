"""Parameter groups: which parameters learn together, which are frozen, which decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from dist_ai.errors import ConfigError
from dist_ai.optimizer import ParamGroup, TorchOptimizer
from dist_ai.optimizer.groups import HyperValue, freeze_groups, spread
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = [
    "LearningRate",
    "Splitter",
    "as_optimizer",
    "freeze_to",
    "layer_groups",
    "learning_rates",
    "one_group",
    "param_groups",
]

Splitter: TypeAlias = Callable[[Any], list[list[nn.Parameter]]]
LearningRate: TypeAlias = HyperValue

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def one_group(model: nn.Module) -> list[list[nn.Parameter]]:
    """Returns all parameters as one group: the default splitter."""
    return [list(model.parameters())]


def layer_groups(model: nn.Module, splitter: Splitter) -> list[dict[str, nn.Parameter]]:
    """Returns the splitter's groups with the parameters' names. What the model has frozen may be in none: it stays so.

    Raises:
        ConfigError: the splitter leaves a parameter out that learns, or has one twice.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [{names[id(p)]: p for p in group} for group in splitter(model)]
    covered = [name for group in groups for name in group]
    missing = sorted(name for name, p in model.named_parameters() if p.requires_grad and name not in set(covered))
    if missing or len(set(covered)) != len(covered):
        raise ConfigError(
            f"the splitter's groups hold {len(covered)} of the model's {len(names)} parameters"
            + (f"; missing: {', '.join(missing[:3])}" if missing else "; some are there twice")
        )
    return groups


def param_groups(model: nn.Module, splitter: Splitter, *, wd_bn_bias: bool) -> list[ParamGroup]:
    """Returns the optimizer's groups; unless `wd_bn_bias`, normalisation layers and biases do not decay."""
    exempt = (
        set()
        if wd_bn_bias
        else _norm_names(model, _NORMS) | {n for n, _ in model.named_parameters() if n.endswith("bias")}
    )
    return [ParamGroup(group, no_decay=exempt & set(group)) for group in layer_groups(model, splitter)]


def as_optimizer(model: nn.Module, given: AnyOptimizer | torch.optim.Optimizer) -> AnyOptimizer:
    """Returns an optimizer of a model's parameters as the Learner needs it; torch's are wrapped, with their state.

    Raises:
        ConfigError: it holds a parameter that is not the model's.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    groups = given.param_groups if isinstance(given, torch.optim.Optimizer) else [vars(group) for group in given.groups]
    foreign = sum(id(p) not in names for group in groups for p in group["params"])
    if foreign:
        raise ConfigError(
            f"the optimizer has {foreign} parameter(s) that are not the model's; make it of learn.model.parameters()"
        )
    return TorchOptimizer.around(given, model.named_parameters()) if isinstance(given, torch.optim.Optimizer) else given


def freeze_to(model: nn.Module, splitter: Splitter, n: int, *, train_bn: bool) -> None:
    """Freezes the first `n` groups (counted from the end if negative) and unfreezes the others.

    With `train_bn` BatchNorm layers go on learning in frozen groups: their statistics must fit the new data.
    """
    always = _norm_names(model, (_BatchNorm,)) if train_bn else set()
    freeze_groups(layer_groups(model, splitter), n, always=always)


def learning_rates(lr: LearningRate, count: int) -> list[float]:
    """Returns a learning rate for each of `count` groups.

    Args:
        lr: a number for all; ``slice(a, b)``: from a for the first to b for the last, evenly in ratio; ``slice(b)``: b for
            the last and b/10 for the others; or one for each.
        count: number of groups.

    Raises:
        ConfigError: the values are not one for each group, or not finite and 0 or more (more than 0 in a slice).

    >>> learning_rates(slice(1e-4, 1e-2), 3)
    [0.0001, 0.001, 0.01]
    """
    if isinstance(lr, slice):
        rates = spread(lr, count, "lr")
    elif isinstance(lr, int | float):
        rates = [float(lr)] * count
    elif isinstance(lr, str) or not hasattr(lr, "__len__"):
        raise ConfigError(f"lr={lr!r}: a learning rate is a number, such as 1e-3, a slice, or {count} numbers")
    elif len(lr) == count:
        rates = [float(rate) for rate in lr]
    else:
        raise ConfigError(
            f"lr has {len(lr)} values for {count} parameter groups; give a number, a slice or {count} values"
        )
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        raise ConfigError(f"lr={lr}: a learning rate is finite, and 0 or more")
    return rates


def _norm_names(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }
