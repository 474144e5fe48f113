"""Tensors that ranks hold together, cut into boxes: which rank writes what, and where a box lies in another.

A checkpoint knows global tensors by name. What one rank holds of one is a box of it: all of it for a plain tensor, a
shard of it for a DTensor. Boxes that several ranks hold are dealt out over these, so that each byte is written once and
each rank writes as much as the others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from dist_ai.distributed.sharded import is_sharded
from dist_ai.errors import ConfigError

__all__ = ["Box", "Growing", "Part", "Piece", "Value", "box_of", "deal_out", "kind_of"]


@dataclass(frozen=True)
class Box:
    """A box in a tensor: where it begins and how far it goes in each dim."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """Returns the box that is all of a tensor of that shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def overlap(self, other: Box) -> Box | None:
        """Returns what two boxes of one tensor share, or None.

        >>> Box((0, 0), (3, 4)).overlap(Box((2, 1), (3, 1)))
        Box(offsets=(2, 1), shape=(1, 1))
        """
        begins = [max(a, b) for a, b in zip(self.offsets, other.offsets, strict=True)]
        ends = [
            min(a + n, b + m) for a, n, b, m in zip(self.offsets, self.shape, other.offsets, other.shape, strict=True)
        ]
        shape = tuple(end - begin for begin, end in zip(begins, ends, strict=True))
        return Box(tuple(begins), shape) if all(size > 0 for size in shape) else None

    def slices_in(self, outer: Box) -> tuple[slice, ...]:
        """Returns how to index, in a tensor that is the box `outer`, this box of the same global tensor."""
        return tuple(
            slice(begin - start, begin - start + size)
            for begin, start, size in zip(self.offsets, outer.offsets, self.shape, strict=True)
        )

    def rows(self, first: int, last: int, dim: int = 0) -> Box:
        """Returns the box's rows `first` to `last` - 1, counted in the box."""
        offsets, shape = list(self.offsets), list(self.shape)
        offsets[dim], shape[dim] = offsets[dim] + first, last - first
        return Box(tuple(offsets), tuple(shape))


@dataclass(frozen=True)
class Part:
    """What this rank alone holds of a tensor that the ranks make up together, such as its row of a table.

    Attributes:
        tensor: the values.
        offsets: where they begin in the whole.
        shape: of the whole.
    """

    tensor: torch.Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Growing:
    """Numbers that gain rows and never change, such as the loss of every step, equal on all ranks.

    Checkpoints share the rows that they have in common, so that one does not grow with the length of the run.
    """

    rows: Sequence[float]
    dtype: torch.dtype


Value: TypeAlias = "torch.Tensor | Part"


@dataclass(frozen=True)
class Piece:
    """What one rank writes of one tensor.

    Attributes:
        name: of the tensor.
        shape: of the whole tensor.
        box: which part of it.
        tensor: the values of the box.
    """

    name: str
    shape: tuple[int, ...]
    box: Box
    tensor: torch.Tensor


@dataclass(frozen=True)
class _Held:
    """A box that this rank holds, and who else does: it is number `index` of `count` ranks."""

    name: str
    shape: tuple[int, ...]
    box: Box
    tensor: torch.Tensor
    peers: Hashable
    index: int
    count: int

    @property
    def num_bytes(self) -> int:
        return self.box.numel * self.tensor.element_size()


def deal_out(values: Mapping[str, Value], rank: int, world_size: int, *, max_bytes: int) -> list[Piece]:
    """Returns what `rank` writes of tensors that all ranks hold; together the ranks write every element once.

    No exchange is needed: each rank works out its own pieces from names and shapes, which are equal on all.

    Args:
        values: plain tensors, equal on all ranks; DTensors; parts that no other rank has.
        rank, world_size: of the ranks that hold them.
        max_bytes: larger pieces are cut, at rows: what reads them needs that much memory.

    Raises:
        ConfigError: a tensor is a sum of what the ranks have (`Partial`), and not added up.

    >>> [piece.box.shape for piece in deal_out({"w": torch.zeros(5, 2)}, rank=1, world_size=2, max_bytes=2**20)]
    [(2, 2)]
    """
    groups: dict[Hashable, list[_Held]] = {}
    for name, value in values.items():
        held = _held(name, value, rank, world_size)
        if held.box.numel:
            groups.setdefault(held.peers, []).append(held)
    pieces: list[Piece] = []
    for group in groups.values():
        for held, box in _share(group):
            pieces += [
                Piece(held.name, held.shape, cut, held.tensor[cut.slices_in(held.box)])
                for cut in _cut(box, held.tensor.element_size(), max_bytes)
            ]
    return pieces


def box_of(value: Value) -> Box:
    """Returns which box of the global tensor this rank holds."""
    if isinstance(value, Part):
        return Box(value.offsets, tuple(value.tensor.shape))
    if is_sharded(value):
        # The protocol by which torch's own checkpoints ask a tensor what it holds; a DTensor holds one box.
        (chunk,) = value.__create_chunk_list__()
        shape = tuple(chunk.sizes)
        return Box(tuple(chunk.offsets), shape)
    return Box.whole(value.shape)


def kind_of(value: Value) -> tuple[torch.dtype, tuple[int, ...]]:
    """Returns the dtype and the shape of the global tensor."""
    return (value.tensor if isinstance(value, Part) else value).dtype, tuple(value.shape)


def _held(name: str, value: Value, rank: int, world_size: int) -> _Held:
    if is_sharded(value) and any(placement.is_partial() for placement in value.placements):
        raise ConfigError(
            f"{name} is a sum that the ranks have not added up yet (placements {value.placements}), so there is no value to "
            "save; redistribute it first"
        )
    box = box_of(value)
    if isinstance(value, Part):
        return _Held(name, value.shape, box, value.tensor.detach(), "own", 0, 1)
    if not is_sharded(value):
        return _Held(name, tuple(value.shape), box, value.detach(), "all", rank, world_size)
    mesh, position = value.device_mesh, value.device_mesh.get_coordinate()
    assert position is not None, f"{name}: this rank is not in the mesh of the tensor"
    # Ranks that differ in replicated dims of the mesh only hold the same box, and so do ranks at one place in meshes beside it.
    dims = tuple(dim for dim, placement in enumerate(value.placements) if placement.is_replicate())
    index, count = _beside(tuple(mesh.mesh.flatten().tolist()), world_size)
    for dim in dims:
        index, count = index * mesh.size(dim) + position[dim], count * mesh.size(dim)
    return _Held(name, tuple(value.shape), box, value.to_local().detach(), (mesh, dims), index, count)


@functools.cache
def _beside(ranks: tuple[int, ...], world_size: int) -> tuple[int, int]:
    """Returns which of how many meshes a mesh of these ranks is, where the world is cut into such along its axes.

    >>> _beside((2, 3), world_size=6), _beside((1, 3, 5), world_size=6)
    ((1, 3), (1, 2))
    """
    # Meshes beside each other are moved by a number of ranks, so each has the same differences; the first ranks of all are
    # found by counting up, and leaving out what one of them has already.
    differences = [rank - ranks[0] for rank in ranks]
    firsts: list[int] = []
    taken: set[int] = set()
    for rank in range(world_size):
        if rank not in taken:
            firsts.append(rank)
            taken.update(rank + difference for difference in differences)
    return firsts.index(ranks[0]), len(firsts)


def _share(group: Sequence[_Held]) -> Iterator[tuple[_Held, Box]]:
    """Yields this rank's share of boxes that the same ranks hold.

    Laid end to end, the boxes are cut into as many equal parts as there are ranks, each at the next row. So a rank's
    part is as large as another's, to a row, and few tensors are cut.
    """
    total = sum(held.num_bytes for held in group)
    position = 0
    for held in group:
        first, last = (held.index * total, (held.index + 1) * total)  # in bytes, times `count`
        num_rows = held.box.shape[0] if held.box.shape else 1
        row = held.num_bytes // num_rows * held.count
        begin = min(num_rows, max(0, -(-(first - position * held.count) // row)))
        end = min(num_rows, max(0, -(-(last - position * held.count) // row)))
        if begin < end:
            yield held, held.box.rows(begin, end) if held.box.shape else held.box
        position += held.num_bytes


def _cut(box: Box, itemsize: int, max_bytes: int) -> Iterator[Box]:
    """Yields `box` in pieces of at most `max_bytes`, or of single elements."""
    if box.numel * itemsize <= max_bytes or box.numel == 1:
        yield box
        return
    dim = next(dim for dim, size in enumerate(box.shape) if size > 1)
    size = box.shape[dim]
    step = max(1, size * max_bytes // (box.numel * itemsize))
    for first in range(0, size, step):
        yield from _cut(box.rows(first, min(first + step, size), dim), itemsize, max_bytes)
