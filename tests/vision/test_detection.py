"""Detectors, trained by the loop that trains everything: squares and bars on noise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_ai.core.transform import Transform
from dist_ai.core.vision_types import TensorBBox, TensorImage
from dist_ai.data import DataBlock, DataLoaders
from dist_ai.distributed import join
from dist_ai.errors import ConfigError
from dist_ai.export import Predictor
from dist_ai.learner import Interpretation, Learner
from dist_ai.optimizer import SGD
from dist_ai.vision import BBoxBlock, BBoxLblBlock, CocoMAP, ImageBlock, detection_learner
from dist_ai.vision.models import detector

SIDE = 48


def things(i: int) -> list[tuple[str, list[int]]]:
    """A square, a bar, both or nothing."""
    random = np.random.default_rng(i)
    found = []
    for name, (height, width) in (("square", (14, 14)), ("bar", (8, 22)))[: i % 3]:
        top, left = int(random.integers(0, SIDE // 2 - height)), int(random.integers(0, SIDE - width))
        top += SIDE // 2 if name == "bar" else 0
        found.append((name, [left, top, left + width, top + height]))
    return found


def picture(i: int) -> np.ndarray:
    pixels = np.random.default_rng(i).integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
    for name, (left, top, right, bottom) in things(i):
        pixels[top:bottom, left:right, 0 if name == "square" else 2] += 150
    return pixels


def loaders(n: int = 24, bs: int = 8, **options: Any) -> DataLoaders:
    block = DataBlock(
        (ImageBlock, BBoxBlock, BBoxLblBlock(["bar", "square"])),
        get_x=picture,
        get_y=[lambda i: [box for _, box in things(i)], lambda i: [name for name, _ in things(i)]],
        n_inp=1,
        **options,
    )
    return block.dataloaders(list(range(n)), bs=bs, num_workers=0, seed=1)


def learner(dls: DataLoaders, arch: Any = "small_cnn", **options: Any) -> Learner:
    shape = options.pop("detector_options", {"finest": 4, "width": 32, "max_detections": 10})
    defaults: dict[str, Any] = {"pretrained": False, "run_dir": None, "progress": False, "detector_options": shape}
    return detection_learner(dls, arch, **{**defaults, **options})


# ------------------------------------------------------------------------------------------------ the learner


def test_it_finds_shows_predicts_ranks_and_is_loaded_again(tmp_path: Path) -> None:
    dls = loaders(32)
    learn = learner(dls, metrics=CocoMAP("map_50"), thresh=0.3)
    before = learn.validate()[1]
    learn.fit_one_cycle(5, 1e-2)
    assert learn.recorder.epochs[-1]["map_50"] > max(0.1, before)
    both = next(i for i in range(100, 110) if i % 3 == 2)
    (boxes, names), (raw, classes), outputs = learn.predict(picture(both))
    assert type(boxes) is TensorBBox
    assert len(boxes) == len(names)
    assert set(names) <= {"bar", "square"}
    assert (tuple(raw.shape), tuple(classes.shape)) == ((10, 4), (10,))
    assert set(outputs) == {"boxes", "labels", "scores"}
    assert learn.show_results(max_n=2).axes
    losses, _ = Interpretation.from_learner(learn).top_losses(3)
    assert losses[0] >= losses[1] >= losses[2]
    predictor = Predictor(learn.export(tmp_path / "model"))
    found = predictor.predict(picture(both))
    assert found.label[1] == names
    torch.testing.assert_close(found.label[0].as_subclass(torch.Tensor), boxes.as_subclass(torch.Tensor))
    preds, targets = learn.get_preds()
    assert len(preds["boxes"]) == len(targets[0]) == len(dls.valid.dataset)


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param("fcos_resnet50_fpn", marks=pytest.mark.slow),
        pytest.param("retinanet_resnet50_fpn", marks=pytest.mark.slow),
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", marks=pytest.mark.slow),
    ],
)
def test_torchvisions_detectors_train_as_they_are(arch: str) -> None:
    dls = loaders(6, bs=2)
    learn = learner(dls, arch, detector_options={"max_detections": 5}, opt_func=SGD, metrics=None)
    learn.fit(1, 1e-4)
    assert np.isfinite(learn.recorder.losses).all()
    preds, _ = learn.get_preds(dls.valid)
    assert tuple(preds["boxes"].shape[1:]) == (5, 4)


def test_the_loss_of_an_image_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    model = detector("small_cnn", 3, finest=4, width=32).eval()
    batch = loaders().one_batch()
    images, boxes, labels = (each.as_subclass(torch.Tensor) for each in batch)
    with torch.no_grad():
        together = model(images, boxes, labels)["losses"]
        for i in range(len(images)):
            n = int((labels[i] > 0).sum())  # and not on the padding
            alone = model(images[i : i + 1], boxes[i : i + 1, :n], labels[i : i + 1, :n])["losses"]
            for name, losses in together.items():
                torch.testing.assert_close(alone[name][0], losses[i], rtol=1e-4, atol=1e-5)
    assert "losses" not in model(images)


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        (
            "maskrcnn_resnet50_fpn",
            "maskrcnn_resnet50_fpn also finds masks or key points, for which there are no targets",
        ),
        (
            "ssdlite320_mobilenet_v3_large",
            "SSD normalises over the batch behind its body, and here each image is judged by itself",
        ),
        ("vit_b_16", "gives no maps of several resolutions"),
        ("resnt18", "no architecture named 'resnt18'; did you mean 'resnet18'"),
    ],
)
def test_what_cannot_be_trained_is_explained(arch: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        learner(loaders(8), arch, detector_options={})
    with pytest.raises(ConfigError, match=r"CocoMAP\('mpa'\): expected one of map, map_50.*; did you mean 'map'"):
        CocoMAP("mpa")


def test_the_average_precision_is_cocos() -> None:
    metric = CocoMAP("map")
    assert np.isnan(metric.reduced(join()))
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0]]])
    labels = torch.tensor([[1, 0]])
    metric.update({"boxes": boxes, "labels": labels, "scores": torch.tensor([[0.9, 0.0]])}, (boxes, labels), 1)
    assert metric.reduced(join()) == 1.0
    shifted = boxes + torch.tensor([4.0, 0.0, 4.0, 0.0]) * (labels[..., None] > 0)  # overlap 6 / 14
    metric.reset()
    metric.update({"boxes": shifted, "labels": labels, "scores": torch.tensor([[0.9, 0.0]])}, (boxes, labels), 1)
    assert metric.reduced(join()) == 0.0


# ------------------------------------------------------------------------------------------------ 1 = N


class AsDoubleInDetectionTest(Transform):
    """Pixels and boxes to float64."""

    order = 100

    def encodes(self, x: TensorImage) -> Any:
        return x.double()

    def encodes(self, x: TensorBBox) -> Any:
        return x.double()


def train_on_ranks() -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)
    learn = learner(loaders(15, bs=6, batch_tfms=[AsDoubleInDetectionTest()]), opt_func=SGD)
    learn.fit(1, 1e-2)
    preds, (boxes, _) = learn.get_preds()
    return {
        "losses": learn.recorder.losses,
        "valid": learn.validate(),
        "boxes": boxes.tolist(),
        "scores": preds["scores"].tolist(),
    }


def test_one_process_and_two_train_the_same(spawn: Any) -> None:
    (alone,) = spawn(1, train_on_ranks)
    for rank in spawn(2, train_on_ranks):
        np.testing.assert_allclose(rank["losses"], alone["losses"], rtol=1e-6)
        np.testing.assert_allclose(rank["valid"], alone["valid"], rtol=1e-6)
        assert rank["boxes"] == alone["boxes"]
        np.testing.assert_allclose(rank["scores"], alone["scores"], rtol=1e-6, atol=1e-8)
