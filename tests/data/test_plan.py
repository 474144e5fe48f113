"""The epoch plan: every sample once, in an order that knows nothing of ranks."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.data.plan import EpochPlan, Permutation
from dist_ai.errors import ConfigError

properties = settings(deadline=None, max_examples=200, derandomize=True)


def order_of(plan: EpochPlan, start: int = 0) -> list[int]:
    """The samples that count of one rank, in order."""
    return [index for share in plan.shares(start) for index in share.indices[: share.num_local].tolist()]


def dealt(num_samples: int, batch_size: int, world_size: int, **facts: int) -> list[list[int]]:
    """The samples of every global batch in their order, put together from the shares of all ranks."""
    plans = [
        EpochPlan(num_samples=num_samples, batch_size=batch_size, world_size=world_size, rank=rank, **facts)
        for rank in range(world_size)
    ]
    batches = []
    for shares in zip(*plans, strict=True):
        by_position = {
            position: index
            for share in shares
            for position, index in zip(
                share.positions[: share.num_local].tolist(), share.indices[: share.num_local].tolist(), strict=True
            )
        }
        assert len(by_position) == sum(share.num_local for share in shares)  # no position is dealt twice
        batches.append([by_position[position] for position in sorted(by_position)])
    return batches


# ------------------------------------------------------------------------------------ the permutation


def is_a_bijection(n: int) -> bool:
    order = Permutation(n, key=n * 7919)(np.arange(n))
    return order.dtype == np.int64 and len(order) == n and bool((np.bincount(order, minlength=n) == 1).all())


def test_it_is_a_bijection_for_every_n_up_to_1000_and_many_up_to_100_000():
    squares = [side**2 + more for side in range(33, 316, 7) for more in (-1, 0, 1)]  # where the grid changes
    for n in (*range(1001), *squares, *range(1001, 100_001, 991), 100_000):
        assert is_a_bijection(n), n


@pytest.mark.slow
def test_it_is_a_bijection_for_every_n_up_to_100_000():
    wrong = [n for n in range(100_001) if not is_a_bijection(n)]
    assert wrong == []


@properties
@given(st.integers(1, 10**12), st.integers(0, 2**64 - 1), st.data())
def test_up_to_a_million_millions_no_two_positions_share_a_sample(n: int, key: int, data: st.DataObject):
    some = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=500, unique=True))
    begin = data.draw(st.integers(0, max(0, n - 3000)))
    positions = np.unique(np.array([*some, *range(begin, min(n, begin + 3000))], dtype=np.int64))
    order = Permutation(n, key=key)(positions)
    assert len(np.unique(order)) == len(positions)
    assert 0 <= order.min() <= order.max() < n


@pytest.mark.parametrize("n", [2**20, 2**20 + 1, 2**21 - 1, 1_000_003])
def test_it_is_a_bijection_at_and_around_a_power_of_two(n: int):
    assert len(np.unique(Permutation(n, key=5)(np.arange(n)))) == n


def test_any_positions_in_any_shape_give_what_the_whole_order_has_there():
    permutation = Permutation(1000, key=3)
    whole = permutation(np.arange(1000))
    positions = np.array([[999, 0], [17, 17]])
    assert permutation(positions).tolist() == whole[positions].tolist()
    assert permutation(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(("n", "times"), [(4, 200), (5, 60), pytest.param(6, 60, marks=pytest.mark.slow)])
def test_every_order_of_a_few_samples_comes_equally_often(n: int, times: int):
    num_orders = math.factorial(n)
    draws = range(num_orders * times)
    orders = Counter(tuple(Permutation(n, key=key)(np.arange(n)).tolist()) for key in draws)
    assert len(orders) == num_orders
    chi_square = sum((count - times) ** 2 / times for count in orders.values())
    degrees = num_orders - 1
    assert (chi_square - degrees) / math.sqrt(2 * degrees) < 5  # deviations; 8 rounds give 2.6, 6.8 and 12


def test_every_sample_comes_equally_often_at_every_place():
    n, keys = 16, 4000
    orders = np.array([Permutation(n, key=key)(np.arange(n)) for key in range(keys)])
    counts = np.array([np.bincount(orders[:, place], minlength=n) for place in range(n)])
    expected = keys / n
    assert ((counts - expected) ** 2 / expected).sum() < 360  # chi-square, 225 degrees, p = 3e-8


def test_a_large_order_looks_random_where_neighbours_and_halves_are_compared():
    n = 100_000
    order = Permutation(n, key=1)(np.arange(n)).astype(np.float64)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / n**0.5
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 5 / n**0.5
    counts = np.histogram2d(np.arange(n), order, bins=16)[0]
    assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 376  # chi-square, 255 degrees, p = 1e-6
    assert (np.diff(order) == 1).sum() < 12  # neighbours that stay neighbours: 1 expected


def test_as_many_orders_are_even_as_odd():
    # A network whose rounds are all even permutations reaches only half of the orders.
    def is_odd(order: list[int]) -> bool:
        seen, odd = set(), False
        for begin in range(len(order)):
            at, length = begin, 0
            while at not in seen:
                seen.add(at)
                at, length = order[at], length + 1
            odd ^= length > 0 and length % 2 == 0
        return odd

    for n in (9, 16, 25, 36, 121):
        num_odd = sum(is_odd(Permutation(n, key=key)(np.arange(n)).tolist()) for key in range(400))
        assert 140 < num_odd < 260, n  # 6 deviations


def test_the_samples_of_one_rank_are_spread_like_those_of_all():
    # Each rank sees positions that are a fixed stride apart, and each batch positions that follow each other.
    for n in (10_007, 10**6, 10**10):
        for positions in (
            np.arange(5000),
            np.arange(5000) * 2 + 1,
            n - 1 - np.arange(5000),
            np.arange(5000) * (n // 5001),
        ):
            order = Permutation(n, key=11)(positions)
            counts = np.bincount(order * 64 // n, minlength=64)
            assert ((counts - 5000 / 64) ** 2 / (5000 / 64)).sum() < 130, n  # chi-square, 63 degrees, p = 1e-6
            low = np.bincount(order % 64, minlength=64)
            assert ((low - 5000 / 64) ** 2 / (5000 / 64)).sum() < 130, n


def test_orders_of_this_version_are_those_of_the_next():
    # Frozen: a run that is resumed with a newer version must see the samples that it has not seen.
    assert Permutation(10, key=1)(np.arange(10)).tolist() == [4, 7, 2, 6, 8, 0, 9, 5, 3, 1]
    assert Permutation(10**10, key=1)(np.arange(3)).tolist() == [1684238071, 1491955493, 1590572779]
    plan = EpochPlan(num_samples=7, batch_size=3, epoch=1, seed=42, shuffle=True)
    assert [share.indices.tolist() for share in plan] == [[3, 2, 5], [0, 6, 4], [1]]


# ------------------------------------------------------------------------------------ who gets what


@properties
@given(
    st.integers(1, 300),
    st.integers(1, 70),
    st.integers(1, 9),
    st.integers(0, 2**40),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
)
def test_on_any_number_of_ranks_every_batch_holds_the_same_samples_in_the_same_order(
    num_samples, batch_size, world_size, seed, epoch, shuffle, drop_last
):
    facts = {"seed": seed, "epoch": epoch, "shuffle": shuffle, "drop_last": drop_last}
    alone = dealt(num_samples, batch_size, 1, **facts)
    assert dealt(num_samples, batch_size, world_size, **facts) == alone
    seen = list(itertools.chain(*alone))
    assert len(set(seen)) == len(seen)
    if drop_last:
        assert [len(batch) for batch in alone] == [batch_size] * (num_samples // batch_size)
    else:
        assert set(seen) == set(range(num_samples))
        assert len(alone) == math.ceil(num_samples / batch_size)
    if not shuffle:
        assert seen == list(range(len(seen)))


@properties
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 12))
def test_every_rank_has_a_sample_in_every_batch_and_the_weights_add_up_to_one(num_samples, batch_size, world_size):
    plans = [
        EpochPlan(num_samples=num_samples, batch_size=batch_size, shuffle=True, world_size=world_size, rank=rank)
        for rank in range(world_size)
    ]
    for step, shares in enumerate(zip(*plans, strict=True)):
        assert sum(share.weight for share in shares) == pytest.approx(1)
        assert sum(share.num_local for share in shares) == shares[0].num_global
        first_of_the_batch = shares[0].indices[0]
        sizes = [share.num_local for share in shares]
        assert max(sizes) - min(sizes) <= 1
        for share in shares:
            assert (share.step, share.epoch, share.num_global) == (step, 0, shares[0].num_global)
            if share.num_local == 0:  # it runs along on the batch's first sample, with weight zero
                assert share.indices.tolist() == [first_of_the_batch]
                assert share.weight == 0
            else:
                assert len(share.indices) == len(share.positions) == share.num_local


@properties
@given(st.integers(1, 20_000), st.integers(1, 100), st.integers(1, 4), st.data())
def test_an_epoch_may_begin_at_any_step(num_samples, batch_size, world_size, data):
    plan = EpochPlan(num_samples=num_samples, batch_size=batch_size, shuffle=True, seed=9, world_size=world_size)
    whole = list(plan)
    start = data.draw(st.integers(0, len(plan)))
    for share, expected in zip(plan.shares(start), whole[start:], strict=True):
        assert share.step == expected.step
        assert np.array_equal(share.indices, expected.indices)
        assert np.array_equal(share.positions, expected.positions)
    if start < len(plan):
        assert np.array_equal(plan.share(start).indices, whole[start].indices)


def test_a_run_resumed_on_another_number_of_ranks_sees_the_remaining_samples_once():
    def seen(world_size: int, start: int, stop: int) -> list[int]:
        plans = [
            EpochPlan(num_samples=103, batch_size=10, shuffle=True, seed=4, world_size=world_size, rank=rank)
            for rank in range(world_size)
        ]
        return [
            index
            for plan in plans
            for share in itertools.islice(plan.shares(start), stop - start)
            for index in share.indices[: share.num_local].tolist()
        ]

    assert sorted(seen(2, 0, 4) + seen(3, 4, 7) + seen(1, 7, 11)) == list(range(103))


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = {
        tuple(order_of(EpochPlan(num_samples=50, batch_size=8, seed=seed, epoch=epoch, shuffle=True)))
        for seed in range(10)
        for epoch in range(10)
    }
    assert len(orders) == 100


def test_ten_billion_samples_take_no_more_memory_than_ten_thousand():
    def peak(num_samples: int) -> int:
        tracemalloc.start()
        plan = EpochPlan(num_samples=num_samples, batch_size=4096, shuffle=True, seed=1, world_size=8, rank=3)
        shares = plan.shares(len(plan) // 2)
        assert [len(next(shares).indices) for _ in range(3)] == [512] * 3
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100_000)  # what is imported and cached on first use
    assert peak(10**10) < 2 * peak(100_000) + 1e6
    assert len(EpochPlan(num_samples=10**10, batch_size=4096)) == 2441407


def test_a_thousand_ranks_share_ten_billion_samples_in_under_a_millisecond_and_a_megabyte():
    plan = EpochPlan(num_samples=10**10, batch_size=2**20, shuffle=True, seed=1, world_size=1024, rank=1023)
    seconds = []
    for step in range(0, len(plan), 100):
        begin = time.perf_counter()
        assert plan.share(step).num_local == 1024
        seconds.append(time.perf_counter() - begin)
    tracemalloc.start()
    for step in range(0, len(plan), 1000):
        plan.share(step)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1e6
    assert (
        min(seconds) < 1e-3
    )  # measured: 0.16 ms on one busy core; the least, because the machine does other things too


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"batch_size": 0}, "bs=0: a batch has at least 1 sample"),
        ({"num_samples": -1}, "num_samples=-1 is negative"),
        ({"rank": 2, "world_size": 2}, r"rank=2 is outside 0\.\.1"),
        ({"rank": -1}, r"rank=-1 is outside 0\.\.0"),
    ],
)
def test_what_cannot_be_is_refused_when_the_plan_is_made(facts: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        EpochPlan(**{"num_samples": 5, "batch_size": 2, **facts})


def test_a_step_outside_the_epoch_is_refused():
    plan = EpochPlan(num_samples=5, batch_size=2)
    for step in (-1, 3):
        with pytest.raises(IndexError, match=rf"step {step} is outside 0\.\.2"):
            plan.share(step)
    with pytest.raises(IndexError, match="start=-1: steps count from 0"):
        next(plan.shares(-1))
    assert list(plan.shares(3)) == []


def test_no_samples_are_no_batches():
    for drop_last in (True, False):
        assert list(EpochPlan(num_samples=0, batch_size=4, shuffle=True, drop_last=drop_last)) == []


# ------------------------------------------------------------------------------------ pairs


class Blocks:
    """An order that is dealt in blocks."""

    shuffle, repeats, dealt = False, False, "blocks"

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int):
        return np.asarray


@properties
@given(n=st.integers(1, 60), bs=st.integers(1, 20), world=st.integers(1, 7), blocks=st.booleans())
def test_dealt_in_pairs_neighbours_are_on_one_rank_and_every_sample_counts_once(n, bs, world, blocks):
    facts = {"num_samples": n, "batch_size": bs, "world_size": world, "order": Blocks(n) if blocks else None}
    plans = [EpochPlan(**facts, rank=rank, in_pairs=True) for rank in range(world)]
    seen = []
    for shares in zip(*plans, strict=True):
        for share in shares:
            places = share.positions[: share.num_local] - share.step * bs
            seen += share.indices[: share.num_local].tolist()
            assert share.num_global == min(bs, n - share.step * bs)
            for row in range(0, len(places), 2):
                assert places[row] % 2 == 0
                if places[row] + 1 < share.num_global:
                    assert places[row + 1] == places[row] + 1
    assert sorted(seen) == list(range(n))
    assert dealt(n, bs, world, in_pairs=True) == dealt(n, bs, 1)
