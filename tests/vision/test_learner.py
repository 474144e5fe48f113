"""`vision_learner`: which model it makes, from which weights, and what it says when it cannot."""

from __future__ import annotations

import io
import re
import socket
import urllib.error
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torchvision
from pictures import image_folder, small_learner, small_loaders
from PIL import Image
from torch import nn
from torchvision.models import _api as torchvision_download

from dist_ai.core.vision_types import TensorImage
from dist_ai.data import CategoryBlock, DataBlock, TransformBlock
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.learner import Learner, load_learner
from dist_ai.metrics import accuracy
from dist_ai.vision import (
    ImageDataLoaders,
    Normalize,
    Resize,
    architectures,
    aug_transforms,
    dihedral_views,
    flip_views,
    imagenet_stats,
    vision_learner,
)
from dist_ai.vision.models import small_cnn
from dist_ai.vision.show import save_predictions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def dls(folder: Path) -> ImageDataLoaders:
    return small_loaders(folder)


def no_network(url: str, *_: Any, **__: Any) -> Any:
    """Stands in for the download of weights."""
    assert socket.getdefaulttimeout() is not None, "a firewall would hold the run up for minutes"
    raise urllib.error.URLError("[Errno -2] Name or service not known")


def all_weights(learn: Learner) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in learn.model.state_dict().values()])


def normalizers(dls: ImageDataLoaders) -> list[Normalize]:
    return [tfm for tfm in dls.train.stage.pipeline.tfms if isinstance(tfm, Normalize)]


# ------------------------------------------------------------------------------------------------ the model


def test_it_learns_to_tell_red_from_green(folder: Path) -> None:
    learn = small_learner(small_loaders(folder, batch_tfms=aug_transforms()), metrics=accuracy)
    learn.fit_one_cycle(4, 1e-2)
    assert learn.recorder.epochs[-1]["accuracy"] == 1.0
    assert [learn.predict(folder / "valid" / name / "0.png")[0] for name in ("cat", "dog")] == ["cat", "dog"]


def test_the_first_weights_depend_on_the_seed_of_the_loaders_only(folder: Path) -> None:
    def first_weights(seed: int, of_torch: int) -> torch.Tensor:
        torch.manual_seed(of_torch)
        before = torch.get_rng_state()
        weights = all_weights(small_learner(small_loaders(folder, seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)  # and making them draws nothing from the user's stream
        return weights

    assert torch.equal(first_weights(seed=3, of_torch=1), first_weights(seed=3, of_torch=2))
    assert not torch.equal(first_weights(seed=3, of_torch=1), first_weights(seed=4, of_torch=1))


def test_a_torchvision_function_is_the_same_as_its_name(dls: ImageDataLoaders) -> None:
    by_function = small_learner(dls, torchvision.models.resnet18)
    by_name = small_learner(dls, "resnet18")
    assert torch.equal(all_weights(by_function), all_weights(by_name))
    assert by_function.spec == by_name.spec
    assert by_name.spec.builder == "vision_model"
    assert by_name.spec.arguments.items() >= {"arch": "resnet18", "n_out": 2, "n_in": 3, "ps": 0.5}.items()


def test_a_function_of_ones_own_trains_but_cannot_be_exported(dls: ImageDataLoaders, tmp_path: Path) -> None:
    learn = small_learner(dls, lambda: nn.Sequential(nn.Flatten(), nn.Linear(24 * 20 * 3, 8)))
    learn.fit(1)
    assert len(learn.recorder.losses) == 4
    with pytest.raises(
        ConfigError, match="cannot export this VisionModel: a file holds no code, so it must name a function"
    ):
        learn.export(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_name", [True, False])
def test_a_registered_architecture_exports_and_loads(
    dls: ImageDataLoaders, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    monkeypatch.setattr(architectures, "_things", dict(architectures._things))

    @architectures.register("flat")
    def flat() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(24 * 20 * 3, 7), nn.ReLU(), nn.Linear(7, 5))

    learn = small_learner(dls, "flat" if by_name else flat)
    loaded = load_learner(learn.export(tmp_path / "model"))
    photo = folder / "valid" / "cat" / "0.png"
    assert torch.equal(learn.predict(photo)[2], loaded.predict(photo)[2])


def test_the_number_of_outputs_can_be_given(dls: ImageDataLoaders) -> None:
    assert small_learner(dls, n_out=7).model.head[-1].out_features == 7
    assert small_learner(dls, lin_ftrs=33, ps=0.1).model.head[3].out_features == 33


def test_images_are_normalised_once_unless_the_loaders_do_it_or_it_is_not_wanted(folder: Path) -> None:
    dls = small_loaders(folder)
    small_learner(dls)
    small_learner(dls)
    assert normalizers(dls) == [Normalize(*imagenet_stats)]
    own = Normalize([0.5] * 3, [0.25] * 3)
    dls = small_loaders(folder, batch_tfms=own)
    small_learner(dls)
    assert normalizers(dls) == [own]
    dls = small_loaders(folder)
    small_learner(dls, normalize=False)
    assert normalizers(dls) == []


def test_grey_images_are_normalised_for_an_architecture_that_takes_them(folder: Path) -> None:
    def grey_cnn() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    dls = small_loaders(folder, mode="L")
    learn = small_learner(dls, grey_cnn)
    learn.fit(1)
    assert normalizers(dls)[0].mean == [pytest.approx(0.449)]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"arch": "resnt18"}, "no architecture named 'resnt18'; did you mean 'resnet18'"),
        ({"arch": torchvision.models.segmentation.fcn_resnet50}, "no architecture named 'fcn_resnet50'"),
        ({"arch": 18}, "arch is 18: expected the name of an architecture or a function that returns a classifier"),
        ({"arch": nn.Linear(3, 4)}, "arch is a Linear: expected the name of an architecture or a function"),
        ({"arch": lambda: None}, "returned a NoneType; expected a classifier, an nn.Module"),
        ({"arch": lambda: nn.Flatten()}, "Flatten has no linear layer to replace by a head"),
        ({"pretrained": "yes"}, "pretrained='yes': expected True, False or 'auto'"),
        (
            {"arch": lambda: small_cnn(), "pretrained": True},
            "pretrained=True needs the name of a torchvision architecture",
        ),
    ],
)
def test_arguments_that_cannot_be_are_explained(dls: ImageDataLoaders, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        small_learner(dls, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"pretrain": True},
            "vision_learner has no argument 'pretrain'; did you mean 'pretrained'? There are dls, arch, ",
        ),
        (
            {"metric": accuracy},
            "vision_learner has no argument 'metric'; here it is metrics, one or several. There are ",
        ),
        ({"path": "."}, "vision_learner has no argument 'path'; run_dir= says where a run's files go. There are "),
    ],
)
def test_arguments_that_there_are_not_are_told_before_weights_are_fetched(
    dls: ImageDataLoaders, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], text: str
) -> None:
    monkeypatch.setattr(torchvision_download, "load_state_dict_from_url", None)
    with pytest.raises(TypeError, match=re.escape(text)):
        vision_learner(dls, "resnet18", **options)


def test_an_architecture_of_three_channels_is_made_to_fit_grey_images(folder: Path, tmp_path: Path) -> None:
    dls = small_loaders(folder, mode="L")
    learn = small_learner(dls, y_range=(0, 1))
    assert normalizers(dls)[0].mean == [pytest.approx(0.449)]
    learn.fit(1)
    photo = folder / "valid" / "cat" / "0.png"
    loaded = load_learner(learn.export(tmp_path / "model"))
    assert torch.equal(learn.predict(photo)[2], loaded.predict(photo)[2])


def test_an_architecture_is_made_to_fit_images_of_many_channels() -> None:
    def satellite(i: int) -> TensorImage:
        return TensorImage(torch.full((5, 16, 16), 0.1 * i))

    block = DataBlock((TransformBlock, CategoryBlock(["a", "b"])), get_x=satellite, get_y=lambda i: "ab"[i % 2])
    dls = block.dataloaders(list(range(10)), bs=4, num_workers=0)
    learn = small_learner(dls, n_in=5)
    learn.fit(1)
    assert normalizers(dls)[0].mean[:3] == imagenet_stats[0]
    assert len(normalizers(dls)[0].std) == 5
    with pytest.raises(
        ConfigError, match=r"^n_in=3, and Normalize\(.* of the data has 5 channel\(s\); .* or give n_in=5$"
    ):
        small_learner(dls)


def test_batches_of_one_image_are_explained(folder: Path) -> None:
    with pytest.raises(ConfigError, match="bs=1: the head's BatchNorm needs at least 2 images in a training batch"):
        small_learner(small_loaders(folder, bs=1))


# ------------------------------------------------------------------------------------------------ pretrained weights


def test_offline_auto_says_so_once_and_trains_from_random_weights(
    dls: ImageDataLoaders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torchvision_download, "load_state_dict_from_url", no_network)
    learn = small_learner(dls, "mobilenet_v3_small", pretrained="auto")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "the pretrained weights of mobilenet_v3_small cannot be had: <urlopen error [Errno -2] Name or service not known>; "
        "beginning from random weights (pretrained=True would insist)\n"
    )
    assert torch.equal(all_weights(learn), all_weights(small_learner(dls, "mobilenet_v3_small", pretrained=False)))
    assert all(p.requires_grad for p in learn.model.parameters())
    learn.fit(1)
    assert len(learn.recorder.losses) == 4
    assert socket.getdefaulttimeout() is None


def test_offline_true_insists(dls: ImageDataLoaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_download, "load_state_dict_from_url", no_network)
    with pytest.raises(
        ArtifactError, match=r"resnet18 cannot be had: .*Name or service not known.*\. Use weights=FILE, or"
    ):
        small_learner(dls, "resnet18", pretrained=True)


def offline_on_a_rank(folder: str) -> tuple[str, str]:
    """Returns the error of pretrained=True, and what "auto" printed, with the weights it began from."""
    torchvision_download.load_state_dict_from_url = no_network  # this process ends with the function
    dls = small_loaders(folder)
    try:
        small_learner(dls, "resnet18", pretrained=True)
    except ArtifactError as error:
        refused = str(error)
    heard = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", heard)
        learn = small_learner(dls, "resnet18", pretrained="auto")
    return refused, heard.getvalue(), float(all_weights(learn).sum())


def test_offline_all_ranks_take_the_same_decision_and_one_says_it(spawn: Any, folder: Path) -> None:
    (refused, said, weights), (refused_too, silent, same_weights) = spawn(2, offline_on_a_rank, folder=str(folder))
    assert refused == refused_too
    assert "cannot be had" in refused
    assert said.count("beginning from random weights") == 1
    assert silent == ""
    assert weights == same_weights


def test_published_weights_are_loaded_and_the_body_is_frozen(
    dls: ImageDataLoaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(torchvision_download, "load_state_dict_from_url", lambda *_, **__: published)
    learn = small_learner(dls, "resnet18", pretrained=True)
    assert torch.equal(learn.model.body.conv1.weight, published["conv1.weight"])
    trained = {name for name, p in learn.model.named_parameters() if p.requires_grad}
    norms = {name for name in dict(learn.model.named_parameters()) if re.search(r"bn\d|downsample\.1", name)}
    assert trained == {name for name in dict(learn.model.named_parameters()) if name.startswith("head.")} | norms


def test_weights_of_another_architecture_name_the_file(dls: ImageDataLoaders, tmp_path: Path) -> None:
    file = tmp_path / "cnn.pth"
    torch.save(small_cnn().state_dict(), file)
    with pytest.raises(
        ArtifactError, match=rf"{file} does not hold the weights of this ResNet: it lacks conv1\.weight"
    ):
        small_learner(dls, "resnet18", weights=file)
    with pytest.raises(ArtifactError, match=rf"^no file of weights at {tmp_path}/gone\.pth$"):
        small_learner(dls, "resnet18", weights=tmp_path / "gone.pth")


def test_real_weights_fit_twenty_photos_in_a_few_steps_and_random_ones_do_not(tmp_path: Path) -> None:
    """Animals against things: 12 photos are enough to tell them apart for a body that knows ImageNet."""
    for number, (photo, label) in enumerate(kit.imagenet_photos()):
        place = tmp_path / "photos" / ("animal" if label < 398 else "thing") / f"{number}.png"  # ImageNet's first 398
        place.parent.mkdir(parents=True, exist_ok=True)
        photo.resize((128, 128)).save(place)
    file = tmp_path / "mobilenet_v2.pth"
    torch.save(kit.mobilenet_v2_weights(), file)

    def learner(**options: Any) -> Learner:
        dls = small_loaders(tmp_path / "photos", valid_pct=0.4, seed=0, item_tfms=Resize(128, "squish"), bs=6)
        return small_learner(dls, "mobilenet_v2", metrics=accuracy, **options)

    pretrained, random = learner(weights=file), learner()
    published = torchvision.models.mobilenet_v2(weights=None).eval()
    published.load_state_dict(kit.mobilenet_v2_weights())
    published = published.features
    x, _ = pretrained.dls.valid.one_batch()
    with torch.no_grad():
        assert torch.equal(pretrained.model.body.eval()(x), published(x))
    for learn in (pretrained, random):
        learn.fine_tune(1, 5e-3, freeze_epochs=7)
    assert pretrained.validate(pretrained.dls.train)[1] == 1.0
    assert random.validate(random.dls.train)[1] < 0.75


# ------------------------------------------------------------------------------------------------ pictures


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_show_batch_draws_training_images_under_their_labels(folder: Path) -> None:
    dls = small_loaders(folder, batch_tfms=[*aug_transforms(), Normalize(*imagenet_stats)])
    figure = dls.show_batch(3)
    _, y = dls.one_batch()
    assert titles(figure) == [dls.vocab[i] for i in y[:3].tolist()]
    for axes in figure.axes:  # what was normalised is shown as it was
        pixels = axes.images[0].get_array()
        assert pixels.shape == (20, 24, 3)
        assert 0 <= pixels.min() < pixels.max() <= 1


def test_show_results_takes_samples_from_all_over_the_data_and_tells_right_from_wrong(folder: Path) -> None:
    learn = small_learner(small_loaders(folder))
    with torch.no_grad():
        learn.model.head[-1].weight.zero_()  # class 0 for all
    figure = learn.show_results(2, figsize=(3, 2))  # a cat and a dog, though the first eight are cats
    assert titles(figure) == ["cat", "cat\nis dog"]
    assert [axes.title.get_color() for axes in figure.axes] == ["green", "tab:red"]
    assert figure.get_size_inches().tolist() == [3, 2]
    assert titles(learn.show_results(2, dl=learn.dls.train)) == ["cat", "cat\nis dog"]
    assert len(titles(learn.show_results(99))) == 16


def test_the_model_is_left_as_it_was_by_showing(dls: ImageDataLoaders) -> None:
    learn = small_learner(dls)
    before = all_weights(learn)
    learn.show_results()
    learn.predict(Image.new("RGB", (24, 20)))
    assert torch.equal(all_weights(learn), before)


def test_predictions_are_drawn_to_a_file(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.png"))[:3]
    picture = tmp_path / "new" / "p.png"
    save_predictions(picture, files, [("cat", 0.9), ("dog", float("nan")), ("cat", 0.5)])
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


def test_tta_over_views_is_the_mean_of_the_models_predictions_of_them(folder: Path) -> None:
    learn = small_learner(small_loaders(folder, item_tfms=Resize(16), batch_tfms=aug_transforms()))
    learn.fit(1, 1e-2)
    predictions, targets = learn.tta(views=dihedral_views(), beta=0)
    assert torch.equal(predictions, learn.tta(views=dihedral_views(), beta=0)[0])  # nothing is drawn
    images = torch.cat([x.as_subclass(torch.Tensor) for x, _ in learn.dls.valid])
    assert len(images) == len(targets)
    learn.model.eval()
    with torch.inference_mode():
        turned = [way.flip(dims) for way in (images, images.transpose(-1, -2)) for dims in ((), (-1,), (-2,), (-1, -2))]
        expected = torch.stack([learn.model(each).softmax(1) for each in turned]).mean(0)
    torch.testing.assert_close(predictions, expected, atol=1e-5, rtol=0)
    alone = learn.get_preds()[0]
    mixed = learn.tta(views=flip_views(), beta=1)[0]
    torch.testing.assert_close(mixed, alone)
    with pytest.raises(ConfigError, match=r"^tta\(views=\[\]\): expected at least one transform$"):
        learn.tta(views=[])
