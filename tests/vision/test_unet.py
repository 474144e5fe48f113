"""The U-Net: over every family, any size, compiled, exported; it learns to tell nuclei from what is between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_ai.core.vision_types import TensorImage, TensorMask
from dist_ai.data import DataBlock, DataLoaders
from dist_ai.errors import ConfigError
from dist_ai.layers import PixelShuffleICNR, SelfAttention
from dist_ai.learner import Learner, load_learner
from dist_ai.vision import ImageBlock, MaskBlock, aug_transforms, unet_learner
from dist_ai.vision.models import unet, vision_splitter

TIMM = ["test_convnext", "test_efficientnet", "test_resnet", "swin_tiny_patch4_window7_224"]
FAMILIES = ["convnext_tiny", "densenet121", "efficientnet_b0", "mobilenet_v2", "regnet_y_400mf", "resnet18", "swin_t",
            "vgg11", "xresnet18", "small_cnn", *TIMM]  # fmt: skip


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_gives_outputs_for_each_pixel(arch: str) -> None:
    real = arch == "regnet_y_400mf"  # it reads its own weights while it is built
    side = 224 if "224" in arch else 64
    with torch.device("cpu" if real else "meta"):
        model = unet(arch, 5).eval()
        x = torch.empty(1, 3, side, side)
    assert tuple(model(x).shape) == (1, 5, side, side)
    assert model.pyramid.reductions == sorted(set(model.pyramid.reductions))
    groups = vision_splitter(model)
    assert sorted(id(p) for group in groups for p in group) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in groups[-1]}.isdisjoint(id(p) for p in model.body.parameters())


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (40, 24)])
def test_an_image_of_any_size_gives_a_map_of_its_size(size: tuple[int, int]) -> None:
    model = (
        unet("small_cnn", 2, n_in=2, self_attention=True, blur=True) if min(size) > 7 else unet("xresnet18", 2, n_in=2)
    )
    with torch.no_grad():
        assert tuple(model.eval()(torch.rand(1, 2, *size)).shape) == (1, 2, *size)


def test_the_options_are_fastais() -> None:
    model = unet("small_cnn", 1, self_attention=True, blur=True, bottle=True, y_range=(0, 1), last_cross=True)
    assert sum(isinstance(m, SelfAttention) for m in model.modules()) == 1
    out = model(100 * torch.randn(2, 3, 16, 16))
    assert ((out >= 0) & (out <= 1)).all()
    without = unet("small_cnn", 1, last_cross=False)
    assert tuple(without(torch.rand(2, 3, 16, 16)).shape) == (2, 1, 16, 16)


def test_upsampling_begins_without_a_checkerboard() -> None:
    torch.manual_seed(0)
    shuffle = PixelShuffleICNR(4, 3)
    up = shuffle(torch.rand(1, 4, 5, 5))
    assert tuple(up.shape) == (1, 3, 10, 10)
    torch.testing.assert_close(up, up[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2))
    blurred = PixelShuffleICNR(4, 3, blur=True)(torch.rand(1, 4, 5, 5))
    assert tuple(blurred.shape) == (1, 3, 10, 10)


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        ("vit_b_16", "gives no maps of several resolutions, which a U-Net or a detector needs; take a convolutional"),
        ("test_vit", "the body gives maps of one resolution, .* pixels a side of .*; expected several"),
        ("resnt18", "no architecture named 'resnt18'; did you mean 'resnet18'"),
    ],
)
def test_an_architecture_without_maps_is_explained(arch: str, text: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=text):
        unet(arch, 2)


# ------------------------------------------------------------------------------------------------ a Learner


def picture(i: int) -> np.ndarray:
    """A bright square somewhere on noise."""
    random = np.random.default_rng(i)
    pixels = random.integers(0, 80, (24, 24, 3), dtype=np.uint8)
    top, left = random.integers(2, 12, 2)
    pixels[top : top + 8, left : left + 8] += 120
    return pixels


def mask(i: int) -> np.ndarray:
    return (picture(i).mean(2) > 90).astype(np.uint8)


def loaders(**options: Any) -> DataLoaders:
    block = DataBlock((ImageBlock, MaskBlock(["back", "square"])), get_x=picture, get_y=mask, **options)
    return block.dataloaders(list(range(20)), bs=8, num_workers=0, seed=1)


def learner(dls: DataLoaders, **options: Any) -> Learner:
    return unet_learner(dls, "small_cnn", pretrained=False, run_dir=None, progress=False, **options)


def test_it_learns_squares_shows_predicts_and_is_loaded_again(tmp_path: Path) -> None:
    learn = learner(loaders(batch_tfms=aug_transforms(max_warp=0.0)))
    learn.fit_one_cycle(4, 1e-2)
    losses = learn.recorder.losses
    assert losses[-1] < losses[0] / 2
    figure = learn.show_results(max_n=2)
    assert len(figure.axes) == 4
    label, decoded, outputs = learn.predict(picture(3))
    assert (type(label), tuple(decoded.shape), tuple(outputs.shape)) == (TensorMask, (24, 24), (2, 24, 24))
    assert (np.asarray(decoded) == mask(3)).mean() > 0.9
    loaded = load_learner(learn.export(tmp_path / "model"))
    assert torch.equal(loaded.predict(picture(3))[1], decoded)


def test_an_image_may_be_made_of_an_image(tmp_path: Path) -> None:
    block = DataBlock((ImageBlock, ImageBlock), get_x=picture, get_y=lambda i: 255 - picture(i))
    dls = block.dataloaders(list(range(20)), bs=8, num_workers=0, seed=1)
    learn = learner(dls, y_range=(-3, 3))
    learn.fit_one_cycle(3, 1e-2)
    assert learn.recorder.losses[-1] < learn.recorder.losses[0]
    label, *_ = learn.predict(picture(3))
    assert (type(label), tuple(label.shape)) == (TensorImage, (3, 24, 24))
    assert learn.show_results(max_n=2).axes
    load_learner(learn.export(tmp_path / "model")).predict(picture(3))
