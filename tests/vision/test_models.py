"""Vision models: every family of torchvision's classifiers gets a head, and its weights come in whole."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
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
from dist_ai.layers import ConcatPool2d, SeededDropout, SelfAttention, SigmoidRange
from dist_ai.layers.dropout import seed_dropout, seeded_layers
from dist_ai.vision import architectures
from dist_ai.vision.models import (
    VisionModel,
    adapt_first_convolution,
    backbone,
    create_body,
    create_head,
    load_weights,
    on_backbone,
    small_cnn,
    statistics_of,
    vision_model,
    vision_splitter,
    weights_of,
    xresnet,
)
from dist_ai.vision.models.backbones import last_linear

# A small member of each family, and what its head takes: doubled where maximum and mean are pooled of a map.
FAMILIES = {
    "alexnet": 2 * 256,
    "convnext_tiny": 2 * 768,
    "densenet121": 2 * 1024,
    "efficientnet_b0": 2 * 1280,
    "googlenet": 2 * 1024,
    "inception_v3": 2 * 2048,
    "maxvit_t": 2 * 512,
    "mnasnet0_5": 2 * 1280,
    "mobilenet_v2": 2 * 1280,
    "mobilenet_v3_small": 2 * 576,
    "regnet_y_400mf": 2 * 440,
    "resnet18": 2 * 512,
    "shufflenet_v2_x0_5": 2 * 1024,
    "small_cnn": 2 * 96,
    "squeezenet1_0": 2 * 512,
    "swin_t": 2 * 768,
    "test_convnext": 2 * 64,  # timm's
    "test_vit": 64,
    "vgg11": 2 * 512,
    "vit_b_16": 768,
    "wide_resnet50_2": 2 * 2048,
    "xresnet18": 2 * 512,
}
TIMMS = {"test_convnext": 160, "test_vit": 160}
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
    size = 32 if arch in REAL or arch == "small_cnn" else 299 if arch == "inception_v3" else TIMMS.get(arch, 224)
    return torch.empty(2, 3, size, size, device="cpu" if arch in REAL else "meta")


# ------------------------------------------------------------------------------------------------ every family


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_gives_one_row_of_outputs_an_image(build: Any, arch: str, training: bool) -> None:
    model = build(arch).train(training)
    out = model(images_for(arch))
    assert tuple(out.shape) == (2, 5)
    normalise = next(layer for layer in model.head if isinstance(layer, nn.BatchNorm1d))
    assert normalise.num_features == FAMILIES[arch]


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
    assert known - families == {"resnext"}  # one with the others of its code: it is a ResNet


def test_what_works_at_a_sixteenth_of_the_resolution_is_late(build: Any) -> None:
    early, late, _ = vision_splitter(build("resnet18"))
    body = build("resnet18").body
    assert {id(p) for p in late} == {id(p) for layer in (body.layer3, body.layer4) for p in layer.parameters()}
    assert any(p is body.conv1.weight for p in early)
    whole = {"small_cnn", "test_convnext"}  # never so coarse; timm's, whose stages are its own
    for arch in FAMILIES:
        assert len(vision_splitter(build(arch))) == (2 if arch in whole else 3), arch


def test_the_second_half_of_a_transformers_blocks_is_late(build: Any) -> None:
    model = build("vit_b_16")
    early, late, _ = vision_splitter(model)
    names = {id(p): name for name, p in model.body.named_parameters()}
    assert {names[id(p)].split(".")[2] for p in late if "encoder_layer" in names[id(p)]} == {
        f"encoder_layer_{i}" for i in range(6, 12)
    }
    assert "encoder.ln.weight" in {names[id(p)] for p in late}
    assert "encoder.pos_embedding" in {names[id(p)] for p in early}


def test_a_classifier_without_a_linear_layer_is_explained() -> None:
    class Bare(nn.Module):
        """Has one convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

    with pytest.raises(
        ConfigError,
        match="Bare has no linear layer to replace by a head, and no pooling to cut at; give cut=, a function",
    ):
        on_backbone(Bare(), 5)
    model = on_backbone(Bare(), 5, cut=lambda bare: bare.conv)
    assert tuple(model(torch.zeros(2, 3, 9, 9)).shape) == (2, 5)


def test_a_misspelt_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no architecture named 'resnt18'; did you mean 'resnet18'"):
        vision_model("resnt18", 5)
    with pytest.raises(ConfigError, match="no architecture named 'small_cn'; did you mean 'small_cnn'"):
        vision_model("small_cn", 5)


# ------------------------------------------------------------------------------------------------ body and head


def kinds(head: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in head]


def test_the_head_is_fastais() -> None:
    head = create_head(6, 4, lin_ftrs=3, ps=0.4)
    normalised = [nn.BatchNorm1d, SeededDropout, nn.Linear]
    assert kinds(head) == [*normalised, nn.ReLU, *normalised]
    assert (head[1].p, head[5].p) == (0.2, 0.4)
    assert [name for name, _ in head.named_parameters() if "bias" in name] == ["0.bias", "4.bias"]
    assert tuple(head(torch.randn(2, 6)).shape) == (2, 4)


def test_the_heads_options_are_fastais() -> None:
    normalised = [nn.BatchNorm1d, SeededDropout, nn.Linear]
    two = create_head(6, 4, pool=True, lin_ftrs=[5, 3], ps=[0.1, 0.2, 0.3])
    assert kinds(two) == [ConcatPool2d, *normalised, nn.ReLU, *normalised, nn.ReLU, *normalised]
    assert [layer.p for layer in two if isinstance(layer, SeededDropout)] == [0.1, 0.2, 0.3]
    assert tuple(two(torch.randn(2, 6, 3, 3)).shape) == (2, 4)
    mean = create_head(6, 4, pool=True, concat_pool=False, first_bn=False, bn_final=True, y_range=(1, 5))
    assert kinds(mean)[:4] == [nn.AdaptiveAvgPool2d, nn.Flatten, SeededDropout, nn.Linear]
    assert kinds(mean)[-2:] == [nn.BatchNorm1d, SigmoidRange]
    assert mean[3].bias is not None
    out = mean(100 * torch.randn(4, 6, 3, 3))
    assert ((out >= 1) & (out <= 5)).all()
    first = create_head(6, 4, lin_ftrs=3, lin_first=True)
    assert kinds(first) == [SeededDropout, nn.Linear, nn.ReLU, nn.BatchNorm1d, SeededDropout, nn.Linear]
    assert tuple(first(torch.randn(2, 6)).shape) == (2, 4)
    with pytest.raises(ConfigError, match=r"ps=\[0.1\] for 2 layer\(s\); expected one number, or one for each layer"):
        create_head(6, 4, ps=[0.1])
    with pytest.raises(ConfigError, match=r"y_range=\(5, 1\): expected the lower end first"):
        create_head(6, 4, y_range=(5, 1))


def test_the_heads_weights_have_kaimings_deviation() -> None:
    torch.manual_seed(0)
    head = create_head(800, 500, lin_ftrs=900)
    assert head[2].weight.std().item() == pytest.approx((2 / 800) ** 0.5, rel=0.01)
    assert head[6].weight.std().item() == pytest.approx((2 / 900) ** 0.5, rel=0.01)


def test_a_body_gives_the_map_that_the_classifier_pools() -> None:
    for arch in ("resnet18", "densenet121", "mobilenet_v2", "swin_t"):
        torch.manual_seed(0)
        model = backbone(arch).eval()
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            whole = model(x)
            last = model.get_submodule(str(last_linear(model)))
            heard: list[torch.Tensor] = []
            handle = last.register_forward_hook(lambda *args, heard=heard: heard.append(args[1][0]))
            model(x)
            handle.remove()
            body = create_body(model).module.eval()
            pooled = body(x).mean((2, 3))
        assert tuple(whole.shape) == (1, 1000)
        torch.testing.assert_close(pooled, heard[0], atol=1e-5, rtol=1e-4, msg=arch)


@pytest.mark.parametrize("n_in", range(1, 13))
def test_the_first_convolution_takes_as_many_channels_as_the_images_have(n_in: int) -> None:
    model = vision_model("small_cnn", 2, n_in=n_in)
    assert tuple(model(torch.zeros(2, n_in, 16, 16)).shape) == (2, 2)
    torch.manual_seed(0)
    learned = small_cnn().eval()
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        before = learned[:1](x)
        adapt_first_convolution(learned, n_in, pretrained=True)
        if n_in == 1:  # grey in three channels is the same as in one
            grey = x[:, :1]
            assert torch.allclose(learned[:1](grey), small_like(learned, grey), atol=1e-6)
        elif n_in >= 3:  # what lies beyond the three is nothing at first
            more = torch.cat([x, torch.rand(1, n_in - 3, 16, 16)], 1)
            assert torch.allclose(learned[:1](more), before, atol=1e-6)


def small_like(learned: nn.Module, grey: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return small_cnn().eval()[:1](grey.expand(-1, 3, -1, -1))


def test_images_that_a_model_cannot_take_are_explained() -> None:
    with pytest.raises(ConfigError, match="n_in=5: Linear has no convolution; expected 3, and at least 1 channel"):
        adapt_first_convolution(nn.Linear(2, 2), 5, pretrained=False)
    with pytest.raises(ConfigError, match=r"n_in=5: Conv2d has a first convolution of 7 channel\(s\); expected 3"):
        adapt_first_convolution(nn.Conv2d(7, 2, 1), 5, pretrained=False)
    with pytest.raises(ConfigError, match="n_in='4': expected a number of channels"):
        adapt_first_convolution(nn.Conv2d(3, 2, 1), "4", pretrained=False)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("cut", [0, 3, -3, 200, "2"])
def test_a_cut_that_leaves_nothing_or_all_is_explained(cut: Any) -> None:
    model = nn.Sequential(OrderedDict(body=nn.Conv2d(3, 4, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    with pytest.raises(
        ConfigError, match=f"cut={cut!r} of a Sequential: expected how many of its 3 parts .*body, pool, fl"
    ):
        create_body(model, cut=cut)
    assert create_body(model, cut=1).num_features == create_body(model, cut=-2).num_features == 4


def test_xresnets_have_their_depths_and_options() -> None:
    sizes = {depth: sum(isinstance(m, nn.Conv2d) for m in meta_xresnet(depth).modules()) for depth in (18, 34, 50)}
    assert sizes == {18: 3 + 16 + 3, 34: 3 + 32 + 3, 50: 3 + 48 + 4}
    model = xresnet(18, 7, n_in=2, sa=True, act="mish", p=0.1)
    assert sum(isinstance(m, SelfAttention) for m in model.modules()) == 1
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert tuple(model(torch.randn(2, 2, 40, 56)).shape) == (2, 7)
    with pytest.raises(ConfigError, match=r"xresnet\(19\): expected a depth of 18, 34, 50, 101, 152"):
        xresnet(19)
    with pytest.raises(ConfigError, match=r"act='mihs'\): expected one of relu, mish, silu, gelu; did you mean 'mish'"):
        xresnet(18, act="mihs")


def meta_xresnet(depth: int) -> nn.Module:
    with torch.device("meta"):
        return xresnet(depth)


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


def test_a_hash_in_a_files_name_or_behind_it_must_be_its_own(tmp_path: Path) -> None:
    weights = small_cnn().state_dict()
    torch.save(weights, tmp_path / "cnn.pth")
    sha256 = hashlib.sha256((tmp_path / "cnn.pth").read_bytes()).hexdigest()
    assert weights_of("small_cnn", f"{tmp_path}/cnn.pth#sha256={sha256}").keys() == weights.keys()
    with pytest.raises(
        ArtifactError, match=rf"cnn\.pth has the SHA-256 {sha256[:16]}\.\.\., and not aaaa; it is damaged"
    ):
        weights_of("small_cnn", f"{tmp_path}/cnn.pth#sha256=aaaa")
    named = tmp_path / f"cnn-{sha256[:8]}.pth"
    (tmp_path / "cnn.pth").rename(named)
    assert weights_of("small_cnn", named).keys() == weights.keys()
    named.write_bytes(named.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="it is damaged, or another file"):
        weights_of("small_cnn", named)


def test_weights_come_from_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_in_a_package" / "weights").mkdir(parents=True)
    weights = small_cnn().state_dict()
    torch.save(weights, tmp_path / "weights_in_a_package" / "weights" / "cnn.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = weights_of("small_cnn", "package:weights_in_a_package/weights/cnn.pth")
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    with pytest.raises(ArtifactError, match=r"no weights at package:no_such_package/cnn\.pth: No module named"):
        weights_of("small_cnn", "package:no_such_package/cnn.pth")
    with pytest.raises(ArtifactError, match=r"no file of weights at .*gone\.pth"):
        weights_of("small_cnn", "package:weights_in_a_package/gone.pth")


def test_only_torchvisions_and_timms_architectures_have_published_weights() -> None:
    with pytest.raises(
        ArtifactError, match="'small_cnn' is not one of torchvision's or timm's, so there are no published weights"
    ):
        weights_of("small_cnn")


def test_the_statistics_are_those_of_the_published_weights() -> None:
    imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert statistics_of("resnet18") == imagenet
    assert statistics_of("small_cnn") == statistics_of(None) == imagenet
    assert statistics_of("googlenet") == ([0.5] * 3, [0.5] * 3)  # the classifier itself makes these of ImageNet's
    assert statistics_of("test_vit") == ([0.5] * 3, [0.5] * 3)  # timm's
    assert statistics_of("efficientnet_v2_l") == ([0.5] * 3, [0.5] * 3)


def test_a_model_is_the_sequence_of_its_body_and_its_head():
    model = vision_model("small_cnn", 3)
    assert model[0] is model.body
    assert model[1] is model.head
    assert list(model) == [model.body, model.head]
