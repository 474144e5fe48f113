"""Splitters: the same disjoint split in every process, and no random state touched."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dist_ai.data import GrandparentSplitter, RandomSplitter
from dist_ai.data.splitters import Splitter
from dist_ai.errors import ConfigError, DataError

properties = settings(deadline=None, max_examples=200, derandomize=True)


@properties
@given(st.integers(2, 3000), st.integers(1, 99), st.integers(0, 2**40))
@example(100, 29, 0)  # 0.29 * 100 is 28.999999999999996
def test_a_random_split_is_exact_disjoint_and_sorted(num_items: int, percent: int, seed: int):
    num_valid = percent * num_items // 100
    if num_valid == 0:
        return
    train, valid = RandomSplitter(percent / 100, seed)(range(num_items))
    assert len(valid) == num_valid
    assert sorted(train + valid) == list(range(num_items))
    assert train == sorted(train)
    assert valid == sorted(valid)


def test_the_seed_decides_the_split_and_the_items_do_not():
    items = [f"file {i}" for i in range(100)]
    split = RandomSplitter(0.3, seed=1)(items)
    assert RandomSplitter(0.3, seed=1)(items) == split
    assert RandomSplitter(0.3, seed=1)(range(100)) == split
    assert len({tuple(RandomSplitter(0.3, seed=seed)(items)[1]) for seed in range(50)}) == 50


def test_splits_of_this_version_are_those_of_the_next():
    # Frozen: otherwise a resumed run would train on what it validates with.
    assert RandomSplitter(0.2, seed=42)(range(10)) == ([0, 1, 2, 3, 5, 7, 8, 9], [4, 6])


def test_every_item_is_as_likely_to_be_drawn():
    counts = np.bincount([i for seed in range(2000) for i in RandomSplitter(0.25, seed)(range(20))[1]], minlength=20)
    assert ((counts - 500) ** 2 / (500 * 0.75)).sum() < 65  # chi-square, 19 degrees, p = 6e-7


def in_folders(*folders: str) -> list[Path]:
    return [Path("data") / folder / "cat" / f"{i}.jpg" for i, folder in enumerate(folders)]


def test_the_grandparent_folder_decides_and_other_folders_are_left_out():
    items = in_folders("train", "valid", "test", "train")
    assert GrandparentSplitter()(items) == ([0, 3], [1])
    assert GrandparentSplitter("test", "train")(items) == ([2], [0, 3])
    assert GrandparentSplitter()([str(item) for item in items]) == ([0, 3], [1])


def test_a_folder_without_files_is_named_with_those_there_are():
    message = (
        "no file in a folder named 'valid'; the grandparent folders are ['test', 'train']. Give the folders' names, or"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        GrandparentSplitter()(in_folders("train", "test"))
    with pytest.raises(DataError, match="no file in a folder named 'train'"):
        GrandparentSplitter()(in_folders("valid"))


@pytest.mark.parametrize("valid_pct", [0, 1, -0.1, 20, float("nan")])
def test_a_share_is_above_zero_and_below_one(valid_pct: float):
    message = f"valid_pct={valid_pct} is a share of the items: expected more than 0 and less than 1"
    with pytest.raises(ConfigError, match=re.escape(message)):
        RandomSplitter(valid_pct)


@pytest.mark.parametrize(
    ("num_items", "text"), [(0, "0 for training and 0 for validation"), (3, "3 for training and 0")]
)
def test_both_parts_need_an_item(num_items: int, text: str):
    with pytest.raises(DataError, match=re.escape(f"valid_pct=0.2 of {num_items} item(s) leaves {text}")):
        RandomSplitter(0.2)(range(num_items))


@pytest.mark.parametrize(
    "splitter", [RandomSplitter(0.5, seed=3), GrandparentSplitter()], ids=["RandomSplitter", "GrandparentSplitter"]
)
def test_no_splitter_touches_a_global_random_state(splitter: Splitter):
    states: list[Callable[[], object]] = [
        random.getstate,
        lambda: np.random.get_state()[1].tobytes(),
        lambda: torch.get_rng_state().tolist(),
    ]
    before = [state() for state in states]
    splitter(in_folders("train", "valid", "train"))
    assert [state() for state in states] == before
