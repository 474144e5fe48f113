"""Plans of tensor parallelism: which layers of a model are divided among ranks, and how.

A plan is a dict from names of modules to styles. A model states its own as ``tensor_parallel_plan``: each module for what is
inside it, so a model that is put together of others has the plans of all. Models of `transformers` state theirs as
``_tp_plan``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from dist_ai.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle

__all__ = ["STYLES", "Plan", "divide", "plan_of", "stated_plan"]

Plan: TypeAlias = "Mapping[str, str | ParallelStyle]"
"""From names of modules to styles. A ``*`` in a name stands for any part of it between two dots."""

STYLES = {
    "colwise": "each rank computes a part of the outputs, and hands on its part: of a Linear, or an Embedding",
    "colwise_gather_output": "the same, and all ranks hand on all outputs",
    "rowwise": "each rank takes a part of the inputs, such as those that colwise layers handed on; the outputs are added up",
    "rowwise_split_input": "the same of inputs that are whole on all ranks",
    "sharded_dropout": "a SeededDropout between a colwise and a rowwise layer, so that it drops what one process does",
}
"""Styles by name; a plan may also have torch's own (`torch.distributed.tensor.parallel`)."""

# What `transformers` calls those that are meant here. Embeddings are divided by columns, which gives the same numbers also where
# one token is padding.
_OTHER_NAMES = {
    "colwise_rep": "colwise_gather_output",
    "rowwise_rep": "rowwise_split_input",
    "embedding_rowwise": "colwise_gather_output",
    "embedding_colwise": "colwise_gather_output",
}

# Attributes, of modules and of their `config`, that say how many heads the features are parted into.
_HEADS = ("n_heads", "num_heads", "nhead", "num_attention_heads", "num_key_value_heads")


def stated_plan(model: nn.Module) -> dict[str, str | ParallelStyle]:
    """Returns the plan that `model` states, for names of modules that it has; {} if it states none.

    Layers that share a parameter are left out if they would not hold the same part of it.

    >>> class Mlp(nn.Sequential):
    ...     tensor_parallel_plan = {"0": "colwise", "2": "rowwise"}
    >>> stated_plan(nn.Sequential(Mlp(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))))
    {'0.0': 'colwise', '0.2': 'rowwise'}
    """
    names = [name for name, _ in model.named_modules()]
    plan: dict[str, str | ParallelStyle] = {}
    of_transformers: list[str] = []
    for name, module in model.named_modules():
        own = getattr(module, "tensor_parallel_plan", None)
        if own is None and not any(_is_inside(name, outer) for outer in of_transformers):
            own = getattr(module, "_tp_plan", None)
            if own:
                of_transformers.append(name)
        for pattern, style in (own or {}).items():
            # What the plan of a class names and this model has not, such as a second projection, is no mistake.
            plan |= dict.fromkeys(_matching(f"{name}.{pattern}" if name else pattern, names), style)
    for owners in _shared(model):
        if len({_dim_of(model.get_submodule(owner), plan.get(owner)) for owner, _ in owners}) > 1:
            for owner, _ in owners:
                plan.pop(owner, None)
    return plan


def _dim_of(module: nn.Module, style: str | ParallelStyle | None) -> int | None:
    """Returns along which dim a style divides the weights; None for whole ones."""
    name = _OTHER_NAMES.get(style, style) if isinstance(style, str) else type(style).__name__.lower()
    if style is None or name is None or not name.startswith(("colwise", "rowwise")):
        return None
    # A Linear's weights are (outputs, inputs), an Embedding's (tokens, features).
    return int(name.startswith("rowwise") != isinstance(module, nn.Embedding))


def plan_of(model: nn.Module, given: Plan | None, *, size: int) -> dict[str, ParallelStyle]:
    """Returns a style for each module of `model` that is divided among `size` ranks.

    Args:
        model: not divided yet.
        given: a plan; None for what the model states.
        size: number of ranks.

    Raises:
        ConfigError: there is no plan, or the model cannot be divided by it; says what of it.
    """
    if given is None:
        stated = stated_plan(model)
        if not stated:
            raise ConfigError(_what_to_plan(model, size))
    else:
        names = [name for name, _ in model.named_modules()]
        stated = {}
        for pattern, style in given.items():
            matching = _matching(pattern, names)
            if not matching:
                hint = did_you_mean(pattern, dict.fromkeys(_with_stars_of(pattern, name) for name in names))
                raise ConfigError(
                    f"TensorParallel: the plan's {pattern!r} matches no module of this {type(model).__name__}{hint}; names are "
                    "those of model.named_modules(), and * stands for one part between dots"
                )
            stated |= dict.fromkeys(matching, style)
    styles = {name: _made(name, style) for name, style in stated.items()}
    for name, style in styles.items():
        _check(model, name, style, size)
    return styles


def _what_to_plan(model: nn.Module, size: int) -> str:
    """Returns, for a model without a plan, which of its layers may have one, and one to begin with."""
    begin = f"TensorParallel(size={size}): {type(model).__name__} states no plan"
    first: dict[str, nn.Linear | nn.Embedding] = {}
    count: Counter[str] = Counter()
    for name, module in model.named_modules():
        if type(module) is nn.Linear or type(module) is nn.Embedding:  # not what an attention has for one
            pattern = _STACKED.sub(r"\1*\2", name, count=1)
            first.setdefault(pattern, module)
            count[pattern] += 1
    if not first:
        return f"{begin}, and has no Linear and no Embedding, which are what is divided; use FSDP(), which divides any layer"
    largest = sorted(first, key=lambda pattern: -count[pattern] * first[pattern].weight.numel())[:_LAYERS_TOLD]
    told = ", ".join(f"{each} ({count[each]} of {' x '.join(map(str, first[each].weight.shape))})" for each in largest)
    plan: dict[str, str] = {}
    for up, down in itertools.permutations(largest, 2):
        # A Linear's weights are (outputs, inputs): one that widens, and one beside it that takes that and narrows.
        wide, narrow = first[up].weight.shape, first[down].weight.shape
        if up.rpartition(".")[0] == down.rpartition(".")[0] and wide[0] == narrow[1] > wide[1] == narrow[0]:
            plan |= {up: "colwise", down: "rowwise"}
    plan = plan or {largest[0]: "colwise_gather_output"}
    return (
        f"{begin}, and may divide {told}; give one, as TensorParallel(plan, size={size}) or model.tensor_parallel_plan = plan, "
        f"such as plan = {plan}"
    )


_STACKED = re.compile(r"^(.*?)\d+(.*\..*)$")
"""A name with a number before its last part, as layers of a stack have: the number is which of them."""

_LAYERS_TOLD = 5


def divide(model: nn.Module, styles: Mapping[str, ParallelStyle], mesh: DeviceMesh) -> None:
    """Divides the model in place: parameters in the plan become `DTensor`s that hold this rank's part.

    Args:
        model: with the same values on all ranks, so nothing is exchanged.
        styles: see `plan_of`.
        mesh: of one axis, over the ranks.

    Raises:
        ConfigError: layers that share a parameter are divided in different ways.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    shared = _shared(model)
    modules = dict(model.named_modules())
    for name, style in styles.items():
        parallelize_module(modules[name], mesh, style, src_data_rank=None)
    for owners in shared:
        _share_again(modules, owners)


def _matching(pattern: str, names: list[str]) -> list[str]:
    parts = pattern.split(".")
    return [
        name
        for name in names
        if len(split := name.split(".")) == len(parts)
        and all(fnmatchcase(part, wanted) for part, wanted in zip(split, parts, strict=True))
    ]


def _with_stars_of(pattern: str, name: str) -> str:
    """Returns a name with a ``*`` for each part for which the pattern has one."""
    wanted = pattern.split(".")
    parts = enumerate(name.split("."))
    return ".".join("*" if i < len(wanted) and wanted[i] == "*" else part for i, part in parts)


def _is_inside(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")


def _made(name: str, style: str | ParallelStyle) -> ParallelStyle:
    """Returns torch's style of that name."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

    if isinstance(style, ParallelStyle):
        return style
    make: dict[str, Any] = {
        "colwise": ColwiseParallel,
        "colwise_gather_output": partial(ColwiseParallel, output_layouts=Replicate()),
        "rowwise": RowwiseParallel,
        "rowwise_split_input": partial(RowwiseParallel, input_layouts=Replicate()),
        "sharded_dropout": _sharded_dropout,
    }
    style = _OTHER_NAMES.get(style, style)
    if style not in make:
        raise ConfigError(
            f"TensorParallel: the plan has {name!r}: {style!r}{did_you_mean(str(style), make)}; expected one of "
            f"{', '.join(make)}, or a style of torch.distributed.tensor.parallel"
        )
    return make[style]()


def _sharded_dropout() -> ParallelStyle:
    """Returns a style that tells a dropout layer which part of the last dim it sees."""
    from torch.distributed.tensor.parallel import ParallelStyle

    class ShardedDropout(ParallelStyle):
        def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
            module.columns = (device_mesh.get_local_rank(), device_mesh.size())  # type: ignore[assignment]  # torch takes attributes for tensors
            return module

    return ShardedDropout()


def _check(model: nn.Module, name: str, style: ParallelStyle, size: int) -> None:
    """Checks that a module can be divided so.

    Raises:
        ConfigError: it cannot.
    """
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

    module, kind = model.get_submodule(name), type(style).__name__
    if kind == "ShardedDropout":
        if not hasattr(module, "columns"):
            raise ConfigError(
                f"TensorParallel: {name!r} is a {type(module).__name__}; sharded_dropout is for SeededDropout"
            )
        return
    if not isinstance(style, ColwiseParallel | RowwiseParallel):
        return
    if not isinstance(module, nn.Linear | nn.Embedding):
        raise ConfigError(
            f"TensorParallel: {name!r} is a {type(module).__name__}, and {kind} divides Linear and Embedding; name the layers "
            "inside it, or leave it whole"
        )
    if isinstance(module, nn.Embedding):
        if isinstance(style, RowwiseParallel) and module.padding_idx is not None:
            raise ConfigError(
                f"TensorParallel: {name!r} has padding_idx={module.padding_idx}, which torch does not keep in embeddings "
                "that are divided by rows; give it 'colwise_gather_output'"
            )
        return
    if isinstance(style, ColwiseParallel):
        what, count = "outputs", module.out_features if style.output_layouts == (Shard(-1),) else 0
    else:
        what, count = "inputs", module.in_features
    if count % size:
        raise ConfigError(
            f"TensorParallel(size={size}): {name!r} has {count} {what}, which {size} ranks cannot divide evenly; set size to a "
            f"divisor of {count}"
        )
    for outer, heads, number in _heads_around(model, name):
        if number % size:
            raise ConfigError(
                f"TensorParallel(size={size}): {outer} has {heads}={number}, and each rank computes whole heads; set size to a "
                f"divisor of {number}"
            )


def _heads_around(model: nn.Module, name: str) -> Iterator[tuple[str, str, int]]:
    """Yields (whose, attribute, number) of heads that the modules around a layer say they have, and their `config`s."""
    parts = name.split(".")
    for depth in range(len(parts)):
        outer = ".".join(parts[:depth])
        module = model.get_submodule(outer)
        label = f"{type(module).__name__} {outer}".rstrip()
        for holder in (module, getattr(module, "config", None)):
            for attribute in _HEADS:
                number = getattr(holder, attribute, None)
                if isinstance(number, int) and number > 0:
                    yield label, attribute, number


def _shared(model: nn.Module) -> list[list[tuple[str, str]]]:
    """Returns the owners, (module, attribute), of each parameter that has several."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        for attribute, p in module.named_parameters(recurse=False):
            owners.setdefault(id(p), []).append((name, attribute))
    return [each for each in owners.values() if len(each) > 1]


def _share_again(modules: Mapping[str, nn.Module], owners: list[tuple[str, str]]) -> None:
    """Makes one parameter again of what became one for each owner."""
    params: list[Any] = [getattr(modules[name], attribute) for name, attribute in owners]
    lie = [getattr(p, "placements", None) for p in params]
    if any(each != lie[0] for each in lie):
        how = ", ".join(
            f"{name} {'is whole' if each is None else f'has {each[0]}'}"
            for (name, _), each in zip(owners, lie, strict=True)
        )
        raise ConfigError(
            f"TensorParallel: these layers share a parameter and must hold the same part of it: {how}; an embedding that is "
            "'colwise_gather_output' goes with a decoder that is 'rowwise_split_input'"
        )
    for name, attribute in owners[1:]:
        setattr(modules[name], attribute, params[0])
