"""The mesh: how the ranks are arranged in axes, along which a model is replicated or sharded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["TENSOR_AXIS", "Mesh"]

TENSOR_AXIS = "tensor"
"""Along it ranks compute each layer together."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Arranges the ranks: groups of `data_parallel_shard` ranks hold a model between them, and there are
    `data_parallel_replicate` such groups.

    Neighbouring ranks share a group: with one group a machine, parameters are gathered within the machine, and only
    gradients travel between machines.

    Args:
        data_parallel_replicate: number of copies of the model.
        data_parallel_shard: number of ranks that hold one copy; ``"rest"`` for all that there are.

    Raises:
        ConfigError: an axis is not 1 or more.

    >>> Mesh(data_parallel_replicate=2).over(8)
    Mesh(data_parallel_replicate=2, data_parallel_shard=4)
    """

    data_parallel_replicate: int = 1
    data_parallel_shard: int | str = "rest"

    def __post_init__(self) -> None:
        for axis in ("data_parallel_replicate", "data_parallel_shard"):
            size = getattr(self, axis)
            if not (isinstance(size, int) and size >= 1) and not (axis == "data_parallel_shard" and size == "rest"):
                rest = " or 'rest'" * (axis == "data_parallel_shard")
                raise ConfigError(f"Mesh({axis}={size!r}): expected a number of ranks, 1 or more{rest}")

    def over(self, world_size: int, *, group_size: int = 1) -> Mesh:
        """Returns this mesh with all axes known, for a world of that size.

        Args:
            world_size: of the world, or the number of groups in it.
            group_size: ranks in a group that stands for one, for messages.

        Raises:
            ConfigError: the axes do not multiply to it.
        """
        copies, shards = self.data_parallel_replicate, self.data_parallel_shard
        grouped = group_size > 1
        units, there = (
            ("groups", f"there are {world_size} groups") if grouped else ("ranks", f"WORLD_SIZE is {world_size}")
        )
        if isinstance(shards, str):
            if world_size % copies:
                raise ConfigError(
                    f"mesh ({copies}, rest) splits the {units} into {copies} {'sets' if grouped else 'groups'} of one size, but "
                    f"{there}; set data_parallel_replicate to a divisor of {world_size}, or start "
                    f"{_multiple(world_size, copies) * group_size} processes"
                )
            return replace(self, data_parallel_shard=world_size // copies)
        if copies * shards != world_size:
            fits = world_size % copies == 0
            change = f"set data_parallel_shard={world_size // copies}" if fits else "change an axis"
            needed = f"groups of {group_size} processes" if grouped else "processes"
            raise ConfigError(
                f"mesh ({copies}, {shards}) needs {copies * shards} {needed} but {there}; "
                f"{change} or start {copies * shards * group_size} processes"
            )
        return self

    def build(self, world: World, *, tensor_parallel: int | None = None) -> DeviceMesh:
        """Returns torch's mesh over the joined ranks, with the axes ``replicate`` (unless it is 1) and ``shard``. Collective.

        Args:
            world: of the ranks.
            tensor_parallel: so many neighbouring ranks hold each part of the model between them: the last axis, `TENSOR_AXIS`.
                The mesh is over the groups then.

        Raises:
            ConfigError: the axes do not multiply to the number of ranks, or of groups.
        """
        from torch.distributed.device_mesh import init_device_mesh

        group_size = tensor_parallel or 1
        full = self.over(world.world_size // group_size, group_size=group_size)
        assert isinstance(full.data_parallel_shard, int)
        axes = {"replicate": full.data_parallel_replicate} if full.data_parallel_replicate > 1 else {}
        axes["shard"] = full.data_parallel_shard
        if tensor_parallel is not None:
            axes[TENSOR_AXIS] = tensor_parallel
        return init_device_mesh(world.device.type, tuple(axes.values()), mesh_dim_names=tuple(axes))


def _multiple(at_least: int, of: int) -> int:
    """Returns the smallest multiple of `of` that is `at_least` or more."""
    return -(-at_least // of) * of
