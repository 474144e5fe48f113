"""Published weights: from torchvision, from timm, from a file or from a package; verified where their hash is known."""

from __future__ import annotations

import hashlib
import importlib.resources
import pickle
import re
import socket
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torchvision import models as torchvision_models

from dist_ai.errors import ArtifactError
from dist_ai.vision.models.backbones import is_timm, is_torchvision, last_linear, timm_model
from dist_ai.vision.transforms import imagenet_stats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["load_weights", "statistics_of", "weights_of"]

_SIDE_OUTPUTS = ("aux1.", "aux2.", "AuxLogits.")
# DenseNet's published weights still have the names of before torch 0.4: denselayer1.norm.1.weight.
_OLD_DENSENET_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # torchvision's: mobilenet_v2-b0353104.pth
_PACKAGE = "package:"
_SECONDS_TO_ANSWER = 20.0
_OF_HALF = ([0.5] * 3, [0.5] * 3)
# Their published weights expect 0.5 where the classifier makes it of ImageNet's itself, which a body does not.
_TRANSFORM_INPUT = ("googlenet", "inception_v3")


def statistics_of(arch: str | None) -> tuple[list[float], list[float]]:
    """Returns the mean and deviation of each channel that an architecture's published weights expect, or ImageNet's."""
    if arch in _TRANSFORM_INPUT:
        return _OF_HALF
    if is_torchvision(arch):
        preset = torchvision_models.get_model_weights(arch).DEFAULT.transforms()
        return list(preset.mean), list(preset.std)
    if is_timm(arch):
        config = timm_model(str(arch)).pretrained_cfg
        return list(config["mean"]), list(config["std"])
    return imagenet_stats


def weights_of(arch: str, source: str | Path | None = None) -> dict[str, torch.Tensor]:
    """Returns pretrained weights of a classifier by name.

    Args:
        arch: the classifier's name.
        source: None for those that torchvision or timm publish, from their cache or downloaded; a file, a state dict
            (.pth or .safetensors); or ``"package:NAME/PATH"``, a file in an installed package. Where a file's name ends in
            its hash, as torchvision's do (``mobilenet_v2-b0353104.pth``), or ``#sha256=...`` follows, it must be that.

    Raises:
        ArtifactError: they cannot be had, or are not what their hash says; says why.
    """
    if source is not None:
        return _from_file(str(source))
    with _patience():
        try:
            if is_torchvision(arch):
                return torchvision_models.get_model_weights(arch).DEFAULT.get_state_dict(
                    progress=False, check_hash=True
                )
            if is_timm(arch):
                return timm_model(arch, pretrained=True).state_dict()
        except Exception as error:
            raise ArtifactError(f"the pretrained weights of {arch} cannot be had: {error}") from error
    raise ArtifactError(f"{arch!r} is not one of torchvision's or timm's, so there are no published weights for it")


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
    if (last := last_linear(model)) is not None:
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


@contextmanager
def _patience() -> Iterator[None]:
    """Waits so long for a server: without a limit, a firewall that swallows packets would hold the run up for minutes."""
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_TO_ANSWER)
    try:
        yield
    finally:
        socket.setdefaulttimeout(limit)


def _from_file(source: str) -> dict[str, torch.Tensor]:
    place, _, sha256 = source.partition("#sha256=")
    with ExitStack() as open_files:
        file = Path(place)
        if place.startswith(_PACKAGE):
            package, _, inside = place.removeprefix(_PACKAGE).partition("/")
            try:
                file = open_files.enter_context(
                    importlib.resources.as_file(importlib.resources.files(package) / inside)
                )
            except (ModuleNotFoundError, FileNotFoundError) as error:
                raise ArtifactError(
                    f"no weights at {place}: {error}; install the package, or see what is in it"
                ) from error
        named = _HASH_IN_NAME.search(file.name)
        _check_hash(file, sha256 or (named[1] if named else ""))
        return _read(file)


def _check_hash(file: Path, sha256: str) -> None:
    if not sha256 or not file.is_file():
        return
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(sha256.lower()):
        raise ArtifactError(
            f"{file} has the SHA-256 {found[:16]}..., and not {sha256[:16]}; it is damaged, or another file"
        )


def _read(file: Path) -> dict[str, torch.Tensor]:
    expected = "expected a state dict of tensors, saved with torch.save or safetensors"
    try:
        weights: Any = (
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
