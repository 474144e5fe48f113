"""Values inside values: every container that a batch, a prediction or a target may be made of is walked and rebuilt as it was."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from dist_ai.core.nested import is_container, map_tensors, parts, rebuilt, tensors_in


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Record:
    first: Any
    second: Any


A, B = torch.tensor([1.0]), torch.tensor([2.0, 3.0])

CONTAINERS = {
    "tuple": (A, B),
    "list": [A, B],
    "dict": {"first": A, "second": B},
    "ordered dict": OrderedDict(first=A, second=B),
    "numbered": {1: A, 2: B},
    "named tuple": Pair(A, B),
    "dataclass": Record(A, B),
    "transformers' output": SequenceClassifierOutput(loss=A, logits=B),  # type: ignore[arg-type]  # any tensors do
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_taken_apart_and_rebuilt_as_what_it_was(name: str):
    value = CONTAINERS[name]
    assert is_container(value)
    first, second, *_ = parts(value)
    assert first is A
    assert second is B
    again = rebuilt(value, parts(value))
    assert type(again) is type(value)
    assert [tensor.tolist() for tensor in tensors_in(map_tensors(lambda x: x * 2, value))] == [[2.0], [4.0, 6.0]]


@pytest.mark.parametrize("leaf", ["text", b"bytes", 1, None, 2.5, Record, {1, 2}, A], ids=str)
def test_a_leaf_is_its_only_part_and_stays(leaf: Any):
    assert not is_container(leaf)
    assert parts(leaf) == (leaf,)
    assert map_tensors(lambda x: x, leaf) is leaf


def test_another_mapping_becomes_a_dict_and_what_was_given_is_left_alone():
    value = {"a": A}
    assert rebuilt(MappingProxyType(value), [B]) == {"a": B}
    assert rebuilt(value, [B])["a"] is B
    assert value["a"] is A


def test_they_may_be_nested():
    value = {"a": (A, [Record("name", B)]), "b": 3}
    doubled = map_tensors(lambda x: x * 2, value)
    assert doubled["a"][1][0].second.tolist() == [4.0, 6.0]
    assert doubled["a"][1][0].first == "name"
    assert doubled["b"] == 3
    assert tensors_in("no tensor at all") == []
