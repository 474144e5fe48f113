"""Token streams: rows that go on from batch to batch, on any number of ranks, in shuffled documents."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.data import DataLoader
from dist_ai.data.streams import TokenStreams
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError

LENGTHS = [100, 300, 0, 250, 50, 1, 299]
TOKENS = np.arange(1000)


def rows(loader: DataLoader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    """Each row's tokens over the epoch."""
    batches = [batch for _, batch in loader.batches(epoch, start)]
    return [[token for x, _ in batches for token in x[row].tolist()] for row in range(len(batches[0][0]))]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.integers(2, 400), st.integers(1, 9), st.integers(1, 50), st.booleans(), st.data())
def test_each_row_goes_on_where_it_ended_and_the_target_is_the_next_token(num_tokens, bs, seq_len, shuffle, data):
    if num_tokens <= bs:
        return
    cuts = sorted(data.draw(st.lists(st.integers(0, num_tokens), max_size=6)))
    lengths = np.diff([0, *cuts, num_tokens])
    streams = TokenStreams(np.arange(num_tokens), lengths, bs=bs, seq_len=seq_len)
    loader = DataLoader(streams, bs, shuffle=shuffle)
    read = []
    for step, (_, (x, y)) in enumerate(loader.batches(epoch=2)):
        assert x.dtype == torch.int64
        assert x.shape == y.shape == (bs, x.shape[1])
        assert x.shape[1] == seq_len or step == len(loader) - 1
        assert torch.equal(x[:, 1:], y[:, :-1])
        if read:
            assert torch.equal(read[-1][1][:, -1], x[:, 0])
        read.append((x, y))
    seen = [token for x, _ in read for token in x.flatten().tolist()]
    assert len(set(seen)) == len(seen) == (num_tokens - 1) // bs * bs
    assert len(loader) == len(read)


def test_in_order_the_streams_are_the_text_cut_in_equal_parts():
    streams = TokenStreams(TOKENS, LENGTHS, bs=3, seq_len=100)
    assert rows(DataLoader(streams, 3)) == [list(range(begin, begin + 333)) for begin in (0, 333, 666)]
    assert len(streams) == 12


def test_shuffled_documents_stay_whole_and_come_in_a_new_order_each_epoch():
    streams = TokenStreams(TOKENS, LENGTHS, bs=1, seq_len=64)
    begins = np.cumsum(LENGTHS) - LENGTHS
    orders = set()
    for epoch in range(20):
        (tokens,) = rows(DataLoader(streams, 1, shuffle=True, seed=3), epoch)
        jumps = [tokens[0], *(b for a, b in itertools.pairwise(tokens) if b != a + 1)]
        assert set(jumps) <= set(begins.tolist())
        orders.add(tuple(jumps))
    assert len(orders) > 15


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_each_rank_keeps_its_rows_and_all_of_them_are_those_of_one(world_size: int):
    streams = TokenStreams(TOKENS, LENGTHS, bs=4, seq_len=30)

    def loader(rank: int, world_size: int) -> DataLoader:
        world = World(rank=rank, world_size=world_size, local_world_size=world_size, local_rank=rank)
        return DataLoader(streams, 4, shuffle=True, world=world)

    alone = rows(loader(0, 1), epoch=1)
    for rank in range(min(4, world_size)):
        assert rows(loader(rank, world_size), epoch=1) == alone[rank::world_size]
        assert rows(loader(rank, world_size), epoch=1, start=5) == [row[150:] for row in alone[rank::world_size]]


def test_workers_are_told_the_order_of_the_documents():
    streams = TokenStreams(TOKENS, LENGTHS, bs=4, seq_len=30)
    here, there = (DataLoader(streams, 4, shuffle=True, num_workers=number) for number in (0, 2))
    for epoch in (0, 1):
        assert rows(here, epoch) == rows(there, epoch)


def test_a_window_is_read_by_its_number_and_from_a_file_on_disk(tmp_path: Path):
    np.save(tmp_path / "tokens.npy", TOKENS.astype(np.uint16))
    streams = TokenStreams(np.load(tmp_path / "tokens.npy", mmap_mode="r"), LENGTHS, bs=4, seq_len=30)
    assert streams[5][0].tolist() == list(range(249 + 30, 249 + 60))
    assert streams[5][1].tolist() == list(range(249 + 31, 249 + 61))
    assert streams[len(streams) - 1][0].tolist() == list(range(3 * 249 + 240, 3 * 249 + 249))
    with pytest.raises(IndexError, match="window -1: expected 0 or more"):
        streams[-1]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="3 lengths that add up to 6 for 7 tokens: expected 0 or more each"):
        TokenStreams(np.arange(7), [1, 2, 3])
    with pytest.raises(ConfigError, match=r"tokens of shape \(2, 3\) and dtype int64: expected \(n,\) integers"):
        TokenStreams(np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(ConfigError, match="dtype float64: expected"):
        TokenStreams(np.zeros(3))
    with pytest.raises(ConfigError, match="seq_len=0: expected at least 1"):
        TokenStreams(TOKENS, seq_len=0)
    with pytest.raises(DataError, match="4 tokens make no 4 streams: at least 5 are needed; use a smaller bs"):
        TokenStreams(np.arange(4), bs=4)
    streams = TokenStreams(TOKENS, LENGTHS, bs=4, seq_len=30)
    with pytest.raises(ConfigError, match="bs=8 for 4 streams; give the loader and TokenStreams the same bs"):
        next(iter(DataLoader(streams, 8)))
    with pytest.raises(DataError, match=r"windows of \[9, 30\] tokens in one batch: the last of a stream is shorter"):
        streams.fetch(torch.tensor([0, len(streams) - 1]))
