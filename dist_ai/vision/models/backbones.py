"""Classifiers by name: torchvision's, timm's, and those that are registered here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models as torchvision_models
from torchvision.ops import StochasticDepth

from dist_ai.core.registry import Registry
from dist_ai.errors import ConfigError, MissingDependencyError, did_you_mean
from dist_ai.layers import SeededDropout

__all__ = ["architectures", "backbone", "is_timm", "is_torchvision", "last_linear", "small_cnn", "timm_model"]

architectures: Registry[Callable[[], nn.Module]] = Registry(
    "architecture", "decorate the function that makes it with @architectures.register(name), from dist_ai.vision.models"
)
"""Architectures of our own and of users, by name; torchvision's and timm's need not be here."""

_WITHOUT_SIDE_OUTPUTS = {
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": True},
}
_TIMM = "timm/"


@architectures.register("small_cnn")
def small_cnn() -> nn.Module:
    """Returns a small convolutional network for small images (about 28 pixels): 3 stages, 75,000 weights."""

    def stage(n_in: int, n_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    stages = [*stage(3, 32), *stage(32, 64), *stage(64, 96)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def backbone(arch: str) -> nn.Module:
    """Returns the untrained classifier named `arch`: of `architectures`, of torchvision, or of timm.

    Raises:
        ConfigError: there is none of that name; suggests the nearest.
        MissingDependencyError: timm is not installed.
    """
    if arch in architectures:
        return architectures.find(arch)()
    if is_timm(arch):
        model = timm_model(arch)
    elif is_torchvision(arch):
        model = torchvision_models.get_model(arch, weights=None, **_WITHOUT_SIDE_OUTPUTS.get(arch, {}))
    else:
        names = torchvision_models.list_models(module=torchvision_models)
        raise ConfigError(
            f"no architecture named {arch!r}{did_you_mean(arch, [*names, *architectures])}; torchvision has "
            f"{len(names)} (torchvision.models.list_models()), timm's are there if it is installed, and yours can be added to "
            "dist_ai.vision.models.architectures"
        )
    _seed_dropout(model)
    return model


def is_torchvision(arch: str | None) -> bool:
    """Returns whether `arch` is the name of a classifier of torchvision's."""
    return arch in torchvision_models.list_models(module=torchvision_models)


def is_timm(arch: str | None) -> bool:
    """Returns whether `arch` names one of timm's: ``"timm/resnet18"``, or just its name if nobody else has one of it."""
    if str(arch).startswith(_TIMM):
        return True
    if arch is None or arch in architectures or is_torchvision(arch):
        return False
    timm = _timm()
    return timm is not None and bool(timm.is_model(arch))


def timm_model(arch: str, **options: Any) -> Any:
    """Returns a model of timm's.

    Raises:
        MissingDependencyError: timm is not installed.
        ConfigError: it has none of that name; suggests the nearest.
    """
    if (timm := _timm()) is None:
        raise MissingDependencyError(f"{arch} needs timm: pip install timm")
    name = arch.removeprefix(_TIMM)
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model named {name!r}{did_you_mean(name, timm.list_models())}")
    return timm.create_model(name, **options)


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        return None


def last_linear(model: nn.Module) -> str | None:
    """Returns the name of a model's last linear layer, or None."""
    linear = [name for name, module in model.named_modules() if name and isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _seed_dropout(model: nn.Module) -> None:
    """Makes the model drop the same on any number of ranks. All of torchvision's classifiers have the batch first there."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout) and 0 < child.p < 1:
                setattr(parent, name, SeededDropout(child.p))
            elif isinstance(child, StochasticDepth) and 0 < child.p < 1 and child.mode == "row":
                setattr(parent, name, SeededDropout(child.p, whole_samples=True))
            elif type(child).__name__ == "DropPath" and 0 < (share := getattr(child, "drop_prob", 0.0) or 0.0) < 1:
                setattr(parent, name, SeededDropout(share, whole_samples=True))  # timm's, which counts no batch either
