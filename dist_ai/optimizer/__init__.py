"""Optimizers: a generic one made of pure steps, recipes over it, `torch.optim`'s by one wrapper, and schedules."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.optimizer.either import Either
from dist_ai.optimizer.groups import ParamGroup
from dist_ai.optimizer.muon import is_matrix
from dist_ai.optimizer.optimizer import Optimizer
from dist_ai.optimizer.recipes import (
    LAMB,
    LARC,
    LARS,
    SGD,
    Adam,
    AdamW,
    Adan,
    Lion,
    Lookahead,
    Muon,
    QHAdam,
    RAdam,
    Ranger,
    RMSProp,
    ScheduleFreeAdamW,
)
from dist_ai.optimizer.schedules import (
    combine,
    combine_steps,
    constant,
    cosine,
    exponential,
    flat_cos,
    linear,
    one_cycle,
    plot_schedules,
    polynomial,
    scaled,
    schedule_from_plain,
    sgdr,
    warmup_stable_decay,
)
from dist_ai.optimizer.torch_optimizer import TorchOptimizer

__all__ = [
    "LAMB",
    "LARC",
    "LARS",
    "SGD",
    "Adam",
    "AdamW",
    "Adan",
    "Either",
    "Lion",
    "Lookahead",
    "Muon",
    "Optimizer",
    "ParamGroup",
    "QHAdam",
    "RAdam",
    "RMSProp",
    "Ranger",
    "ScheduleFreeAdamW",
    "TorchOptimizer",
    "combine",
    "combine_steps",
    "constant",
    "cosine",
    "exponential",
    "flat_cos",
    "is_matrix",
    "linear",
    "one_cycle",
    "plot_schedules",
    "polynomial",
    "scaled",
    "schedule_from_plain",
    "sgdr",
    "warmup_stable_decay",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
