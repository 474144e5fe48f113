"""The mesh: what fits a world, and what the errors say."""

from __future__ import annotations

from typing import Any

import pytest

from dist_ai.distributed import Mesh, join
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError


@pytest.mark.parametrize(
    ("mesh", "world_size", "shape"),
    [
        (Mesh(), 1, (1, 1)),
        (Mesh(), 6, (1, 6)),
        (Mesh(data_parallel_replicate=2), 6, (2, 3)),
        (Mesh(data_parallel_replicate=6), 6, (6, 1)),
        (Mesh(data_parallel_replicate=2, data_parallel_shard=4), 8, (2, 4)),
    ],
)
def test_the_rest_of_the_ranks_shard(mesh: Mesh, world_size: int, shape: tuple[int, int]) -> None:
    full = mesh.over(world_size)
    assert (full.data_parallel_replicate, full.data_parallel_shard) == shape


@pytest.mark.parametrize(
    ("mesh", "world_size", "message"),
    [
        (
            Mesh(data_parallel_replicate=2, data_parallel_shard=3),
            8,
            "mesh (2, 3) needs 6 processes but WORLD_SIZE is 8; set data_parallel_shard=4 or start 6 processes",
        ),
        (
            Mesh(data_parallel_replicate=3, data_parallel_shard=3),
            8,
            "mesh (3, 3) needs 9 processes but WORLD_SIZE is 8; change an axis or start 9 processes",
        ),
        (
            Mesh(data_parallel_replicate=3),
            8,
            "mesh (3, rest) splits the ranks into 3 groups of one size, but WORLD_SIZE is 8; set data_parallel_replicate "
            "to a divisor of 8, or start 9 processes",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_would(mesh: Mesh, world_size: int, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        mesh.over(world_size)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            Mesh(data_parallel_replicate=2, data_parallel_shard=3),
            "mesh (2, 3) needs 6 groups of 2 processes but there are 4 groups; set data_parallel_shard=2 or start 12 processes",
        ),
        (
            Mesh(data_parallel_replicate=3),
            "mesh (3, rest) splits the groups into 3 sets of one size, but there are 4 groups; set data_parallel_replicate to a "
            "divisor of 4, or start 12 processes",
        ),
    ],
)
def test_a_mesh_of_groups_that_compute_a_batch_together_counts_them(mesh: Mesh, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        mesh.build(World(world_size=8), tensor_parallel=2)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("axis", "size", "rest"),
    [
        ("data_parallel_replicate", 0, ""),
        ("data_parallel_replicate", "rest", ""),
        ("data_parallel_shard", -1, " or 'rest'"),
        ("data_parallel_shard", "all", " or 'rest'"),
    ],
)
def test_an_axis_that_is_no_number_of_ranks_is_refused(axis: str, size: Any, rest: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Mesh(**{axis: size})
    assert str(refused.value) == f"Mesh({axis}={size!r}): expected a number of ranks, 1 or more{rest}"


def shape_and_place() -> list[Any]:
    world = join().world
    built = []
    for mesh in (Mesh(), Mesh(data_parallel_replicate=2)):
        device_mesh = mesh.build(world)
        built.append((device_mesh.mesh_dim_names, tuple(device_mesh.shape), list(device_mesh.get_coordinate())))
    join().barrier()  # a rank that ended now would be missed by one that still looks for its neighbours
    return built


def test_torchs_mesh_has_neighbours_shard_and_copies_apart(spawn: Any) -> None:
    for rank, (flat, square) in enumerate(spawn(4, shape_and_place)):
        assert flat == (("shard",), (4,), [rank])
        assert square == (("replicate", "shard"), (2, 2), [rank // 2, rank % 2])
