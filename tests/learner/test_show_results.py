"""Targets beside predictions, for every kind of target; each prediction undone as its target is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy import make_learner

from dist_ai.data import (
    CategoryBlock,
    DataBlock,
    EndSplitter,
    ItemGetter,
    MultiCategoryBlock,
    RegressionBlock,
    TransformBlock,
)
from dist_ai.errors import ConfigError, DataError
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.vision import ImageBlock, MaskBlock, Normalize, PointBlock, Resize, imagenet_stats

SIZE = 16
PICTURES = [Image.fromarray(np.full((20, 20, 3), 20 * i, np.uint8)) for i in range(10)]


class Always(nn.Module):
    """A model that gives the same output for every sample."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.as_tensor(output, dtype=torch.float32))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.output.expand(len(inputs[0]), *self.output.shape)


def learner(target: Any, targets: list[Any], output: Any, **options: Any) -> Learner:
    block = DataBlock(
        (ImageBlock, target),
        getters=[ItemGetter(0), ItemGetter(1)],
        splitter=EndSplitter(0.4),
        item_tfms=Resize(SIZE),
        batch_tfms=Normalize(*imagenet_stats),
    )
    dls = block.dataloaders(list(zip(PICTURES, targets, strict=True)), bs=4, num_workers=0)
    return Learner(dls, Always(output), run_dir=None, progress=False, **options)


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_labels() -> None:
    learn = learner(CategoryBlock, ["a", "b"] * 5, [0.0, 9.0])
    assert titles(learn.show_results(4)) == ["b\nis a", "b"] * 2
    assert titles(learn.show_results(2)) == ["b\nis a"] * 2  # samples 0 and 2 of the four


def test_several_labels() -> None:
    learn = learner(MultiCategoryBlock, [["a"], ["a", "b"]] * 5, [9.0, 9.0])
    assert titles(learn.show_results(4)) == ["a; b\nis a", "a; b"] * 2
    none = learner(MultiCategoryBlock, [["a"], ["a", "b"]] * 5, [-9.0, -9.0])
    assert titles(none.show_results(4)) == ["none\nis a", "none\nis a; b"] * 2


def test_a_number_and_two() -> None:
    assert titles(learner(RegressionBlock, [1.0, 2.5] * 5, [2.5]).show_results()) == ["2.5\nis 1", "2.5"] * 2
    assert titles(learner(RegressionBlock, [[1.0, 2.0]] * 10, [2.5, 0.0]).show_results(1)) == ["2.5, 0\nis 1, 2"]


def test_masks_stand_beside_each_other_over_the_image_with_what_was_normalised_undone() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 10:] = 1
    scores = torch.zeros(2, SIZE, SIZE)
    scores[1] = 1  # class 1 everywhere
    figure = learner(MaskBlock(["sky", "road"]), [mask] * 10, scores).show_results(1)
    assert titles(figure) == ["target", "prediction"]
    image, target = figure.axes[0].images
    prediction = figure.axes[1].images[1]
    assert np.allclose(image.get_array(), 20 * 6 / 255, atol=1e-4)  # sample 6 is the first for validation
    assert target.get_array()[:, : SIZE // 2].max() == 0
    assert prediction.get_array().min() == 1


def test_points_are_undone_from_what_the_model_predicts_to_pixels() -> None:
    figure = learner(PointBlock, [[(5, 10), (15, 20)]] * 10, [-1.0, -1.0, 1.0, 0.0]).show_results(1)
    target, prediction = (axes.collections[0].get_offsets().tolist() for axes in figure.axes)
    assert np.allclose(target, [[3.5, 7.5], [11.5, 15.5]])  # of 20 pixels 16 were made
    assert np.allclose(prediction, [[-0.5, -0.5], [15.5, 7.5]])


def test_an_image_from_an_image() -> None:
    target = TransformBlock(type_tfms=ImageBlock().type_tfms)
    learn = learner(target, PICTURES, torch.zeros(3, SIZE, SIZE), loss_func=nn.functional.mse_loss)
    figure = learn.show_results(2)
    assert titles(figure) == ["input", "target", "prediction"] * 2
    assert figure.axes[1].images[0].get_array().max() > 0.4
    # The model predicts normalised pixels, whose zero is the mean.
    assert np.allclose(figure.axes[2].images[0].get_array()[0, 0], imagenet_stats[0], atol=1e-4)


def test_two_inputs_have_one_prediction() -> None:
    block = DataBlock(
        (ImageBlock, ImageBlock("L"), CategoryBlock),
        getters=[ItemGetter(0), ItemGetter(0), ItemGetter(1)],
        splitter=EndSplitter(0.4),
    )
    dls = block.dataloaders([(picture, "ab"[i % 2]) for i, picture in enumerate(PICTURES)], bs=4, num_workers=0)
    figure = Learner(dls, Always([9.0, 0.0]), run_dir=None, progress=False).show_results(2)
    assert titles(figure) == ["a\ninput 0", "input 1"] * 2


def test_ready_samples_are_shown_as_they_are_and_a_loss_without_decoding_shows_the_output() -> None:
    said = [text.get_text() for text in make_learner().show_results(2).axes[0].texts]
    assert said[:3] == ["input", "target", "prediction"]
    assert said[4] in "012"
    assert said[5] in "012"
    bare = make_learner(loss_func=lambda pred, target: CrossEntropyLoss()(pred, target)).show_results(1)
    assert len(bare.axes[0].texts[5].get_text().split(", ")) == 3


def test_what_cannot_be_shown_is_explained() -> None:
    learn = learner(CategoryBlock, ["a", "b"] * 5, [0.0, 9.0])
    with pytest.raises(ConfigError, match=r"^show_results\(max_n=0\): expected at least 1 sample to show$"):
        learn.show_results(0)
    new = learn.dls.test_dl([(picture, None) for picture in PICTURES], num_workers=0)
    with pytest.raises(DataError, match=r"^show_results compares predictions with targets, and this loader has none"):
        learn.show_results(dl=new)
    assert len(learn.dls.show_batch(3, dl=new).axes) == 3


def shown_on_a_rank() -> list[str]:
    learn = learner(CategoryBlock, ["a", "b"] * 5, [0.0, 9.0])
    return titles(learn.show_results(4)) if learn.collectives.world.rank == 1 else []


def test_one_rank_shows_alone_and_nobody_waits(spawn: Any) -> None:
    assert spawn(2, shown_on_a_rank) == [[], ["b\nis a", "b"] * 2]
