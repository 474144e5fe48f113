"""The four-line program gives the same numbers on any number of processes: BatchNorm, dropout, flips and all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from dist_ai.core import Transform
from dist_ai.core.vision_types import TensorImage
from dist_ai.distributed.strategies import FSDP
from dist_ai.metrics import accuracy
from dist_ai.vision import ImageDataLoaders, Resize, aug_transforms, vision_learner


@dataclass
class ToDouble(Transform):
    """Gives the model float64 pixels."""

    order: ClassVar[int] = 11

    def encodes(self, x: TensorImage) -> Any:
        """Returns the batch in float64."""
        return x.double()


def four_lines(path: str, double: bool, workers: int, fsdp: bool = False) -> dict[str, Any]:
    tfms = [*aug_transforms(), *([ToDouble()] if double else [])]
    dls = ImageDataLoaders.from_folder(
        path, valid_pct=0.2, seed=42, item_tfms=Resize(32), batch_tfms=tfms, bs=22, num_workers=workers
    )
    learn = vision_learner(
        dls,
        "resnet18",
        pretrained=False,
        metrics=accuracy,
        strategy=FSDP(min_block_parameters=100_000, activation_checkpointing=True) if fsdp else "auto",
        run_dir=None,
        progress=False,
    )
    if double:
        learn.model.double()
    learn.fine_tune(1)
    predictions, _ = learn.get_preds()
    return {"losses": learn.recorder.losses, "final": learn.recorder.final, "predictions": predictions.double().numpy()}


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Returns a folder of 60 images of 3 classes that differ in colour, of different sizes."""
    random = np.random.default_rng(0)
    for i in range(60):
        pixels = random.integers(0, 120, (36 + i % 5, 40, 3), dtype=np.uint8)
        pixels[:, :, i % 3] += 100
        folder = tmp_path / f"class {i % 3}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return str(tmp_path)


def test_in_float64_resnet18_agrees_on_1_2_and_3_processes_to_the_last_digits(spawn: Any, images: str) -> None:
    [alone] = spawn(1, four_lines, path=images, double=True, workers=0)
    assert len(alone["losses"]) == 6  # 48 images: two full batches and one of 4 in each of the two epochs
    for world_size, workers in ((2, 1), (3, 0)):
        for rank in spawn(world_size, four_lines, path=images, double=True, workers=workers):
            for name, value in alone.items():
                torch.testing.assert_close(torch.as_tensor(rank[name]), torch.as_tensor(value), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_shared_by_the_ranks_resnet18_agrees_too(spawn: Any, images: str) -> None:
    [alone] = spawn(1, four_lines, path=images, double=True, workers=0)
    for rank in spawn(2, four_lines, path=images, double=True, workers=0, fsdp=True):
        for name, value in alone.items():
            torch.testing.assert_close(torch.as_tensor(rank[name]), torch.as_tensor(value), rtol=1e-8, atol=1e-8)


def test_in_float32_the_losses_agree_as_far_as_rounding_lets_them(spawn: Any, images: str) -> None:
    [alone] = spawn(1, four_lines, path=images, double=False, workers=0)
    for rank in spawn(2, four_lines, path=images, double=False, workers=0):
        # Adam and BatchNorm amplify the rounding of the first steps, the more in a batch of 4: 1e-5 in the first two steps,
        # 1e-3 at the end of the second fit.
        torch.testing.assert_close(
            torch.tensor(rank["losses"][:2]), torch.tensor(alone["losses"][:2]), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(torch.tensor(rank["losses"]), torch.tensor(alone["losses"]), rtol=1e-2, atol=2e-3)
        assert rank["final"][1] == alone["final"][1]
