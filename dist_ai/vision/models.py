"""Image models: a body from torchvision (or yours) and a head for the task."""

from __future__ import annotations

import pickle
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models as torchvision_models
from torchvision.ops import StochasticDepth

from dist_ai.core.registry import Registry
from dist_ai.errors import ArtifactError, ConfigError, did_you_mean
from dist_ai.export import register_builder
from dist_ai.layers import ConcatPool2d, SeededDropout
from dist_ai.vision.transforms import imagenet_stats

__all__ = [
    "VisionModel",
    "architectures",
    "backbone",
    "create_head",
    "load_weights",
    "on_backbone",
    "small_cnn",
    "statistics_of",
    "vision_model",
    "vision_splitter",
    "weights_of",
]

architectures: Registry[Callable[[], nn.Module]] = Registry(
    "architecture", "decorate the function that makes it with @architectures.register(name), from dist_ai.vision.models"
)
"""Architectures of our own and of users, by name; torchvision's need not be here."""

# Their published weights expect inputs of mean and deviation 0.5, which `transform_input` makes of ImageNet's.
_WITHOUT_SIDE_OUTPUTS = {
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": True},
}
_SIDE_OUTPUTS = ("aux1.", "aux2.", "AuxLogits.")
# DenseNet's published weights still have the names of before torch 0.4: denselayer1.norm.1.weight.
_OLD_DENSENET_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
_SECONDS_TO_ANSWER = 20.0


class VisionModel(nn.Module):
    """A body that makes a feature vector of an image, and a head that makes the prediction of it.

    Args:
        body: (batch, 3, height, width) to (batch, features).
        head: (batch, features) to (batch, outputs).
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the predictions, (batch, outputs)."""
        return self.head(self.body(x))


@architectures.register("small_cnn")
def small_cnn() -> nn.Module:
    """Returns a small convolutional network for small images (about 28 pixels): 3 stages, 75,000 weights."""

    def stage(n_in: int, n_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    stages = [*stage(3, 32), *stage(32, 64), *stage(64, 96)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


@register_builder("vision_model")
def vision_model(arch: str, n_out: int, lin_ftrs: int = 512, dropout: float = 0.5) -> VisionModel:
    """Returns an untrained model for `n_out` outputs.

    Args:
        arch: a torchvision classifier's name (``"resnet18"``), or one in `architectures`.
        n_out: outputs.
        lin_ftrs: width of the head's hidden layer.
        dropout: of the head's last layer; half of it before the hidden layer.

    Raises:
        ConfigError: no such architecture.
    """
    return on_backbone(backbone(arch), n_out, lin_ftrs=lin_ftrs, dropout=dropout)


def backbone(arch: str) -> nn.Module:
    """Returns the untrained classifier named `arch`.

    Raises:
        ConfigError: there is none of that name; suggests the nearest.
    """
    if arch in architectures:
        return architectures.find(arch)()
    names = torchvision_models.list_models(module=torchvision_models)
    if arch not in names:
        raise ConfigError(
            f"no architecture named {arch!r}{did_you_mean(arch, [*names, *architectures])}; torchvision has "
            f"{len(names)} (torchvision.models.list_models()), and yours can be added to dist_ai.vision.models.architectures"
        )
    model = torchvision_models.get_model(arch, weights=None, **_WITHOUT_SIDE_OUTPUTS.get(arch, {}))
    _seed_dropout(model)
    return model


def _seed_dropout(model: nn.Module) -> None:
    """Makes the model drop the same on any number of ranks. All of torchvision's classifiers have the batch first there."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout) and 0 < child.p < 1:
                setattr(parent, name, SeededDropout(child.p))
            elif isinstance(child, StochasticDepth) and 0 < child.p < 1 and child.mode == "row":
                setattr(parent, name, SeededDropout(child.p, whole_samples=True))


def on_backbone(model: nn.Module, n_out: int, *, lin_ftrs: int = 512, dropout: float = 0.5) -> VisionModel:
    """Returns a model whose body is the classifier `model` without its last linear layer, with a new head.

    Where that layer follows an average pooling of the whole image, the body pools by maximum and mean instead.

    Raises:
        ConfigError: the classifier has no linear layer to replace.
    """
    name, last = _last_linear(model)
    features = last.in_features
    pool = getattr(model, "avgpool", None)
    # In a classifier that is not torchvision's, other layers may lie between the pooling and the last one.
    known = type(model).__module__.startswith("torchvision.models.") and "." not in name
    if known and isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1)):
        model.avgpool, features = ConcatPool2d(), 2 * features
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return VisionModel(model, create_head(features, n_out, lin_ftrs=lin_ftrs, dropout=dropout))


def create_head(features: int, n_out: int, *, lin_ftrs: int = 512, dropout: float = 0.5) -> nn.Sequential:
    """Returns fastai's head: normalise, drop, hidden layer, normalise, drop, output layer; Kaiming initialised."""
    head = nn.Sequential(
        nn.BatchNorm1d(features),
        SeededDropout(dropout / 2),
        nn.Linear(features, lin_ftrs, bias=False),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(lin_ftrs),
        SeededDropout(dropout),
        nn.Linear(lin_ftrs, n_out, bias=False),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return head


def vision_splitter(model: VisionModel) -> list[list[nn.Parameter]]:
    """Returns the parameter groups: early body and late body for the ResNet family, the body otherwise; and the head."""
    body = model.body
    late = [p for name in ("layer3", "layer4") if hasattr(body, name) for p in getattr(body, name).parameters()]
    known = {id(p) for p in late}
    early = [p for p in body.parameters() if id(p) not in known]
    return [group for group in (early, late, list(model.head.parameters())) if group]


def statistics_of(arch: str | None) -> tuple[list[float], list[float]]:
    """Returns the mean and deviation of each channel that an architecture's published weights expect, or ImageNet's."""
    if arch not in torchvision_models.list_models(module=torchvision_models):
        return imagenet_stats
    preset = torchvision_models.get_model_weights(arch).DEFAULT.transforms()
    return list(preset.mean), list(preset.std)


def weights_of(arch: str, file: str | Path | None = None) -> dict[str, torch.Tensor]:
    """Returns pretrained weights of a torchvision classifier, from its cache, from `file` (state dict) or downloaded.

    Raises:
        ArtifactError: they cannot be had; says why.
    """
    if file is not None:
        return _read_weights(Path(file))
    if arch not in torchvision_models.list_models(module=torchvision_models):
        raise ArtifactError(f"{arch!r} is not one of torchvision's, so there are no published weights for it")
    # Without a limit, a firewall that swallows packets would hold the run up for minutes.
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_TO_ANSWER)
    try:
        return torchvision_models.get_model_weights(arch).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise ArtifactError(f"the pretrained weights of {arch} cannot be had: {error}") from error
    finally:
        socket.setdefaulttimeout(limit)


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Loads pretrained weights into a classifier, but for the last layer, which a head replaces, if that has another size.

    Args:
        model: the classifier.
        weights: by name; also under the names that old torchvision files have, and with side outputs.
        source: where they are from, for messages.

    Raises:
        ArtifactError: they are not of this classifier; says what is missing or too much.
    """
    wanted = model.state_dict()
    found = {
        _OLD_DENSENET_NAME.sub(r"\1\2", name): tensor
        for name, tensor in weights.items()
        if name in wanted or not name.startswith(_SIDE_OUTPUTS)
    }
    last, _ = _last_linear(model)
    for name in (f"{last}.weight", f"{last}.bias"):
        if name in wanted and name in found and found[name].shape != wanted[name].shape:
            found[name] = wanted[name]
    # Files older than torch 0.4.1 do not count batches.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    others = [name for name in found if name not in wanted]
    wrong = [name for name in found if name in wanted and found[name].shape != wanted[name].shape]
    if missing or others or wrong:
        facts = {"lacks": missing, "has": others, "has in another shape": wrong}
        raise ArtifactError(
            f"{source} does not hold the weights of this {type(model).__name__}: it "
            + ", and ".join(
                f"{what} {', '.join(names[:3])}{' ...' * (len(names) > 3)}" for what, names in facts.items() if names
            )
        )
    wanted.update(found)  # and not `found` itself: a state dict also says which version of each layer wrote it
    model.load_state_dict(wanted)


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    expected = "expected a state dict of tensors, saved with torch.save or safetensors"
    try:
        weights = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError as error:
        raise ArtifactError(f"no file of weights at {file}") from error
    except pickle.UnpicklingError as error:  # torch's own text recommends to run what the file holds
        raise ArtifactError(f"{file} is no file of weights, or would run code when read; {expected}") from error
    except Exception as error:
        raise ArtifactError(f"{file} cannot be read: {error}; {expected}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        names = f" of {', '.join(map(str, weights))}" if isinstance(weights, Mapping) else ""
        raise ArtifactError(f"{file} holds a {type(weights).__name__}{names}; {expected}")
    return dict(weights)


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    linear = [(name, module) for name, module in model.named_modules() if name and isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(
            f"{type(model).__name__} has no linear layer to replace by a head; add one, or use a Learner directly"
        )
    return linear[-1]
