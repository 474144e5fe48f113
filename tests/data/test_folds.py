"""Folds: each item is validated with once, classes in proportion, groups whole."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.data import KFoldSplitter
from dist_ai.data.folds import fold_numbers
from dist_ai.errors import ConfigError, DataError

properties = settings(deadline=None, max_examples=100, derandomize=True)


@properties
@given(st.integers(2, 200), st.integers(2, 7), st.integers(0, 50))
def test_every_item_is_in_the_validation_part_of_one_fold_and_folds_are_of_one_size(n: int, k: int, seed: int):
    if n < k:
        return
    splits = [KFoldSplitter(k, fold, seed=seed)(range(n)) for fold in range(k)]
    assert sorted(i for _, valid in splits for i in valid) == list(range(n))
    assert all(sorted(train + valid) == list(range(n)) for train, valid in splits)
    assert max(len(valid) for _, valid in splits) - min(len(valid) for _, valid in splits) <= 1


def test_classes_are_in_every_fold_in_proportion():
    classes = ["a"] * 50 + ["b"] * 22 + ["c"] * 3
    numbers = fold_numbers(75, 5, classes=classes, seed=4)
    counts = Counter(zip(numbers, classes, strict=True))
    assert {counts[fold, "a"] for fold in range(5)} == {10}
    assert {counts[fold, "b"] for fold in range(5)} == {4, 5}
    assert {counts[fold, "c"] for fold in range(5)} == {0, 1}
    assert set(Counter(numbers).values()) == {15}
    assert numbers != fold_numbers(75, 5, classes=classes, seed=5)


@properties
@given(st.lists(st.integers(0, 15), min_size=5, max_size=120), st.integers(2, 4), st.booleans())
def test_groups_are_whole_and_no_fold_is_empty(groups: list[int], k: int, stratified: bool):
    if len(set(groups)) < k:
        return
    classes = [i % 3 for i in range(len(groups))] if stratified else None
    numbers = fold_numbers(len(groups), k, groups=groups, classes=classes)
    assert set(numbers) == set(range(k))
    assert len(set(zip(groups, numbers, strict=True))) == len(set(groups))


def test_groups_are_dealt_so_that_classes_are_in_proportion_too():
    groups = [i // 5 for i in range(200)]
    classes = [group % 4 == 0 for group in groups]  # whole groups are of one class
    numbers = fold_numbers(200, 5, groups=groups, classes=classes)
    assert set(Counter(fold for fold, is_rare in zip(numbers, classes, strict=True) if is_rare).values()) == {10}
    assert set(Counter(numbers).values()) == {40}


def test_what_cannot_be_folded_is_explained():
    with pytest.raises(
        ConfigError, match=r"KFoldSplitter\(k=5, fold=5\): expected k of at least 2, and a fold of 0 to"
    ):
        KFoldSplitter(5, 5)
    with pytest.raises(DataError, match=r"3 item\(s\) for 5 folds; each needs at least 1"):
        KFoldSplitter(5, 0)(range(3))
    with pytest.raises(DataError, match=r"2 group\(s\) for 3 folds"):
        KFoldSplitter(3, 0, group=lambda i: i % 2)(range(30))
