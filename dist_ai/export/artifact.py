"""The exported model: one directory, consolidated, without pickle, the same whatever trained it.

```
model/
  model.safetensors   every parameter and buffer by name
  model.json          the builder and its arguments, the transforms, the classes, the loss, the versions
  manifest.json       sizes and SHA-256 of the two
```
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dist_ai.core.registry import Registry
from dist_ai.core.sealed import open_sealed, seal
from dist_ai.data.recipe import SampleRecipe
from dist_ai.errors import ArtifactError, ConfigError, did_you_mean
from dist_ai.losses import loss_from_plain, loss_to_plain

__all__ = ["Artifact", "ModelSpec", "builders", "load_export", "register_builder", "save_export"]

builders: Registry[Callable[..., nn.Module]] = Registry(
    "model builder", "decorate the function that makes the model with @dist_ai.export.register_builder before loading"
)

register_builder = builders.register
"""Decorates a function of plain arguments that returns a model, so that exports can name it."""


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model: the name of a registered builder and its arguments, which are plain data."""

    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Returns the model with fresh weights.

        Raises:
            ArtifactError: no such builder is known here.
        """
        return builders.find(self.builder)(**self.arguments)


@dataclass
class Artifact:
    """What an export holds, loaded.

    Attributes:
        model: the model with its trained weights, in evaluation mode, on the CPU.
        spec: how it was built.
        recipe: how an item becomes its input, and its output a label.
        loss_func: the loss, for its activation and decoding; None if it was not one that a file can name.
        versions: of the libraries that wrote it.
    """

    model: nn.Module
    spec: ModelSpec
    recipe: SampleRecipe
    loss_func: Any
    versions: dict[str, str]


def save_export(
    directory: str | Path, *, model: nn.Module, spec: ModelSpec | None, recipe: SampleRecipe, loss_func: Any
) -> Path:
    """Writes an export, complete or not at all; one that is there is replaced.

    Raises:
        ConfigError: it is not known how to build the model, or a transform cannot be written as data.
    """
    if spec is None:
        raise ConfigError(
            f"cannot export this {type(model).__name__}: a file holds no code, so it must name a function that builds the "
            "model. Decorate one with @dist_ai.export.register_builder('my_model') and give "
            "Learner(spec=ModelSpec('my_model', {...}))"
        )
    description = {
        "builder": spec.builder,
        "arguments": spec.arguments,
        "recipe": recipe.to_plain(),
        "loss": loss_to_plain(loss_func),
        "versions": {name: _version(name) for name in ("dist_ai", "torch", "torchvision")},
    }
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with seal(directory, "export") as folder:
        save_file(tensors, folder / "model.safetensors")
        (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    return Path(directory)


def load_export(directory: str | Path) -> Artifact:
    """Reads and verifies an export and builds its model; no code of the export is run, for it holds none.

    Raises:
        ArtifactError: it is missing, damaged, incomplete, or names what this program does not have.
    """
    directory = open_sealed(directory, "export")
    description = json.loads((directory / "model.json").read_text())
    spec = ModelSpec(description["builder"], description["arguments"])
    model = spec.build()
    _load_weights(model, load_file(directory / "model.safetensors"), directory)
    return Artifact(
        model=model.eval(),
        spec=spec,
        recipe=SampleRecipe.from_plain(description["recipe"]),
        loss_func=loss_from_plain(description["loss"]),
        versions=description["versions"],
    )


def _load_weights(model: nn.Module, tensors: dict[str, torch.Tensor], directory: Path) -> None:
    wanted = model.state_dict()
    for name in wanted:
        if name not in tensors:
            raise ArtifactError(
                f"export {directory} has no weights for {name!r}{did_you_mean(name, tensors)}: the builder makes another "
                "model now than when it was exported"
            )
        if tensors[name].shape != wanted[name].shape:
            raise ArtifactError(
                f"export {directory}: {name!r} has shape {tuple(tensors[name].shape)}, and the model wants "
                f"{tuple(wanted[name].shape)}"
            )
    model.load_state_dict(tensors)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
