"""Samples to a batch: the same nesting, and a text that helps where they do not fit."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dist_ai.core.types import TensorCategory
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import DataLoader, Pad, collate
from dist_ai.data.collate import ByElement, structure
from dist_ai.errors import DataError

properties = settings(deadline=None, max_examples=100, derandomize=True)


@dataclass
class Shot:
    picture: torch.Tensor
    label: int


class Pair(NamedTuple):
    x: Any
    y: Any


@pytest.mark.parametrize(
    ("samples", "dtype"),
    [
        ([1, 2], torch.int64),
        ([np.int32(1), 2], torch.int64),
        ([1.0, 2.5], torch.float32),
        ([np.float64(1), 2.5], torch.float32),
        ([True, False], torch.bool),
        ([np.True_, False], torch.bool),
        ([torch.tensor(1, dtype=torch.uint8), torch.tensor(2, dtype=torch.uint8)], torch.uint8),
        ([np.array([1], np.float64), np.array([2], np.float64)], torch.float64),
        ([np.array(3, np.uint8)] * 2, torch.uint8),
    ],
)
def test_numbers_arrays_and_tensors_gain_a_first_dimension(samples: list[Any], dtype: torch.dtype):
    batch = collate(samples)
    assert (batch.dtype, len(batch)) == (dtype, 2)
    assert batch.tolist() == [np.asarray(sample).tolist() for sample in samples]


@properties
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.lists(st.floats(width=32, allow_nan=False), min_size=1)
)
def test_no_number_is_changed(whole: list[int], real: list[float]):
    assert collate(whole).tolist() == whole
    assert collate(real).tolist() == real


def test_semantic_tensors_keep_type_and_metadata():
    image, category = collate(
        [(TensorImage(torch.zeros(1, 2, 2), unit="m"), TensorCategory(torch.tensor(i))) for i in (0, 1)]
    )
    assert (type(image), image.shape, image.unit) == (TensorImage, (2, 1, 2, 2), "m")
    assert (type(category), category.tolist()) == (TensorCategory, [0, 1])


def test_containers_keep_their_shape():
    samples = [{"a": (i, [float(i), "text"]), "b": Pair(torch.tensor(i), b"bytes")} for i in (1, 2)]
    batch = collate(samples)
    assert type(batch["a"]) is tuple
    assert batch["a"][0].tolist() == [1, 2]
    assert type(batch["a"][1]) is list
    assert batch["a"][1][1] == ["text", "text"]
    assert type(batch["b"]) is Pair
    assert batch["b"].y == [b"bytes", b"bytes"]
    assert collate([OrderedDict(b=1, a=2)])["a"].tolist() == [2]
    assert collate([(), ()]) == ()


def test_arrays_that_torch_does_not_take_as_they_are_stack_too():
    backwards = np.arange(6).reshape(2, 3)[:, ::-1]
    assert collate([backwards, backwards]).tolist() == [backwards.tolist()] * 2
    read_only = np.frombuffer(b"\x01\x02", np.uint8)
    assert collate([read_only]).tolist() == [[1, 2]]


def test_the_batch_has_memory_of_its_own():
    array, tensor = np.zeros(2), torch.zeros(2)
    for sample in (array, tensor):
        collate([sample])[0, 0] = 1
    assert array[0] == tensor[0] == 0


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            [torch.zeros(3, 4), torch.zeros(3, 5), torch.zeros(2)],
            "samples of different shapes do not stack into a batch: (2,), (3, 4), (3, 5); give them one size with an item "
            "transform such as Resize",
        ),
        ([np.zeros(1), np.zeros(2)], "samples of different shapes do not stack into a batch: (1,), (2,)"),
        (
            [torch.zeros(1), torch.zeros(1, dtype=torch.int64)],
            "samples of different dtypes do not stack into a batch: torch.float32, torch.int64; make them one",
        ),
        (
            [np.zeros(1), np.zeros(1, np.float32)],
            "samples of different dtypes do not stack into a batch: float32, float64",
        ),
        ([1, 2.5], "samples of different types do not stack into a batch: float, int"),
        ([2.5, 1], "samples of different types do not stack into a batch: float, int"),
        ([1, True], "samples of different types do not stack into a batch: bool, int"),
        ([1, "a"], "samples of different types do not stack into a batch: int, str"),
        ([torch.zeros(1), None], "samples of different types do not stack into a batch: NoneType, Tensor"),
        ([torch.zeros(1), np.zeros(1)], "samples of different types do not stack into a batch: Tensor, ndarray"),
        ([(1, 2), (1, 2, 3)], "samples of different numbers of elements: [2, 3]"),
        ([{"a": 1}, {"a": 1, "b": 2}], "samples with different keys: ('a',), ('a', 'b')"),
        ([{"a": 1}, {"b": 1}], "samples with different keys: ('a',), ('b',)"),
        (
            [Path("a"), Path("b")],
            f"a sample holds a {type(Path('a')).__name__}, which does not stack into a batch; make it a tensor, an array or "
            "a number with a transform, or give DataLoader(collate=...)",
        ),
        (
            [Image.new("L", (2, 2))],
            "a sample holds a Image, which does not stack into a batch; make it a tensor, an array or a number with a transform "
            "(of images: ImageToTensor() as the last of item_tfms, ImageToFloat() as the first of batch_tfms), or give "
            "DataLoader(collate=...)",
        ),
        ([None], "a sample holds a NoneType, which does not stack into a batch"),
        ([np.array(["a"])], "a sample holds a ndarray, which does not stack into a batch"),
    ],
)
def test_samples_that_do_not_fit_say_why(samples: list[Any], message: str):
    for wrapped in (samples, [(0, sample) for sample in samples], [{"deep": [sample]} for sample in samples]):
        with pytest.raises(DataError, match=re.escape(message)):
            collate(wrapped)


def test_padding_keeps_type_and_dtype_and_needs_only_the_first_dimension_to_differ():
    padded = Pad(value=7)([TensorImage(torch.zeros(n, 2, dtype=torch.uint8)) for n in (1, 3)])
    assert (type(padded), padded.dtype, padded.shape) == (TensorImage, torch.uint8, (2, 3, 2))
    assert padded[0].tolist() == [[0, 0], [7, 7], [7, 7]]
    assert Pad()([np.array([True]), np.array([True, True])]).tolist() == [[True, False], [True, True]]
    with pytest.raises(DataError, match="samples of different shapes do not stack into a batch"):
        Pad()([torch.zeros(1, 2), torch.zeros(1, 3)])
    for without in (torch.tensor(1), "text"):
        with pytest.raises(
            DataError, match="has no length to pad; Pad takes tensors and arrays of 1 dimension or more"
        ):
            Pad()([without])


def test_elements_are_collated_each_in_its_way_as_many_as_are_said():
    each = ByElement((Pad(), list))
    assert each([(torch.ones(1),), (torch.ones(2),)])[0].tolist() == [[1, 0], [1, 1]]
    with pytest.raises(
        DataError, match="samples of 3 elements, and of 2 it is said how they are collated; where item_tfms"
    ):
        each([(1, 2, 3)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Shot(torch.zeros(2), 0), Shot(torch.zeros(3), 0)),
        (Shot(torch.zeros(2), 0), (torch.zeros(2), 0)),
        ([1, 2], (1, 2)),
        (Pair(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
    ],
)
def test_samples_have_one_structure_just_where_they_stack(one: Any, other: Any):
    assert structure(one) == structure(one)
    assert structure(one) != structure(other)
    collate([one, one])
    with pytest.raises(DataError, match="do not stack into a batch"):
        collate([one, other])


def test_a_dataclass_of_another_shape_than_most_is_skipped():
    shots = [Shot(torch.zeros(3 if i == 5 else 2), i) for i in range(8)]
    with pytest.warns(UserWarning, match="skipped: sample 5: its structure .* is not that of most samples"):
        seen = [batch.label.tolist() for batch in DataLoader(shots, bs=4, bad_samples="skip", num_workers=0)]
    assert seen == [[0, 1, 2, 3], [4, 6, 7]]
