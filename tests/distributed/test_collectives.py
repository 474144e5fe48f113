"""Exchanges between ranks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from dist_ai.distributed import join
from dist_ai.distributed.collectives import beside, gather_json, on_main, require_same
from dist_ai.errors import ConfigError, WorldError


@pytest.mark.world_size(3)
def test_all_reduce_adds_takes_the_largest_and_the_smallest() -> None:
    ranks = join()
    mine = torch.tensor([float(ranks.world.rank), 1.0])
    assert ranks.all_reduce(mine).tolist() == [3.0, 3.0]
    assert ranks.all_reduce(mine, "max").tolist() == [2.0, 1.0]
    assert ranks.all_reduce(mine, "min").tolist() == [0.0, 1.0]
    assert mine.tolist() == [float(ranks.world.rank), 1.0]  # the input is left alone


@pytest.mark.world_size(3)
def test_all_gather_rows_keeps_rank_order_for_uneven_and_empty_parts() -> None:
    ranks = join()
    rank = ranks.world.rank
    rows = torch.full((2 * rank, 2), rank)
    assert ranks.all_gather_rows(rows).tolist() == [[1, 1]] * 2 + [[2, 2]] * 4


@pytest.mark.world_size(2)
def test_broadcast_json_sends_plain_data_from_the_source() -> None:
    ranks = join()
    value = {"name": "ü", "numbers": [1, 2.5, None]} if ranks.world.rank == 1 else None
    assert ranks.broadcast_json(value, src=1) == {"name": "ü", "numbers": [1, 2.5, None]}


@pytest.mark.world_size(3)
def test_plain_data_of_all_ranks_is_gathered_in_their_order_whatever_its_size() -> None:
    ranks = join()
    mine = {"rank": ranks.world.rank, "more": ["ü" * 100] * ranks.world.rank}
    expected = [{"rank": rank, "more": ["ü" * 100] * rank} for rank in range(3)]
    assert gather_json(ranks, mine, what="facts") == expected


@pytest.mark.world_size(2)
def test_what_rank_0_does_is_known_to_all_and_may_take_longer_than_an_exchange() -> None:
    ranks = beside(join(), "patient", timeout_s=2)

    def slow() -> dict[str, int]:
        assert ranks.world.is_main
        time.sleep(3)
        return {"rows": 7}

    assert on_main(ranks, slow, what="counting rows") == {"rows": 7}
    assert on_main(ranks, lambda: None, what="nothing") is None
    with pytest.raises((ZeroDivisionError, WorldError)) as raised:
        on_main(ranks, lambda: 1 // 0, what="dividing")
    if not ranks.world.is_main:
        assert str(raised.value).startswith("rank 1: dividing failed on rank 0: ZeroDivisionError:")
    # What cannot be told to the others is an error too, and not a wait until they give up.
    assert on_main(ranks, lambda: ("a", {1: 2}), what="a pair") == ["a", {"1": 2}]
    with pytest.raises((TypeError, WorldError), match="Object of type PosixPath is not JSON serializable"):
        on_main(ranks, Path, what="a path")
    assert ranks.all_reduce(torch.ones(1)).tolist() == [2.0]


@pytest.mark.world_size(2)
def test_a_thread_exchanges_beside_the_training_without_mixing_with_it() -> None:
    ranks = join()
    aside = beside(ranks, "aside", timeout_s=60)
    got: list[float] = []

    def exchange() -> None:
        got.extend(aside.all_reduce(torch.tensor([float(i)])).item() for i in range(200))

    thread = threading.Thread(target=exchange)
    thread.start()
    mine = [ranks.all_reduce(torch.tensor([100.0 + i])).item() for i in range(200)]
    thread.join()
    assert got == [2.0 * i for i in range(200)]
    assert mine == [2.0 * (100 + i) for i in range(200)]


def test_in_a_world_of_one_every_exchange_returns_its_input() -> None:
    ranks = join()
    assert ranks.world.world_size == 1
    tensor = torch.arange(3)
    assert torch.equal(ranks.all_reduce(tensor), tensor)
    assert torch.equal(ranks.all_gather_rows(tensor), tensor)
    assert torch.equal(ranks.broadcast(tensor), tensor)
    assert ranks.broadcast_json([1]) == [1]
    ranks.barrier()


@pytest.mark.world_size(3)
def test_ranks_that_disagree_are_all_told_the_first_difference_and_those_that_agree_nothing() -> None:
    ranks = join()
    rank = ranks.world.rank
    same = {"size": 7, "seed": [1, 2], "name": "ü"}
    require_same(ranks, same, what="the data", remedy="mend it")
    for theirs, expected in (
        (
            {**same, "seed": [1, rank]},
            "rank 1 and rank 0 disagree on the data: seed is [1, 1] there and [1, 0] on rank 0",
        ),
        ({**same, "size": 7 + (rank == 2)}, "rank 2 and rank 0 disagree on the data: size is 8 there and 7 on rank 0"),
        (
            same | ({"more": 1} if rank == 2 else {}),
            "rank 2 and rank 0 disagree on the data: more is 1 there, and missing",
        ),
        (
            ({"more": 1} if rank == 0 else {}) | same,
            "rank 1 and rank 0 disagree on the data: more is missing there, and",
        ),
        (
            same if rank != 1 else dict(reversed(same.items())),
            "rank 1 and rank 0 disagree on the data: name stands there where rank 0 has size",
        ),
    ):
        with pytest.raises(ConfigError) as refused:
            require_same(ranks, theirs, what="the data", remedy="mend it")
        assert str(refused.value).startswith(expected)
        assert str(refused.value).endswith("; mend it")
