"""Statistics of data sets of any type: right numbers, bounded cost, readable tables and plots."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import image_folder, small_loaders
from PIL import Image

from dist_ai.core import TabularRow, TensorRegression, TensorSeries, TensorText
from dist_ai.core.vision_types import TensorBBox, TensorMask, TensorPoint
from dist_ai.data import (
    CategoryBlock,
    DataBlock,
    DataLoader,
    DataLoaders,
    IndexSplitter,
    MultiCategoryBlock,
    RegressionBlock,
    TensorData,
    TransformBlock,
    class_counts,
    dataset_stats,
    plot_class_balance,
)
from dist_ai.data.statistics import Moments, measure
from dist_ai.errors import DataError
from dist_ai.vision import ImageBlock, ImageDataLoaders, Normalize, Resize

TREE = [
    {"height": float(i), "kind": "oak" if i % 3 else "$elm$[b]", "note": None if i == 4 else "tall " * i}
    for i in range(1, 11)
]


def trees(target: Any = CategoryBlock, get_y: Any = lambda row: row["kind"], rows: Any = TREE) -> Any:
    block = DataBlock((TransformBlock, target), get_y=get_y, splitter=IndexSplitter([8, 9]))
    return block.datasets(rows)


# ------------------------------------------------------------------------------------ what is said


def test_rows_are_described_column_by_column_with_ranges_and_what_is_missing() -> None:
    stats = dataset_stats(trees())
    train, valid = stats.parts
    assert (train.name, train.num_samples, train.num_looked_at, valid.num_samples) == ("train", 8, 8, 2)
    height = train.facts["input: height"]["value"]
    assert (height["min"], height["median"], height["max"]) == (1, 4.5, 8)
    assert train.facts["input: note"]["kind"] == {"counts": {"str": 7}, "missing": 1}
    assert train.facts["input: note"]["words"]["max"] == 8
    assert stats.classes == {"train": {"$elm$[b]": 2, "oak": 6}, "valid": {"$elm$[b]": 1, "oak": 1}}


def test_the_table_says_it_and_plain_data_are_json() -> None:
    stats = dataset_stats(trees())
    lines = [line.split() for line in repr(stats).splitlines()]
    assert ["samples", "8", "2"] in lines
    assert ["$elm$[b]", "2", "(25.0%)", "1", "(50.0%)"] in lines
    assert ["kind", "str,", "1", "missing", "(12.5%)", "str"] in lines
    plain = json.loads(json.dumps(stats.to_plain()))
    assert plain["train"]["classes"] == {"$elm$[b]": 2, "oak": 6}
    assert plain["valid"]["samples"] == 2


def test_several_labels_numbers_and_numbers_without_names() -> None:
    several = trees(MultiCategoryBlock, lambda row: ["a"] if row["height"] < 4 else ["a", "b"])
    assert class_counts(several) == {"train": {"a": 8, "b": 5}, "valid": {"a": 2, "b": 2}}
    assert dataset_stats(several).parts[0].facts["target"]["labels"]["max"] == 2
    numbers = trees(RegressionBlock, lambda row: row["height"])
    assert dataset_stats(numbers).classes == {}
    assert dataset_stats(numbers).parts[1].facts["target"]["value"]["max"] == 10
    ready = TensorData(torch.rand(6, 4), torch.tensor([0, 1, 1, 2, 2, 2]))
    stats = dataset_stats(ready)
    assert stats.classes == {"all": {"0": 1, "1": 2, "2": 3}}
    assert stats.parts[0].facts["input"]["shape"] == {"counts": {"4": 6}}
    loader = DataLoader(ready, 2, num_workers=0)
    assert dataset_stats(DataLoaders(loader, loader)).classes["valid"] == {"0": 1, "1": 2, "2": 3}
    assert DataLoaders(loader, loader).describe().classes["train"] == {"0": 1, "1": 2, "2": 3}
    many = TensorData(torch.rand(500, 4), torch.arange(500))
    assert dataset_stats(many).classes == {}  # numbers, not classes


@pytest.mark.parametrize(
    ("value", "facts"),
    [
        (3, {"value": 3.0}),
        (float("nan"), {"value": None}),
        (True, {"value": "True"}),
        ("two words", {"characters": 9, "words": 2}),
        ("", {"characters": None}),
        (None, {}),
        (torch.tensor([[1.0, float("nan")]]), {"shape": "1 × 2", "least": 1.0, "greatest": 1.0, "not finite": 1}),
        (torch.zeros(0), {"shape": "0"}),
        (np.arange(3), {"shape": "3", "least": 0.0, "greatest": 2.0, "not finite": 0}),
        (TensorText(torch.arange(7)), {"tokens": 7}),
        (TensorSeries(torch.ones(2, 5)), {"channels": 2, "length": 5, "least": 1.0, "greatest": 1.0, "not finite": 0}),
        (TensorRegression([1.0, 2.0]), {"value 0": 1.0, "value 1": 2.0}),
        (
            TensorMask(torch.tensor([[0, 1, 1, 9]]), codes=["a", "b"]),
            {"height": 1, "width": 4, "pixels": {"a": 1, "b": 2, "9": 1}},
        ),
        (TensorPoint([[1, 2]], canvas_size=(4, 4)), {"points": 1, "least": 1.0, "greatest": 2.0}),
        (TensorBBox(torch.zeros(0, 4), canvas_size=(4, 4)), {"boxes": 0}),
        (object(), {}),
    ],
)  # fmt: skip
def test_the_facts_of_one_value(value: Any, facts: dict[str, Any]) -> None:
    assert measure(value, None) == facts


def test_every_type_and_nesting_is_described_and_printed() -> None:
    odd = [
        None,
        "",
        float("inf"),
        torch.zeros(0),
        {"a": 1, "b": [1]},
        TabularRow(torch.ones(1), torch.ones(2)),
        b"x",
        Path("a"),
        object(),
    ]
    for value in odd:
        assert "samples" in repr(dataset_stats([(value, value)] * 3))
        assert "samples" in repr(dataset_stats([value] * 3))
    mixed = dataset_stats([(value, 0) for value in odd])
    assert mixed.parts[0].num_bad == 0
    assert "samples" in repr(mixed)
    assert "0" in repr(dataset_stats([]))


# ------------------------------------------------------------------------------------ images


def test_images_have_their_sizes_modes_and_what_normalize_takes(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    Image.new("L", (50, 60), 100).save(folder / "train" / "cat" / "0.png")
    dls = small_loaders(folder, item_tfms=Resize(8))
    stats = dls.describe()
    facts = stats.parts[0].facts["input"]
    assert (facts["height"]["min"], facts["height"]["max"], facts["width"]["max"]) == (20, 60, 50)  # before Resize
    assert facts["stored as"] == {"counts": {"PNG RGB": 15, "PNG L": 1}}
    pixels = [np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3) / 255 for file in folder.glob("train/*/*.png")]
    mean, std = stats.channel_stats
    np.testing.assert_allclose(mean, np.concatenate(pixels).mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, np.concatenate(pixels).std(0), rtol=1e-6)
    dls.add_batch_tfms(Normalize(*stats.channel_stats))
    assert stats.classes == {"train": {"cat": 8, "dog": 8}, "valid": {"cat": 8, "dog": 8}}
    with pytest.raises(DataError, match=r"^these samples have no images, so there is no mean and deviation"):
        _ = dataset_stats(trees()).channel_stats


def test_bad_images_are_counted_and_named_and_their_labels_are_not_lost(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    (folder / "train" / "dog" / "3.png").write_bytes(b"")
    stats = small_loaders(folder).describe()
    assert (stats.parts[0].num_bad, stats.parts[1].num_bad) == (1, 0)
    assert stats.classes["train"] == {"cat": 8, "dog": 8}
    assert "cannot be read" in repr(stats)
    assert "dog/3.png cannot be read as an image" in " ".join(repr(stats).split())


def test_moments_are_those_of_all_values_together() -> None:
    parts = [torch.rand(3, 4, 5), torch.rand(3, 7)]
    together = torch.cat([part.flatten(1) for part in parts], 1).double()
    sums = Moments.of(parts[0]) + Moments.of(parts[1])
    assert sums.mean == pytest.approx(together.mean(1).tolist())
    assert sums.std == pytest.approx(together.std(1, correction=0).tolist())


# ------------------------------------------------------------------------------------ what it costs


class Counting:
    """A large data set that takes down what is asked of it."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> tuple[float, int]:
        self.asked.append(i)
        return float(i), i % 2


def test_of_ten_billion_samples_a_few_are_looked_at_the_same_every_time_and_it_is_said() -> None:
    first, second, other = Counting(10**10), Counting(10**10), Counting(10**10)
    stats = dataset_stats(first, max_samples=50)
    dataset_stats(second, max_samples=50)
    dataset_stats(other, max_samples=50, seed=1)
    assert len(set(first.asked)) == 50
    assert first.asked == second.asked
    assert set(first.asked) != set(other.asked)
    assert max(first.asked) > 9 * 10**9
    assert min(first.asked) < 10**9
    assert ["looked", "at", "50"] in [line.split() for line in repr(stats).splitlines()]
    assert stats.num_labels == {"all": 50}


def test_labels_alone_are_made_where_they_can_be_and_images_are_not_read_for_them(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(40)]  # none of them is there
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_y=lambda file: "ab"[len(file) % 2], splitter=IndexSplitter([0, 1])
    )
    stats = dataset_stats(block.datasets(files), max_samples=5)
    assert sum(stats.classes["train"].values()) == 38
    assert (stats.parts[0].num_looked_at, stats.parts[0].num_bad) == (5, 5)


# ------------------------------------------------------------------------------------ the plot


def drawn(figure: Any) -> Any:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return np.asarray(Image.open(file))


def test_the_balance_is_drawn_most_frequent_class_first_with_a_bar_for_each_part() -> None:
    figure = plot_class_balance(trees(), figsize=(5, 4))
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["oak", "$elm$[b]"]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[6, 2], [1, 1]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "valid"]
    assert figure.get_size_inches().tolist() == [5, 4]
    assert drawn(figure).std() > 5


def test_of_many_classes_the_most_frequent_and_the_rarest_are_drawn() -> None:
    rows = [f"{'a very long name of a class ' * 3}{k}" for k in range(100) for _ in range(k + 1)]
    block = DataBlock((TransformBlock, CategoryBlock), splitter=IndexSplitter([0]))
    counts = plot_class_balance(block.datasets([*rows[:1], *rows]), max_classes=10)
    [axes] = counts.axes
    assert [bar.get_width() for bar in axes.containers[0]] == [100, 99, 98, 97, 96, 5, 4, 3, 2, 1]
    assert axes.get_title() == "90 classes between them are left out"
    assert all(len(label.get_text()) <= 30 for label in axes.get_yticklabels())
    assert drawn(counts).shape[1] == 350


def test_without_classes_there_is_no_balance() -> None:
    with pytest.raises(
        DataError, match=r"^the targets of these samples are no classes, so there is no balance of them$"
    ):
        plot_class_balance(trees(RegressionBlock, lambda row: row["height"]))


def test_loaders_from_one_line_are_described_too(tmp_path: Path) -> None:
    dls = ImageDataLoaders.from_folder(image_folder(tmp_path), bs=4, num_workers=0)
    assert plot_class_balance(dls).axes[0].get_xlabel() == "samples"
