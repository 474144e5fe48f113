"""The options of a Learner that the applications' learners pass on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from dist_ai.callbacks import Callback
from dist_ai.checkpoint import KeepBest
from dist_ai.distributed.strategies import AnyConfig, PrecisionName

__all__ = ["LearnerOptions"]


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
