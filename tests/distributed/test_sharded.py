"""Sharded tensors, made whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dist_ai.distributed import Mesh, join
from dist_ai.distributed.sharded import gather, is_sharded, whole


def test_plain_tensors_pass_through() -> None:
    tensor = torch.ones(2)
    assert whole(tensor) is tensor
    gathered = gather({"a": nn.Parameter(tensor)})
    assert torch.equal(gathered["a"], tensor)
    assert not gathered["a"].requires_grad


@pytest.mark.world_size(3)
def test_sharded_ones_are_whole_where_they_are_wanted() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    world = join().world
    full = torch.arange(10.0).view(5, 2)  # 2, 2 and 1 rows
    sharded = distribute_tensor(full, Mesh().build(world), [Shard(0)])
    assert is_sharded(sharded)
    assert not is_sharded(full)
    assert torch.equal(whole(sharded), full)
    gathered = gather({"sharded": sharded, "plain": torch.tensor(7)}, keep=world.is_main)
    assert list(gathered) == (["sharded", "plain"] if world.is_main else [])
    if world.is_main:
        assert torch.equal(gathered["sharded"], full)
