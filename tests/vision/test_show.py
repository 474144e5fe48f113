"""Showing images with all that may be said about them; what is drawn is read back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dist_ai.vision  # how images are drawn
from dist_ai.core import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.core.show import show_batch, show_results
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorImageBW, TensorMask, TensorPoint

assert dist_ai.vision

PICTURES = TensorImage(torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)))
CATEGORY = TensorCategory(torch.tensor([0, 1]))
CODES = ["sky", "road", "$car$"]
MASKS = TensorMask(torch.zeros(2, 20, 30, dtype=torch.int64), codes=CODES)
MASKS[:, 5:15, 5:15] = 1
MASKS[:, :2] = 255  # stands for no class


def drawn(figure: Any) -> Any:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    return np.asarray(Image.open(file))


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def of(x: Any, y: Any) -> list[tuple[Any, Any]]:
    return list(zip(x, y, strict=True))


@pytest.mark.parametrize(
    ("y", "targets", "predictions", "said", "colors"),
    [
        (CATEGORY, ["cat", "dog"], ["cat", "cat"], ["cat", "cat\nis dog"], ["green", "tab:red"]),
        (
            TensorMultiCategory(torch.eye(2)),
            [["cat", "dog"], []],
            [["cat", "dog"], ["cat"]],
            ["cat; dog", "cat\nis none"],
            ["green", "tab:red"],
        ),
        (TensorRegression([1.0, 2.0]), [1.0, 2.0], [1.0, 1.23456], ["1", "1.235\nis 2"], ["black", "black"]),
        (TensorRegression(torch.rand(2, 2)), [[1.0, 2.0]] * 2, [[1.5, 2.5]] * 2, ["1.5, 2.5\nis 1, 2"] * 2, ["black"] * 2),
    ],
)  # fmt: skip
def test_labels_and_numbers_stand_above_their_images_and_what_is_wrong_is_red(
    y: Any, targets: Any, predictions: Any, said: list[str], colors: list[str]
) -> None:
    figure = show_results(PICTURES, y, of(PICTURES, targets), predictions)
    assert [title.strip() for title in titles(figure)] == said
    assert [axes.title.get_color() for axes in figure.axes] == colors
    assert drawn(figure).std() > 5
    assert len(titles(show_batch(PICTURES, y, of(PICTURES, targets)))) == 2


def test_a_mask_lies_over_its_image_with_a_legend_of_the_classes_that_are_there() -> None:
    figure = show_batch(PICTURES, MASKS, of(PICTURES, MASKS))
    image, mask = figure.axes[0].images
    assert image.get_array().shape == (20, 30, 3)
    over = mask.to_rgba(mask.get_array())
    assert len(np.unique(over[2:, :, :3].reshape(-1, 3), axis=0)) == 2
    assert (mask.get_array()[:2] == len(CODES)).all()  # nothing is drawn where there is no class
    assert mask.cmap(mask.norm(len(CODES)))[3] == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "road"]
    assert drawn(figure).std() > 5
    figure = show_results(PICTURES, MASKS, of(PICTURES, MASKS), list(MASKS.flip(-1)))
    assert titles(figure) == ["target", "prediction"] * 2
    first, second = (axes.images[1].get_array() for axes in figure.axes[:2])
    assert np.array_equal(first, second[:, ::-1])


def test_masks_without_codes_and_of_many_classes_have_a_bounded_legend() -> None:
    many = TensorMask(torch.arange(600).view(1, 20, 30) % 90)
    figure = show_batch(PICTURES[:1], many, of(PICTURES[:1], many))
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[0] == "0"
    assert named[-1] == "22 and 67 more"
    alone = show_batch(MASKS, CATEGORY, of(MASKS, ["a", "b"]))
    assert titles(alone) == ["a", "b"]
    assert len(alone.axes[0].images) == 1
    assert drawn(show_batch(PICTURES[:1], MASKS[:1].bool(), of(PICTURES[:1], MASKS[:1].bool()))).std() > 5


def test_points_are_where_they_are_in_the_image_and_do_not_stretch_it() -> None:
    points = TensorPoint([[[0.5, 0.5], [20, 10], [90, 90], [float("nan"), 1]]] * 2, canvas_size=(20, 30))
    figure = show_batch(PICTURES, points, of(PICTURES, points))
    axes = figure.axes[0]
    assert axes.collections[0].get_offsets()[:2].tolist() == [[0, 0], [19.5, 9.5]]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 29.5), (19.5, -0.5))
    assert titles(show_results(PICTURES, points, of(PICTURES, points), list(points))) == ["target", "prediction"] * 2


@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
def test_boxes_are_drawn_with_their_labels_and_padding_is_not(form: str) -> None:
    numbers = {"XYXY": [2, 4, 12, 10], "XYWH": [2, 4, 10, 6], "CXCYWH": [7, 7, 10, 6]}[form]
    boxes = TensorBBox([[numbers, [0, 0, 0, 0]]] * 2, canvas_size=(20, 30), format=form)
    labels = TensorCategory(torch.tensor([[1, 0], [1, 0]]))
    figure = show_batch(
        PICTURES, (boxes, labels), [(image, box, ["$dog$", "#na#"]) for image, box in of(PICTURES, boxes)]
    )
    axes = figure.axes[0]
    assert [patch.get_bbox().bounds for patch in axes.patches] == [(1.5, 3.5, 10, 6)]
    assert [text.get_text() for text in axes.texts] == ["$dog$"]
    assert axes.get_title() == ""
    assert drawn(figure).std() > 5
    without = show_batch(PICTURES, boxes, of(PICTURES, boxes))
    assert len(without.axes[0].patches) == 1
    none = TensorBBox(torch.zeros(2, 0, 4), canvas_size=(20, 30))
    assert len(show_batch(PICTURES, none, of(PICTURES, none)).axes[0].patches) == 0
    both = show_results(PICTURES, (boxes, labels), [(i, b, ["a", "b"]) for i, b in of(PICTURES, boxes)], list(boxes))
    assert titles(both) == ["target", "prediction"] * 2


def test_an_image_as_a_target_stands_beside_its_input_and_the_prediction_beside_both() -> None:
    figure = show_results(PICTURES, PICTURES, of(PICTURES, PICTURES.flip(-1)), list(PICTURES))
    assert titles(figure) == ["input", "target", "prediction"] * 2
    assert np.allclose(figure.axes[0].images[0].get_array(), figure.axes[1].images[0].get_array()[:, ::-1])
    two = show_batch((PICTURES, TensorImageBW(PICTURES[:, :1])), CATEGORY, [(PICTURES[0], PICTURES[0, :1], "cat")])
    assert titles(two) == ["cat\ninput 0", "input 1"]


@pytest.mark.parametrize(
    ("image", "shape", "between"),
    [
        (torch.rand(3, 1, 1), (1, 1, 3), (0, 1)),
        (torch.full((1, 4, 4), 0.2), (4, 4), (0.2, 0.2)),
        (torch.full((1, 4, 4), 51, dtype=torch.uint8), (4, 4), (0.2, 0.2)),
        (torch.rand(5, 4, 4), (4, 4, 3), (0, 1)),
        (torch.rand(2, 4, 4), (4, 4), (0, 1)),
        (torch.rand(4, 4, 4), (4, 4, 3), (0, 1)),
        (torch.linspace(-3, 5, 48).view(3, 4, 4), (4, 4, 3), (0, 1)),
        (torch.full((3, 4, 4), float("nan")), (4, 4, 3), (0, 0)),
        (torch.arange(48, dtype=torch.int16).view(3, 4, 4) * 100, (4, 4, 3), (0, 1)),
        (torch.rand(3, 1, 1000), (1, 1000, 3), (0, 1)),
        (torch.rand(3, 1000, 1), (1000, 1, 3), (0, 1)),
        (torch.rand(4, 4), (4, 4), (0, 1)),
        (torch.rand(7, 3, 4, 4), (4, 4, 3), (0, 1)),
    ],
)
def test_images_of_any_channels_range_and_shape_are_drawn(
    image: torch.Tensor, shape: tuple[int, ...], between: tuple[float, float]
) -> None:
    batch = TensorImage(image[None])
    figure = show_batch(batch, CATEGORY, [(TensorImage(image), "odd")])
    [axes] = figure.axes
    array = axes.images[0].get_array()
    assert array.shape == shape
    assert between[0] - 1e-6 <= array.min() <= array.max() <= between[1] + 1e-6
    assert axes.images[0].get_clim() == (0, 1)  # a dark grey image is dark
    assert max(drawn(figure).shape) < 400
