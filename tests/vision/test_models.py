"""Vision models: every family of torchvision's classifiers gets a head, and its weights come in whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models
from torchvision.ops import StochasticDepth

from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.layers import ConcatPool2d, SeededDropout
from dist_ai.layers.dropout import seed_dropout, seeded_layers
from dist_ai.vision import architectures
from dist_ai.vision.models import (
    VisionModel,
    backbone,
    create_head,
    load_weights,
    on_backbone,
    small_cnn,
    statistics_of,
    vision_model,
    vision_splitter,
    weights_of,
)

# A small member of each family, and the features its body gives: doubled where maximum and mean are pooled.
FAMILIES = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 2 * 1024,
    "inception_v3": 2 * 2048,
    "maxvit_t": 512,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 2 * 440,
    "resnet18": 2 * 512,
    "shufflenet_v2_x0_5": 1024,
    "small_cnn": 96,
    "swin_t": 2 * 768,
    "vgg11": 4096,
    "vit_b_16": 768,
    "wide_resnet50_2": 2 * 2048,
}
REAL = {"regnet_y_400mf"}  # reads numbers from its own weights while it is built, which meta tensors do not have


@pytest.fixture(scope="module")
def build() -> Callable[[str], VisionModel]:
    """Returns `build(arch)`: a model for 5 classes without memory behind its weights, made once."""
    made: dict[str, VisionModel] = {}

    def get(arch: str) -> VisionModel:
        if arch not in made:
            with torch.device("cpu" if arch in REAL else "meta"):
                made[arch] = vision_model(arch, 5)
        return made[arch]

    return get


def images_for(arch: str) -> torch.Tensor:
    """Returns two images of a size that the architecture takes."""
    size = 32 if arch in REAL or arch == "small_cnn" else 299 if arch == "inception_v3" else 224
    return torch.empty(2, 3, size, size, device="cpu" if arch in REAL else "meta")


# ------------------------------------------------------------------------------------------------ every family


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_gives_one_row_of_outputs_an_image(build: Any, arch: str, training: bool) -> None:
    model = build(arch).train(training)
    out = model(images_for(arch))
    assert tuple(out.shape) == (2, 5)
    assert model.head[0].num_features == FAMILIES[arch]


@pytest.mark.parametrize("arch", FAMILIES)
def test_what_every_family_drops_depends_on_the_samples_only(build: Any, arch: str) -> None:
    model = build(arch).train()
    own = [m for m in model.modules() if isinstance(m, nn.Dropout | StochasticDepth) and m.p > 0]
    assert own == []
    layers, images = seeded_layers(model), images_for(arch)
    seed_dropout(layers, torch.zeros(2, dtype=torch.int64, device=images.device))
    try:  # a layer whose rows are not the batch would say so
        model(images)
    finally:
        seed_dropout(layers, None)


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_parameter_groups_hold_every_parameter_once_and_the_last_is_the_head(build: Any, arch: str) -> None:
    model = build(arch)
    groups = vision_splitter(model)
    assert sorted(id(p) for group in groups for p in group) == sorted(id(p) for p in model.parameters())
    assert [id(p) for p in groups[-1]] == [id(p) for p in model.head.parameters()]


@pytest.mark.parametrize("arch", FAMILIES)
def test_the_classifiers_own_last_layer_is_gone(build: Any, arch: str) -> None:
    outputs = [module.out_features for module in build(arch).body.modules() if isinstance(module, nn.Linear)]
    assert 1000 not in outputs


def test_each_family_of_torchvisions_is_here() -> None:
    families = {"".join(char for char in name.split("_")[0] if char.isalpha()) for name in FAMILIES}
    known = {
        "".join(char for char in name.split("_")[0] if char.isalpha())
        for name in torchvision_models.list_models(module=torchvision_models)
    }
    # One with the others of its code: resnext is a ResNet, squeezenet has no linear layer (below).
    assert known - families == {"resnext", "squeezenet"}


def test_a_resnet_has_three_groups_and_others_two(build: Any) -> None:
    early, late, _ = vision_splitter(build("resnet18"))
    body = build("resnet18").body
    assert {id(p) for p in late} == {id(p) for layer in (body.layer3, body.layer4) for p in layer.parameters()}
    assert any(p is body.conv1.weight for p in early)
    assert len(vision_splitter(build("vgg11"))) == 2


def test_a_classifier_without_a_linear_layer_is_explained() -> None:
    with pytest.raises(
        ConfigError, match="SqueezeNet has no linear layer to replace by a head; add one, or use a Learner"
    ):
        vision_model("squeezenet1_0", 5)


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no architecture named 'resnt18'; did you mean 'resnet18'"):
        vision_model("resnt18", 5)
    with pytest.raises(ConfigError, match="no architecture named 'small_cn'; did you mean 'small_cnn'"):
        vision_model("small_cn", 5)


# ------------------------------------------------------------------------------------------------ body and head


def test_the_head_is_fastais() -> None:
    head = create_head(6, 4, lin_ftrs=3, dropout=0.4)
    kinds = [nn.BatchNorm1d, SeededDropout, nn.Linear, nn.ReLU, nn.BatchNorm1d, SeededDropout, nn.Linear]
    assert [type(layer) for layer in head] == kinds
    assert (head[1].p, head[5].p) == (0.2, 0.4)
    assert [name for name, _ in head.named_parameters() if "bias" in name] == ["0.bias", "4.bias"]
    assert tuple(head(torch.randn(2, 6)).shape) == (2, 4)


def test_the_heads_weights_have_kaimings_deviation() -> None:
    torch.manual_seed(0)
    head = create_head(800, 500, lin_ftrs=900)
    assert head[2].weight.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.01)
    assert head[6].weight.std().item() == pytest.approx((2 / 900) ** 0.5, rel=0.01)


def test_where_the_whole_image_is_averaged_the_body_gives_maximum_and_mean() -> None:
    model = vision_model("resnet18", 3).eval()
    features = []
    model.body.layer4.register_forward_hook(lambda *args: features.append(args[2]))
    with torch.no_grad():
        pooled = model.body(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(pooled, torch.cat([features[0].amax((2, 3)), features[0].mean((2, 3))], 1))


def test_a_classifier_of_ones_own_keeps_its_pooling() -> None:
    class Own(nn.Module):
        """Has torchvision's names, and a layer between the pooling and the last one."""

        def __init__(self) -> None:
            super().__init__()
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.hidden, self.fc = nn.Linear(3, 8), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.hidden(self.avgpool(x).flatten(1)))

    model = on_backbone(Own(), 4)
    assert not any(isinstance(module, ConcatPool2d) for module in model.modules())
    assert tuple(model(torch.randn(2, 3, 9, 9)).shape) == (2, 4)


def test_small_cnn_is_small() -> None:
    assert 70_000 < sum(p.numel() for p in small_cnn().parameters()) < 80_000
    assert tuple(small_cnn()(torch.randn(2, 3, 28, 28)).shape) == (2, 10)


def test_a_registered_architecture_is_built_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_things", dict(architectures._things))

    @architectures.register("two_layers")
    def two_layers() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 7), nn.ReLU(), nn.Linear(7, 10))

    assert "two_layers" in architectures
    assert tuple(vision_model("two_layers", 3)(torch.randn(2, 3, 4, 4)).shape) == (2, 3)


# ------------------------------------------------------------------------------------------------ weights


def same(model: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    weights = small_cnn().state_dict()
    file = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(weights, file)
    model = small_cnn()
    load_weights(model, weights_of("small_cnn", file), str(file))
    assert same(model, weights)


def test_a_last_layer_for_other_classes_does_not_matter_as_the_head_replaces_it() -> None:
    weights = torchvision_models.resnet18(num_classes=37).state_dict()
    model = backbone("resnet18")
    load_weights(model, weights, "somebody's")
    assert torch.equal(model.conv1.weight, weights["conv1.weight"])
    assert model.fc.weight.shape == (1000, 512)


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_published_weights_with_side_outputs_fit_the_model_without_them(arch: str) -> None:
    with torch.device("meta"):
        published = torchvision_models.get_model(arch, weights=None, aux_logits=True, init_weights=False)
        model = backbone(arch)
    assert len(published.state_dict()) > len(model.state_dict())
    weights = {name: torch.zeros(value.shape, device="meta") for name, value in published.state_dict().items()}
    load_weights(model, weights, "torchvision")
    assert model.transform_input  # what the published weights were trained with


def test_densenets_published_names_from_before_torch_0_4_are_understood() -> None:
    torch.manual_seed(0)
    new = torchvision_models.DenseNet(4, (2, 2), 8).state_dict()
    old = {
        name.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2")
        if "denselayer" in name
        else name: value
        for name, value in new.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    model = torchvision_models.DenseNet(4, (2, 2), 8)
    load_weights(model, old, "torchvision")
    assert same(model, new)


def test_weights_that_do_not_say_which_version_of_a_layer_wrote_them_load(tmp_path: Path) -> None:
    file = tmp_path / "mnasnet.safetensors"  # MNASNet refuses a plain dict: it looks for its version
    weights = torchvision_models.mnasnet0_5(weights=None).state_dict()
    save_file(weights, file)
    model = backbone("mnasnet0_5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(model, weights_of("mnasnet0_5", file), str(file))
    assert same(model, weights)


def test_weights_from_before_batches_were_counted_load() -> None:
    weights = {name: value for name, value in small_cnn().state_dict().items() if "num_batches" not in name}
    model = small_cnn()
    load_weights(model, weights, "an old file")
    assert torch.equal(model[0].weight, weights["0.weight"])


def test_weights_of_another_architecture_are_named() -> None:
    with pytest.raises(
        ArtifactError,
        match=r"cnn\.pth does not hold the weights of this ResNet: it lacks conv1\.weight, bn1\.weight, bn1\.bias \.\.\., "
        r"and has 0\.weight, 1\.weight",
    ):
        load_weights(backbone("resnet18"), small_cnn().state_dict(), "cnn.pth")
    wider = {name: value.repeat(2, *[1] * (value.dim() - 1)) if value.dim() else value for name, value in
             small_cnn().state_dict().items()}  # fmt: skip
    with pytest.raises(
        ArtifactError, match=r"of this Sequential: it has in another shape 0\.weight, 1\.weight, 1\.bias \.\.\.$"
    ):
        load_weights(small_cnn(), wider, "wide.pth")


class Malice:
    """Unpickling it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_a_file_that_is_no_weights_is_named_and_runs_nothing(tmp_path: Path) -> None:
    expected = r"expected a state dict of tensors, saved with torch\.save or safetensors"
    with pytest.raises(ArtifactError, match=rf"no file of weights at {tmp_path}/gone\.pth"):
        weights_of("small_cnn", tmp_path / "gone.pth")
    file, trace = tmp_path / "w.pth", tmp_path / "trace"
    file.write_text("not weights")
    with pytest.raises(ArtifactError, match=rf"w\.pth is no file of weights, or would run code when read; {expected}"):
        weights_of("small_cnn", file)
    torch.save(Malice(trace), file)
    with pytest.raises(
        ArtifactError, match=rf"w\.pth is no file of weights, or would run code when read; {expected}"
    ) as e:
        weights_of("small_cnn", file)
    assert not trace.exists()
    assert "weights_only" not in str(e.value)  # torch's own advice would run it
    torch.save({"model": small_cnn().state_dict(), "epoch": 3}, file)
    with pytest.raises(ArtifactError, match=rf"w\.pth holds a dict of model, epoch; {expected}"):
        weights_of("small_cnn", file)
    torch.save([torch.zeros(2)], file)
    with pytest.raises(ArtifactError, match=rf"w\.pth holds a list; {expected}"):
        weights_of("small_cnn", file)
    (tmp_path / "w.safetensors").write_text("not weights")
    with pytest.raises(ArtifactError, match=rf"w\.safetensors cannot be read: .*; {expected}"):
        weights_of("small_cnn", tmp_path / "w.safetensors")


def test_only_torchvisions_architectures_have_published_weights() -> None:
    with pytest.raises(
        ArtifactError, match="'small_cnn' is not one of torchvision's, so there are no published weights"
    ):
        weights_of("small_cnn")


def test_the_statistics_are_those_of_the_published_weights() -> None:
    imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert statistics_of("resnet18") == imagenet
    assert statistics_of("small_cnn") == statistics_of(None) == imagenet
    assert statistics_of("efficientnet_v2_l") == ([0.5] * 3, [0.5] * 3)
