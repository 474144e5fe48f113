"""Any `torch.optim` optimizer, under our names for hyper-parameters and with its state by parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.optimizer.groups import HyperValue, ParamGroup, Params, as_groups, spread
from dist_ai.optimizer.optimizer import AnyOptimizer, check_kind

__all__ = ["TorchOptimizer", "as_opt_func"]

# Our name -> where torch keeps it: (key, position in the value) for the first key that the optimizer has.
_PLACES: dict[str, tuple[tuple[str, int | None], ...]] = {
    "wd": (("weight_decay", None),),
    "mom": (("momentum", None), ("betas", 0)),
    "sqr_mom": (("alpha", None), ("betas", 1)),
}


class TorchOptimizer:
    """A `torch.optim` optimizer as an `AnyOptimizer`.

    Args:
        make: the class, or a function of torch's parameter groups: ``torch.optim.AdamW`` or
            ``partial(torch.optim.SGD, momentum=0.9)``.
        params: the parameters: groups, ``model.named_parameters()``, or ``model.parameters()``. Those in a group's
            `no_decay` get a torch group of their own, without decay.
        hypers: hyper-parameters under our names (`lr`, `wd`, `mom`, `sqr_mom`) or torch's.

    Raises:
        ConfigError: the optimizer has no such hyper-parameter, or needs a closure (`torch.optim.LBFGS`).

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = TorchOptimizer(torch.optim.SGD, [w], lr=0.5)
    >>> w.sum().backward(); opt.step(); w.item()
    0.5
    """

    def __init__(self, make: Callable[..., torch.optim.Optimizer], params: Params, **hypers: float) -> None:
        self.groups = as_groups(params)
        self.training = True
        torch_groups = []
        self._owner: list[int] = []
        for number, group in enumerate(self.groups):
            for decays in (True, False):
                some = [p for p, d in zip(group.params, group.decays, strict=True) if d == decays]
                if some or decays:  # the decaying one is always there, to hold the group's hyper-parameters
                    torch_groups.append({"params": some, "_decays": decays})
                    self._owner.append(number)
        self.torch = make(torch_groups)
        closure = inspect.signature(type(self.torch).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigError(
                f"{self.kind} computes the loss several times a step, by a function that a training loop has not to give; "
                "take another optimizer"
            )
        for name, value in hypers.items():
            self.set_hyper(name, value)
        if self._place("wd"):  # torch's own default must not reach what is exempt either
            self.set_hyper("wd", self.get_hyper("wd"))

    @classmethod
    def around(
        cls, optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, torch.nn.Parameter]]
    ) -> TorchOptimizer:
        """Returns a torch optimizer that was made already, with its groups, under our names.

        Args:
            optimizer: any of `torch.optim`'s, or of a class derived from it.
            named_parameters: ``model.named_parameters()``, for the names.

        Raises:
            ConfigError: it has a parameter that is not among those.

        >>> model = torch.nn.Linear(2, 1)
        >>> opt = TorchOptimizer.around(torch.optim.NAdam(model.parameters(), lr=0.1), model.named_parameters())
        >>> opt.get_hyper("lr"), opt.groups[0].names
        ([0.1], ['weight', 'bias'])
        """
        names = {id(p): name for name, p in named_parameters}
        groups = []
        for number, torch_group in enumerate(optimizer.param_groups):
            if unknown := [p for p in torch_group["params"] if id(p) not in names]:
                raise ConfigError(
                    f"group {number} of the optimizer has a parameter of shape {tuple(unknown[0].shape)} that is not "
                    "among the named parameters; give those of the model that it was made for"
                )
            torch_group["_decays"] = True
            groups.append(ParamGroup({names[id(p)]: p for p in torch_group["params"]}))
        return cls(lambda _: optimizer, groups)

    def step(self) -> None:
        """Updates every parameter that has a gradient.

        Raises:
            ConfigError: a gradient is sparse, and the optimizer cannot take that.
        """
        try:
            self.torch.step()
        except RuntimeError as error:
            names = self._names()
            params = (p for torch_group in self.torch.param_groups for p in torch_group["params"])
            if not (sparse := [names[id(p)] for p in params if p.grad is not None and p.grad.is_sparse]):
                raise
            raise ConfigError(
                f"the gradient of {sparse[0]!r} is sparse, which {self.kind} as it is set cannot take ({error}); use "
                "torch.optim.SparseAdam, or dist_ai.optimizer.SGD without momentum, or make the embedding with sparse=False"
            ) from error

    def zero_grad(self) -> None:
        """Drops the gradients."""
        self.torch.zero_grad(set_to_none=True)

    def train(self) -> None:
        """Puts the weights to train with in the model, if the optimizer has others to evaluate with (schedule-free)."""
        if not self.training and hasattr(self.torch, "train"):
            self.torch.train()
        self.training = True

    def eval(self) -> None:
        """Puts the weights to evaluate with in the model, if the optimizer has such."""
        if self.training and hasattr(self.torch, "eval"):
            self.torch.eval()
        self.training = False

    def set_hyper(self, name: str, value: HyperValue) -> None:
        """Sets a hyper-parameter, for all groups or one value each; see `Optimizer.set_hyper`."""
        key, position = self._require(name)
        values = spread(value, len(self.groups), name)
        for torch_group, owner in zip(self.torch.param_groups, self._owner, strict=True):
            new = 0.0 if key == "weight_decay" and not torch_group["_decays"] else values[owner]
            if position is None:
                torch_group[key] = new
            else:
                torch_group[key] = tuple(new if i == position else old for i, old in enumerate(torch_group[key]))

    def get_hyper(self, name: str) -> list[float]:
        """Returns a hyper-parameter's value in each group."""
        key, position = self._require(name)
        values = [torch_group[key] for torch_group in self.torch.param_groups if torch_group["_decays"]]
        return values if position is None else [value[position] for value in values]

    def has_hyper(self, name: str) -> bool:
        """Returns whether the optimizer has a hyper-parameter of that name."""
        return self._place(name) is not None

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Returns the state as tensors by ``state.parameter`` name, and the rest as plain data."""
        names = self._names()
        tensors: dict[str, torch.Tensor] = {}
        numbers: dict[str, Any] = {}
        for parameter, values in self.torch.state.items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{key}.{names[id(parameter)]}"] = value
                elif value is not None:
                    numbers[f"{key}.{names[id(parameter)]}"] = value
        hypers = [
            {key: value for key, value in torch_group.items() if key not in ("params", "_decays")}
            for torch_group in self.torch.param_groups
            if torch_group["_decays"]
        ]
        return tensors, {"kind": self.kind, "hypers": hypers, "numbers": numbers}

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Restores what `state` returned; the groups may be others, as for `Optimizer.load_state`.

        Raises:
            ArtifactError: it is the state of another optimizer.
        """
        check_kind(plain, self.kind)
        names = self._names()
        places = {
            names[id(p)]: (p, torch_group) for torch_group in self.torch.param_groups for p in torch_group["params"]
        }
        for key, value in [*tensors.items(), *plain["numbers"].items()]:
            name, parameter = key.split(".", 1)
            if parameter in places:
                p, torch_group = places[parameter]
                if isinstance(value, torch.Tensor):
                    # torch keeps `step` on the CPU, whatever the parameter's device, unless a kernel reads it.
                    on_cpu = name == "step" and not (torch_group.get("capturable") or torch_group.get("fused"))
                    value = value.to("cpu" if on_cpu else p.device, copy=True)
                self.torch.state[p][name] = value
        for torch_group, owner in zip(self.torch.param_groups, self._owner, strict=True):
            if owner < len(plain["hypers"]):
                hypers = plain["hypers"][owner]
                torch_group.update({k: tuple(v) if isinstance(v, list) else v for k, v in hypers.items()})
        if self._place("wd"):  # what is exempt took its group's decay over just now
            self.set_hyper("wd", self.get_hyper("wd"))

    def _place(self, name: str) -> tuple[str, int | None] | None:
        has = self.torch.param_groups[0]
        return next((place for place in (*_PLACES.get(name, ()), (name, None)) if place[0] in has), None)

    def _require(self, name: str) -> tuple[str, int | None]:
        if (place := self._place(name)) is None:
            choices = [
                *filter(self._place, _PLACES),
                *(key for key in self.torch.param_groups[0] if key not in ("params", "_decays")),
            ]
            raise ConfigError(f"{self.kind} has no hyper-parameter {name!r}{did_you_mean(name, choices)}")
        return place

    @property
    def kind(self) -> str:
        """The name of the torch class."""
        return f"torch.optim.{type(self.torch).__name__}"

    def _names(self) -> dict[int, str]:
        return {id(p): name for group in self.groups for name, p in zip(group.names, group.params, strict=True)}


def as_opt_func(opt_func: Callable[..., Any]) -> Callable[..., AnyOptimizer]:
    """Returns `opt_func` as a function of our groups: recipes as they are, `torch.optim` classes wrapped.

    Raises:
        ConfigError: it is no function: a name, or an optimizer that is made already.
    """
    if not callable(opt_func):
        raise ConfigError(
            f"opt_func={opt_func!r} is no function; give one that makes the optimizer: dist_ai.optimizer.Adam, SGD, ..., "
            "torch.optim.AdamW, or a partial of one. An optimizer that is made already is assigned: learn.opt = ..."
        )
    made = opt_func.func if isinstance(opt_func, partial) else opt_func
    if isinstance(made, type) and issubclass(made, torch.optim.Optimizer):
        return partial(TorchOptimizer, opt_func)
    return opt_func
