"""The options of a Learner that the applications' learners pass on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from dist_ai.callbacks import Callback
from dist_ai.checkpoint import KeepBest
from dist_ai.distributed.strategies import AnyConfig, PrecisionName
from dist_ai.errors import did_you_mean

__all__ = ["LearnerOptions", "check_options"]


class LearnerOptions(TypedDict, total=False):
    """What an application's learner takes beside the data and the model; see `Learner` for each."""

    loss_func: Callable[..., torch.Tensor] | None
    metrics: Any
    opt_func: Callable[..., Any]
    lr: float
    wd: float | None
    moms: tuple[float, float, float]
    wd_bn_bias: bool
    cbs: Callback | Iterable[Callback]
    train_bn: bool
    sync_bn: bool
    strategy: AnyConfig
    run_dir: str | Path | Literal["auto"] | None
    checkpoint_every_s: float | None
    checkpoint_every_steps: int | None
    keep_last: int
    keep_best: KeepBest | None
    fresh: bool
    precision: PrecisionName
    progress: bool


def check_options(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Checks the options that an application's learner passes on, before it fetches weights.

    Args:
        function: the application's, whose own arguments may be meant.
        options: what is left for the Learner.

    Raises:
        TypeError: there is no such option, as Python has it; the message says which may be meant.
    """
    own = [name for name, each in inspect.signature(function).parameters.items() if each.kind != each.VAR_KEYWORD]
    names = [*own, *LearnerOptions.__annotations__]
    for name in options:
        if name not in LearnerOptions.__annotations__:
            hint = f"; {_ELSEWHERE[name]}" if name in _ELSEWHERE else did_you_mean(name, names)
            raise TypeError(f"{function.__name__} has no argument {name!r}{hint}; it has {', '.join(names)}")


_ELSEWHERE = {
    "config": "what it would hold are arguments of their own",
    "init": "the model is initialised as torch does it; give weights=, or change learn.model",
    "model_dir": "run_dir= says where a run's files go, and learn.save takes a path",
    "path": "run_dir= says where a run's files go",
    "splitter": "assign learn.splitter",
}
"""What fastai calls it, and what to do instead."""
