"""A Learner in a few lines."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from dist_ai.callbacks.callback import Callbacks
from dist_ai.data.loaders import DataLoaders
from dist_ai.distributed.sharded import is_sharded

__all__ = ["name_of", "overview"]


def overview(
    model: nn.Module,
    dls: DataLoaders,
    callbacks: Callbacks,
    *,
    loss: Any,
    optimizer: Any,
    metrics: list[str],
    precision: str,
    device: Any,
    run_dir: Path | None,
) -> str:
    """Returns what a Learner trains, on what and with what, a line each.

    Args:
        model, dls, callbacks: the Learner's.
        loss: the loss function.
        optimizer: an optimizer, or what will make one.
        metrics: their names.
        precision: its name.
        device: where the model is.
        run_dir: where it writes.
    """
    params = list(model.parameters())
    total, learning = (sum(p.numel() for p in some) for some in (params, [p for p in params if p.requires_grad]))
    frozen = f", {total - learning:,} of them frozen" if learning < total else ""
    sharded = ", sharded" if any(map(is_sharded, params)) else ""
    lines = {
        "model": f"{type(model).__name__} with {total:,} parameters{frozen}{sharded}, on {device}, in {precision}",
        "data": "; ".join(line.strip() for line in repr(dls).splitlines()[1:]),
        "loss": name_of(loss),
        "optimizer": name_of(optimizer),
        "metrics": ", ".join(metrics) or "none",
        "callbacks": ", ".join(type(each).__name__ for each in callbacks),
        "run directory": "none" if run_dir is None else str(run_dir),
    }
    return "\n  ".join(["Learner", *(f"{name}: {line}" for name, line in lines.items())])


def name_of(value: Any) -> str:
    """Returns what a loss or an optimizer is called: a function's name, the class of an object, what a partial is of.

    >>> name_of(nn.MSELoss()), name_of(partial(nn.functional.huber_loss, delta=2.0)), name_of(len)
    ('MSELoss', 'huber_loss', 'len')
    """
    while isinstance(value, partial):  # `as_opt_func` wraps torch's classes: the innermost is what the user gave
        value = value.args[0] if value.args and callable(value.args[0]) else value.func
    return str(getattr(value, "kind", None) or getattr(value, "__name__", type(value).__name__))
