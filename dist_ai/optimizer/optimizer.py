"""The generic optimizer: it runs a list of steps over groups of parameters and keeps their state by name.

```python
opt = Optimizer([ParamGroup(dict(model.named_parameters()))], [weight_decay, sgd_step], lr=0.1, wd=0.01)
loss.backward()
opt.step()
opt.zero_grad()
```

State is addressed by the parameter's name, so it can be saved without pickle and read back into any layout of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from dist_ai.errors import ArtifactError, ConfigError, did_you_mean

__all__ = ["AnyOptimizer", "Optimizer", "ParamGroup", "ParamState"]


class AnyOptimizer(Protocol):
    """What a Learner needs of an optimizer; `Optimizer` and `TorchOptimizer` provide it."""

    groups: list[ParamGroup]

    @property
    def kind(self) -> str:
        """What it does, in a word; only an optimizer of the same kind takes its state."""
        ...

    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        ...

    def zero_grad(self) -> None:
        """Drops the gradients."""
        ...

    def set_hyper(self, name: str, value: float | Sequence[float]) -> None:
        """Sets a hyper-parameter, for all groups or one value each."""
        ...

    def get_hyper(self, name: str) -> list[float]:
        """Returns a hyper-parameter's value in each group."""
        ...

    def has_hyper(self, name: str) -> bool:
        """Returns whether there is such a hyper-parameter."""
        ...

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Returns the state as tensors by name and plain data."""
        ...

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        ...


class ParamGroup:
    """Parameters that share their hyper-parameters.

    Args:
        params: the parameters by name.
        no_decay: names of those that weight decay leaves alone (biases, normalisation).
        hypers: hyper-parameters of this group; what is missing comes from the optimizer's defaults.

    Attributes:
        h: the hyper-parameters, as attributes.
    """

    def __init__(
        self, params: Mapping[str, torch.nn.Parameter], *, no_decay: Iterable[str] = (), **hypers: float
    ) -> None:
        self.names = list(params)
        self.params = list(params.values())
        exempt = set(no_decay)
        self.decays = [name not in exempt for name in self.names]
        self.h = SimpleNamespace(**hypers)

    def __repr__(self) -> str:
        return f"ParamGroup({len(self.names)} parameters, {vars(self.h)})"


class _Lists(dict[str, list[Any]]):
    """State lists by name, one place for each parameter, made when a step first asks."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __missing__(self, name: str) -> list[Any]:
        self[name] = [None] * self._length
        return self[name]


class ParamState:
    """The state of some parameters of a group that have taken the same number of steps.

    `state["name"]` is the list of their tensors of that name, zeros when first asked for; `step` counts from 1.
    """

    __slots__ = ("_all", "_decays", "_members", "_params", "step")

    def __init__(
        self,
        params: Sequence[torch.Tensor],
        members: list[int] | None,
        everything: _Lists,
        decays: list[bool],
        step: int,
    ) -> None:
        self._params = params
        self._members = members
        self._all = everything
        self._decays = decays
        self.step = step

    def __getitem__(self, name: str) -> list[torch.Tensor]:
        tensors = self._all[name]
        members = range(len(self._params)) if self._members is None else self._members
        if self.step == 1:
            for i, p in zip(members, self._params, strict=True):
                if tensors[i] is None:
                    tensors[i] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return tensors if self._members is None else [tensors[i] for i in members]

    def decaying(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Returns those of `tensors`, one for each parameter, whose parameter decays."""
        members = range(len(self._params)) if self._members is None else self._members
        return [tensor for i, tensor in zip(members, tensors, strict=True) if self._decays[i]]


class Optimizer:
    """Runs `steps` over groups of parameters.

    Args:
        groups: the parameters.
        steps: functions of (parameters, gradients, state, hyper-parameters), run in order; see `steps.py`.
        hypers: defaults of the hyper-parameters that the steps read.

    Parameters without a gradient are left alone, and their state does not age.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = Optimizer([ParamGroup({"w": w})], [lambda p, g, s, h: torch._foreach_add_(p, g, alpha=-h.lr)], lr=0.5)
    >>> w.sum().backward(); opt.step(); w.item()
    0.5
    """

    def __init__(self, groups: Sequence[ParamGroup], steps: Sequence[Callable[..., None]], **hypers: Any) -> None:
        self.groups = list(groups)
        self.steps = list(steps)
        self._names = list(hypers)
        for group in self.groups:
            for name in vars(group.h):
                self._check_name(name)
            group.h = SimpleNamespace(**{**hypers, **vars(group.h)})
        self._state = [_Lists(len(group.params)) for group in self.groups]
        self._ages: list[list[int]] = [[0] * len(group.params) for group in self.groups]
        seen = [name for group in self.groups for name in group.names]
        if len(seen) != len(set(seen)):
            raise ConfigError(f"a parameter is in two groups: {sorted({n for n in seen if seen.count(n) > 1})[:3]}")

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for group, state, ages in zip(self.groups, self._state, self._ages, strict=True):
            params = group.params
            grads = [p.grad for p in params]
            age = ages[0] if ages else 0
            # Almost always all parameters have gradients and the same age; then nothing is picked apart or copied.
            if None not in _identities(grads) and ages.count(age) == len(ages):
                self._run(params, grads, ParamState(params, None, state, group.decays, age + 1), group.h)
                ages[:] = [age + 1] * len(ages)
                continue
            for age in sorted({ages[i] for i, grad in enumerate(grads) if grad is not None}):
                members = [i for i, grad in enumerate(grads) if grad is not None and ages[i] == age]
                some = [params[i] for i in members]
                self._run(
                    some, [grads[i] for i in members], ParamState(some, members, state, group.decays, age + 1), group.h
                )
            ages[:] = [age + (grad is not None) for age, grad in zip(ages, grads, strict=True)]

    def _run(self, params: list[Any], grads: list[Any], state: ParamState, hypers: SimpleNamespace) -> None:
        if params:
            for step in self.steps:
                step(params, grads, state, hypers)

    def zero_grad(self) -> None:
        """Drops the gradients, which frees their memory."""
        for group in self.groups:
            for p in group.params:
                p.grad = None

    def set_hyper(self, name: str, value: float | Sequence[float]) -> None:
        """Sets a hyper-parameter.

        Args:
            name: such as ``"lr"``.
            value: a number for all groups, or one for each.

        Raises:
            ConfigError: the optimizer has no such hyper-parameter, or the values are not one for each group.
        """
        self._check_name(name)
        for group, each in zip(self.groups, spread(value, len(self.groups), name), strict=True):
            setattr(group.h, name, each)

    def get_hyper(self, name: str) -> list[float]:
        """Returns a hyper-parameter's value in each group."""
        self._check_name(name)
        return [getattr(group.h, name) for group in self.groups]

    def has_hyper(self, name: str) -> bool:
        """Returns whether the optimizer has a hyper-parameter of that name."""
        return name in self._names

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Returns the state as tensors by ``state.parameter`` name, and the rest as plain data."""
        tensors: dict[str, torch.Tensor] = {}
        ages: dict[str, int] = {}
        for group, state, group_ages in zip(self.groups, self._state, self._ages, strict=True):
            for name, values in state.items():
                for parameter, value in zip(group.names, values, strict=True):
                    if value is not None:
                        tensors[f"{name}.{parameter}"] = value
            ages.update(zip(group.names, group_ages, strict=True))
        hypers = [dict(vars(group.h)) for group in self.groups]  # copies: what is saved must not go on changing
        return tensors, {"kind": self.kind, "hypers": hypers, "steps": ages}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Restores what `state` returned; every parameter of this optimizer must be in it.

        The groups may be others: state goes by the parameter's name, hyper-parameters by the group's number.

        Raises:
            ArtifactError: it is the state of other parameters, or of another kind of optimizer.
        """
        check_kind(plain, self.kind)
        ages = plain["steps"]
        for number, group in enumerate(self.groups):
            if missing := [name for name in group.names if name not in ages]:
                raise ArtifactError(
                    f"the optimizer's state has nothing for parameter {missing[0]!r}; is it another model's?"
                )
            self._ages[number][:] = [ages[name] for name in group.names]
            if number < len(plain["hypers"]):
                group.h = SimpleNamespace(**{**vars(group.h), **plain["hypers"][number]})
        places = {name: (n, i) for n, group in enumerate(self.groups) for i, name in enumerate(group.names)}
        for key, value in tensors.items():
            name, parameter = key.split(".", 1)
            if parameter in places:
                number, i = places[parameter]
                p = self.groups[number].params[i]
                self._state[number][name][i] = value.to(p.device, copy=True)

    @property
    def kind(self) -> str:
        """The names of its steps."""
        return ", ".join(getattr(step, "__name__", type(step).__name__) for step in self.steps)

    def _check_name(self, name: str) -> None:
        if name not in self._names:
            raise ConfigError(
                f"this optimizer has no hyper-parameter {name!r}{did_you_mean(name, self._names)}; "
                f"it has {', '.join(self._names)}"
            )

    def __repr__(self) -> str:
        return f"Optimizer([{self.kind}], {len(self.groups)} group(s), {vars(self.groups[0].h) if self.groups else {}})"


def check_kind(plain: Mapping[str, Any], kind: str) -> None:
    """Checks that an optimizer's plain state is that of an optimizer of `kind`.

    Raises:
        ArtifactError: it is not.
    """
    if plain["kind"] != kind:
        raise ArtifactError(
            f"the saved optimizer is of another kind ({plain['kind']}) than this one ({kind}); "
            "use the opt_func that it was saved with, or start afresh"
        )


def spread(value: float | Sequence[float], count: int, name: str) -> list[float]:
    """Returns `value` for each of `count` groups.

    Raises:
        ConfigError: it is a sequence of another length.
    """
    if isinstance(value, int | float):
        return [value] * count
    if len(value) != count:
        raise ConfigError(f"{name} has {len(value)} values for {count} parameter groups; give one number or {count}")
    return list(value)


def _identities(grads: list[Any]) -> list[Any]:
    # `None in [tensors]` would compare tensors element-wise; this keeps the test a scan of pointers.
    return [None if grad is None else True for grad in grads]
