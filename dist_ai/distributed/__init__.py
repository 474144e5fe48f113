"""The process world: who we are, how ranks exchange, how a model is spread, and how processes are started."""

from dist_ai.distributed.collectives import Collectives, join, leave
from dist_ai.distributed.environment import World, current_world
from dist_ai.distributed.launchers import launch
from dist_ai.distributed.mesh import Mesh

__all__ = ["Collectives", "Mesh", "World", "current_world", "join", "launch", "leave"]
