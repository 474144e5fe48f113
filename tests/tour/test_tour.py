"""dist_ai in a few minutes of reading: from a folder of images to a model in use, then one layer down at a time.

Each test is a program. They share a folder of small images of cats (reddish) and dogs (greenish).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import image_folder
from torch import nn

from dist_ai.callbacks import Callback, CancelFit
from dist_ai.core import Draw, Transform
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import (
    Categorize,
    DataLoader,
    DataLoaders,
    Datasets,
    RandomSplitter,
    TensorData,
    get_image_files,
    parent_label,
)
from dist_ai.export import Predictor
from dist_ai.learner import Learner, load_learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy
from dist_ai.optimizer import SGD
from dist_ai.vision import ImageDataLoaders, Normalize, Resize, aug_transforms, imagenet_stats, vision_learner
from dist_ai.vision.transforms import ImageToFloat, ImageToTensor, OpenImage


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/cat/0.png ... images/dog/11.png."""
    return image_folder(tmp_path_factory.mktemp("tour") / "images", per_class=12, parts=("",))


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are loaded in this process, which is quicker for a few."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


@pytest.fixture
def dls(path: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(path, valid_pct=0.25, item_tfms=Resize(16), bs=6)


# ------------------------------------------------------------------------------------------------ the top


def test_four_lines_train_a_model(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    dls = ImageDataLoaders.from_folder(
        path, valid_pct=0.2, seed=42, item_tfms=Resize(64), batch_tfms=aug_transforms(), bs=8
    )
    learn = vision_learner(dls, "resnet18", pretrained=False, metrics=accuracy)
    learn.fine_tune(3)
    learn.export("model")

    assert len(learn.recorder.epochs) == 4  # one with the body frozen, three with all of it
    assert learn.recorder.epochs[-1]["train_loss"] < learn.recorder.epochs[0]["train_loss"]
    assert sorted(file.name for file in Path("model").iterdir()) == ["manifest.json", "model.json", "model.safetensors"]


def test_a_trained_model_says_what_it_sees(dls: ImageDataLoaders, path: Path) -> None:
    learn = vision_learner(dls, "small_cnn", pretrained=False, metrics=accuracy)
    learn.fit_one_cycle(4, 1e-2)

    label, index, probabilities = learn.predict(path / "dog" / "3.png")
    assert (label, index, dls.vocab) == ("dog", 1, ["cat", "dog"])
    assert probabilities[index] > 0.5

    loss, score = learn.validate()
    predictions, targets = learn.get_preds()
    assert score == (predictions.argmax(1) == targets).float().mean() == 1.0
    assert loss < 0.5


def test_batches_and_results_can_be_looked_at(dls: ImageDataLoaders, tmp_path: Path) -> None:
    dls.show_batch().savefig(tmp_path / "batch.png")
    learn = vision_learner(dls, "small_cnn", pretrained=False)
    learn.show_results(max_n=4).savefig(tmp_path / "results.png")
    assert [axes.get_title().split()[0] in ("cat", "dog") for axes in learn.show_results(max_n=4).axes] == [True] * 4


def test_an_export_is_used_without_the_data_and_without_a_learner(
    dls: ImageDataLoaders, path: Path, tmp_path: Path
) -> None:
    learn = vision_learner(dls, "small_cnn", pretrained=False)
    learn.fit(1)
    learn.export(tmp_path / "model")

    prediction = Predictor(tmp_path / "model").predict(path / "cat" / "0.png")
    again = load_learner(tmp_path / "model").predict(path / "cat" / "0.png")
    assert prediction.label == again[0]
    assert torch.equal(prediction.output, learn.predict(path / "cat" / "0.png")[2])


# ------------------------------------------------------------------------------------------------ the training


def test_a_callback_reads_and_changes_the_training(dls: ImageDataLoaders) -> None:
    class StopEarly(Callback):
        def before_batch(self) -> None:
            if self.state.training:
                (images,) = self.state.xb
                self.state.xb = (images + 0.01 * torch.randn_like(images),)

        def after_batch(self) -> None:
            if self.state.training and self.state.step == 1:
                raise CancelFit

    learn = vision_learner(dls, "small_cnn", pretrained=False)
    learn.fit(5, cbs=StopEarly())
    assert len(learn.recorder.losses) == 2  # of 15 batches; on several ranks all stop at the same one


def test_a_misspelt_event_is_found_before_the_training(dls: ImageDataLoaders) -> None:
    class Typo(Callback):
        def before_bacth(self) -> None: ...

    learn = vision_learner(dls, "small_cnn", pretrained=False)
    with pytest.raises(ValueError, match="before_bacth is not an event; did you mean 'before_batch'"):
        learn.fit(1, cbs=Typo())


def test_a_run_goes_on_where_it_was_stopped(
    dls: ImageDataLoaders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class PullThePlug(Callback):
        def before_epoch(self) -> None:
            if self.state.epoch == 2:
                raise KeyboardInterrupt

    def program(folder: Path, *cbs: Callback) -> Learner:
        learn = vision_learner(dls, "small_cnn", pretrained=False, run_dir=folder, checkpoint_every_steps=1, cbs=cbs)
        learn.fit_one_cycle(3, 1e-2)
        return learn

    undisturbed = program(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        program(tmp_path / "b", PullThePlug())
    resumed = program(tmp_path / "b")

    assert "fit 1 goes on at epoch 1, step 3" in capsys.readouterr().out
    assert resumed.recorder.losses == undisturbed.recorder.losses  # to the last bit
    for mine, theirs in zip(resumed.model.state_dict().values(), undisturbed.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_any_model_any_loss_any_optimizer_of_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 5)
    y = x @ torch.randn(5, 1)
    data = torch.utils.data.TensorDataset(x, y)
    loaders = [torch.utils.data.DataLoader(data, batch_size=20, shuffle=shuffle) for shuffle in (True, False)]

    learn = Learner(loaders, nn.Linear(5, 1), nn.MSELoss(), opt_func=torch.optim.RMSprop, lr=0.05)
    learn.fit(15)
    assert learn.validate()[0] < 0.05


# ------------------------------------------------------------------------------------------------ the data


@dataclass
class Dim(Transform):
    """Darkens each training image by a draw of its own, on the batch's device."""

    most: float = 0.5
    order = 30
    split_idx = 0  # training only

    def encodes(self, x: TensorImage, draw: Draw) -> Any:
        factor = torch.as_tensor(1 - draw.uniform(0, self.most), dtype=x.dtype, device=x.device)
        return x * factor.view(-1, 1, 1, 1)


def test_a_transform_of_ones_own_is_a_dataclass(path: Path, tmp_path: Path) -> None:
    plain, dimmed = (
        ImageDataLoaders.from_folder(path, valid_pct=0.25, item_tfms=Resize(16), batch_tfms=tfms, bs=6)
        for tfms in ([], [Dim(0.5)])
    )
    before, after = plain.one_batch()[0], dimmed.one_batch()[0]
    ratios = (after.sum((1, 2, 3)) / before.sum((1, 2, 3))).as_subclass(torch.Tensor)
    assert ((ratios > 0.5) & (ratios <= 1)).all()
    assert len(set(ratios.tolist())) == 6
    assert torch.equal(plain.valid.one_batch()[0], dimmed.valid.one_batch()[0])

    learn = vision_learner(dimmed, "small_cnn", pretrained=False)
    learn.export(tmp_path / "model")  # its fields are its state, so a file can hold it
    assert Dim(0.5) in load_learner(tmp_path / "model").dls.recipe.batch_tfms.tfms


def test_the_loaders_from_their_parts(path: Path) -> None:
    files = get_image_files(path)
    datasets = Datasets(files, [[OpenImage()], [parent_label, Categorize]], RandomSplitter(0.25, seed=0)(files))
    image, label = datasets.train[0]
    assert (image.size, datasets.pipelines[1].decode(label)) == ((24, 20), datasets.train.item(0).parent.name)

    dls = DataLoaders.from_datasets(
        datasets,
        item_tfms=[Resize(16), ImageToTensor()],
        batch_tfms=[ImageToFloat(), Normalize(*imagenet_stats)],
        bs=6,
    )
    images, labels = dls.one_batch()
    assert (images.shape, images.dtype, labels.shape) == ((6, 3, 16, 16), torch.float32, (6,))


def test_the_loaders_work_in_a_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 4)
    y = x[:, :3].argmax(1)
    model, loss_func = nn.Linear(4, 3), CrossEntropyLoss()
    opt = torch.optim.SGD(model.parameters(), lr=0.5)

    loader = DataLoader(TensorData(x, y), bs=30, shuffle=True)  # 30 over all ranks, each of which gets its part
    for _ in range(40):
        for xb, yb in loader:
            loss_func(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()

    assert accuracy(model(x), y) > 0.9


def test_the_same_seed_is_the_same_training(path: Path) -> None:
    def losses(seed: int) -> list[float]:
        dls = ImageDataLoaders.from_folder(
            path, valid_pct=0.25, seed=seed, item_tfms=Resize(16), batch_tfms=aug_transforms(), bs=6
        )
        learn = vision_learner(dls, "small_cnn", pretrained=False, opt_func=SGD)
        learn.fit(1, 1e-2)
        return learn.recorder.losses

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)
