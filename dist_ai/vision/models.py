"""Image models: a body from torchvision (or yours) and a head for the task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torchvision import models as torchvision_models

from dist_ai.core.registry import Registry
from dist_ai.errors import ArtifactError, ConfigError, DistAIError, did_you_mean
from dist_ai.export import register_builder
from dist_ai.layers import ConcatPool2d, SeededDropout

__all__ = ["VisionModel", "architectures", "create_head", "small_cnn", "vision_model", "vision_splitter", "weights_of"]

architectures: Registry[Callable[[], nn.Module]] = Registry(
    "architecture", "decorate the function that makes it with @architectures.register(name), from dist_ai.vision.models"
)
"""Architectures of our own and of users, by name; torchvision's need not be here."""

_WITHOUT_SIDE_OUTPUTS = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


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
    return torchvision_models.get_model(arch, weights=None, **_WITHOUT_SIDE_OUTPUTS.get(arch, {}))


def on_backbone(model: nn.Module, n_out: int, *, lin_ftrs: int = 512, dropout: float = 0.5) -> VisionModel:
    """Returns a model whose body is the classifier `model` without its last linear layer, with a new head.

    Where that layer follows an average pooling of the whole image, the body pools by maximum and mean instead.

    Raises:
        ConfigError: the classifier has no linear layer to replace.
    """
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(
            f"{type(model).__name__} has no linear layer to replace by a head; add one, or use a Learner directly"
        )
    name, last = linear[-1]
    features = last.in_features
    pool = getattr(model, "avgpool", None)
    if "." not in name and isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1)):
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


def weights_of(arch: str, file: str | Path | None = None) -> dict[str, torch.Tensor]:
    """Returns pretrained weights of a torchvision classifier, from its cache, from `file` (state dict) or downloaded.

    Raises:
        ArtifactError: they cannot be had; says why.
    """
    try:
        if file is not None:
            if Path(file).suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(file)
            return torch.load(file, map_location="cpu", weights_only=True)
        if arch not in torchvision_models.list_models(module=torchvision_models):
            raise ArtifactError(f"{arch!r} is not one of torchvision's, so there are no published weights for it")
        return torchvision_models.get_model_weights(arch).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except DistAIError:
        raise
    except Exception as error:
        raise ArtifactError(f"the pretrained weights of {arch} cannot be had: {error}") from error
