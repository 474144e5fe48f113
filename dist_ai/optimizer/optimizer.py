"""The generic optimizer: it runs a list of steps over groups of parameters and keeps their state by name.

```python
opt = Optimizer(model.named_parameters(), [weight_decay, sgd_step], lr=0.1, wd=0.01)
loss.backward()
opt.step()
opt.zero_grad()
```

State is addressed by the parameter's name, so it can be saved without pickle and read back into any layout of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dist_ai.core.names import missing_attribute
from dist_ai.errors import ArtifactError, ConfigError, did_you_mean
from dist_ai.optimizer.fused import fuse
from dist_ai.optimizer.groups import HyperValue, ParamGroup, Params, as_groups, freeze_groups, spread
from dist_ai.optimizer.state import Bucket, ParamState, buckets_of

__all__ = ["AnyOptimizer", "Optimizer", "ParamGroup", "ParamState"]


class AnyOptimizer(Protocol):
    """What a Learner needs of an optimizer; `Optimizer` and `TorchOptimizer` provide it."""

    groups: list[ParamGroup]
    training: bool

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

    def train(self) -> None:
        """Puts the weights to train with in the model, where they are not those to evaluate with."""
        ...

    def eval(self) -> None:
        """Puts the weights to evaluate with in the model: an average, of optimizers that train another point."""
        ...

    def set_hyper(self, name: str, value: HyperValue) -> None:
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


class Optimizer:
    """Runs `steps` over groups of parameters.

    Args:
        params: the parameters: groups, ``model.named_parameters()``, or ``model.parameters()``.
        steps: functions of (parameters, gradients, state, hyper-parameters), run in order; see `steps.py`.
        average: a function of (parameters, state, hyper-parameters) that returns the weights to evaluate with, where
            those are not the weights that are trained; `eval` and `train` put them in and out.
        sparse: whether the steps can take sparse gradients.
        hypers: defaults of the hyper-parameters that the steps read.

    Attributes:
        groups: the parameters, with their hyper-parameters.
        fused: steps that torch has a kernel for run in that kernel, which computes the same in one pass (`fused.py`);
            set it to False to run the steps as they are written.
        training: whether the weights that are trained are in the model, and not those to evaluate with.

    Parameters without a gradient are left alone, and their state does not age. State has its parameter's dtype, as
    torch's has, and is sharded as its parameter is.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = Optimizer([w], [lambda p, g, s, h: torch._foreach_add_(p, g, alpha=-h.lr)], lr=0.5)
    >>> w.sum().backward(); opt.step(); w.item()
    0.5

    Raises:
        ConfigError: there are no parameters, one is in two groups, or a group has a hyper-parameter that is not among
            `hypers`.
    """

    def __init__(
        self,
        params: Params,
        steps: Sequence[Callable[..., None]],
        *,
        average: Callable[..., list[torch.Tensor]] | None = None,
        sparse: bool = False,
        **hypers: float,
    ) -> None:
        self.groups = as_groups(params)
        self.steps = list(steps)
        self.average, self.sparse = average, sparse
        self.defaults = dict(hypers)
        self.fused = self.training = True
        self._plan = fuse(self.steps)
        for group in self.groups:
            for name in vars(group.h):
                self._check_name(name)
            group.h = SimpleNamespace(**{**hypers, **vars(group.h)})
        self._made: list[list[Bucket]] | None = None

    @torch.no_grad()
    def step(self) -> None:
        """Updates every parameter that has a gradient.

        Raises:
            ConfigError: a gradient is sparse and the steps cannot take that, or the weights to evaluate with are in.
        """
        if not self.training:
            raise ConfigError(
                "the model has the weights to evaluate with, and a step needs those to train with; "
                "call opt.train() before the training batches"
            )
        for group, buckets in zip(self.groups, self._buckets, strict=True):
            for bucket in buckets:
                for p, g, state in bucket.ready():
                    self._run(p, g, state, group.h)

    def _run(self, p: Any, g: Any, state: ParamState, hypers: SimpleNamespace) -> None:
        if any([grad.is_sparse for grad in g]):  # noqa: C419  # a list is quicker than a generator
            self._check_sparse(g, state)
        for step in self._plan if self.fused else self.steps:
            step(p, g, state, hypers)

    def zero_grad(self) -> None:
        """Drops the gradients, which frees their memory."""
        for group in self.groups:
            for p in group.params:
                p.grad = None

    @torch.no_grad()
    def eval(self) -> None:
        """Puts the weights to evaluate with in the model, if they are others than those that are trained."""
        if self.training and self.average is not None:
            for group, bucket in self._all():
                for p, state in bucket.aged():
                    averages = self.average(p, state, group.h)
                    torch._foreach_copy_(state.begin(_TRAINED, p), p)
                    torch._foreach_copy_(_unwatched(p), averages)
        self.training = False

    @torch.no_grad()
    def train(self) -> None:
        """Puts the weights to train with back in the model, to the same bits."""
        if not self.training and self.average is not None:
            for _, bucket in self._all():
                for p, state in bucket.aged():
                    torch._foreach_copy_(_unwatched(p), state[_TRAINED])
                bucket.forget(_TRAINED)
        self.training = True

    # ------------------------------------------------------------------------------------------------ hyper-parameters

    def set_hyper(self, name: str, value: HyperValue) -> None:
        """Sets a hyper-parameter.

        Args:
            name: such as ``"lr"``.
            value: a number for all groups, one for each, or a slice: from the first group to the last, evenly in ratio.

        Raises:
            ConfigError: the optimizer has no such hyper-parameter, or the values are not one for each group.
        """
        self._check_name(name)
        for group, each in zip(self.groups, spread(value, len(self.groups), name), strict=True):
            setattr(group.h, name, each)

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    def set_hypers(self, **values: HyperValue) -> None:
        """Sets several hyper-parameters; see `set_hyper`."""
        for name, value in values.items():
            self.set_hyper(name, value)

    def get_hyper(self, name: str) -> list[float]:
        """Returns a hyper-parameter's value in each group."""
        self._check_name(name)
        return [getattr(group.h, name) for group in self.groups]

    def has_hyper(self, name: str) -> bool:
        """Returns whether the optimizer has a hyper-parameter of that name."""
        return name in self.defaults

    @property
    def hypers(self) -> list[dict[str, float]]:
        """All hyper-parameters of each group; a copy."""
        return [dict(vars(group.h)) for group in self.groups]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups as `torch.optim` has them, for what reads those (`torch.amp.GradScaler`); a copy."""
        return [{"params": group.params, **vars(group.h)} for group in self.groups]

    # ------------------------------------------------------------------------------------------------ freezing

    def freeze_to(self, n: int, *, always: Collection[str] = ()) -> None:
        """Freezes the first `n` groups (counted from the end if negative) and unfreezes the others.

        Frozen parameters lose their gradients and keep their state.

        Args:
            n: how many.
            always: names of parameters that learn in a frozen group too, such as BatchNorm's.

        Raises:
            ConfigError: there are not so many groups.
        """
        freeze_groups(
            [dict(zip(group.names, group.params, strict=True)) for group in self.groups], n, always=set(always)
        )
        for group in self.groups:
            for p in group.params:
                if not p.requires_grad:
                    p.grad = None

    def freeze(self) -> None:
        """Freezes all groups but the last."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Unfreezes all groups."""
        self.freeze_to(0)

    # ------------------------------------------------------------------------------------------------ state

    def clear_state(self) -> None:
        """Drops the state of all parameters, as if no step had been taken; hyper-parameters stay."""
        self.train()
        for _, bucket in self._all():
            bucket.clear()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Returns the state as tensors by ``state.parameter`` name, and the rest as plain data.

        The state of sharded parameters is sharded as they are (`DTensor`).
        """
        tensors: dict[str, torch.Tensor] = {}
        ages: dict[str, int] = {}
        numbers: dict[str, float] = {}
        for _, bucket in self._all():
            for name, values in bucket.tensors.items():
                for parameter, p, value in zip(bucket.names, bucket.params, values, strict=True):
                    if value is not None:
                        tensors[f"{name}.{parameter}"] = bucket.sharding.wrap(value, p) if bucket.sharding else value
            for name, each in bucket.numbers.items():
                for parameter, number in zip(bucket.names, each, strict=True):
                    if number is not None:
                        numbers[f"{name}.{parameter}"] = number
            ages.update(zip(bucket.names, bucket.ages, strict=True))
        names = [name for group in self.groups for name in group.names]  # in their order, whatever the buckets
        plain = {
            "kind": self.kind,
            "hypers": self.hypers,  # copies: what is saved must not go on changing
            "steps": {name: ages[name] for name in names},
            "numbers": numbers,
            "training": self.training,
        }
        return tensors, plain

    def load_state(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Restores what `state` returned; every parameter of this optimizer must be in it.

        The groups may be others: state goes by the parameter's name, hyper-parameters by the group's number. The
        sharding may be another too: whole tensors are dealt out, shards are dealt anew.

        Raises:
            ArtifactError: it is the state of other parameters, or of another kind of optimizer.
        """
        check_kind(plain, self.kind)
        ages = plain["steps"]
        for group in self.groups:
            if missing := [name for name in group.names if name not in ages]:
                raise ArtifactError(
                    f"the optimizer's state has nothing for parameter {missing[0]!r}; is it another model's?"
                )
        places = {name: (bucket, i) for _, bucket in self._all() for i, name in enumerate(bucket.names)}
        for bucket in {id(bucket): bucket for bucket, _ in places.values()}.values():
            bucket.clear()
            bucket.ages[:] = [ages[name] for name in bucket.names]
        for key, value in tensors.items():
            name, parameter = key.split(".", 1)
            if parameter in places:
                bucket, i = places[parameter]
                bucket.tensors.setdefault(name, [None] * len(bucket.params))[i] = _restored(key, value, bucket, i)
        for key, number in plain.get("numbers", {}).items():
            name, parameter = key.split(".", 1)
            if parameter in places:
                bucket, i = places[parameter]
                bucket.numbers.setdefault(name, [None] * len(bucket.params))[i] = number
        for group, hypers in zip(self.groups, plain["hypers"], strict=False):
            group.h = SimpleNamespace(**{**vars(group.h), **hypers})
        self.training = plain.get("training", True)

    @property
    def kind(self) -> str:
        """The names of its steps."""
        return ", ".join(getattr(step, "__name__", None) or repr(step) for step in self.steps)

    @property
    def _buckets(self) -> list[list[Bucket]]:
        # Made when first needed: until then the model may move to another device, or be sharded.
        if self._made is None:
            self._made = [buckets_of(group) for group in self.groups]
        return self._made

    def _all(self) -> Iterator[tuple[ParamGroup, Bucket]]:
        for group, buckets in zip(self.groups, self._buckets, strict=True):
            for bucket in buckets:
                yield group, bucket

    def _check_sparse(self, g: list[torch.Tensor], state: ParamState) -> None:
        if not self.sparse:
            name = next(name for name, grad in zip(state.names, g, strict=True) if grad.is_sparse)
            raise ConfigError(
                f"the gradient of {name!r} is sparse, which [{self.kind}] cannot take; make the embedding with "
                "sparse=False, or use SGD without momentum, or torch.optim.SparseAdam"
            )

    def _check_name(self, name: str) -> None:
        if name not in self.defaults:
            raise ConfigError(
                f"this optimizer has no hyper-parameter {name!r}{did_you_mean(name, self.defaults)}; "
                f"it has {', '.join(self.defaults)}"
            )

    def __repr__(self) -> str:
        return f"Optimizer([{self.kind}], {len(self.groups)} group(s), {vars(self.groups[0].h)})"


_TRAINED = (
    "trained"  # the state that keeps the weights that are trained, while those to evaluate with are in their place
)


def _unwatched(p: list[torch.Tensor]) -> list[torch.Tensor]:
    """Returns the same tensors without autograd's watch over changes.

    One may validate between a forward and its backward: by then the weights are back, and backward need not complain.
    """
    return [each.data for each in p]


def _restored(key: str, value: torch.Tensor, bucket: Bucket, i: int) -> torch.Tensor:
    """Returns a copy of a saved state tensor that lies in memory as its parameter does; see `Bucket.dense`."""
    local = bucket.sharding.local(value) if bucket.sharding else value
    p = bucket.local(bucket.params[i : i + 1])[0]
    if local.shape != p.shape:
        raise ArtifactError(
            f"the optimizer's state {key!r} has shape {tuple(local.shape)} and its parameter {tuple(p.shape)}; "
            "is it another model's?"
        )
    return torch.empty_like(p, requires_grad=False).copy_(local)


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
