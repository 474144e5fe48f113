"""Which strategy a world gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn

from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.strategies.ddp import DDP, DDPStrategy
from dist_ai.distributed.strategies.fsdp import FSDP, FSDPStrategy
from dist_ai.distributed.strategies.memory import device_memory, in_words, state_bytes
from dist_ai.distributed.strategies.single import Single
from dist_ai.distributed.strategies.strategy import Strategy
from dist_ai.distributed.strategies.tensor_parallel import TensorParallel, TensorParallelStrategy
from dist_ai.errors import ConfigError, did_you_mean

__all__ = ["AnyConfig", "Choice", "choose", "choose_for", "for_world"]

AnyConfig: TypeAlias = Literal["auto", "ddp", "fsdp"] | DDP | FSDP | TensorParallel

# Of a device's memory: the rest is for activations, which depend on the batch, and for what allocators lose.
_STATE_SHARE = 0.6


@dataclass(frozen=True)
class Choice:
    """A strategy's options, and why it is this one."""

    config: DDP | FSDP | TensorParallel
    why: str


def choose(given: AnyConfig, model: nn.Module, collectives: Collectives) -> Choice:
    """Returns the strategy that `given` means for `model` on these ranks, the same on all. Collective for ``"auto"``.

    Raises:
        ConfigError: `given` is not a strategy.
    """
    if isinstance(given, DDP | FSDP | TensorParallel):
        return Choice(given, "it was asked for")
    if given in ("ddp", "fsdp"):
        return Choice(DDP() if given == "ddp" else FSDP(), "it was asked for")
    if given != "auto":
        names = ["auto", "ddp", "fsdp"]
        raise ConfigError(
            f"strategy={given!r}{did_you_mean(str(given), names)}; expected 'auto', 'ddp', 'fsdp', DDP(...), FSDP(...) or "
            "TensorParallel(...)"
        )
    least = collectives.all_reduce(
        torch.tensor([device_memory(collectives.world)], dtype=torch.int64), "min", what="device memory"
    )
    return choose_for(state_bytes(model), memory=int(least), world_size=collectives.world.world_size)


def choose_for(state: int, *, memory: int, world_size: int) -> Choice:
    """Returns the strategy for a model on `world_size` devices.

    Args:
        state: bytes of parameters, gradients and optimizer state; see `state_bytes`.
        memory: bytes of memory of each device.
        world_size: number of ranks.

    >>> choose_for(3 * 2**30, memory=16 * 2**30, world_size=8).why
    'parameters, gradients and optimizer state take 3.0 GiB of the 16.0 GiB on each device, so each holds them all'
    """
    room = f"{in_words(memory)} on each device"
    if world_size == 1 or state <= _STATE_SHARE * memory:
        so = "so each holds them all" if world_size > 1 else "and there is one"
        return Choice(DDP(), f"parameters, gradients and optimizer state take {in_words(state)} of the {room}, {so}")
    return Choice(
        FSDP(),
        f"parameters, gradients and optimizer state take {in_words(state)}, more than {_STATE_SHARE:.0%} of the {room}, so "
        f"{world_size} ranks hold {in_words(state // world_size)} each",
    )


def for_world(
    collectives: Collectives, config: DDP | FSDP | TensorParallel | None = None, *, sync_bn: bool = True, why: str = ""
) -> Strategy:
    """Returns the strategy for these ranks: `Single` for one, what `config` says (by default DDP) for several.

    Args:
        collectives: the ranks.
        config: the options.
        sync_bn: BatchNorm normalises over the global batch, as one process does.
        why: why it is this one.

    Raises:
        ConfigError: the config's mesh, or its groups, do not fit the world.
    """
    config = config or DDP()
    if collectives.world.world_size == 1:
        data_parallel = config.data_parallel if isinstance(config, TensorParallel) else config
        return Single(collectives, recompute=data_parallel.blocks if data_parallel.activation_checkpointing else None)
    if isinstance(config, TensorParallel):
        return TensorParallelStrategy(collectives, config, sync_bn=sync_bn, why=why)
    if isinstance(config, FSDP):
        return FSDPStrategy(collectives, config, sync_bn=sync_bn, why=why)
    return DDPStrategy(collectives, config, sync_bn=sync_bn, why=why)
