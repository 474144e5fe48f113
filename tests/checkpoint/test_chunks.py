"""Who writes what: every element once, each rank as much as the others, whatever the layout."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from dist_ai.checkpoint.chunks import Box, Part, Piece, box_of, deal_out
from dist_ai.distributed import join
from dist_ai.errors import ConfigError

NO_LIMIT = 2**40


def written_times(shape: tuple[int, ...], boxes: Iterator[Box]) -> torch.Tensor:
    """Returns for each element how many boxes hold it."""
    times = torch.zeros(shape, dtype=torch.int64)
    for box in boxes:
        times[box.slices_in(Box.whole(shape))] += 1
    return times


@settings(deadline=None, max_examples=200)
@given(
    shapes=st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=6),
    world_size=st.integers(1, 9),
    max_bytes=st.integers(1, 200),
)
def test_of_tensors_that_all_hold_every_element_is_written_once_in_pieces_no_larger_than_allowed(
    shapes: list[list[int]], world_size: int, max_bytes: int
) -> None:
    tensors = {str(i): torch.randn(shape) for i, shape in enumerate(shapes)}
    pieces = [p for rank in range(world_size) for p in deal_out(tensors, rank, world_size, max_bytes=max_bytes)]
    for name, tensor in tensors.items():
        mine = [piece for piece in pieces if piece.name == name]
        assert bool((written_times(tuple(tensor.shape), (p.box for p in mine)) == 1).all())
        for piece in mine:
            assert piece.shape == tuple(tensor.shape)
            assert torch.equal(piece.tensor, tensor[piece.box.slices_in(Box.whole(tensor.shape))])
            assert piece.box.numel == 1 or piece.box.numel * 4 <= max_bytes


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_each_rank_writes_as_much_as_the_others_to_a_row(world_size: int) -> None:
    tensors = {f"{i}.{kind}": torch.zeros(shape) for i in range(6) for kind, shape in _LAYER.items()}
    loads = [
        sum(p.tensor.numel() for p in deal_out(tensors, rank, world_size, max_bytes=NO_LIMIT))
        for rank in range(world_size)
    ]
    total, row = sum(tensor.numel() for tensor in tensors.values()), 64
    assert sum(loads) == total
    assert max(loads) - total / world_size <= row


_LAYER = {"weight": (256, 64), "bias": (256,), "scale": ()}


def test_few_tensors_are_cut() -> None:
    tensors = {str(i): torch.zeros(5, 4) for i in range(100)}
    pieces = [p for rank in range(8) for p in deal_out(tensors, rank, 8, max_bytes=NO_LIMIT)]
    assert len(pieces) <= 100 + 7


@given(st.data())
def test_boxes_share_what_tensors_cut_by_them_share(data: st.DataObject) -> None:
    def box() -> Box:
        offsets = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
        return Box(offsets, data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))))

    a, b = box(), box()
    times = written_times((9, 9), iter([a, b]))
    shared = a.overlap(b)
    assert shared == b.overlap(a)
    assert (0 if shared is None else shared.numel) == int((times == 2).sum())
    if shared is not None:
        assert torch.equal(
            torch.arange(81).view(9, 9)[a.slices_in(Box.whole((9, 9)))][shared.slices_in(a)],
            torch.arange(81).view(9, 9)[shared.slices_in(Box.whole((9, 9)))],
        )


def test_what_only_this_rank_has_is_written_by_it() -> None:
    part = Part(torch.ones(1, 3), offsets=(1, 0), shape=(4, 3))
    for rank in range(2):  # of no matter which rank
        [piece] = deal_out({"random": part}, rank, 2, max_bytes=NO_LIMIT)
        assert (piece.shape, piece.box) == ((4, 3), Box((1, 0), (1, 3)))


# ------------------------------------------------------------------------------------ DTensors


def gather_times(shape: tuple[int, ...], pieces: list[Piece]) -> torch.Tensor:
    return join().all_reduce(written_times(shape, (piece.box for piece in pieces)))


def check_layout(placements: list[object], mesh_shape: tuple[int, ...]) -> None:
    ranks = join()
    mesh = init_device_mesh("cpu", mesh_shape)
    torch.manual_seed(0)
    whole = {"w": torch.randn(7, 5), "b": torch.randn(5), "big": torch.randn(40, 3)}
    tensors = {name: distribute_tensor(tensor, mesh, placements) for name, tensor in whole.items()}
    pieces = deal_out(tensors, ranks.world.rank, ranks.world.world_size, max_bytes=64)
    for name, tensor in whole.items():
        mine = [piece for piece in pieces if piece.name == name]
        assert bool((gather_times(tuple(tensor.shape), mine) == 1).all()), (name, placements)
        assert box_of(tensors[name]).shape == tuple(tensors[name].to_local().shape)
        for piece in mine:
            assert torch.equal(piece.tensor, tensor[piece.box.slices_in(Box.whole(tensor.shape))])


@pytest.mark.world_size(3)
def test_shards_of_a_dtensor_are_written_by_who_has_them_even_or_not() -> None:
    for placements in ([Shard(0)], [Replicate()]):
        check_layout(placements, (3,))


@pytest.mark.world_size(4)
def test_ranks_that_hold_the_same_shard_write_a_part_of_it_each() -> None:
    for placements in ([Replicate(), Shard(0)], [Shard(0), Replicate()], [Replicate(), Replicate()]):
        check_layout(placements, (2, 2))
    mesh = init_device_mesh("cpu", (2, 2))
    tensor = distribute_tensor(torch.randn(8, 2), mesh, [Replicate(), Shard(0)])
    [piece] = deal_out({"w": tensor}, join().world.rank, 4, max_bytes=NO_LIMIT)
    assert piece.box.shape == (2, 2)  # half of a half


@pytest.mark.world_size(2)
def test_columns_are_shards_too_and_sums_that_are_not_done_are_refused() -> None:
    rank = join().world.rank
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(12.0).view(3, 4)
    [piece] = deal_out({"w": distribute_tensor(whole, mesh, [Shard(1)])}, rank, 2, max_bytes=NO_LIMIT)
    assert piece.box == Box((0, 2 * rank), (3, 2))
    unfinished = DTensor.from_local(whole, mesh, [Partial()])
    with pytest.raises(ConfigError, match="w is a sum that the ranks have not added up yet"):
        deal_out({"w": unfinished}, rank, 2, max_bytes=NO_LIMIT)
