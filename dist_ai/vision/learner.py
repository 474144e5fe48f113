"""Learners for images: of labels, numbers and points, and of masks and other images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import torch
from torch import nn

from dist_ai.core.names import known_arguments
from dist_ai.data import DataLoaders
from dist_ai.distributed import join
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.export import ModelSpec
from dist_ai.learner import Learner, LearnerOptions, first_weights
from dist_ai.vision.models.backbones import architectures, backbone
from dist_ai.vision.models.bodies import Cut, adapt_first_convolution
from dist_ai.vision.models.classifier import on_backbone, vision_splitter
from dist_ai.vision.models.unet import unet_on_backbone
from dist_ai.vision.models.weights import load_weights, statistics_of, weights_of
from dist_ai.vision.transforms import Normalize, OpenImage

__all__ = ["Arch", "Beginning", "Pretrained", "unet_learner", "vision_learner"]

Arch: TypeAlias = str | Callable[..., nn.Module]
Pretrained: TypeAlias = bool | Literal["auto"]


@known_arguments(LearnerOptions)
def vision_learner(
    dls: DataLoaders,
    arch: Arch,
    *,
    pretrained: Pretrained = "auto",
    weights: str | Path | None = None,
    n_out: int | None = None,
    n_in: int | None = None,
    normalize: bool = True,
    cut: Cut = None,
    custom_head: nn.Module | None = None,
    concat_pool: bool = True,
    lin_ftrs: int | Sequence[int] = 512,
    ps: float | Sequence[float] = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: Sequence[float] | None = None,
    **options: Unpack[LearnerOptions],
) -> Learner:
    """Returns a Learner that fine-tunes (or trains) an image model on `dls`.

    Args:
        dls: images and labels, numbers or points.
        arch: the name of a classifier of torchvision's (``"resnet18"``) or timm's, its function in torchvision, one in
            `dist_ai.vision.models.architectures`, or a function without arguments that returns a classifier.
        pretrained: True begins from published weights or fails; ``"auto"``, the default, begins from random weights where
            they cannot be had (no network), and says so; False begins from random weights.
        weights: a file of weights to begin from instead, a state dict of `arch` (.pth or .safetensors), or one in an
            installed package, ``"package:NAME/PATH"``; see `weights_of`. Its last layer may be for other classes.
        n_out: outputs; by default the number of classes, or of numbers to predict.
        n_in: channels of the images; by default 1 of grey ones and 3 of others. The first convolution is made to fit.
        normalize: add `Normalize` with the statistics of the published weights, which are ImageNet's for nearly all
            architectures, unless `dls` has one.
        cut: where the body ends; see `dist_ai.vision.models.create_body`.
        custom_head: a head of your own; with it the model cannot be exported.
        concat_pool, lin_ftrs, ps, first_bn, bn_final, lin_first, y_range: of the head; see `dist_ai.vision.models.create_head`.
        options: see `Learner`.

    The weights that are not pretrained depend on `dls.seed` only. With pretrained weights the body is frozen.

    Raises:
        ConfigError: an argument that cannot work, or images that do not fit the architecture.
        ArtifactError: pretrained weights cannot be had, or are of another architecture.
    """
    if dls.train.bs == 1:
        raise ConfigError("bs=1: the head's BatchNorm needs at least 2 images in a training batch; use bs=2 or more")
    head = {
        "concat_pool": concat_pool,
        "lin_ftrs": lin_ftrs,
        "ps": ps,
        "first_bn": first_bn,
        "bn_final": bn_final,
        "lin_first": lin_first,
        "y_range": y_range,
    }
    builder = "vision_model" if cut is None and custom_head is None else None
    make = partial(on_backbone, cut=cut, custom_head=custom_head)
    return Beginning(dls, arch, n_in, pretrained, weights).learner(builder, make, n_out, head, normalize, options)


@known_arguments(LearnerOptions)
def unet_learner(
    dls: DataLoaders,
    arch: Arch,
    *,
    pretrained: Pretrained = "auto",
    weights: str | Path | None = None,
    n_out: int | None = None,
    n_in: int | None = None,
    normalize: bool = True,
    cut: Cut = None,
    blur: bool = False,
    blur_final: bool = True,
    self_attention: bool = False,
    last_cross: bool = True,
    bottle: bool = False,
    y_range: Sequence[float] | None = None,
    **options: Unpack[LearnerOptions],
) -> Learner:
    """Returns a Learner that trains a U-Net on images and their masks, or other images.

    Args:
        dls: images and masks, or images and images.
        arch: a convolutional classifier, or Swin; see `vision_learner`.
        n_out: outputs a pixel; by default the number of classes, or the channels of the other image.
        pretrained, weights, n_in, normalize, cut: see `vision_learner`.
        blur, blur_final, self_attention, last_cross, bottle, y_range: see `dist_ai.vision.models.UNet`.
        options: see `Learner`.

    Raises:
        ConfigError: an argument that cannot work, or an architecture without maps of several resolutions.
        ArtifactError: pretrained weights cannot be had, or are of another architecture.

    ```python
    learn = unet_learner(dls, "resnet34", metrics=foreground_acc)
    learn.fine_tune(5)
    ```
    """
    shape = {
        "blur": blur,
        "blur_final": blur_final,
        "self_attention": self_attention,
        "last_cross": last_cross,
        "bottle": bottle,
        "y_range": y_range,
    }
    builder = "unet" if cut is None else None
    make = partial(unet_on_backbone, cut=cut)
    return Beginning(dls, arch, n_in, pretrained, weights).learner(builder, make, n_out, shape, normalize, options)


class Beginning:
    """What a model is made of: a classifier with published weights, or without; and the Learner that trains it."""

    def __init__(
        self, dls: DataLoaders, arch: Arch, n_in: int | None, pretrained: Pretrained, weights: str | Path | None
    ) -> None:
        self.dls, self.arch, self.name = dls, arch, _name(arch)
        self.n_in = (1 if _is_grey(dls) else 3) if n_in is None else n_in
        self.source = f"what was published for {self.name}" if weights is None else str(weights)
        self.found = _pretrained(self.name, pretrained, weights)

    def classifier(self) -> nn.Module:
        """Returns the classifier with its weights, for images of so many channels."""
        model = backbone(self.name) if self.name is not None else self.arch()  # type: ignore[operator]  # a callable
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"arch={self.arch!r} returned a {type(model).__name__}; expected a classifier, an nn.Module"
            )
        if self.found is not None:
            load_weights(model, self.found, self.source)
        adapt_first_convolution(model, self.n_in, pretrained=self.found is not None)
        return model

    def spec(self, builder: str, n_out: int, options: dict[str, Any]) -> ModelSpec | None:
        """Returns how the model can be built again, if the classifier has a name."""
        if self.name is None:
            return None
        plain = {name: list(each) if isinstance(each, tuple) else each for name, each in options.items()}
        return ModelSpec(builder, {"arch": self.name, "n_out": n_out, "n_in": self.n_in, **plain})

    def learner(
        self,
        builder: str | None,
        make: Callable[..., nn.Module],
        n_out: int | None,
        shape: dict[str, Any],
        normalize: bool,
        options: LearnerOptions,
    ) -> Learner:
        """Returns the Learner of what `make` builds of the classifier; with pretrained weights the body is frozen.

        Args:
            builder: the name by which an export builds the model again; None if it cannot be.
            make: (classifier, outputs, n_in=..., **shape) -> the model.
            n_out: outputs; None for as many as the data asks for.
            shape: what else the model is built with, as plain data.
            normalize, options: see `vision_learner`.
        """
        outputs = self.dls.c if n_out is None else n_out
        there = [tfm for tfm in self.dls.train.stage.pipeline.tfms if isinstance(tfm, Normalize)]
        if wrong := [tfm for tfm in there if len(tfm.mean) != self.n_in]:
            raise ConfigError(
                f"n_in={self.n_in}, and {wrong[0]!r:.200} of the data has {len(wrong[0].mean)} channel(s); it is in batch_tfms, "
                f"or a learner put it there: make the data anew, or give n_in={len(wrong[0].mean)}"
            )
        with first_weights(self.dls):
            model = make(self.classifier(), outputs, n_in=self.n_in, **shape)
        spec = self.spec(builder, outputs, shape) if builder is not None else None
        if normalize and not there:
            self.dls.add_batch_tfms([Normalize(*_for_channels(statistics_of(self.name), self.n_in))])
        learn = Learner(self.dls, model, spec=spec, splitter=vision_splitter, **options)
        if self.found is not None:
            learn.freeze()
        return learn


def _for_channels(statistics: tuple[list[float], list[float]], n_in: int) -> tuple[list[float], list[float]]:
    """Returns statistics of so many channels: those of grey, and of what lies beyond red, green and blue, are their mean."""
    mean, std = ((each if n_in > 1 else []) + [sum(each) / len(each)] * n_in for each in statistics)
    return mean[:n_in], std[:n_in]


def _name(arch: Any) -> str | None:
    """Returns the name by which `arch` can be built again, or None for a function that only this program has."""
    if isinstance(arch, str):
        return arch
    if isinstance(arch, nn.Module) or not callable(arch):
        given = f"a {type(arch).__name__}" if isinstance(arch, nn.Module) else repr(arch)
        raise ConfigError(
            f"arch is {given}: expected the name of an architecture or a function that returns a classifier"
        )
    if getattr(arch, "__module__", "").startswith("torchvision.models."):
        return arch.__name__
    return next((name for name in architectures if architectures.find(name) is arch), None)


def _is_grey(dls: DataLoaders) -> bool:
    pipelines = getattr(getattr(dls.train, "dataset", None), "pipelines", ())[: dls.n_inp]
    return any(isinstance(tfm, OpenImage) and tfm.mode == "L" for pipeline in pipelines for tfm in pipeline.tfms)


def _pretrained(name: str | None, pretrained: Pretrained, source: str | Path | None) -> dict[str, torch.Tensor] | None:
    if pretrained not in (True, False, "auto"):
        raise ConfigError(f"pretrained={pretrained!r}: expected True, False or 'auto'")
    if source is None and (pretrained is False or name is None):
        if pretrained is True:
            raise ConfigError("pretrained=True needs the name of a torchvision architecture, or weights=FILE")
        return None
    ranks = join()
    found, problem = None, ""
    if ranks.world.is_main:  # one rank downloads; the others read its cache, or get its answer
        try:
            found = weights_of(name or "", source)
        except ArtifactError as error:
            problem = str(error)
    problem = ranks.broadcast_json(problem, what="pretrained weights")
    if not problem:
        return found if found is not None else weights_of(name or "", source)
    if source is not None:
        raise ArtifactError(problem)
    if pretrained is True:
        raise ArtifactError(f"{problem}. Use weights=FILE, or pretrained=False to begin from random weights")
    if ranks.world.is_main:
        print(f"{problem}; beginning from random weights (pretrained=True would insist)", file=sys.stderr, flush=True)
    return None
