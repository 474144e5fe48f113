"""The same model on every rank: checked by name, shape and type, and then filled with rank 0's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from dist_ai.distributed.collectives import Collectives, require_same
from dist_ai.distributed.sharded import local_part
from dist_ai.errors import ConfigError

__all__ = ["divided_otherwise", "require_dense", "require_same_model", "take_rank_0s", "take_rank_0s_buffers"]


def require_same_model(collectives: Collectives, model: nn.Module) -> None:
    """Checks that all ranks built the same model. Collective.

    Raises:
        ConfigError: they did not; names the first parameter or buffer that differs.
    """
    facts = {
        f"{kind} {name}": f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers()))
        for name, tensor in tensors
    }
    require_same(
        collectives,
        facts,
        what="the model",
        remedy="build it from the same arguments on every rank (not from the rank, the time or files that differ)",
    )


def require_dense(strategy: str, modules: Mapping[str, nn.Module]) -> None:
    """Checks that no embedding to divide gives sparse gradients, of which torch divides none.

    Args:
        strategy: its name.
        modules: what it divides, by name.

    Raises:
        ConfigError: one does; names it.
    """
    for name, module in modules.items():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ConfigError(
                f"{strategy}: {name or 'the model'} is an embedding with sparse=True, and torch divides no sparse gradients "
                "among ranks; leave sparse=True out, or give strategy='ddp', where each rank has the whole table"
            )


def divided_otherwise(strategy: str, axes: Mapping[str, int]) -> ConfigError:
    """Returns the error of a strategy whose model another one has divided before, along these axes of ranks."""
    along = ", ".join(f"{axis}={size}" for axis, size in axes.items())
    return ConfigError(
        f"{strategy}: the model was divided among ranks ({along}) for another strategy, which cannot be undone; "
        "make the model anew, or give this Learner the strategy of the one before"
    )


def take_rank_0s(collectives: Collectives, model: nn.Module) -> None:
    """Gives all ranks rank 0's parameters and buffers. Collective."""
    _take(collectives, model.named_parameters(), "parameter")
    take_rank_0s_buffers(collectives, model)


def take_rank_0s_buffers(collectives: Collectives, model: nn.Module) -> None:
    """Gives all ranks rank 0's buffers. Collective."""
    _take(collectives, model.named_buffers(), "buffer")


@torch.no_grad()
def _take(collectives: Collectives, tensors: Iterable[tuple[str, torch.Tensor]], kind: str) -> None:
    for name, tensor in tensors:
        part = local_part(tensor)  # where it is sharded, ranks that hold the same part exchange it
        part.copy_(collectives.broadcast(part, what=f"{kind} {name}"))
