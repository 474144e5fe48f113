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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dist_ai.core.registry import Registry
from dist_ai.core.sealed import MANIFEST, open_sealed, seal
from dist_ai.data.recipe import SampleRecipe
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.losses import loss_from_plain, loss_to_plain

__all__ = [
    "EXPORT_FILES",
    "Artifact",
    "ModelSpec",
    "builders",
    "describe",
    "load_export",
    "load_tensors",
    "register_builder",
    "save_export",
    "to_text",
]

EXPORT_FILES = ("model.safetensors", "model.json")
"""What an export has beside its manifest."""

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
    directory: str | Path,
    *,
    model: nn.Module,
    spec: ModelSpec | None,
    recipe: SampleRecipe,
    loss_func: Any,
    state: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Writes an export, complete or not at all; one that is there is replaced.

    Args:
        directory: where.
        model: the model.
        spec: how to build it.
        recipe: how an item becomes its input.
        loss_func: the loss, for its activation and decoding.
        state: the model's parameters and buffers, where it does not hold all of them itself.

    Raises:
        ConfigError: it is not known how to build the model, or not this model is built so, or a transform cannot be
            written as data.
    """
    description = describe(spec=spec, recipe=recipe, loss_func=loss_func, model=type(model).__name__)
    assert spec is not None
    held = model.state_dict() if state is None else state
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in held.items()}
    _check_builds(spec, tensors)
    with seal(directory, "export", EXPORT_FILES) as folder:
        save_file(tensors, folder / "model.safetensors")
        (folder / "model.json").write_text(to_text(description))
    return Path(directory)


def describe(*, spec: ModelSpec | None, recipe: SampleRecipe, loss_func: Any, model: str = "model") -> dict[str, Any]:
    """Returns what an export says of a model, as plain data: how to build it, and how to predict with it.

    Raises:
        ConfigError: it is not known how to build the model, or a transform cannot be written as data.
    """
    if spec is None or spec.builder not in builders:
        problem = "" if spec is None else f" by {spec.builder!r}, which is not registered"
        raise ConfigError(
            f"cannot export this {model}{problem}: a file holds no code, so it must name a function that "
            "builds the model. Decorate one with @dist_ai.export.register_builder('my_model') and give "
            "Learner(spec=ModelSpec('my_model', {...}))"
        )
    description = {
        "builder": spec.builder,
        "arguments": spec.arguments,
        "recipe": recipe.to_plain(),
        "loss": loss_to_plain(loss_func),
        "versions": {name: _version(name) for name in ("dist_ai", "torch", "torchvision")},
    }
    try:
        json.dumps(description)
    except TypeError as error:
        raise ConfigError(
            f"the arguments of {spec} cannot be written to a file ({error}); give numbers, strings, lists and dicts"
        ) from error
    return description


def load_export(directory: str | Path) -> Artifact:
    """Reads and verifies an export and builds its model; no code of the export is run, for it holds none.

    Raises:
        ArtifactError: it is missing, damaged, incomplete, or names what this program does not have.
    """
    _tell_apart(Path(directory))
    directory = open_sealed(directory, "export")
    try:
        description = json.loads((directory / "model.json").read_text())
        spec = ModelSpec(description["builder"], description["arguments"])
        artifact = Artifact(
            model=spec.build().eval(),
            spec=spec,
            recipe=SampleRecipe.from_plain(description["recipe"]),
            loss_func=loss_from_plain(description["loss"]),
            versions=description["versions"],
        )
        tensors = load_file(directory / "model.safetensors")
    except ArtifactError as error:
        raise ArtifactError(f"export {directory}: {error}") from error
    except Exception as error:  # it is sealed, so this is what was written: by another version, or by hand
        raise ArtifactError(
            f"export {directory} does not describe a model that this dist_ai can make: {type(error).__name__}: {error}; "
            "export it again"
        ) from error
    load_tensors(
        artifact.model, tensors, f"export {directory}", "The builder makes another model now than when it was exported"
    )
    return artifact


def _tell_apart(directory: Path) -> None:
    """Says what stands there, if it is something else that dist_ai writes."""
    if (directory / "checkpoints").is_dir():
        export = directory / "export"
        near = f"; did you mean {export}?" if export.is_dir() else "; learn.export(...) makes one of what was trained"
        raise ArtifactError(f"{directory} is a run directory, and no export{near}")
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return
    match manifest.get("kind") if isinstance(manifest, dict) else None:
        case "checkpoint":
            raise ArtifactError(
                f"{directory} is a checkpoint, and no export; `dist-ai consolidate {directory} OUT` makes one of it"
            )
        case "weights":
            raise ArtifactError(
                f"{directory} holds the weights of a model alone, and no export, which also says how the model is built and what "
                f"it reads; make its Learner with spec=ModelSpec(...), load {directory / 'model.safetensors'} into its model, "
                "and call learn.export(...)"
            )


def to_text(description: Mapping[str, Any]) -> str:
    """Returns the content of ``model.json``."""
    return json.dumps(description, indent=2) + "\n"


def load_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, remark: str) -> None:
    """Loads parameters and buffers that a file holds by name.

    Raises:
        ArtifactError: a name or a shape differs; says which, after `source` and before `remark`.
    """
    state = model.state_dict()
    if problem := _difference(tensors, state):
        raise ArtifactError(f"{source} {problem}. {remark}")
    state.update(tensors)  # and not `tensors` itself: a state dict also says which version of each layer wrote it
    model.load_state_dict(state)


def _check_builds(spec: ModelSpec, tensors: Mapping[str, torch.Tensor]) -> None:
    with torch.random.fork_rng(devices=[]):
        try:
            built = spec.build().state_dict()
        except Exception as error:
            raise ConfigError(f"{spec} builds no model: {type(error).__name__}: {error}") from error
    if problem := _difference(tensors, built):
        raise ConfigError(
            f"{spec} builds another model than the trained one, which {problem}; give the arguments that built it"
        )


def _difference(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Returns how `tensors` differs from the `wanted` names and shapes: "has no weights for 'a'"; or ""."""
    for name in wanted:
        if name not in tensors:
            return f"has no weights for {name!r}"
        if tensors[name].shape != wanted[name].shape:
            return f"has {name!r} in shape {tuple(tensors[name].shape)} and not {tuple(wanted[name].shape)}"
    return next((f"has weights for {name!r}, which are too many" for name in tensors if name not in wanted), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
