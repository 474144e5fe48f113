"""Data sets: items seen through one pipeline for each element of the sample."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from dist_ai.core.transform import Transform
from dist_ai.data import (
    Categorize,
    ColReader,
    DataLoader,
    Datasets,
    ShuffledOrder,
    Subset,
    TensorData,
    TfmdLists,
    class_counts,
    dataset_stats,
)
from dist_ai.errors import DataError


@dataclass
class MarkTraining(Transform):
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: str):
        return x + " (train)"


@pytest.fixture
def datasets() -> Datasets:
    items = ["a1", "b2", "c3", "a4"]
    return Datasets(items, [[str.upper, MarkTraining], [lambda s: s[0], Categorize]], ([0, 1, 3], [0, 1]))


def test_a_sample_is_what_each_pipeline_makes_of_its_item(datasets: Datasets):
    assert len(datasets.train) == 3
    assert datasets.train[2] == ("A4 (train)", torch.tensor(0))
    assert [x for x, _ in datasets.train] == ["A1 (train)", "B2 (train)", "A4 (train)"]


def test_each_part_runs_the_transforms_of_its_split(datasets: Datasets):
    assert (datasets.train.split_idx, datasets.valid.split_idx) == (0, 1)
    assert [x for x, _ in datasets.valid] == ["A1", "B2"]


def test_transforms_are_set_up_on_the_training_part_only():
    dsets = Datasets(["a", "b", "z"], [[], [Categorize]], ([0, 1], [2]))
    assert dsets.pipelines[1].tfms[0].vocab == ["a", "b"]
    with pytest.raises(DataError, match="label 'z' is not one of the 2 classes of the training items"):
        dsets.valid[0]


def test_there_may_be_further_parts_which_see_the_transforms_of_validation():
    dsets = Datasets(["a", "b", "c"], [[MarkTraining]], ([0], [1], [2]))
    assert [subset[0] for subset in dsets.subsets] == [("a (train)",), ("b",), ("c",)]
    assert (dsets.train, dsets.valid) == tuple(dsets.subsets[:2])


def test_rows_of_a_data_frame_are_items_by_their_place_and_not_by_their_index():
    frame = pd.DataFrame({"x": [1.5, 2.5, 3.5], "y": ["a", "b", "a"]}, index=[2, 0, 1])
    dsets = Datasets(frame, [[ColReader("x")], [ColReader("y"), Categorize]], ([0, 1], [2]))
    assert dsets.valid[0] == (3.5, torch.tensor(0))


def test_an_impossible_split_is_explained():
    with pytest.raises(DataError, match="index 4 in the validation part of the split, and the items are 0 to 2"):
        Datasets(list("abc"), [[]], ([0], [4]))
    with pytest.raises(DataError, match="the validation part of the split is empty"):
        Datasets(list("abc"), [[]], ([0], []))


def test_setting_up_holds_one_item_at_a_time():
    alive: list[Any] = []

    class Items:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> str:
            item = Big("a")
            alive.append(weakref.ref(item))
            assert sum(each() is not None for each in alive) <= 2
            return item

    Datasets(Items(), [[lambda item: str(item)], [str, Categorize]], (range(90), range(90, 100)))
    assert len(alive) >= 90


class Big(str):
    """A string that can be referred to weakly."""


def test_the_item_behind_a_sample_can_be_asked_for(datasets: Datasets):
    assert datasets.train.item(2) == "a4"
    assert Subset(["x", "y"], [1], [], split_idx=1).item(0) == "y"


def test_a_part_has_its_own_items_untransformed_and_none_of_another_part(datasets: Datasets):
    for part, indices in zip(datasets.subsets, datasets.splits, strict=True):
        assert list(part.items) == [datasets.items[i] for i in indices] == [part.item(i) for i in range(len(part))]
        assert part.items[:1] == [part.item(0)]
    assert repr(datasets.valid) == f"Subset({len(datasets.valid)} of {len(datasets)} items)"


def test_a_part_knows_the_classes(datasets: Datasets):
    assert datasets.valid.vocab == datasets.train.vocab == datasets.vocab


def test_an_index_outside_is_an_index_error(datasets: Datasets):
    with pytest.raises(IndexError):
        datasets.train[3]
    assert len(list(datasets.valid)) == 2


def test_tensors_give_samples_and_whole_batches():
    data = TensorData(torch.arange(12).view(6, 2), torch.arange(6))
    assert len(data) == 6
    assert [part.tolist() for part in data[4]] == [[8, 9], 4]
    assert [part.tolist() for part in data.fetch(torch.tensor([5, 0, 5]))] == [[[10, 11], [0, 1], [10, 11]], [5, 0, 5]]
    assert all(torch.equal(a, b) for a, b in zip(data.fetch(torch.tensor([2, 3])), data[2:4], strict=True))


class OnAnotherDevice(torch.Tensor):
    """As on a GPU: indices must be where the tensor is."""

    def index_select(self, dim: int, indices: torch.Tensor) -> torch.Tensor:
        assert indices.device == self.device, "indices and tensor are on different devices"
        return super().index_select(dim, indices)


def test_tensors_on_another_device_are_fetched_there():
    data = TensorData(torch.zeros(6, 2, device="meta").as_subclass(OnAnotherDevice), torch.arange(6))
    x, y = data.fetch(torch.tensor([5, 0]))
    assert (x.device.type, x.shape, y.tolist()) == ("meta", (2, 2), [5, 0])


@pytest.mark.parametrize(
    ("lengths", "text"),
    [((3, 2), "tensors of 3, 2 rows"), ((), "tensors of none rows"), ((1, 1, 4), "tensors of 1, 1, 4")],
)
def test_tensors_need_as_many_rows_each(lengths: tuple[int, ...], text: Any):
    with pytest.raises(DataError, match=re.escape(text) + ".*expected at least one tensor, and as many rows in each"):
        TensorData(*(torch.zeros(length) for length in lengths))


# ------------------------------------------------------------------------------------ one pipeline for the whole sample


@dataclass
class PairUp(Transform):
    """An item and the next one, and whether they begin alike."""

    def encodes(self, x: str):
        other = x[0] + str(int(x[1]) + 1)
        return x, other, x[0] == other[0]


def test_one_pipeline_makes_a_whole_sample_and_learns_from_the_training_part():
    labels = TfmdLists(["a1", "b2", "z9"], [lambda x: x[0], Categorize], ([0, 1], [1, 2]))
    assert labels.pipeline.tfms[-1].vocab == ["a", "b"]
    with pytest.raises(DataError, match="label 'z' is not one of the 2 classes"):
        labels.valid[1]
    pairs = TfmdLists(["a1", "b2", "c3"], [PairUp], ([0, 2], [1]))
    assert [len(part) for part in pairs.subsets] == [2, 1]
    assert pairs.train[1] == ("c3", "c4", True)
    assert pairs.valid[0] == ("b2", "b3", True)
    assert pairs.valid.item(0) == "b2"
    assert [pair[0] for pair in pairs.train] == ["a1", "c3"]


def test_transforms_of_one_pipeline_run_by_the_part_and_can_be_undone():
    lists = TfmdLists(["a", "b"], [MarkTraining], ([0, 1], [1]))
    assert (lists.train[1], lists.valid[0]) == ("b (train)", "b")
    labels = TfmdLists(["cat", "dog"], [Categorize])
    assert labels.decode(labels.train[1]) == "dog"
    with pytest.raises(
        DataError, match=r"there is no validation part: no splits were given; give TfmdLists\(splits=...\)"
    ):
        _ = labels.valid


def test_one_pipeline_needs_items():
    with pytest.raises(DataError, match="no items; there is nothing to learn from"):
        TfmdLists([], [Categorize])


def test_a_sample_is_decoded_element_by_element(datasets: Datasets):
    sample = datasets.valid[1]
    assert datasets.decode(sample) == ("B2", "b")
    assert datasets.decode(sample[:1]) == ("B2",)


class ReadBest(list[str]):
    """Items that have an order in which they are read best."""

    def order_of(self, indices: Any, shuffle: bool) -> Any:
        return ShuffledOrder(len(indices)) if shuffle else None


def test_parts_of_one_pipeline_are_read_in_the_order_that_their_items_are_read_best_in():
    lists = TfmdLists(ReadBest("abcd"), [str.upper], ([0, 1, 2], [3]))
    order = lists.train.loading_order(True)
    assert DataLoader(lists.train, bs=2, shuffle=True, num_workers=0).order is not None
    assert (len(order), lists.valid.loading_order(False)) == (3, None)


def test_an_error_at_set_up_names_the_training_item_and_not_the_one_of_its_number_in_all():
    for make in (
        lambda: TfmdLists(["a", "b", None], [Categorize], ([2, 0], [1])),
        lambda: Datasets(["a", "b", None], [[Categorize]], ([2, 0], [1])),
    ):
        with pytest.raises(DataError, match=r"the label of training item 0 \(None\) is missing"):
            make()


def test_samples_made_by_one_pipeline_are_described_element_by_element():
    lists = TfmdLists(["a", "bb", "a"], [lambda text: (float(len(text)), len(text))], ([0, 1], [2]))
    stats = dataset_stats(lists.train)
    assert list(stats.parts[0].facts) == ["input", "target"]
    assert class_counts(lists.train) == {"train": {"1": 1, "2": 1}}


def test_without_splits_all_items_are_for_training():
    dsets = Datasets(["a1", "b2", "c3"], [[str.upper, MarkTraining], [lambda s: s[0], Categorize]])
    assert [x for x, _ in dsets.train] == ["A1 (train)", "B2 (train)", "C3 (train)"]
    assert dsets.pipelines[1].tfms[1].vocab == ["a", "b", "c"]
    with pytest.raises(
        DataError, match=r"there is no validation part: no splits were given; give Datasets\(splits=...\)"
    ):
        dsets.valid  # noqa: B018
    dls = dsets.dataloaders(bs=3, num_workers=0)
    assert dls.valid is None
    assert dls.train.num_samples == 3
    with pytest.raises(DataError, match="no items; there is nothing to learn from"):
        Datasets([], [[]])


def test_a_data_set_as_a_whole_has_all_items_without_what_is_for_one_part(datasets: Datasets):
    assert len(datasets) == 4
    with pytest.raises(DataError, match="label 'c' is not one of the 2 classes"):  # of an item of neither part
        datasets[2]
    assert datasets[0] == datasets[-4] == ("A1", torch.tensor(0))
    assert [x for x, _ in datasets[[0, 1]]] == ["A1", "B2"]
    labels = TfmdLists(["a", "b", "c"], [str.upper, MarkTraining], splits=([0, 1], [2]))
    assert (len(labels), labels[0], labels[1:], labels.train[:1]) == (3, "A", ["B", "C"], ["A (train)"])
    with pytest.raises(IndexError):
        labels[3]


def test_slices_and_lists_of_indices_give_lists_of_samples(datasets: Datasets):
    train = datasets.train
    assert train[:2] == [train[0], train[1]]
    assert train[[0, 2]] == train[np.array([0, 2])] == train[torch.tensor([0, 2])] == [train[0], train[2]]
    assert train[::-1] == [train[2], train[1], train[0]]
    assert train[5:] == []


def test_loaders_of_data_sets_take_all_elements_but_the_last_for_inputs():
    dsets = Datasets([1.0, 2.0, 3.0], [[], [lambda x: 2 * x], [lambda x: 3 * x]], ([0, 1], [2]))
    dls = dsets.dataloaders(bs=2, num_workers=0)
    assert dls.n_inp == 2
    assert [each.tolist() for each in next(iter(dls.valid))] == [[3.0], [6.0], [9.0]]
    assert Datasets([1.0], [[]]).dataloaders(num_workers=0).n_inp == 1
    assert dsets.dataloaders(n_inp=1, num_workers=0).n_inp == 1


def test_loaders_of_samples_that_one_pipeline_makes_have_all_but_their_last_element_as_inputs():
    pairs = TfmdLists(
        list(range(20)),
        [lambda i: (torch.tensor([i]), torch.tensor([i + 1]), i % 2)],
        splits=(range(16), range(16, 20)),
    )
    dls = pairs.dataloaders(bs=4, num_workers=0)
    assert dls.n_inp == 2
    assert [len(dls.train), len(dls.valid)] == [4, 1]  # type: ignore[arg-type]  # there are both
    first, second, label = dls.one_batch()
    assert (second - first).tolist() == [[1]] * 4
    assert (first[:, 0] % 2 == label).all()
    alone = TfmdLists(["a", "bb"], [len]).dataloaders(bs=2, num_workers=0)
    assert (alone.n_inp, alone.valid, sorted(alone.one_batch().tolist())) == (1, None, [1, 2])


def test_it_says_what_it_is_made_of_and_what_others_ask_of_it_is_called_here(datasets: Datasets):
    assert repr(datasets) == "Datasets(4 items: 3 for training, 2 for validation)"
    labels = TfmdLists(["a", "b", "c"], [str.upper], splits=([0], [1], [2]))
    assert repr(labels) == "TfmdLists(3 items: 1 for training, 1 for validation, 1 in part 2)"
    with pytest.raises(AttributeError, match=r"a Datasets has no attribute 'subset'; here it is subsets\[i\]"):
        datasets.subset(1)  # type: ignore[attr-defined]  # wrong on purpose
    with pytest.raises(
        AttributeError, match=r"a TfmdLists has no attribute 'show'; loaders draw samples: dls\.show_batch"
    ):
        labels.show(0)  # type: ignore[attr-defined]  # wrong on purpose
