"""Which strategy a world gets."""

from __future__ import annotations

from dist_ai.distributed.collectives import Collectives
from dist_ai.distributed.strategies.single import Single
from dist_ai.distributed.strategies.strategy import Strategy

__all__ = ["for_world"]


def for_world(collectives: Collectives, *, sync_bn: bool = True, find_unused_parameters: bool = False) -> Strategy:
    """Returns the strategy for these ranks: `Single` for one, `DDP` for several.

    Args:
        collectives: the ranks.
        sync_bn: BatchNorm normalises over the global batch, as one process does.
        find_unused_parameters: on several ranks, look in every step for parameters that have no part in the loss.
    """
    if collectives.world.world_size == 1:
        return Single(collectives)
    from dist_ai.distributed.strategies.ddp import DDP  # torch's DDP and Accelerate take a second to import

    return DDP(collectives, sync_bn=sync_bn, find_unused_parameters=find_unused_parameters)
