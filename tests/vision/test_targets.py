"""Targets beside an image: boxes with labels, masks, points, another image; the same on any number of ranks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dist_ai.core.types import TensorCategory, plain
from dist_ai.core.vision_types import TensorBBox, TensorImage
from dist_ai.data import DataBlock, DataLoaders, IndexSplitter
from dist_ai.data.transforms import NA
from dist_ai.errors import BadSampleError, ConfigError, DataError
from dist_ai.vision import (
    BBoxBlock,
    BBoxLblBlock,
    DetectionDataLoaders,
    Flip,
    ImageBlock,
    PointBlock,
    PointDataLoaders,
    RandomCrop,
    Resize,
    Zoom,
    get_annotations,
    read_voc,
)
from dist_ai.vision.boxes import ToBoxes

HEIGHT, WIDTH = 60, 80


def picture(i: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8)


def boxes(i: int) -> list[list[float]]:
    return [[8, 6, 24, 30], [40, 12, 80, 60], [0, 0, 4, 4]][: i % 4]


def labels(i: int) -> list[str]:
    return ["tree", "house", "tree"][: i % 4]


def loaders(get_boxes: Any = boxes, get_labels: Any = labels, bs: int = 4, **options: Any) -> DataLoaders:
    block = DataBlock(
        (ImageBlock, BBoxBlock, BBoxLblBlock),
        get_x=picture,
        get_y=[get_boxes, get_labels],
        n_inp=1,
        splitter=IndexSplitter([8, 9]),
        **options,
    )
    return block.dataloaders(list(range(10)), bs=bs, num_workers=0, seed=3)


# ------------------------------------------------------------------------------------ boxes


def test_boxes_and_labels_of_a_batch_are_filled_up_with_no_boxes_of_no_class() -> None:
    dls = loaders(item_tfms=Resize((30, 40), "squish"))
    assert (dls.vocab, dls.recipe.num_outputs) == ([NA, "house", "tree"], 3)
    images, found, classes = dls.one_batch()
    assert (type(found), type(classes), found.canvas_size) == (TensorBBox, TensorCategory, (30, 40))
    for image, some, kinds in zip(images, plain(found), plain(classes), strict=True):
        i = round(float(image[0, 0, 0]) * 255 / 20)
        n = i % 4
        assert some[:n].tolist() == [[side / 2 for side in box] for box in boxes(i)]
        assert [dls.vocab[k] for k in kinds[:n].tolist()] == labels(i)
        assert not some[n:].any()
        assert not kinds[n:].any()


def test_decoded_samples_have_their_boxes_and_names_without_the_padding() -> None:
    dls = loaders()
    batch = dls.one_batch()
    for image, found, names in dls.recipe.decode_batch(batch):
        i = round(float(image[0, 0, 0]) * 255 / 20)
        assert plain(found).tolist() == boxes(i)
        assert names == labels(i)
    dls.show_batch()


def test_images_without_a_box_make_a_batch_too() -> None:
    dls = loaders(lambda i: [], lambda i: [], item_tfms=Resize(16), batch_tfms=[Flip(), Zoom()])
    _, found, classes = dls.one_batch()
    assert (tuple(found.shape), tuple(classes.shape)) == ((4, 0, 4), (4, 0))


def test_what_a_crop_cuts_away_is_left_out_with_its_label() -> None:
    dls = loaders(item_tfms=RandomCrop((30, 30)))
    # In validation the middle: 25..55 across and 15..45 down. Image 8 has no box, and image 9 a tree that lies outside.
    _, found, classes = dls.valid.one_batch()
    assert (tuple(found.shape), tuple(classes.shape)) == ((2, 0, 4), (2, 0))
    *_, house = dls.test_dl([2], with_labels=True, num_workers=0).one_batch()
    assert [dls.vocab[k] for k in house.flatten().tolist()] == ["house"]


def test_boxes_end_where_the_image_does_and_those_outside_are_left_out_whatever_else_is_done() -> None:
    def across(i: int) -> list[list[float]]:
        return [[-8, 6, 24, 90], [200, 200, 220, 220]]

    for size, item_tfms in ((1, []), (2, Resize((HEIGHT // 2, WIDTH // 2)))):
        dls = loaders(across, lambda i: ["tree", "house"], item_tfms=item_tfms)
        _, found, classes = dls.one_batch()
        assert plain(found).tolist() == [[[0, 6 / size, 24 / size, 60 / size]]] * 4
        assert {dls.vocab[k] for k in classes.flatten().tolist()} == {"tree"}


def test_what_a_function_of_boxes_and_labels_returned_is_shown_if_it_is_neither() -> None:
    def only_boxes(file: Path) -> Any:
        return [[1, 2, 3, 4]]

    with pytest.raises(
        DataError,
        match=r"only_boxes fails on the first .* label_func returned \[\[1, 2, 3, 4\]\]; expected \(boxes, labels\)",
    ):
        DetectionDataLoaders.from_label_func("", ["a.png", "b.png", "c.png"], only_boxes, valid_pct=0.4)


def test_what_a_batch_transform_moves_out_of_the_image_becomes_padding() -> None:
    dls = loaders(lambda i: [[0, 0, 4, 4]], lambda i: ["tree"], batch_tfms=Zoom(3.0, 3.0, p=1.0))
    seen = 0
    for _, found, classes in dls.train:
        gone = ~(plain(found)[..., 2:] > plain(found)[..., :2]).all(-1)
        seen += int(gone.sum())
        assert not plain(found)[gone].any()
        assert not plain(classes)[gone].any()
        assert plain(classes)[~gone].all()
    assert seen


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("here", "target 'here': expected boxes, a list of four numbers each"),
        ([[1, 2, 3]], "expected boxes, a list of four finite numbers each"),
        ([[1, 2, 3, float("inf")]], "expected boxes, a list of four finite numbers each"),
        (
            [[0, 0, 1, 1], [9, 2, 3, 4]],
            "box 1 of target [[0, 0, 1, 1], [9, 2, 3, 4]] ends before it begins, [9.0, 2.0, 3.0",
        ),
    ],
)
def test_boxes_that_are_none_are_named(given: Any, text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        ToBoxes()(given)


def test_boxes_in_another_format_are_corners_afterwards() -> None:
    for format, given in (("xyxy", [4, 6, 10, 8]), ("xywh", [4, 6, 6, 2]), ("cxcywh", [7, 7, 6, 2])):
        assert plain(ToBoxes(format)([given])).tolist() == [[4, 6, 10, 8]]
    with pytest.raises(
        ConfigError, match=re.escape("ToBoxes(format='xyhw'): expected one of 'xyxy', 'xywh', 'cxcywh'")
    ):
        BBoxBlock("xyhw")


def test_as_many_labels_as_boxes_are_needed() -> None:
    with pytest.raises(DataError, match=re.escape("1 box(es) and 2 label(s); expected a label for each box")):
        loaders(lambda i: [[0, 0, 4, 4]], lambda i: ["tree", "house"], item_tfms=Resize(8)).one_batch()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_boxes_and_points_in_images_of_extreme_shapes(size: tuple[int, int]) -> None:
    height, width = size
    block = DataBlock(
        (ImageBlock, BBoxBlock, BBoxLblBlock(["tree"]), PointBlock),
        get_x=lambda i: np.zeros((height, width, 3), np.uint8),
        get_y=[lambda i: [[0, 0, width, height]], lambda i: ["tree"], lambda i: [(width + 5, -3)]],
        n_inp=1,
        item_tfms=Resize(8, "squish"),
        batch_tfms=[Flip(1.0)],
    )
    _, found, _, points = block.dataloaders(list(range(10)), bs=4, num_workers=0).one_batch()
    torch.testing.assert_close(plain(found), torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]).expand(4, 1, 4))
    assert (plain(points).abs() > 1).all()  # outside, and told so


# ------------------------------------------------------------------------------------ annotation files


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(6):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png")
    return tmp_path


def rows() -> list[dict[str, Any]]:
    found = []
    for i in range(6):
        for (left, top, right, bottom), label in zip(boxes(i), labels(i), strict=True):
            found.append(
                {"image_path": f"{i}.png", "xmin": left, "ymin": top, "xmax": right, "ymax": bottom, "label": label}
            )
        if not boxes(i):
            found.append(
                {"image_path": f"{i}.png", "xmin": None, "ymin": None, "xmax": None, "ymax": None, "label": None}
            )
    return found


def coco(folder: Path) -> Path:
    annotations = [
        {"image_id": i, "category_id": 7 if label == "tree" else 2, "bbox": [a, b, c - a, d - b]}
        for i in range(6)
        for (a, b, c, d), label in zip(boxes(i), labels(i), strict=True)
    ]
    crowd = {"image_id": 0, "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    file = folder / "coco.json"
    data = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(6)],
        "categories": [{"id": 2, "name": "house"}, {"id": 7, "name": "tree"}],
        "annotations": [*annotations, crowd],
    }
    file.write_text(json.dumps(data))
    return file


def voc(folder: Path) -> None:
    for i in range(6):
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
            "</object>"
            for (a, b, c, d), label in zip(boxes(i), labels(i), strict=True)
        )
        (folder / f"{i}.xml").write_text(f"<annotation>{objects}</annotation>")


def test_coco_voc_and_tables_of_the_same_boxes_give_the_same_loaders(photos: Path) -> None:
    voc(photos)
    options: dict[str, Any] = {"bs": 6, "num_workers": 0, "seed": 1, "valid_pct": 0.4}
    files = [f"{i}.png" for i in range(6)]
    made = [
        DetectionDataLoaders.from_coco(photos, coco(photos), **options),
        DetectionDataLoaders.from_df(pd.DataFrame(rows()), photos, **options),
        DetectionDataLoaders.from_df(rows(), photos, **options),
        DetectionDataLoaders.from_label_func(
            photos, files, lambda file: read_voc(file.with_suffix(".xml")), vocab=["house", "tree"], **options
        ),
    ]
    found = []
    for dls in made:
        assert dls.vocab == [NA, "house", "tree"]
        samples = [sample for loader in dls for batch in loader for sample in dls.recipe.decode_batch(batch)]
        found.append(sorted((round(float(x[0, 0, 0]) * 255), b.tolist(), n) for x, b, n in samples))
    expected = [(20 * i, boxes(i), labels(i)) for i in range(6)]
    assert found == [expected] * len(made)


def test_annotations_that_are_none_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(DataError, match=f"no file of annotations at {file}"):
        get_annotations(file)
    file.write_text('{"images": []}')
    with pytest.raises(DataError, match=r"a.json is no COCO file of boxes: KeyError: 'categories'; expected JSON with"):
        get_annotations(file)
    file.write_text("<annotation><object><name>tree</name></object></annotation>")
    with pytest.raises(BadSampleError, match=r"a.json is no Pascal VOC file of boxes: an object without bndbox/xmin"):
        read_voc(file)
    with pytest.raises(DataError, match="no column 'xmin'; there are image_path, x"):
        DetectionDataLoaders.from_df([{"image_path": "a", "x": 1}], tmp_path)


# ------------------------------------------------------------------------------------ points and images


def test_points_that_a_function_finds(photos: Path) -> None:
    files = [f"{i}.png" for i in range(6)]
    dls = PointDataLoaders.from_label_func(
        photos, files, lambda file: [(40, 30), (0, 0)], item_tfms=Resize(16, "squish"), bs=4, num_workers=0
    )
    _, points = dls.one_batch()
    assert plain(points)[0].tolist() == [[0.0, 0.0], [-1.0, -1.0]]
    assert dls.recipe.num_outputs == 4


def test_an_image_may_be_the_target_of_an_image() -> None:
    block = DataBlock(
        (ImageBlock, ImageBlock),
        get_x=picture,
        get_y=lambda i: 255 - picture(i),
        item_tfms=Resize(16),
        batch_tfms=[Flip(0.5)],
    )
    dls = block.dataloaders(list(range(10)), bs=4, num_workers=0)
    x, y = dls.one_batch()
    assert type(x) is type(y) is TensorImage
    torch.testing.assert_close(plain(y), 1 - plain(x))
    dls.show_batch()
