"""`dist-ai plan`: what a model needs on a cluster, and the strategy it would get there, without the cluster."""

from __future__ import annotations

import importlib
import inspect
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from dist_ai.distributed.strategies.memory import Memory

__all__ = ["plan"]

# Tensors of a parameter's size that an optimizer keeps for each.
_AVERAGES = {"adam": 2, "adamw": 2, "sgd": 0, "momentum": 1, "lion": 1}
_DTYPES = ("float32", "int64")
_PRECISIONS = ("fp32", "bf16")
_ROWS = ("parameters", "gradients", "optimizer", "gathered", "activations")


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="A torchvision classifier (resnet50), or a function that returns a model: package.module:function or "
            "file.py:function.",
            metavar="MODEL",
        ),
    ],
    bs: Annotated[int, typer.Option(min=1, help="Samples in a global batch.")],
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs, one process each.")] = 1,
    memory: Annotated[float, typer.Option(min=0.01, help="Memory of each, in GiB.")] = 16.0,
    input_shape: Annotated[
        str, typer.Option("--input", help="Shape of a sample; several inputs are separated by spaces.")
    ] = "3,224,224",
    dtype: Annotated[str, typer.Option(help="Of the inputs: float32, or int64 for tokens.")] = "float32",
    optimizer: Annotated[str, typer.Option(help=f"{', '.join(_AVERAGES)}.")] = "adam",
    precision: Annotated[str, typer.Option(help="What it computes in: fp32 or bf16.")] = "fp32",
) -> None:
    """Prints the memory that MODEL takes on each GPU by strategy, and which strategy it would get. Needs no GPU.

    dist-ai plan resnet50 --bs 256 --gpus 8 --memory 16
    """
    for name, value, choices in (
        ("dtype", dtype, _DTYPES),
        ("optimizer", optimizer, tuple(_AVERAGES)),
        ("precision", precision, _PRECISIONS),
    ):
        if value not in choices:
            raise ConfigError(f"--{name} {value}: expected one of {', '.join(choices)}")
    samples = [_shape(text) for text in input_shape.split()]
    make = _maker(model)

    import torch

    from dist_ai.distributed.strategies import DDP, FSDP
    from dist_ai.distributed.strategies.choice import choose_for
    from dist_ai.distributed.strategies.memory import activation_bytes, estimate, state_bytes

    averages, room = _AVERAGES[optimizer], int(memory * 2**30)
    share = -(-bs // gpus)  # of the rank that has most
    whole = _on_meta(make, model)
    plain: dict[str, DDP | FSDP] = {"ddp": DDP(), "fsdp": FSDP()} if gpus > 1 else {"single": DDP()}
    configs = {
        name + " + ac" * again: replace(config, activation_checkpointing=again)
        for name, config in plain.items()
        for again in (False, True)
    }
    activations = {
        again: activation_bytes(
            _on_meta(make, model),
            [(share, *shape) for shape in samples],
            dtype=getattr(torch, dtype),
            compute_dtype=torch.bfloat16 if precision == "bf16" else None,
            config=DDP(activation_checkpointing=again),
        )
        for again in (False, True)
    }
    needs = {
        name: estimate(
            whole,
            config,
            world_size=gpus,
            activations=activations[config.activation_checkpointing],
            averages=averages,
        )
        for name, config in configs.items()
    }
    choice = choose_for(state_bytes(whole, averages=averages), memory=room, world_size=gpus)
    chosen = next(name for name, config in plain.items() if config == choice.config)
    count = sum(p.numel() for p in whole.parameters())
    print(
        f"{model}: {count:,} parameters; {bs} samples of {input_shape} a step on {gpus} GPU(s) of {memory:g} GiB, "
        f"{share} on each, {precision}, {optimizer}"
    )
    print(_table(needs, room))
    print(f"strategy='auto' would choose {chosen}: {choice.why}.")
    if needs[chosen].total > room:
        print(_advice(needs, room, gpus))


def _table(needs: dict[str, Memory], room: int) -> str:
    def line(label: str, cells: list[str]) -> str:
        return f"{label:<16}" + "".join(f"{cell:>14}" for cell in cells)

    rows = [line("GiB a GPU", list(needs))]
    rows += [line(row, [f"{getattr(need, row) / 2**30:.2f}" for need in needs.values()]) for row in _ROWS]
    rows.append(line("all", [f"{need.total / 2**30:.2f}" for need in needs.values()]))
    rows.append(line("fits", ["yes" if need.total <= room else "no" for need in needs.values()]))
    return "\n".join(rows) + "\n(ac: activation checkpointing)"


def _advice(needs: dict[str, Memory], room: int, gpus: int) -> str:
    fitting = next((name for name, need in needs.items() if need.total <= room), None)
    if fitting is None:
        return f"Nothing fits on {gpus} GPU(s): use more or larger ones, a smaller batch, or gradient accumulation."
    strategy, _, again = fitting.partition(" + ")
    options = "activation_checkpointing=True" if again else ""
    kind = "FSDP" if strategy == "fsdp" else "DDP"
    return f"With this batch it would not fit; strategy={kind}({options}) would."


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",") if size)
    except ValueError:
        raise ConfigError(f"--input {text}: expected the sizes of one sample, such as 3,224,224") from None


def _maker(model: str) -> Callable[[], Any]:
    """Returns the function that makes the model named on the command line.

    Raises:
        ConfigError: there is none.
    """
    place, colon, name = model.rpartition(":")
    if not colon and model.endswith(".py"):
        raise ConfigError(f"{model} is a file; name the function in it that returns the model, as in {model}:make")
    if not colon:
        from dist_ai.vision.models import backbone

        return lambda: backbone(model)
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ConfigError(f"{model}: no file at {place} (looked from {Path.cwd()})")
        found = runpy.run_path(place)
    else:
        try:
            found = vars(importlib.import_module(place))
        except ImportError as error:
            raise ConfigError(f"{model}: {error}; expected package.module:function or file.py:function") from error
    if not callable(found.get(name)):
        raise ConfigError(f"{model}: {place} has no function {name!r}")
    return found[name]


def _on_meta(make: Callable[[], Any], name: str) -> nn.Module:
    import torch
    from torch import nn

    signature = inspect.signature(make)
    try:
        signature.bind()
    except TypeError as error:
        raise ConfigError(f"{name}{signature}: {error}; expected a function that needs no arguments") from None
    with torch.device("meta"):
        model = make()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{name} returned a {type(model).__name__}; expected a model, an nn.Module")
    return model
