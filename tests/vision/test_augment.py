"""Augmentation of batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_ai.core import Draw, Pipeline
from dist_ai.core.vision_types import TensorImage
from dist_ai.errors import ConfigError
from dist_ai.vision import Flip

TRAIN, VALID = 0, 1


# ------------------------------------------------------------------------------------------------ Flip

IMAGES = TensorImage(torch.rand(64, 3, 5, 7, generator=torch.Generator().manual_seed(0)))


def flipped(samples: list[int], p: float = 0.5, *, vertical: bool = False, epoch: int = 0) -> torch.Tensor:
    """Returns the images of these samples as a training batch through `Flip`."""
    draw = Draw(seed=1, epoch=epoch, samples=samples)
    return Pipeline([Flip(p, vertical)])(IMAGES[samples], draw, split_idx=TRAIN)


@pytest.mark.parametrize(("vertical", "dim"), [(False, -1), (True, -2)])
def test_p_1_mirrors_every_image_and_p_0_none(vertical: bool, dim: int) -> None:
    everything = list(range(64))
    assert torch.equal(flipped(everything, 1.0, vertical=vertical), IMAGES.flip(dim))
    assert torch.equal(flipped(everything, 0.0, vertical=vertical), IMAGES)


def test_each_image_of_a_batch_has_a_draw_of_its_own_and_another_one_each_epoch() -> None:
    changed = [
        (flipped(list(range(64)), epoch=epoch) != IMAGES).flatten(1).any(1).as_subclass(torch.Tensor)
        for epoch in range(20)
    ]
    assert torch.stack(changed).float().mean() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(changed[0], changed[1])


@given(samples=st.lists(st.integers(0, 63), min_size=1, max_size=20))
def test_what_happens_to_a_sample_does_not_depend_on_the_others_in_its_batch(samples: list[int]) -> None:
    assert torch.equal(flipped(samples), flipped(list(range(64)))[samples])


def test_images_are_mirrored_in_training_only() -> None:
    draw = Draw(seed=1, epoch=0, samples=list(range(64)))
    assert torch.equal(Pipeline([Flip(1.0)])(IMAGES, draw, split_idx=VALID), IMAGES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_type_and_dtype_are_kept(dtype: torch.dtype) -> None:
    batch = Flip()(TensorImage((IMAGES[:4] * 255).to(dtype)), Draw(seed=1, epoch=0, samples=[0, 1, 2, 3]))
    assert (type(batch), batch.dtype) == (TensorImage, dtype)


def test_a_single_image_is_refused_instead_of_becoming_a_batch() -> None:
    with pytest.raises(ConfigError, match="Flip draws for each sample of a batch; use it in batch_tfms"):
        Flip()(IMAGES[0], Draw(seed=1, epoch=0, samples=0))
    with pytest.raises(ConfigError, match="use it in batch_tfms"):
        Flip()(IMAGES)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_outside_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match=rf"Flip\(p={p}\): a probability is 0 to 1"):
        Flip(p)
