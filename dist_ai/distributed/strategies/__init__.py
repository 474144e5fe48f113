"""Strategies: how a model is spread over the ranks, and in which precision it computes.

One file each; `for_world` picks the one for a world, `precision_of` a precision by name.
"""

from dist_ai.distributed.strategies.choice import for_world
from dist_ai.distributed.strategies.precision import Precision, PrecisionName, precision_of
from dist_ai.distributed.strategies.single import Single
from dist_ai.distributed.strategies.strategy import Strategy

__all__ = ["Precision", "PrecisionName", "Single", "Strategy", "for_world", "precision_of"]
