"""The process world: who we are, how ranks exchange, how a model is spread, and how processes are started."""

from dist_ai.distributed.collectives import Collectives, join, leave
from dist_ai.distributed.environment import World, current_world

__all__ = ["Collectives", "World", "current_world", "join", "leave"]
