"""Transforms of every kind of data: labels to class indices and back."""

from __future__ import annotations

import json
import re
from collections import deque
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dist_ai.core.transform import Pipeline, Transform
from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.data import (
    Categorize,
    CategoryBlock,
    ColReader,
    DataBlock,
    Datasets,
    EncodedMultiCategorize,
    MultiCategorize,
    OneHotEncode,
    RandomSplitter,
    RegressionSetup,
    Table,
    TfmdLists,
    TransformBlock,
)
from dist_ai.errors import ConfigError, DataError


class Pet(StrEnum):
    CAT = "cat"
    DOG = "dog"


def learned(labels: Any) -> Categorize:
    tfm = Categorize()
    tfm.setup(labels)
    return tfm


def test_the_vocabulary_is_the_sorted_labels_of_the_training_items():
    tfm = learned(["dog", "cat", "dog", "Ant"])
    assert tfm.vocab == ["Ant", "cat", "dog"]
    index = tfm("cat")
    assert (type(index), index.dtype, index.shape, index.item()) == (TensorCategory, torch.int64, (), 1)


def test_a_given_vocabulary_keeps_its_order():
    tfm = Categorize(["dog", "cat"])
    tfm.setup(["cat", "bird"])
    assert tfm.vocab == ["dog", "cat"]
    assert tfm("dog") == 0


def test_one_index_decodes_to_a_label_and_several_to_a_list():
    tfm = Categorize(["cat", "dog"])
    assert tfm.decode(tfm("dog")) == "dog"
    assert tfm.decode(TensorCategory(torch.tensor([1, 0, 1]))) == ["dog", "cat", "dog"]
    assert tfm.decode((TensorCategory(torch.tensor(0)), "other")) == ("cat", "other")


@pytest.mark.parametrize(
    ("labels", "vocab"),
    [
        ([7, 3, 7], [3, 7]),
        (list(np.array([7, 3, 7])), [3, 7]),
        (list(np.array(["b", "a"])), ["a", "b"]),
        ([True, False], [False, True]),
        ([Pet.DOG, Pet.CAT], ["cat", "dog"]),
    ],
)
def test_labels_of_any_kind_are_encoded_and_can_be_written_to_a_file(labels: list[Any], vocab: list[Any]):
    tfm = learned(labels)
    assert tfm.vocab == vocab
    assert [tfm(label).item() for label in labels] == [vocab.index(label) for label in labels]
    again = Transform.from_plain(json.loads(json.dumps(tfm.to_plain())))
    assert again == tfm
    assert again(labels[0]) == tfm(labels[0])


def test_the_vocabulary_is_learned_from_what_the_transforms_before_make_of_the_items():
    pipeline = Pipeline([str.lower, Categorize])
    pipeline.setup(["Cat", "dog", "CAT"])
    assert [pipeline(label).item() for label in ("DOG", "cat")] == [1, 0]
    assert pipeline.decode(TensorCategory(torch.tensor([0, 1]))) == ["cat", "dog"]


def test_a_label_that_training_did_not_see_is_refused_with_the_nearest():
    message = "label 'dgo' is not one of the 2 classes of the training items; did you mean 'dog'?"
    with pytest.raises(DataError, match=re.escape(message)):
        Categorize(["cat", "dog"])("dgo")
    with pytest.raises(DataError, match=re.escape("label 5 is not one of the 2 classes of the training items")):
        Categorize(["cat", "dog"])(5)


def test_labels_that_make_no_classes_are_refused_at_set_up():
    for labels, kinds in (([1, "a"], "int, str"), ([0.5, 1.5], "float"), ([(1,), "a"], "str, tuple")):
        with pytest.raises(
            DataError, match=f"labels of type {kinds}: expected all str, or all int; turn them into names"
        ):
            learned(labels)


def test_lists_are_no_labels():
    with pytest.raises(
        DataError, match="a label cannot be a class: unhashable type: 'list'; expected text or a number, and"
    ):
        learned([["a"], ["b"]])


def test_a_vocabulary_that_names_a_class_twice_is_refused():
    with pytest.raises(ConfigError, match="vocab names a, b more than once; each class has one index"):
        Categorize(["a", "b", "a", "c", "b"])


def round_trip(tfm: Transform) -> Transform:
    return Transform.from_plain(json.loads(json.dumps(tfm.to_plain())))


# ------------------------------------------------------------------------------------ one label


def test_classes_may_be_kept_in_the_order_in_which_they_come():
    tfm = Categorize(sort=False)
    tfm.setup(["dog", "cat", "dog", "ant"])
    assert tfm.vocab == ["dog", "cat", "ant"]


def test_with_add_na_missing_and_unseen_labels_are_class_0():
    tfm = Categorize(add_na=True)
    tfm.setup(["dog", None, "cat", float("nan")])
    assert tfm.vocab == ["#na#", "cat", "dog"]
    assert [tfm(label).item() for label in ("dog", "emu", None, float("nan"))] == [2, 0, 0, 0]
    assert round_trip(tfm) == tfm
    assert Categorize(["cat"], add_na=True).vocab == ["#na#", "cat"]


@pytest.mark.parametrize("label", [None, float("nan"), np.float32("nan")])
def test_a_missing_label_is_found_at_set_up_and_names_its_item(label: Any):
    message = re.escape("the label of training item 1 is missing (") + ".*make missing labels a class: add_na=True"
    with pytest.raises(DataError, match=message):
        learned(["cat", label])
    with pytest.raises(DataError, match="the label is missing"):
        Categorize(["cat"])(label)
    rows = Table({"file": ["1.jpg", "2.jpg", "3.jpg"], "kind": ["a", None, "b"]})
    message = "the label of training item 1 (Row(file='2.jpg', kind=None)) is missing (None); fill it"
    with pytest.raises(DataError, match=re.escape(message)):
        Datasets(rows, [[ColReader("kind"), Categorize]], ([0, 1], [2]))


def test_a_label_that_cannot_be_made_names_its_item_at_set_up():
    message = "training item 1 ('b.txt'): KeyError: 'b.txt'"
    with pytest.raises(DataError, match=re.escape(message)):
        Datasets(["a.txt", "b.txt", "c.txt"], [[{"a.txt": "x"}.__getitem__, Categorize]], ([0, 1], [2]))


def test_a_label_may_be_a_tensor_of_one_number_and_an_index_stays_one():
    tfm = Categorize([3, 7])
    assert tfm(torch.tensor(7)) == 1
    assert tfm(TensorCategory(0)) == 0
    with pytest.raises(DataError, match=re.escape("['a'] is no label; expected text or a number, and MultiCategorize")):
        tfm(["a"])


# ------------------------------------------------------------------------------------ several labels


def test_several_labels_become_a_yes_or_no_for_each_class_and_come_back():
    pipeline = Pipeline([OneHotEncode, MultiCategorize])
    pipeline.setup([["sea", "sky"], [], ("sand",), {"sky"}])
    target = pipeline(["sky", "sand"])
    assert (type(target), target.dtype, target.tolist()) == (TensorMultiCategory, torch.float32, [1.0, 0.0, 1.0])
    assert pipeline([]).tolist() == [0.0, 0.0, 0.0]
    assert pipeline(("sea", "sea")).tolist() == [0.0, 1.0, 0.0]
    assert pipeline.decode(target) == ["sand", "sky"]
    assert pipeline.decode(pipeline([])) == []
    assert pipeline.decode(TensorMultiCategory(target > 0)) == ["sand", "sky"]
    again = Pipeline.from_plain(json.loads(json.dumps(pipeline.to_plain())))
    assert again.decode(target) == ["sand", "sky"]
    assert [tfm.num_outputs for tfm in again.tfms] == [3, 3]  # type: ignore[attr-defined]


def test_text_is_no_list_of_labels():
    message = "the target of training item 0 is 'sea sky', a str; expected a list of labels. Text is split by ColReader"
    with pytest.raises(DataError, match=re.escape(message)):
        MultiCategorize().setup(["sea sky"])


def test_an_unseen_label_among_several_is_refused_or_class_0():
    with pytest.raises(
        DataError, match="label 'se' is not one of the 2 classes of the training items; did you mean 'sea'"
    ):
        MultiCategorize(["sea", "sky"])(["sky", "se"])
    tfm = MultiCategorize(["sea", "sky"], add_na=True)
    assert tfm(["sky", "se"]).tolist() == [2, 0]


def test_one_hot_needs_to_know_how_many_classes_there_are():
    with pytest.raises(ConfigError, match="OneHotEncode does not know how many classes there are; put MultiCategorize"):
        OneHotEncode()(TensorCategory([1]))
    with pytest.raises(DataError, match="class index 3, and there are 3 classes, 0 to 2"):
        OneHotEncode(3)(TensorCategory([1, 3]))


@pytest.mark.parametrize("given", [[1, 0, 1], (True, False, True), np.array([1, 0, 1]), torch.tensor([1.0, 0.0, 1.0])])
def test_targets_that_are_encoded_already_are_checked_and_decoded(given: Any):
    tfm = EncodedMultiCategorize(["sea", "sky", "sand"])
    target = tfm(given)
    assert (type(target), target.tolist()) == (TensorMultiCategory, [1.0, 0.0, 1.0])
    assert tfm.decode(target) == ["sea", "sand"]
    assert round_trip(tfm) == tfm


@pytest.mark.parametrize("given", [[1, 0], [1, 0, 2], [1, 0, float("nan")], 1])
def test_targets_that_are_wrongly_encoded_are_refused(given: Any):
    message = (
        f"target {given!r} for 3 classes; expected a 1 or 0 (True or False) for each of them, in the order of vocab"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        EncodedMultiCategorize(["sea", "sky", "sand"])(given)


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("targets", "c", "shape", "shown"),
    [
        ([1, 2.5], 1, (), 1.0),
        ([np.int64(1), 2], 1, (), 1.0),
        ([[1.0], [2.0]], 1, (1,), 1.0),
        ([(1, 2), (3, 4)], 2, (2,), [1.0, 2.0]),
        ([np.array([1, 2, 3])] * 2, 3, (3,), [1.0, 2.0, 3.0]),
    ],
)
def test_numbers_become_float32_and_come_back(targets: Any, c: int, shape: tuple[int, ...], shown: Any):
    tfm = RegressionSetup()
    tfm.setup(targets)
    target = tfm(targets[0])
    assert (type(target), target.dtype, tuple(target.shape)) == (TensorRegression, torch.float32, shape)
    assert (tfm.c, tfm.decode(target)) == (c, shown)
    assert round_trip(tfm) == tfm


def test_the_predictions_of_a_model_with_one_output_are_numbers():
    assert RegressionSetup(1).decode(TensorRegression([0.5])) == 0.5
    assert RegressionSetup(2).decode(TensorRegression([0.5, 1.0])) == [0.5, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_number_that_is_missing_is_found_at_set_up_with_its_item(bad: Any):
    rows = Table({"file": ["1.jpg", "2.jpg", "3.jpg"], "age": np.array([1.0, bad, 2.0], dtype=object)})
    message = "the target of training item 1 (Row(file='2.jpg', age="
    with pytest.raises(DataError, match=re.escape(message)) as error:
        Datasets(rows, [[ColReader("age"), RegressionSetup]], ([0, 1], [2]))
    what = "inf, which is not finite" if bad == float("inf") else "missing (None, or NaN in a table)"
    assert f"is {what}: a model cannot learn from it" in str(error.value)


def test_targets_of_several_lengths_and_of_text_are_refused():
    with pytest.raises(
        DataError, match=re.escape("the target of training item 1 is [1]: 1 number(s), and others have 2")
    ):
        RegressionSetup().setup([[1, 2], [1]])
    with pytest.raises(
        DataError, match="the target of training item 0 is 'old'; expected a number, or a list of numbers"
    ):
        RegressionSetup().setup(["old"])


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["dog", "cat", "dog"]),
        pd.Series(["dog", "cat", "dog"], index=[7, 8, 9]),
        {"dog": 1, "cat": 2}.keys(),
        TfmdLists(["dog", "cat"], []).train,
        deque(["dog", "cat"]),
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_classes_are_learned_from_whatever_has_a_length_and_an_order(labels: Any):
    tfm = Categorize()
    tfm.setup(labels)
    assert tfm.vocab == ["cat", "dog"]


def test_classes_are_learned_from_an_array_of_numbers():
    for labels in (np.array([3, 1, 3]), torch.tensor([3, 1, 3])):
        tfm = Categorize()
        tfm.setup(labels)
        assert tfm.vocab == [1, 3]


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ({"dog", "cat"}, "Categorize cannot learn from a set; it has no order, and processes may disagree about it"),
        (iter(["dog"]), "Categorize cannot learn from a list_iterator; expected items in order, with a length: a list"),
        (TfmdLists(["dog"], []), "Categorize cannot learn from a TfmdLists; expected items in order"),
        (pd.DataFrame({"label": ["dog"]}), "Categorize cannot learn from a DataFrame; expected items in order"),
        ({"dog": 1}, "Categorize cannot learn from a dict; expected items in order"),
    ],
    ids=["set", "iterator", "TfmdLists", "table", "dict"],
)
def test_what_no_class_can_be_learned_from_is_refused_instead_of_learning_nothing(items: Any, text: str):
    with pytest.raises(ConfigError, match=re.escape(text)):
        Categorize().setup(items)


def sizes(ordered: bool) -> pd.DataFrame:
    labels = pd.Categorical(["small", "large", None, "small"], ["small", "medium", "large"], ordered=ordered)
    return pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "size": labels})


def classes_of(frame: pd.DataFrame, **options: Any) -> list[str]:
    tfms = [[ColReader("x")], [ColReader("size"), Categorize(**options)]]
    return Datasets(frame, tfms, ([0, 1], [3])).pipelines[1].tfms[1].vocab


def test_the_classes_of_a_categorical_column_are_in_its_order_if_that_means_something_or_none_is_asked_for():
    assert classes_of(sizes(ordered=True)) == ["small", "medium", "large"]
    assert classes_of(sizes(ordered=True), add_na=True) == ["#na#", "small", "medium", "large"]
    assert classes_of(sizes(ordered=False), sort=False) == ["small", "medium", "large"]
    assert classes_of(sizes(ordered=False)) == ["large", "small"]
    block = DataBlock(
        (TransformBlock, CategoryBlock), get_x=ColReader("x"), get_y=ColReader(1), splitter=RandomSplitter(0.4)
    )
    dsets = block.datasets(sizes(ordered=True).dropna())
    assert dsets.pipelines[1].tfms[-1].vocab == ["small", "medium", "large"]


def test_a_categorical_of_pandas_is_a_vocabulary():
    labels = sizes(ordered=False)["size"]
    for vocab in (labels, labels.array, labels.dtype):
        assert Categorize(vocab).vocab == ["small", "medium", "large"]
        assert CategoryBlock(vocab).type_tfms[0].vocab == ["small", "medium", "large"]
    assert CategoryBlock(np.array(["b", "a"])).type_tfms[0].vocab == ["b", "a"]
