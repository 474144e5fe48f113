"""Optimizers: a generic one made of pure steps, recipes over it, `torch.optim`'s by one wrapper, and schedules."""

from dist_ai.optimizer.groups import ParamGroup
from dist_ai.optimizer.optimizer import Optimizer
from dist_ai.optimizer.orthogonal import is_matrix
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
from dist_ai.optimizer.schedules import combine, constant, cosine, one_cycle
from dist_ai.optimizer.torch_optimizer import TorchOptimizer

__all__ = [
    "LAMB",
    "LARC",
    "LARS",
    "SGD",
    "Adam",
    "AdamW",
    "Adan",
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
    "constant",
    "cosine",
    "is_matrix",
    "one_cycle",
]
