"""Orders other than shuffling: each the same on any number of ranks, from any step on; and what each is for."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.core.transform import Transform
from dist_ai.data import DataLoader, TensorData
from dist_ai.data.orders import (
    GroupOrder,
    LengthOrder,
    PartialEpochs,
    RearrangedOrder,
    ShuffledOrder,
    WeightedOrder,
    balanced_weights,
)
from dist_ai.data.plan import EpochPlan, Order
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError

N = 103
LENGTHS = np.random.default_rng(0).integers(1, 500, N)
ORDERS: dict[str, Order] = {
    "shuffled": ShuffledOrder(N),
    "partial": PartialEpochs(ShuffledOrder(N), 40),
    "partial, longer than the data": PartialEpochs(ShuffledOrder(N), 230),
    "partial by length": PartialEpochs(LengthOrder(LENGTHS), 70),
    "weighted": WeightedOrder(np.arange(N), 150),
    "by length": LengthOrder(LENGTHS, pool_batches=3),
    "sorted by length": LengthOrder(LENGTHS, shuffle=False),
    "by group": GroupOrder([10, 0, 23, 7, 1, 19, 30, 13], num_lanes=3),
    "by group, in tracks": GroupOrder([10, 0, 23, 7, 1, 19, 30, 13], num_lanes=2, num_tracks=3),
    "by group, numbered otherwise": RearrangedOrder(GroupOrder([60, 43], num_lanes=2), np.arange(N)[::-1]),
    "by group, more lanes than a batch has samples": GroupOrder([50, 53], num_lanes=40),
}
each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))


def plan(order: Order, **facts: Any) -> EpochPlan:
    return EpochPlan(**{"num_samples": len(order), "batch_size": 8, "order": order, **facts})


def samples(order: Order, **facts: Any) -> list[int]:
    """An epoch's samples in order."""
    return [index for share in plan(order, **facts) for index in share.indices.tolist()]


# ------------------------------------------------------------------------------------ what holds for all of them


@each_order
@pytest.mark.parametrize("world_size", [2, 3, 5, 11])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_batch_holds_the_same_samples_on_any_number_of_ranks(order: Order, world_size: int, drop_last: bool):
    facts = {"epoch": 3, "seed": 5, "drop_last": drop_last}
    ranks = [plan(order, world_size=world_size, rank=rank, **facts) for rank in range(world_size)]
    for alone, *shares in zip(plan(order, **facts), *ranks, strict=True):
        dealt = [
            (position, index, key)
            for share in shares
            for position, index, key in list(zip(share.positions, share.indices, share.keys, strict=True))[
                : share.num_local
            ]
        ]
        assert sorted(dealt) == list(zip(alone.positions, alone.indices, alone.keys, strict=True))
        assert {share.num_global for share in shares} == {alone.num_local}
        assert max(share.num_local for share in shares) - min(share.num_local for share in shares) <= 1
        idle = [share.indices.tolist() for share in shares if share.num_local == 0]
        assert idle == [alone.indices[:1].tolist()] * len(idle)  # they run along on the batch's first sample


@each_order
def test_an_epoch_may_begin_at_any_step(order: Order):
    whole = list(plan(order, epoch=1))
    for start in range(len(whole) + 1):
        again = list(plan(order, epoch=1).shares(start))
        assert [share.step for share in again] == [share.step for share in whole[start:]]
        assert [share.indices.tolist() for share in again] == [share.indices.tolist() for share in whole[start:]]
        if start < len(whole):
            assert plan(order, epoch=1).share(start).indices.tolist() == whole[start].indices.tolist()


@each_order
def test_each_epoch_and_seed_has_an_order_of_its_own_where_it_is_random(order: Order):
    orders = {tuple(samples(order, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == (9 if order.shuffle else 1)


@each_order
def test_keys_of_random_draws_are_unique_in_an_epoch(order: Order):
    keys = [key for share in plan(order) for key in share.keys.tolist()]
    assert len(set(keys)) == len(keys)
    if not order.repeats:
        assert keys == samples(order)


@pytest.mark.parametrize("order", [each for each in ORDERS.values() if len(each) == N])
def test_an_epoch_of_the_whole_data_set_holds_it_once(order: Order):
    assert sorted(samples(order, epoch=2)) == list(range(N))
    assert len(set(samples(order, drop_last=True))) == N // 8 * 8


# ------------------------------------------------------------------------------------ parts of an epoch


def test_partial_epochs_go_through_all_samples_before_one_comes_again():
    order = PartialEpochs(ShuffledOrder(N), 40)
    seen = [index for epoch in range(N) for index in samples(order, epoch=epoch)]
    assert len(seen) == 40 * N
    for begin in range(0, len(seen), N):
        assert sorted(seen[begin : begin + N]) == list(range(N))


def test_an_epoch_longer_than_the_data_set_holds_each_sample_as_often_as_it_can():
    counts = Counter(samples(PartialEpochs(ShuffledOrder(10), 25)))
    assert sorted(counts.values()) == [2] * 5 + [3] * 5


# ------------------------------------------------------------------------------------ weights


def test_samples_come_as_often_as_their_weights_say():
    weights = np.array([0, 1, 2, 3, 0, 4.0])
    drawn = np.bincount(samples(WeightedOrder(weights, 20_000)), minlength=6)
    expected = 20_000 * weights / weights.sum()
    assert drawn[expected == 0].sum() == 0
    assert (
        (drawn - expected)[expected > 0] ** 2 / expected[expected > 0]
    ).sum() < 30  # chi-square, 3 degrees, p = 1e-6


def test_draws_of_neighbouring_positions_have_nothing_to_do_with_each_other():
    drawn = np.array(samples(WeightedOrder(np.ones(4), 32_000))).reshape(-1, 2)
    counts = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    assert ((counts - 1000) ** 2 / 1000).sum() < 58  # chi-square, 15 degrees, p = 6e-7


def test_balanced_weights_draw_every_class_equally_often():
    labels = ["cat"] * 900 + ["dog"] * 90 + ["cow"] * 10
    weights = balanced_weights(labels)
    assert weights.sum() == pytest.approx(1)
    counts = Counter(labels[index] for index in samples(WeightedOrder(weights, 9000)))
    assert all(abs(count - 3000) < 250 for count in counts.values())  # 5.6 deviations
    assert balanced_weights(torch.tensor([1, 1, 0]).tolist()).tolist() == [0.25, 0.25, 0.5]
    assert len(balanced_weights([])) == 0


@pytest.mark.parametrize("where", ["item_tfms", "batch_tfms"])
def test_a_sample_that_comes_twice_is_augmented_in_two_ways_on_any_number_of_ranks(where: str):
    class OneByOne(Transform):
        def encodes(self, x: torch.Tensor, draw: Any) -> torch.Tensor:
            return x + torch.as_tensor(draw.uniform())

    def values(world_size: int) -> list[float]:
        loaders = [
            DataLoader(
                TensorData(torch.zeros(2)),
                6,
                order=WeightedOrder([1, 1], 12),
                world=World(rank=rank, world_size=world_size),
                **{where: OneByOne()},
            )
            for rank in range(world_size)
        ]
        return sorted(float(value) for loader in loaders for (batch,) in loader for value in batch)

    assert len(set(values(1))) == 12
    assert values(3) == values(1)


# ------------------------------------------------------------------------------------ lengths


def padded(order: Order, lengths: np.ndarray, batch_size: int) -> float:
    """Tokens that are read, padding included, for each that is not padding."""
    shares = list(plan(order, batch_size=batch_size))
    return sum(lengths[share.indices].max() * len(share.indices) for share in shares) / lengths.sum()


def test_batches_of_similar_lengths_pad_little():
    lengths = np.random.default_rng(1).lognormal(4, 0.6, 20_000).astype(int) + 1
    assert padded(ShuffledOrder(len(lengths)), lengths, 64) > 2.5
    assert padded(LengthOrder(lengths), lengths, 64) < 1.2
    assert padded(LengthOrder(lengths, shuffle=False), lengths, 64) < 1.02


def test_ranks_get_the_same_amount_of_work():
    lengths = np.random.default_rng(1).lognormal(4, 0.6, 20_000).astype(int) + 1
    ranks = [plan(LengthOrder(lengths), batch_size=256, world_size=4, rank=rank, drop_last=True) for rank in range(4)]
    work = np.array([[lengths[share.indices].sum() for share in rank] for rank in ranks])
    longest = np.array([[lengths[share.indices].max() for share in rank] for rank in ranks])
    assert np.median(work.max(axis=0) / work.min(axis=0)) < 1.02
    assert np.median(longest.max(axis=0) / longest.min(axis=0)) < 1.1


def test_the_longest_sample_comes_first_if_wanted_and_batches_are_not_in_the_order_of_length():
    assert all(samples(LengthOrder(LENGTHS), epoch=epoch)[0] == LENGTHS.argmax() for epoch in range(5))
    firsts = {samples(LengthOrder(LENGTHS, longest_first=False), epoch=epoch)[0] for epoch in range(10)}
    assert len(firsts) > 3
    lengths = np.arange(10_000)
    means = [share.indices.mean() for share in plan(LengthOrder(lengths), batch_size=20, drop_last=True)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.25  # 5 deviations


def test_which_samples_are_in_the_last_batch_does_not_depend_on_their_length():
    lengths = np.arange(1003)
    last = [list(plan(LengthOrder(lengths), batch_size=100, epoch=epoch))[-1].indices for epoch in range(300)]
    assert {len(each) for each in last} == {3}
    assert abs(np.mean(last) - 501) < 50  # 5 deviations


# ------------------------------------------------------------------------------------ groups


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=20).filter(any),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(1, 5),
)
def test_groups_of_any_sizes_in_any_lanes_hold_every_sample_once(sizes, num_lanes, num_tracks, batch_size, world_size):
    order = GroupOrder(sizes, num_lanes=num_lanes, num_tracks=num_tracks)
    ranks = [plan(order, batch_size=batch_size, world_size=world_size, rank=rank) for rank in range(world_size)]
    seen = [index for rank in ranks for share in rank for index in share.indices[: share.num_local].tolist()]
    assert sorted(seen) == list(range(sum(sizes)))


def groups_read(order: GroupOrder, plans: list[EpochPlan], open_at_once: int) -> int:
    """How many groups are read by processes that each keep the last `open_at_once` of them."""
    group_of = np.repeat(np.arange(len(order.sizes)), order.sizes)
    reads = 0
    for each in plans:
        kept: dict[int, None] = {}
        for share in each:
            for group in dict.fromkeys(group_of[share.indices].tolist()):
                reads += group not in kept
                kept.pop(group, None)
                kept[group] = None
            while len(kept) > open_at_once:
                del kept[next(iter(kept))]
    return reads


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_ranks_read_groups_of_their_own(world_size: int):
    order = GroupOrder([200] * 200, num_lanes=8)
    ranks = [plan(order, batch_size=64, world_size=world_size, rank=rank) for rank in range(world_size)]
    assert groups_read(order, ranks, open_at_once=12) <= 200 * {1: 1.06, 2: 1.06, 3: 1.4, 4: 1.06, 8: 1.06}[world_size]


def test_workers_that_take_turns_read_groups_of_their_own_if_there_is_a_track_for_each():
    class Worker:
        def __init__(self, order: GroupOrder, number: int) -> None:
            self.shares = list(plan(order, batch_size=64))[number::4]

        def __iter__(self) -> Any:
            return iter(self.shares)

    in_tracks = GroupOrder([200] * 200, num_lanes=4, num_tracks=4)
    assert groups_read(in_tracks, [Worker(in_tracks, number) for number in range(4)], 8) <= 200 * 1.1  # type: ignore[misc]
    together = GroupOrder([200] * 200, num_lanes=16)
    assert groups_read(together, [Worker(together, number) for number in range(4)], 24) >= 200 * 3  # type: ignore[misc]


def test_a_batch_mixes_as_many_groups_as_there_are_lanes():
    order = GroupOrder([100] * 80, num_lanes=8)
    mixed = [len(set((share.indices // 100).tolist())) for share in plan(order, batch_size=32, drop_last=True)]
    assert min(mixed) >= 7
    assert np.mean(mixed) < 9


def test_every_sample_is_as_likely_at_every_place_of_an_epoch():
    order = GroupOrder([5, 3, 8, 4, 6, 2, 4], num_lanes=2)
    orders = np.array([samples(order, seed=seed, batch_size=4) for seed in range(3000)])
    for place in (0, 1, 9, 17, 31):
        counts = np.bincount(orders[:, place], minlength=32)
        assert ((counts - 3000 / 32) ** 2 / (3000 / 32)).sum() < 85, place  # chi-square, 31 degrees, p = 6e-7


def test_a_billion_samples_in_a_hundred_thousand_groups_cost_little():
    begin = time.perf_counter()
    order = GroupOrder(np.full(100_000, 10_000), num_lanes=64)
    share = plan(order, batch_size=4096, world_size=64, rank=3).share(100_000)
    assert share.num_local == 64
    assert len(set((share.indices // 10_000).tolist())) == 1
    assert time.perf_counter() - begin < 2  # measured: 0.06 s


# ------------------------------------------------------------------------------------ in a loader


def test_a_loader_deals_out_the_order_that_it_is_given():
    data = TensorData(torch.arange(N))
    order = WeightedOrder(np.arange(N), 150)
    loader = DataLoader(data, 8, order=order)
    assert [x for (batch,) in loader for x in batch.tolist()] == samples(order)
    assert (len(loader), loader.num_samples, loader.shuffle, loader.split_idx) == (19, 150, True, 0)
    assert DataLoader(data, 8, order=LengthOrder(LENGTHS, shuffle=False)).split_idx == 1


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedOrder([1, -2]), r"weights: -2\.0; expected one finite number a sample, 0 or more"),
        (lambda: WeightedOrder([1, float("nan")]), "weights: nan; expected one finite number"),
        (lambda: WeightedOrder([0, 0]), "weights: all 0; expected"),
        (lambda: WeightedOrder([]), "weights: all 0; expected"),
        (lambda: WeightedOrder([[1.0]]), r"weights: shape \(1, 1\); expected"),
        (lambda: WeightedOrder([1.0], 0), "num_samples=0: an epoch has at least 1 sample"),
        (lambda: PartialEpochs(ShuffledOrder(3), 0), "epochs of 0 of 3 samples: expected at least 1 of at least 1"),
        (lambda: PartialEpochs(ShuffledOrder(0), 1), "epochs of 1 of 0 samples"),
        (lambda: LengthOrder(["a"]), "lengths of shape .* and dtype .*: expected one number a sample"),
        (lambda: LengthOrder([1, float("inf")]), "expected one number a sample"),
        (lambda: LengthOrder([1], pool_batches=0), "pool_batches=0: a pool has at least 1 batch"),
        (lambda: RearrangedOrder(ShuffledOrder(3), [0, 1]), "2 samples for an order of 3: expected as many"),
        (lambda: GroupOrder([1], num_lanes=0), "num_lanes=0: expected at least 1"),
        (lambda: GroupOrder([1], num_tracks=0), "num_tracks=0: expected at least 1"),
        (lambda: GroupOrder([1, -1]), "a group of -1 samples; sizes are 0 or more"),
        (
            lambda: EpochPlan(num_samples=5, batch_size=2, order=ShuffledOrder(6)),
            "num_samples=5, and the order has 6; give it that many",
        ),
        (
            lambda: DataLoader(TensorData(torch.arange(3)), order=ShuffledOrder(3), shuffle=True),
            "shuffle=True beside order=ShuffledOrder: the order decides alone; leave shuffle away",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_the_order_is_made(make: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        make()
