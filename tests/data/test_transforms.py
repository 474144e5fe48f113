"""Transforms of every kind of data: labels to class indices and back."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
import torch

from dist_ai.core.transform import Pipeline, Transform
from dist_ai.core.types import TensorCategory
from dist_ai.data import Categorize
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
    for labels, kinds in (([1, "a"], "int, str"), ([0.5, 1.5], "float"), ([None, "a"], "NoneType, str")):
        with pytest.raises(
            DataError, match=f"labels of type {kinds}: expected all str, or all int; turn them into names"
        ):
            learned(labels)


def test_a_vocabulary_that_names_a_class_twice_is_refused():
    with pytest.raises(ConfigError, match="vocab names a, b more than once; each class has one index"):
        Categorize(["a", "b", "a", "c", "b"])
