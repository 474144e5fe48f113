"""Strategies: how a model is spread over the ranks, and in which precision it computes.

One file each; `choose` picks a strategy and `for_world` makes it, `precision_of` a precision by name.
"""

from dist_ai.distributed.strategies.choice import AnyConfig, Choice, choose, for_world
from dist_ai.distributed.strategies.ddp import DDP
from dist_ai.distributed.strategies.fsdp import FSDP
from dist_ai.distributed.strategies.precision import Precision, PrecisionName, precision_of
from dist_ai.distributed.strategies.single import Single
from dist_ai.distributed.strategies.strategy import Strategy
from dist_ai.distributed.strategies.tensor_parallel import TensorParallel

__all__ = [
    "DDP",
    "FSDP",
    "AnyConfig",
    "Choice",
    "Precision",
    "PrecisionName",
    "Single",
    "Strategy",
    "TensorParallel",
    "choose",
    "for_world",
    "precision_of",
]
