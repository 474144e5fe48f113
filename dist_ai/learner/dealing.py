"""Whose batches are whose: loaders are told which ranks take them, where some ranks compute a batch together."""

from __future__ import annotations

from dist_ai.data.base_loader import BaseLoader
from dist_ai.data.loader import Loader
from dist_ai.distributed.strategies import Strategy
from dist_ai.errors import ConfigError

__all__ = ["deal_out"]


def deal_out(loader: Loader, strategy: Strategy) -> None:
    """Has a loader deal its batches out to the ranks that take them; one of the user's own has done so by itself.

    Before each use: Learners of several strategies may share a loader.

    Raises:
        ConfigError: it deals them out to ranks some of which compute a batch together.
    """
    whole, world = strategy.collectives.world, strategy.data_collectives.world
    if isinstance(loader, BaseLoader):
        loader.deal_out_to(world)
    own = getattr(loader, "world", whole)
    if world.world_size < whole.world_size and (own.rank, own.world_size) != (world.rank, world.world_size):
        raise ConfigError(
            f"a {type(loader).__name__} deals its batches out to {own.world_size} rank(s) by itself, and with TensorParallel "
            f"the {whole.world_size} ranks are {world.world_size} group(s), each of which computes a batch together; give a "
            "DataLoader or an IterableLoader without world=, or another strategy"
        )
