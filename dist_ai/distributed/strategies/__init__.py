"""Strategies: how a model is spread over the ranks. One file each; `for_world` picks the one for a world."""

from dist_ai.distributed.strategies.choice import for_world
from dist_ai.distributed.strategies.single import Single
from dist_ai.distributed.strategies.strategy import Strategy

__all__ = ["Single", "Strategy", "for_world"]
