"""The pixels that a model gets, random augmentation included, on any number of loader workers and of ranks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Image as PILImage
from torchvision.transforms import v2

from dist_ai.core import Draw, Transform
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import DataBlock, DataLoaders, EndSplitter, get_image_files
from dist_ai.distributed.environment import World
from dist_ai.vision import ImageBlock, MaskBlock, Normalize, Resize, aug_transforms, imagenet_stats

BS, NUM_TRAIN, NUM_VALID = 8, 21, 5  # batches of 8, 8 and 5: uneven on every number of ranks


@dataclass
class Speckle(Transform):
    """Adds noise to one image in a worker, by the sample's draw."""

    order: ClassVar[int] = 2
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: PILImage, draw: Draw) -> Any:
        """Returns the image, speckled."""
        noise = np.asarray([draw.uniform() for _ in range(x.height)])[:, None, None] * 40
        return Image.fromarray((np.asarray(x) * 0.8 + noise).astype(np.uint8))


@dataclass
class Brighten(Transform):
    """Brightens each image of a batch on the device, by its sample's draw."""

    order: ClassVar[int] = 30
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: TensorImage, draw: Draw) -> Any:
        """Returns the batch, brighter."""
        return x * (1 + torch.as_tensor(draw.uniform()).view(-1, 1, 1, 1).float())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of different sizes and, beside them, their masks."""
    root = tmp_path_factory.mktemp("pixels")
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for i in range(NUM_TRAIN + NUM_VALID):
        pixels = random.integers(0, 255, (20 + i % 7, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:02}.png")
        Image.fromarray((pixels[:, :, 0] > 99).astype(np.uint8)).save(root / "masks" / f"{i:02}.png")
    return str(root)


def loaders(folder: str, num_workers: int) -> DataLoaders:
    block = DataBlock(
        (ImageBlock, MaskBlock(["dark", "light"])),
        get_items=get_image_files,
        splitter=EndSplitter(NUM_VALID / (NUM_TRAIN + NUM_VALID)),
        get_y=lambda file: Path(folder, "masks", file.name),
        # Our own draws, and torchvision's, which draw from torch's global generator.
        item_tfms=[Resize(16), Speckle(), ColorJitter()],
        batch_tfms=[*aug_transforms(flip_vert=True), Brighten(), Normalize(*imagenet_stats)],
    )
    return block.dataloaders(Path(folder, "images"), bs=BS, num_workers=num_workers, seed=7)


@dataclass
class ColorJitter(Transform):
    """Torchvision's, on one image in a worker."""

    order: ClassVar[int] = 3
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: PILImage) -> Any:
        """Returns the image with other colours."""
        return v2.ColorJitter(0.3, 0.3, 0.3, 0.1)(x)


def pixels(dls: DataLoaders, epoch: int, world: World | None = None) -> dict[str, str]:
    """Returns a digest of the image and mask at each position of the training and the validation part."""
    found: dict[str, str] = {}
    for name, loader in (("train", dls.train), ("valid", dls.valid)):
        part = loader if world is None else loader.new(world=world)
        for share, (x, y) in part.batches(epoch):
            for i, position in enumerate(share.positions[: share.num_local].tolist()):
                content = (
                    x[i].as_subclass(torch.Tensor).numpy().tobytes() + y[i].as_subclass(torch.Tensor).numpy().tobytes()
                )
                found[f"{name} {position}"] = hashlib.sha256(content).hexdigest()
    return found


@pytest.fixture(scope="module")
def expected(folder: str) -> list[dict[str, str]]:
    """Of two epochs, in one process without workers."""
    epochs = [pixels(loaders(folder, 0), epoch) for epoch in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [NUM_TRAIN + NUM_VALID] * 2
    assert len(set(epochs[0].values()) & set(epochs[1].values())) == NUM_VALID  # training is random, validation is not
    return epochs


@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"
)  # more workers than this machine has cores
@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_pixels_are_the_same_to_the_last_bit_on_any_number_of_workers_and_ranks(
    folder: str, expected: list[dict[str, str]], world_size: int, num_workers: int
) -> None:
    if world_size * num_workers > 8:
        num_workers = 8 // world_size  # as many processes as tell the same
    dls = loaders(folder, num_workers)
    together: dict[str, str] = {}
    for rank in range(world_size):
        world = World(rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size)
        mine = pixels(dls, 1, world)
        assert not mine.keys() & together.keys()
        together |= mine
    assert together == expected[1]


def pixels_of_this_rank(folder: str) -> dict[str, str]:
    return pixels(loaders(folder, 1), 0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_real_ranks_get_them_too(spawn: Any, folder: str, expected: list[dict[str, str]], world_size: int) -> None:
    together: dict[str, str] = {}
    for mine in spawn(world_size, pixels_of_this_rank, folder=folder):
        together |= mine
    assert together == expected[0]
