"""What of the data ranks compare: that it is told without a read, and alike wherever the files lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_ai.data import DataBlock, DataLoader, DataLoaders, TensorData
from dist_ai.data.block import CategoryBlock, TransformBlock
from dist_ai.data.sameness import facts_of_loader
from dist_ai.tabular import TabularDataLoaders


def samples(loader: Any) -> dict[str, str]:
    return {name: each for name, each in facts_of_loader(loader, "training").items() if "sample " in name}


def test_items_of_lists_are_told_and_files_wherever_they_lie() -> None:
    def of(root: str) -> dict[str, str]:
        block = DataBlock(
            (TransformBlock, CategoryBlock), get_y=lambda file: file.parent.name, splitter=lambda x: (range(3), [3])
        )
        files = [Path(root, "ab"[number % 2], f"{number}.jpg") for number in range(4)]
        return samples(block.datasets(files).dataloaders(bs=2, num_workers=0).train)

    assert (
        of("/here")
        == of("/mnt/there/photos")
        == {
            "training sample 0": "0.jpg",
            "training sample 1": "1.jpg",
            "training sample 2": "2.jpg",
        }
    )


def test_rows_of_a_table_are_told_as_they_were() -> None:
    frame = pd.DataFrame({"age": [30.0, 40.0, 50.0, 60.0], "sex": list("mfmf"), "rich": list("yynn")})
    dls = TabularDataLoaders.from_df(frame, cat_names="sex", cont_names="age", y_names="rich", valid_idx=[3], bs=2)
    assert samples(dls.train)["training sample 0"] == "(30, m, y)"


@given(st.integers(0, 9), st.sampled_from([torch.float64, torch.bfloat16, torch.int64, torch.bool]))
def test_tensors_that_differ_anywhere_in_a_sample_differ(place: int, dtype: torch.dtype) -> None:
    tensor = torch.zeros(1, 10, dtype=dtype)
    other = tensor.clone()
    other[0, place] = 1
    one, another, again = (samples(DataLoader(TensorData(each), 1)) for each in (tensor, other, tensor.clone()))
    assert one == again != another


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (None, "None"),
        (np.float32(1.5), "1.5"),
        ("/scratch/node 3/a.jpg", "a.jpg"),
        ("data/a.jpg", "a.jpg"),
        ("good / bad, all in one", "good / bad, all in one"),
        (torch.tensor(3), "int64 () 3"),
        (torch.full((2, 2), 0.5), "float32 (2, 2) of mean 0.5, deviation 0"),
        (torch.eye(2).to_sparse(), "float32 (2, 2)"),
        (torch.empty(2, device="meta"), "float32 (2,)"),
        (np.array([1, 2], np.int32), "int32 (2,) "),
        (np.arange(6.0)[::-2], "float64 (3,) of mean 3, deviation 1.63"),
        (torch.tensor([1.0, -1.0, 1e-9]), "float32 (3,) of mean 0, deviation 0.816"),
        (torch.zeros(0), "float32 (0,)"),
        (b"ab", "2 bytes fb8e20fc"),
        ("x" * 70, "x" * 40 + "… 6e6f9d2f"),
        ({"a": [1, 2.5]}, "((1, 2.5))"),
        (object, "type"),
    ],
)
def test_a_sample_in_a_line(sample: Any, told: str) -> None:
    assert samples(DataLoader([sample], 1, collate=list))["training sample 0"].startswith(told[:40])


def test_what_reads_is_not_asked() -> None:
    class Costly:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            raise AssertionError("read")

    class Lazy(list):  # type: ignore[type-arg]  # of anything
        def __getitem__(self, index: Any) -> Any:
            raise AssertionError("read")

    assert samples(DataLoader(Costly(), 2)) == samples(DataLoader(Lazy([1, 2]), 2)) == {}
    assert DataLoaders(DataLoader(Costly(), 2), None).facts()["the number of training samples"] == 4


def test_what_another_processor_rounds_otherwise_is_the_same() -> None:
    numbers = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    one, other = (samples(DataLoader(TensorData(each), 1)) for each in (numbers, torch.nextafter(numbers, numbers + 1)))
    assert one == other
