"""What a loss knows of the model's output: its activation, its decoding, the loss of each sample, its way into a file.

Any function `(pred, *targets) -> mean over the batch` is a loss. What it has beyond that is optional, and what uses it
asks here: `activation(pred)`, `decodes(pred)`, `per_sample(pred, *targets)`, `to_plain()`; `weights` and `totals`
(`dist_ai.losses.weighted`) where it is no mean over samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.nested import map_tensors, tensors_in
from dist_ai.core.registry import Registry

__all__ = ["activation", "decodes", "default_loss", "loss_from_plain", "loss_to_plain", "losses", "sample_losses"]

losses: Registry[type[nn.Module]] = Registry(
    "loss", "register its class with dist_ai.losses.losses.register(name) before loading"
)
"""The losses that an export may name."""

default_loss = Dispatch("default_loss")
"""(target) -> the loss function for targets of its type."""


def activation(loss_func: Any, pred: Any) -> Any:
    """Returns `pred` through the activation that `loss_func` declares, or as it is."""
    return loss_func.activation(pred) if hasattr(loss_func, "activation") else pred


def decodes(loss_func: Any, pred: Any) -> Any:
    """Returns `pred` decoded as `loss_func` declares, or as it is."""
    return loss_func.decodes(pred) if hasattr(loss_func, "decodes") else pred


def sample_losses(loss_func: Any, pred: Any, *targets: Any) -> torch.Tensor:
    """Returns the loss of each sample, (batch,): in one call if `loss_func` has `per_sample`, else one by one.

    Args:
        loss_func: the loss.
        pred: what the model returned: a tensor, or a tuple, list or dict of some.
        targets: the targets.

    >>> sample_losses(torch.nn.MSELoss(), torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]]))
    tensor([0., 4.])
    """
    tensors = tensors_in(pred)
    if not len(tensors[0]):
        return tensors[0].new_empty(0)
    if hasattr(loss_func, "per_sample"):
        return loss_func.per_sample(pred, *targets)

    def loss_of(sample: slice) -> torch.Tensor:
        return loss_func(*map_tensors(lambda tensor: tensor[sample], (pred, *targets)))

    return torch.stack([loss_of(slice(i, i + 1)) for i in range(len(tensors[0]))])


def loss_to_plain(loss_func: Any) -> dict[str, Any] | None:
    """Returns the loss as plain data for an export, or None if it is not a registered one (then outputs stay raw)."""
    name = type(loss_func).__name__
    if name not in losses or not hasattr(loss_func, "to_plain"):
        return None
    arguments = loss_func.to_plain()
    return None if arguments is None else {"loss": name, **arguments}


def loss_from_plain(data: dict[str, Any] | None) -> Any:
    """Returns the loss that `loss_to_plain` wrote; None gives None."""
    if data is None:
        return None
    arguments = dict(data)
    return losses.find(arguments.pop("loss"))(**arguments)
