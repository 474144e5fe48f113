"""Every kind of model and head: compiled and traced whole, and trained by two ranks, however they hold it, as by one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dist_ai.core.transform import Transform
from dist_ai.core.vision_types import TensorBBox, TensorImage
from dist_ai.data import CategoryBlock, DataBlock, DataLoaders
from dist_ai.distributed.strategies import DDP, FSDP
from dist_ai.export import ModelSpec
from dist_ai.learner import Learner
from dist_ai.optimizer import SGD
from dist_ai.vision import (
    BBoxBlock,
    BBoxLblBlock,
    ImageBlock,
    MaskBlock,
    NoiseBlock,
    detection_learner,
    gan_learner,
    unet_learner,
    vision_learner,
)
from dist_ai.vision.gan import TensorNoise
from dist_ai.vision.models import create_head, gan, unet, vision_model

SIDE = 32
GAN = {"size": 8, "channels": 1, "noise": 4, "width": 8}
HEADS: dict[str, dict[str, Any]] = {
    "fastai's": {},
    "linear layers first": {"lin_first": True, "lin_ftrs": [16, 8], "ps": [0.1, 0.2, 0.3]},
    "outputs normalised": {"bn_final": True, "first_bn": False},
    "in a range": {"y_range": (-1, 1), "ps": 0.0},
}


# ------------------------------------------------------------------------------------------------ whole


IMAGE = (3, SIDE, SIDE)
WHOLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"a head, {name}": (lambda options=options: create_head(6, 3, **options), (6,))
        for name, options in HEADS.items()
    },
    "a head of maps": (lambda: create_head(6, 3, pool=True), (6, 4, 4)),
    "a classifier": (lambda: vision_model("small_cnn", 3), IMAGE),
    "a U-Net of one channel with every option": (
        lambda: unet("small_cnn", 2, n_in=1, self_attention=True, blur=True, bottle=True, y_range=(0, 1)),
        (1, 24, 40),
    ),
    "a generator": (lambda: gan(**GAN).generator, (4,)),
    "a critic": (lambda: gan(**GAN).critic, (1, 8, 8)),
}
MORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a transformer": (lambda: vision_model("test_vit", 3), (3, 160, 160)),
    "an xresnet of four channels": (lambda: vision_model("xresnet18", 3, n_in=4), (4, SIDE, SIDE)),
    "a U-Net": (lambda: unet("small_cnn", 2), IMAGE),
    "a U-Net on a body of timm's": (lambda: unet("test_resnet", 2), IMAGE),
    "a U-Net without the last cross": (lambda: unet("resnet18", 2, last_cross=False), IMAGE),
}


def require_whole(name: str, backend: str) -> None:
    """Compiles a model without a break, training and evaluating, and traces it for any batch: all give the same."""
    torch.manual_seed(0)
    build, shape = {**WHOLE, **MORE}[name]
    model, x = build(), torch.rand(4, *shape)
    model(x)  # BatchNorm has something to go by
    torch.compiler.reset()
    trained = torch.compile(model.train(), fullgraph=True, backend=backend)
    trained(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        expected = model.eval()(x)
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
        torch.testing.assert_close(program.module()(x[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("name", [*WHOLE, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_it_is_traced_and_compiled_without_a_break(name: str) -> None:
    require_whole(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a classifier", "a U-Net of one channel with every option", "a generator", "a critic"]
)
def test_the_code_that_torch_makes_of_it_gives_the_same(name: str) -> None:
    require_whole(name, "inductor")


# ------------------------------------------------------------------------------------------------ 1 = N


class AsDouble(Transform):
    """What a model sees, to float64."""

    order = 100

    def encodes(self, x: TensorImage) -> Any:
        return x.double()

    def encodes(self, x: TensorNoise) -> Any:
        return x.double()

    def encodes(self, x: TensorBBox) -> Any:
        return x.double()


def square(i: int) -> tuple[int, int]:
    """Returns the top left corner of a picture's square of twelve pixels."""
    top, left = np.random.default_rng(i).integers(0, SIDE - 12, 2).tolist()
    return top, left


def picture(i: int) -> np.ndarray:
    pixels = np.random.default_rng(i).integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
    top, left = square(i)
    pixels[top : top + 12, left : left + 12, i % 3] += 150
    return pixels


def mask(i: int) -> np.ndarray:
    return (picture(i).max(2) > 100).astype(np.uint8)


def boxes(i: int) -> list[list[int]]:
    top, left = square(i)
    return [[left, top, left + 12, top + 12]]


def grey(i: int) -> np.ndarray:
    return np.full((8, 8), 180 + i, np.uint8)


def loaders(*blocks: Any, get_y: Any, get_x: Any = picture, n_inp: int | None = None) -> DataLoaders:
    block = DataBlock(blocks, get_x=get_x, get_y=get_y, n_inp=n_inp, batch_tfms=AsDouble())
    return block.dataloaders(list(range(14)), bs=6, num_workers=0, seed=1)  # 12 to train on: in two batches


def classifier(options: dict[str, Any], **given: Any) -> Learner:
    dls = loaders(ImageBlock, CategoryBlock, get_y=lambda i: "rgb"[i % 3])
    return vision_learner(dls, "small_cnn", pretrained=False, **options, **given)


def segmenter(**given: Any) -> Learner:
    dls = loaders(ImageBlock, MaskBlock(["back", "square"]), get_y=mask)
    return unet_learner(dls, "small_cnn", pretrained=False, self_attention=True, **given)


def finder(**given: Any) -> Learner:
    dls = loaders(
        ImageBlock, BBoxBlock, BBoxLblBlock(["r", "g", "b"]), get_y=[boxes, lambda i: ["rgb"[i % 3]]], n_inp=1
    )
    shape = {"finest": 4, "width": 32, "max_detections": 5}
    return detection_learner(dls, "small_cnn", pretrained=False, detector_options=shape, **given)


def forger(**given: Any) -> Learner:
    dls = loaders(NoiseBlock(4), ImageBlock("L"), get_x=lambda i: i, get_y=grey)
    if isinstance(given["strategy"], DDP):
        given["strategy"] = "auto"  # which is DDP with what a GAN needs
    return gan_learner(dls, gan(**GAN), spec=ModelSpec("gan", GAN), **given)


LEARNERS: dict[str, Callable[..., Learner]] = {
    **{f"a head, {name}": lambda o=options, **given: classifier(o, **given) for name, options in HEADS.items()},
    "a U-Net": segmenter,
    "a detector": finder,
    "a GAN": forger,
}
STRATEGIES: dict[str, Any] = {"ddp": DDP(), "fsdp": FSDP(min_block_parameters=500)}


def train_all(strategies: list[str]) -> dict[tuple[str, str], list[float]]:
    """Trains each in each way; returns all numbers that must not depend on the ranks or the strategy."""
    torch.set_default_dtype(torch.float64)
    numbers = {}
    for name, make in LEARNERS.items():
        for strategy in strategies:
            torch.manual_seed(0)
            learn = make(strategy=STRATEGIES[strategy], opt_func=SGD, run_dir=None, progress=False)
            learn.fit(1, 1e-2)
            numbers[name, strategy] = [*learn.recorder.losses, *learn.validate()]
    return numbers


def test_two_ranks_train_each_as_one_process_does_with_ddp_and_with_fsdp(spawn: Any) -> None:
    (alone,) = spawn(1, train_all, strategies=["ddp"])
    for rank in spawn(2, train_all, strategies=list(STRATEGIES)):
        assert len(rank) == 2 * len(alone)
        for (name, strategy), got in rank.items():
            np.testing.assert_allclose(got, alone[name, "ddp"], rtol=1e-6, err_msg=f"{name}, {strategy}")
