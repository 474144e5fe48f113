"""`dist-ai plan`: what a model needs on a cluster, and the strategy it would get there, without the cluster."""

from __future__ import annotations

import importlib
import inspect
import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from dist_ai.distributed.strategies import DDP, FSDP
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
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="Also with so many GPUs that compute each layer together, as the model states.")
    ] = 1,
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
    job = _Job(
        model, _maker(model), bs, gpus, [_shape(text) for text in input_shape.split()], dtype, precision, optimizer
    )

    from dist_ai.distributed.strategies.choice import choose_for
    from dist_ai.distributed.strategies.memory import state_bytes

    whole, room = job.on_meta(), int(memory * 2**30)
    needs = {way: need for size in dict.fromkeys([1, tensor_parallel]) for way, need in job.needs(size).items()}
    choice = choose_for(state_bytes(whole, averages=job.averages), memory=room, world_size=gpus)
    chosen = next(way for way in needs if way.config == choice.config)
    count = sum(p.numel() for p in whole.parameters())
    print(
        f"{model}: {count:,} parameters; {bs} samples of {input_shape} a step on {gpus} GPU(s) of {memory:g} GiB, "
        f"{job.share(1)} on each, {precision}, {optimizer}"
    )
    print(_table(needs, room))
    print(f"strategy='auto' would choose {chosen.name}: {choice.why}.")
    if needs[chosen].total > room:
        print(_advice(needs, room, gpus))


@dataclass(frozen=True)
class _Way:
    """How a model may be trained.

    Attributes:
        config: how the groups hold it between them.
        num_groups: of GPUs.
        size: GPUs in a group, which compute each layer together.
    """

    config: DDP | FSDP
    num_groups: int
    size: int

    @property
    def name(self) -> str:
        """What stands above its column."""
        kind = type(self.config).__name__.lower() if self.num_groups > 1 else "single"
        parts = [f"tp {self.size}"] if self.size > 1 else []
        parts += [kind] if self.num_groups > 1 or self.size == 1 else []
        return " + ".join([*parts, "ac"] if self.config.activation_checkpointing else parts)

    @property
    def strategy(self) -> str:
        """What a program gives for it."""
        options = "activation_checkpointing=True" if self.config.activation_checkpointing else ""
        data_parallel = f"{type(self.config).__name__}({options})"
        return f"TensorParallel(size={self.size}, data_parallel={data_parallel})" if self.size > 1 else data_parallel


@dataclass(frozen=True)
class _Job:
    """What is to be trained on what."""

    name: str
    make: Callable[[], Any]
    bs: int
    gpus: int
    samples: list[tuple[int, ...]]
    dtype: str
    precision: str
    optimizer: str

    @property
    def averages(self) -> int:
        """Tensors of a parameter's size that the optimizer keeps."""
        return _AVERAGES[self.optimizer]

    def on_meta(self) -> nn.Module:
        """Returns the model, without its numbers."""
        import torch
        from torch import nn

        signature = inspect.signature(self.make)
        try:
            signature.bind()
        except TypeError as error:
            raise ConfigError(f"{self.name}{signature}: {error}; expected a function that needs no arguments") from None
        with torch.device("meta"):
            model = self.make()
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{self.name} returned a {type(model).__name__}; expected a model, an nn.Module")
        return model

    def share(self, size: int) -> int:
        """Returns the samples of the group, of so many GPUs, that has most."""
        return -(-self.bs // (self.gpus // size))

    def needs(self, size: int) -> dict[_Way, Memory]:
        """Returns what each GPU needs, by way, where so many compute each layer together.

        Raises:
            ConfigError: so many do not divide the GPUs, or the model.
        """
        import torch

        from dist_ai.distributed.strategies import DDP, FSDP, TensorParallel
        from dist_ai.distributed.strategies.memory import activation_bytes, estimate, part_of_one

        num_groups = TensorParallel(size=size).num_groups(self.gpus)
        kinds: list[DDP | FSDP] = [DDP(), FSDP()] if num_groups > 1 else [DDP()]
        ways = [
            _Way(replace(kind, activation_checkpointing=again), num_groups, size)
            for kind in kinds
            for again in (False, True)
        ]
        activations = {}
        for again in (False, True):
            with part_of_one(self.on_meta(), size) as part:
                activations[again] = activation_bytes(
                    part,
                    [(self.share(size), *shape) for shape in self.samples],
                    dtype=getattr(torch, self.dtype),
                    compute_dtype=torch.bfloat16 if self.precision == "bf16" else None,
                    config=DDP(activation_checkpointing=again),
                )
        with part_of_one(self.on_meta(), size) as part:
            return {
                way: estimate(
                    part,
                    way.config,
                    world_size=num_groups,
                    activations=activations[way.config.activation_checkpointing],
                    averages=self.averages,
                )
                for way in ways
            }


def _table(needs: dict[_Way, Memory], room: int) -> str:
    from dist_ai.distributed.strategies.memory import unit_of

    width = max(14, *(len(way.name) + 2 for way in needs))

    def line(label: str, cells: list[str]) -> str:
        return f"{label:<16}" + "".join(f"{cell:>{width}}" for cell in cells)

    name, unit = unit_of(max(need.total for need in needs.values()))
    rows = [line(f"{name} a GPU", [way.name for way in needs])]
    for row in (*_ROWS, "total"):
        sizes = [getattr(need, row) / unit for need in needs.values()]
        rows.append(
            line("all" if row == "total" else row, ["<0.01" if 0 < each < 0.005 else f"{each:.2f}" for each in sizes])
        )
    rows.append(line("fits", ["yes" if need.total <= room else "no" for need in needs.values()]))
    tensor_parallel = ", tp: tensor parallel" if any(way.size > 1 for way in needs) else ""
    return "\n".join(rows) + f"\n(ac: activation checkpointing{tensor_parallel})"


def _advice(needs: dict[_Way, Memory], room: int, gpus: int) -> str:
    fitting = next((way for way, need in needs.items() if need.total <= room), None)
    if fitting is None:
        return f"Nothing fits on {gpus} GPU(s): use more or larger ones, a smaller batch, or gradient accumulation."
    return f"With this batch it would not fit; strategy={fitting.strategy} would."


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
