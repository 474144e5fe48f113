"""The Predictor: an export, ready to predict, without a Learner."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import image_folder, small_learner, small_loaders
from PIL import Image

from dist_ai.errors import BadSampleError, ConfigError, DataError
from dist_ai.export import Prediction, Predictor
from dist_ai.vision import Resize


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def export(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learn = small_learner(small_loaders(images, item_tfms=Resize(16)))
    learn.fit_one_cycle(4, 1e-2)
    return learn.export(tmp_path_factory.mktemp("out") / "model")


def test_it_gives_a_label_its_confidence_and_all_probabilities(export: Path, images: Path) -> None:
    predictor = Predictor(export)
    assert predictor.vocab == ["cat", "dog"]
    prediction = predictor.predict(images / "valid" / "dog" / "0.png")
    assert prediction.label == "dog"
    assert prediction.output.sum().item() == pytest.approx(1)
    assert prediction.confidence == prediction.output[1].item() > 0.5


def test_items_may_be_what_the_transforms_open(export: Path, images: Path) -> None:
    file = images / "valid" / "dog" / "0.png"
    with Image.open(file) as image:
        given = [file, str(file), file.read_bytes(), np.asarray(image), image.copy()]
    first, *others = Predictor(export).predict_many(given)
    for other in others:
        assert torch.equal(other.output, first.output)


def test_many_items_keep_their_order_whatever_the_batch_size(export: Path, images: Path) -> None:
    files = sorted((images / "valid").rglob("*.png"))
    predictor = Predictor(export)
    at_once = predictor.predict_many(files)
    assert [each.label for each in at_once] == ["cat"] * 8 + ["dog"] * 8
    for one, few in zip(at_once, predictor.predict_many(files, bs=3), strict=True):
        torch.testing.assert_close(few.output, one.output)


def test_predictions_do_not_depend_on_what_else_is_in_the_batch_nor_change_the_model(
    export: Path, images: Path
) -> None:
    file = images / "valid" / "cat" / "0.png"
    predictor = Predictor(export)
    first = predictor.predict(file).output
    predictor.predict_many([np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)] * 5)
    assert torch.equal(predictor.predict(file).output, first)
    assert not predictor.model.training


def test_nothing_of_the_training_is_imported(export: Path, images: Path) -> None:
    program = f"""if True:
        import sys
        from dist_ai.export import Predictor
        before = set(sys.modules)
        print("dist_ai.learner" in before, "dist_ai.callbacks" in before)
        print(Predictor({str(export)!r}).predict({str(images / "valid" / "dog" / "1.png")!r}).label)
        print(*[name for name in ("ray", "accelerate", "tensorboard") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["False False", "dog", ""], done.stdout + done.stderr


def test_an_item_that_cannot_be_read_is_named(export: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.jpg"
    file.write_text("not an image")
    with pytest.raises(BadSampleError, match=rf"{file} cannot be read as an image: it is of no known format"):
        Predictor(export).predict(file)
    with pytest.raises(BadSampleError, match=r"gone\.jpg is not there"):
        Predictor(export).predict("gone.jpg")


def test_no_items_are_an_error(export: Path) -> None:
    with pytest.raises(DataError, match="nothing to predict: the list of items is empty"):
        Predictor(export).predict_many([])


@pytest.mark.parametrize("device", ["cda", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_is_not_here_is_explained(export: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device '{device}' cannot be used here: .*; use 'cpu', or leave it out"):
        Predictor(export, device=device)


def test_without_a_nameable_loss_the_output_stays_raw(images: Path, tmp_path: Path) -> None:
    learn = small_learner(small_loaders(images), loss_func=torch.nn.CrossEntropyLoss())
    prediction: Prediction = Predictor(learn.export(tmp_path / "model")).predict(images / "valid" / "cat" / "0.png")
    assert torch.equal(prediction.label, prediction.output)
    assert math.isnan(prediction.confidence)
