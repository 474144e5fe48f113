"""Splitters: the same disjoint split in every process, and no random state touched."""

from __future__ import annotations

import pickle
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dist_ai.data import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    GroupSplitter,
    IndexSplitter,
    KFoldSplitter,
    MaskSplitter,
    RandomSplitter,
    RandomSubsetSplitter,
    Table,
    TrainTestSplitter,
)
from dist_ai.data.splitters import Splitter, check_split, values_of
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


def test_no_seed_is_a_fixed_one_and_touches_no_global_random_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert RandomSplitter(seed=None)(range(100)) == RandomSplitter(seed=0)(range(100))
    assert RandomSubsetSplitter(5, 5, seed=None)(range(100)) == RandomSubsetSplitter(5, 5)(range(100))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ConfigError, match=re.escape("seed='7': expected a whole number, or None")):
        RandomSplitter(seed="7")(range(100))  # type: ignore[arg-type]


def test_splits_of_this_version_are_those_of_the_next():
    # Frozen: otherwise a resumed run would train on what it validates with.
    assert RandomSplitter(0.2, seed=42)(range(10)) == ([0, 2, 3, 4, 5, 7, 8, 9], [1, 6])


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


# ------------------------------------------------------------------------------------ what a split is


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (None, "a splitter gave None; expected (training indices, validation indices), or more parts"),
        ([[0, 1, 2]], "a splitter gave [[0, 1, 2]]; expected (training"),
        (([0, 1], []), "the validation part of the split is empty: its 4 item(s) went to other parts"),
        (([], [0, 1]), "the training part of the split is empty"),
        (([0, 1], [4]), "index 4 in the validation part of the split, and the items are 0 to 3"),
        (([0, -1], [2]), "index -1 in the training part of the split"),
        (([0, 1, 2], [1, 2]), "2 item(s), such as 1, are both in the training and the validation part of the split"),
        (([0], [1], [1]), "1 item(s), such as 1, are both in the validation and the 3rd part of the split"),
        (([0], [1, 1]), "an index comes twice in the validation part of the split"),
        ((["a"], [1]), "the training part of the split is ['a']; expected the indices of items"),
        (([0.5], [1]), "the training part of the split is [0.5]; expected the indices of items"),
    ],
)
def test_what_is_no_split_is_explained(split: Any, text: str):
    with pytest.raises(DataError, match=re.escape(text)):
        check_split(split, 4)


def test_indices_may_come_in_any_kind_of_list_and_training_items_several_times():
    expected = ([0, 0, 1], [3])
    for kind in (np.array, torch.tensor, tuple, pd.Index, pd.Series):
        assert check_split((kind([0, 0, 1]), kind([3])), 4) == expected


def test_items_are_told_apart_by_a_function_a_column_or_a_value_each():
    frame = pd.DataFrame({"who": ["ann", "bob", "ann"]}, index=[7, 7, 9])
    for items in (frame, Table.from_frame(frame)):
        assert values_of(items, "who") == ["ann", "bob", "ann"]
        assert values_of(items, lambda row: row.who[0]) == ["a", "b", "a"]
        assert values_of(items, np.array([1, 2, 3])) == [1, 2, 3]
    with pytest.raises(DataError, match="2 values for 3 items: expected one for each, in their order"):
        values_of(frame, [1, 2])
    with pytest.raises(DataError, match=re.escape("1 item(s), such as 1, have no value by the values given; fill")):
        values_of("abc", ["x", None, "y"])
    with pytest.raises(DataError, match="no column 'hwo'; there are who; did you mean 'who'"):
        values_of(frame, "hwo")


# ------------------------------------------------------------------------------------ by chance


def test_several_shares_give_several_disjoint_parts():
    train, valid, test = RandomSplitter((0.2, 0.1), seed=3)(range(50))
    assert (len(train), len(valid), len(test)) == (35, 10, 5)
    assert sorted(train + valid + test) == list(range(50))
    assert valid == RandomSplitter(0.2, seed=3)(range(50))[1]  # the further part is taken from the training items
    for shares in ((0.5, 0.5), (), (0.5, 0)):
        with pytest.raises(ConfigError, match=re.escape(f"valid_pct={shares} is a share of the items")):
            RandomSplitter(shares)


LABELS = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]


@pytest.mark.parametrize("seed", range(5))
def test_a_stratified_split_has_each_class_in_proportion_and_is_exact(seed: int):
    train, valid = TrainTestSplitter(0.2, stratify=LABELS, seed=seed)(range(100))
    counts = Counter(LABELS[i] for i in valid)
    assert (counts["a"], counts["b"], counts["c"], counts["d"]) == (12, 6, 2, 0)
    assert sorted(train + valid) == list(range(100))
    assert (train, valid) != TrainTestSplitter(0.2, stratify=LABELS, seed=seed + 5)(range(100))


def test_the_size_of_a_validation_part_may_be_a_number_of_items():
    assert len(TrainTestSplitter(7)(range(20))[1]) == 7
    assert len(TrainTestSplitter(7, stratify=lambda i: i % 2)(range(20))[1]) == 7
    for size in (0, 1.0, -0.5):
        with pytest.raises(ConfigError, match=re.escape(f"test_size={size}: expected a share")):
            TrainTestSplitter(size)
    with pytest.raises(DataError, match=re.escape("test_size=20 of 20 item(s) leaves 0 for training and 20 for")):
        TrainTestSplitter(20)(range(20))
    with pytest.raises(DataError, match="each of the 20 classes has a single item, which is for training"):
        TrainTestSplitter(0.5, stratify=range(20))(range(20))


@properties
@given(st.lists(st.integers(0, 9), min_size=2, max_size=80), st.integers(0, 1000))
def test_no_group_is_on_both_sides_of_a_split_by_groups(groups: list[int], seed: int):
    if len(set(groups)) < 2:
        return
    train, valid = GroupSplitter(groups, 0.3, seed)(range(len(groups)))
    assert train
    assert valid
    assert not {groups[i] for i in train} & {groups[i] for i in valid}
    assert sorted(train + valid) == list(range(len(groups)))


def test_a_split_by_groups_comes_near_its_share():
    groups = [i // 5 for i in range(500)]
    sizes = [len(GroupSplitter(groups, 0.3, seed)(range(500))[1]) for seed in range(20)]
    assert set(sizes) == {150}
    with pytest.raises(DataError, match=re.escape("the 3 item(s) are of 1 group(s); both parts need at least 1")):
        GroupSplitter(lambda item: 0)(range(3))


def test_a_subset_is_drawn_by_shares_or_numbers_and_the_rest_is_left_out():
    train, valid = RandomSubsetSplitter(0.1, 5, seed=1)(range(100))
    assert (len(train), len(valid), len({*train, *valid})) == (10, 5, 15)
    with pytest.raises(DataError, match=re.escape("train_sz=8 and valid_sz=5 of 10 item(s) are 8 and 5; both need")):
        RandomSubsetSplitter(8, 5)(range(10))
    with pytest.raises(ConfigError, match="valid_sz=0: expected a share"):
        RandomSubsetSplitter(8, 0)


# ------------------------------------------------------------------------------------ by place


def test_indices_choose_the_validation_items_and_impossible_ones_are_named():
    assert IndexSplitter(np.array([3, 1]))(range(5)) == ([0, 2, 4], [1, 3])
    assert IndexSplitter(2)(range(5)) == ([0, 1, 3, 4], [2])
    with pytest.raises(DataError, match="index 5 in the validation part of the split, and the items are 0 to 4"):
        IndexSplitter([1, 5])(range(5))
    with pytest.raises(DataError, match="the training part of the split is empty"):
        IndexSplitter(range(5))(range(5))
    with pytest.raises(ConfigError, match="IndexSplitter got True and False; expected indices, or use MaskSplitter"):
        IndexSplitter([True, False])


def test_a_mask_of_ones_and_zeros_is_a_mask_and_no_list_of_indices():
    assert MaskSplitter([0, 1, 0, 1])("abcd") == ([0, 2], [1, 3])
    assert MaskSplitter(pd.Series([False, True]))("ab") == ([0], [1])
    with pytest.raises(DataError, match=re.escape("mask[1] is 2; expected True or False (or 1 and 0)")):
        MaskSplitter([0, 2])
    with pytest.raises(DataError, match="a mask of 2 for 3 items"):
        MaskSplitter([0, 1])("abc")
    with pytest.raises(DataError, match="the validation part of the split is empty"):
        MaskSplitter([0, 0])("ab")


def test_the_end_or_the_beginning_is_for_validation():
    assert EndSplitter(0.29)(range(100)) == (list(range(71)), list(range(71, 100)))
    assert EndSplitter(0.29, valid_last=False)(range(100)) == (list(range(29, 100)), list(range(29)))
    with pytest.raises(ConfigError, match="valid_pct=1 is a share"):
        EndSplitter(1)
    with pytest.raises(DataError, match=re.escape("valid_pct=0.2 of 3 item(s) leaves none for validation")):
        EndSplitter(0.2)(range(3))


# ------------------------------------------------------------------------------------ by what items are


def test_a_function_chooses_and_must_say_yes_or_no():
    assert FuncSplitter(lambda x: x > 2)([1, 5, 2]) == ([0, 2], [1])
    with pytest.raises(DataError, match="forgets_to_return of item 0 is None; expected True or False"):
        FuncSplitter(forgets_to_return)([1, 2])


def forgets_to_return(item: Any) -> Any:
    pass


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"f": list("wxyz"), "is_valid": [False, True, False, True], "part": ["a", "b", "c", "a"]})


def test_a_column_chooses_in_tables_of_every_kind(frame: pd.DataFrame):
    import pyarrow as pa

    rows = frame.to_dict("records")
    for items in (frame, frame.set_index("f", drop=False), Table.from_frame(frame), pa.table(frame), rows):
        assert ColSplitter()(items) == ([0, 2], [1, 3])
        assert ColSplitter("part", on=["b", "c"])(items) == ([0, 3], [1, 2])
        assert ColSplitter("part", on="b")(items) == ([0, 2, 3], [1])


def test_a_column_that_cannot_choose_is_explained(frame: pd.DataFrame):
    with pytest.raises(DataError, match="no row has 'e' in column 'part'; there are"):
        ColSplitter("part", on="e")(frame)
    with pytest.raises(DataError, match="no column 'is_vald'; there are f, is_valid, part; did you mean 'is_valid'"):
        ColSplitter("is_vald")(frame)
    # As text, "False" would be a yes.
    frame["is_valid"] = frame["is_valid"].astype(str)
    with pytest.raises(DataError, match="column 'is_valid' of row 0 is 'False'; expected True or False"):
        ColSplitter()(frame)
    with pytest.raises(DataError, match="the items are PosixPath, which have no column 'is_valid'; give a table"):
        ColSplitter()(in_folders("train"))


def test_several_grandparent_folders_make_a_part_and_a_third_part_is_possible():
    items = in_folders("train", "valid", "test", "extra")
    assert GrandparentSplitter(["train", "extra"], "valid", "test")(items) == ([0, 3], [1], [2])
    with pytest.raises(DataError, match=r"no file in a folder named 'tset'; .*; did you mean 'test'"):
        GrandparentSplitter("train", ["valid", "tset"])(items)
    with pytest.raises(DataError, match="both in the training and the validation part"):
        GrandparentSplitter("train", ["valid", "train"])(items)


def test_a_file_names_the_validation_files(tmp_path: Path):
    listing = tmp_path / "valid.txt"
    items = [Path("data/cat/1.jpg"), Path("data/dog/1.jpg"), Path("data/dog/2.jpg")]
    listing.write_text("2.jpg\n\ncat/1.jpg\n")
    assert FileSplitter(listing)(items) == ([1], [0, 2])
    listing.write_text("1.jpg\n")
    assert FileSplitter(str(listing))(items) == ([2], [0, 1])
    listing.write_text("2.jpeg\n")
    message = f"1 line(s) of {listing}, such as '2.jpeg', name none of the 3 items; did you mean '2.jpg'?"
    with pytest.raises(DataError, match=re.escape(message)):
        FileSplitter(listing)(items)
    with pytest.raises(DataError, match=re.escape(f"no file at {tmp_path / 'gone'}")):
        FileSplitter(tmp_path / "gone")


# ------------------------------------------------------------------------------------ all of them


def all_splitters(folder: Path) -> dict[str, Splitter]:
    (folder / "valid.txt").write_text("1.jpg")
    splitters: list[Any] = [
        RandomSplitter(0.5, seed=3),
        RandomSplitter((0.4, 0.4)),
        TrainTestSplitter(0.5, stratify=[0, 1, 0, 1, 0]),
        GroupSplitter(parent_name, 0.5),
        RandomSubsetSplitter(2, 1),
        EndSplitter(0.4),
        IndexSplitter(range(3)),
        MaskSplitter([0, 1, 0, 0, 0]),
        FuncSplitter(is_second),
        GrandparentSplitter(),
        FileSplitter(folder / "valid.txt"),
        KFoldSplitter(2, 1, stratify=parent_name),
        KFoldSplitter(2, 0, group=parent_name),
    ]
    return {f"{i} {type(each).__name__}": each for i, each in enumerate(splitters)}


def parent_name(item: Path) -> str:
    return item.parent.parent.name


def is_second(item: Path) -> bool:
    return item.stem == "1"


def test_every_splitter_can_be_sent_to_another_process_and_says_what_it_is(tmp_path: Path):
    items = in_folders("train", "valid", "train", "valid", "train")
    for name, splitter in all_splitters(tmp_path).items():
        again = pickle.loads(pickle.dumps(splitter))
        assert again(items) == splitter(items), name
        assert again == splitter
        assert repr(splitter).startswith(type(splitter).__name__ + "(")
        assert " at 0x" not in repr(splitter)
    assert repr(RandomSplitter()) == "RandomSplitter(valid_pct=0.2, seed=0)"
    assert repr(FuncSplitter(is_second)) == "FuncSplitter(func=is_second)"
    assert len(repr(IndexSplitter(range(1000)))) < 80


def test_no_splitter_touches_a_global_random_state(tmp_path: Path):
    states: list[Callable[[], object]] = [
        random.getstate,
        lambda: np.random.get_state()[1].tobytes(),
        lambda: torch.get_rng_state().tolist(),
    ]
    before = [state() for state in states]
    for splitter in all_splitters(tmp_path).values():
        splitter(in_folders("train", "valid", "train", "valid", "train"))
    assert [state() for state in states] == before
