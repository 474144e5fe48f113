"""Parameter groups: which parameters share their hyper-parameters, which decay, which are frozen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

from torch import nn

from dist_ai.errors import ConfigError

__all__ = ["HyperValue", "ParamGroup", "Params", "as_groups", "freeze_groups", "geometric", "spread"]

HyperValue: TypeAlias = float | slice | Sequence[float]


class ParamGroup:
    """Parameters that share their hyper-parameters.

    Args:
        params: the parameters by name.
        no_decay: names of those that weight decay leaves alone (biases, normalisation).
        hypers: hyper-parameters of this group; what is missing comes from the optimizer's defaults.

    Attributes:
        h: the hyper-parameters, as attributes.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], *, no_decay: Iterable[str] = (), **hypers: float) -> None:
        self.names = list(params)
        self.params = list(params.values())
        exempt = set(no_decay)
        self.decays = [name not in exempt for name in self.names]
        self.h = SimpleNamespace(**hypers)

    def __repr__(self) -> str:
        return f"ParamGroup({len(self.names)} parameters, {vars(self.h)})"


Params: TypeAlias = (
    Mapping[str, nn.Parameter] | Iterable[ParamGroup] | Iterable[tuple[str, nn.Parameter]] | Iterable[nn.Parameter]
)


def as_groups(params: Params) -> list[ParamGroup]:
    """Returns parameters, however they were given, as groups.

    Args:
        params: groups; or parameters by name, such as ``model.named_parameters()``, which make one group; or parameters
            alone, such as ``model.parameters()``, which are called "0", "1", ... as torch does.

    Raises:
        ConfigError: there are none, a parameter is there twice, or it is something else.

    >>> as_groups(nn.Linear(2, 1).named_parameters())
    [ParamGroup(2 parameters, {})]
    """
    given: list[Any] = list(params.items() if isinstance(params, Mapping) else params)
    if not given:
        raise ConfigError(
            "the optimizer was given no parameters; an iterator such as model.parameters() is used up once"
        )
    if all(isinstance(each, ParamGroup) for each in given):
        groups: list[ParamGroup] = given
    elif all(isinstance(each, nn.Parameter) for each in given):
        groups = [ParamGroup({str(number): each for number, each in enumerate(given)})]
    elif all(isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], nn.Parameter) for each in given):
        groups = [ParamGroup(dict(given))]
    else:
        odd = next(each for each in given if not isinstance(each, ParamGroup | nn.Parameter))
        raise ConfigError(
            f"the optimizer was given a {type(odd).__name__}; expected ParamGroups, model.named_parameters() or "
            "model.parameters()"
        )
    names = [name for group in groups for name in group.names]
    if len(names) != len(set(names)):
        raise ConfigError(f"a parameter is in two groups: {sorted({n for n in names if names.count(n) > 1})[:3]}")
    return groups


def spread(value: HyperValue, count: int, name: str) -> list[float]:
    """Returns `value` for each of `count` groups.

    Args:
        value: a number for all; one for each; ``slice(a, b)``: from a to b, evenly in ratio; or ``slice(b)``: b for the
            last group and b/10 for the others.
        count: number of groups.
        name: of the hyper-parameter, for errors.

    Raises:
        ConfigError: it is a sequence of another length, or a slice that has no ratio.

    >>> spread(slice(1e-4, 1e-2), 3, "lr")
    [0.0001, 0.001, 0.01]
    """
    if isinstance(value, int | float):
        return [value] * count
    if isinstance(value, slice):
        return geometric(value, count, name)
    if len(value) != count:
        raise ConfigError(f"{name} has {len(value)} values for {count} parameter groups; give one number or {count}")
    return list(value)


def geometric(value: slice, count: int, name: str) -> list[float]:
    """Returns the values of a slice over `count` groups; see `spread`."""
    if value.stop is None or value.step is not None:
        raise ConfigError(f"{name}={value} is not slice(last) or slice(first, last)")
    if value.stop <= 0 or (value.start is not None and value.start <= 0):
        what = "the learning rates" if name == "lr" else f"the values of {name}"
        raise ConfigError(f"{name}={value}: {what} of a slice are more than 0")
    if value.start is None:
        return [value.stop / 10] * (count - 1) + [value.stop]
    ratio = (value.stop / value.start) ** (1 / max(1, count - 1))
    return [float(f"{value.start * ratio**i:.12g}") for i in range(count)] if count > 1 else [value.stop]


def freeze_groups(groups: Sequence[Mapping[str, nn.Parameter]], n: int, *, always: Collection[str] = ()) -> None:
    """Freezes the first `n` groups (counted from the end if negative) and unfreezes the others.

    Args:
        groups: parameters by name.
        n: how many; -1 freezes all but the last group.
        always: names of parameters that learn in a frozen group too.

    Raises:
        ConfigError: there are not so many groups.
    """
    if not -len(groups) < n < len(groups):
        raise ConfigError(f"freeze_to({n}) of {len(groups)} group(s): expected {1 - len(groups)} to {len(groups) - 1}")
    first = n % len(groups)
    for number, group in enumerate(groups):
        for name, p in group.items():
            p.requires_grad_(number >= first or name in always)
