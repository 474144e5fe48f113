"""The Learner for images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dist_ai.callbacks import Callback
from dist_ai.checkpoint import KeepBest
from dist_ai.data import DataLoaders
from dist_ai.distributed import join
from dist_ai.distributed.strategies import AnyConfig, PrecisionName
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.export import ModelSpec
from dist_ai.learner import Learner
from dist_ai.optimizer import Adam
from dist_ai.vision.models import (
    architectures,
    backbone,
    load_weights,
    on_backbone,
    statistics_of,
    vision_splitter,
    weights_of,
)
from dist_ai.vision.transforms import Normalize, OpenImage

__all__ = ["vision_learner"]


def vision_learner(
    dls: DataLoaders,
    arch: str | Callable[..., nn.Module],
    *,
    pretrained: bool | Literal["auto"] = "auto",
    weights: str | Path | None = None,
    n_out: int | None = None,
    normalize: bool = True,
    lin_ftrs: int = 512,
    dropout: float = 0.5,
    loss_func: Callable[..., torch.Tensor] | None = None,
    metrics: Any = None,
    opt_func: Callable[..., Any] = Adam,
    lr: float = 1e-3,
    wd: float | None = None,
    cbs: Callback | Iterable[Callback] = (),
    train_bn: bool = True,
    sync_bn: bool = True,
    strategy: AnyConfig = "auto",
    run_dir: str | Path | Literal["auto"] | None = "auto",
    checkpoint_every_s: float | None = 30.0,
    checkpoint_every_steps: int | None = None,
    keep_last: int = 2,
    keep_best: KeepBest | None = None,
    fresh: bool = False,
    precision: PrecisionName = "fp32",
    progress: bool = True,
) -> Learner:
    """Returns a Learner that fine-tunes (or trains) an image model on `dls`.

    Args:
        dls: images and labels.
        arch: a torchvision classifier's name (``"resnet18"``) or function, one in `dist_ai.vision.models.architectures`,
            or a function without arguments that returns a classifier.
        pretrained: True begins from torchvision's weights or fails; ``"auto"``, the default, begins from random
            weights where they cannot be had (no network), and says so; False begins from random weights.
        weights: a file of weights to begin from instead, a state dict of `arch` (.pth or .safetensors); its last layer
            may be for other classes.
        n_out: outputs; by default the number of classes, or of numbers to predict.
        normalize: add `Normalize` with the statistics of the published weights, which are ImageNet's for nearly all
            architectures, unless `dls` has one.
        lin_ftrs, dropout: of the head; see `dist_ai.vision.models.vision_model`.
        loss_func, metrics, opt_func, lr, wd, cbs, train_bn, sync_bn, strategy, run_dir, checkpoint_every_s,
        checkpoint_every_steps, keep_last, keep_best, fresh, precision, progress: see `Learner`.

    The weights that are not pretrained depend on `dls.seed` only. With pretrained weights the body is frozen.

    Raises:
        ConfigError: an argument that cannot work, or images that do not fit the architecture.
        ArtifactError: pretrained weights cannot be had, or are of another architecture.
    """
    n_out = dls.recipe.num_outputs if n_out is None else n_out
    if dls.train.bs == 1:
        raise ConfigError("bs=1: the head's BatchNorm needs at least 2 images in a training batch; use bs=2 or more")
    name = _name(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dls.seed)
        body = backbone(name) if name is not None else arch()  # type: ignore[operator]
        if not isinstance(body, nn.Module):
            raise ConfigError(f"arch={arch!r} returned a {type(body).__name__}; expected a classifier, an nn.Module")
        _require_channels(body, dls)
        found = _pretrained(name, pretrained, weights)
        if found is not None:
            load_weights(body, found, str(weights) if weights is not None else f"what was published for {name}")
        model = on_backbone(body, n_out, lin_ftrs=lin_ftrs, dropout=dropout)
    if normalize and not any(isinstance(tfm, Normalize) for tfm in dls.train.stage.pipeline.tfms):
        mean, std = statistics_of(name)
        dls.add_batch_tfms([Normalize([sum(mean) / 3], [sum(std) / 3]) if _is_grey(dls) else Normalize(mean, std)])
    arguments = {"arch": name, "n_out": n_out, "lin_ftrs": lin_ftrs, "dropout": dropout}
    learn = Learner(
        dls,
        model,
        loss_func,
        opt_func=opt_func,
        lr=lr,
        splitter=vision_splitter,
        cbs=cbs,
        metrics=metrics,
        wd=wd,
        train_bn=train_bn,
        sync_bn=sync_bn,
        strategy=strategy,
        run_dir=run_dir,
        checkpoint_every_s=checkpoint_every_s,
        checkpoint_every_steps=checkpoint_every_steps,
        keep_last=keep_last,
        keep_best=keep_best,
        fresh=fresh,
        precision=precision,
        spec=ModelSpec("vision_model", arguments) if name is not None else None,
        progress=progress,
    )
    if found is not None:
        learn.freeze()
    return learn


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
    pipelines = getattr(getattr(dls.train, "dataset", None), "pipelines", ())
    return any(isinstance(tfm, OpenImage) and tfm.mode == "L" for pipeline in pipelines for tfm in pipeline.tfms)


def _require_channels(body: nn.Module, dls: DataLoaders) -> None:
    first = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels != 1 and _is_grey(dls):
        raise ConfigError(
            f"the images are grey (mode='L'), so they have 1 channel, and the architecture takes {first.in_channels}; "
            "open them with mode='RGB', which repeats the grey, or give an arch of your own"
        )


def _pretrained(name: str | None, pretrained: bool | str, file: str | Path | None) -> dict[str, torch.Tensor] | None:
    if pretrained not in (True, False, "auto"):
        raise ConfigError(f"pretrained={pretrained!r}: expected True, False or 'auto'")
    if file is None and (pretrained is False or name is None):
        if pretrained is True:
            raise ConfigError("pretrained=True needs the name of a torchvision architecture, or weights=FILE")
        return None
    ranks = join()
    found, problem = None, ""
    if ranks.world.is_main:  # one rank downloads; the others read its cache, or get its answer
        try:
            found = weights_of(name or "", file)
        except ArtifactError as error:
            problem = str(error)
    problem = ranks.broadcast_json(problem, what="pretrained weights")
    if not problem:
        return found if found is not None else weights_of(name or "", file)
    if file is not None:
        raise ArtifactError(problem)
    if pretrained is True:
        raise ArtifactError(f"{problem}. Use weights=FILE, or pretrained=False to begin from random weights")
    if ranks.world.is_main:
        print(f"{problem}; beginning from random weights (pretrained=True would insist)", file=sys.stderr, flush=True)
    return None
