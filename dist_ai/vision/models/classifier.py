"""A body with a head: what classifies images, or predicts numbers of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dist_ai.errors import ConfigError
from dist_ai.export import register_builder
from dist_ai.layers import ConcatPool2d, SeededDropout, SigmoidRange
from dist_ai.vision.models.backbones import backbone
from dist_ai.vision.models.bodies import Body, Cut, adapt_first_convolution, create_body, late_parameters

__all__ = ["VisionModel", "create_head", "on_backbone", "vision_model", "vision_splitter"]


class VisionModel(nn.Module):
    """A body that makes features of an image, and a head that makes the prediction of them.

    Args:
        body: (batch, channels, height, width) to a map (batch, features, rows, columns), or to (batch, features).
        head: that to (batch, outputs).
        first_late: the name of the first module of the body that learns faster in fine-tuning; see `Body`.
    """

    def __init__(self, body: nn.Module, head: nn.Module, first_late: str = "") -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.first_late = first_late

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the predictions, (batch, outputs)."""
        return self.head(self.body(x))

    def __getitem__(self, place: int) -> nn.Module:
        """Returns the body (0) or the head (1), as of fastai's models, which are the sequence of the two."""
        return (self.body, self.head)[place]


@register_builder("vision_model")
def vision_model(arch: str, n_out: int, *, n_in: int = 3, **head: Any) -> VisionModel:
    """Returns an untrained model for `n_out` outputs.

    Args:
        arch: the name of a classifier of torchvision's (``"resnet18"``), timm's, or one in `architectures`.
        n_out: outputs.
        n_in: channels of the images.
        head: options of `create_head`.

    Raises:
        ConfigError: no such architecture.
    """
    model = backbone(arch)
    adapt_first_convolution(model, n_in, pretrained=False)
    return on_backbone(model, n_out, n_in=n_in, **head)


def on_backbone(
    model: nn.Module,
    n_out: int,
    *,
    n_in: int = 3,
    cut: Cut = None,
    custom_head: nn.Module | None = None,
    **head: Any,
) -> VisionModel:
    """Returns a model with the body of the classifier `model` and a new head.

    Args:
        model: the classifier; its weights stay, but for those of its own head.
        n_out: outputs.
        n_in: channels of the images.
        cut: where the body ends; see `create_body`.
        custom_head: a head of your own, which takes what the body gives.
        head: options of `create_head`.

    Raises:
        ConfigError: it is not known where to cut the classifier.
    """
    body: Body = create_body(model, n_in, cut=cut)
    made = custom_head or create_head(body.num_features, n_out, pool=body.is_map, **head)
    return VisionModel(body.module, made, body.first_late)


def create_head(
    num_features: int,
    n_out: int,
    *,
    pool: bool = False,
    concat_pool: bool = True,
    lin_ftrs: int | Sequence[int] = 512,
    ps: float | Sequence[float] = 0.5,
    first_bn: bool = True,
    bn_final: bool = False,
    lin_first: bool = False,
    y_range: tuple[float, float] | Sequence[float] | None = None,
) -> nn.Sequential:
    """Returns fastai's head: normalise, drop, hidden layer, normalise, drop, output layer; Kaiming initialised.

    Args:
        num_features: channels of the map, or numbers of the vector, that it takes.
        n_out: outputs.
        pool: it takes a map, and pools it first.
        concat_pool: by maximum and mean side by side; else by mean.
        lin_ftrs: width of the hidden layer, or of several.
        ps: dropout of the last layer, half of it before each hidden one; or one for each layer.
        first_bn: normalise what comes in.
        bn_final: normalise the outputs.
        lin_first: linear layers before normalisation and dropout, instead of after.
        y_range: the outputs lie between these two; see `SigmoidRange`.

    Raises:
        ConfigError: not as many dropouts as layers.
    """
    hidden = [lin_ftrs] if isinstance(lin_ftrs, int) else list(lin_ftrs)
    layers: list[nn.Module] = []
    if pool:
        layers += [ConcatPool2d()] if concat_pool else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        num_features *= 2 if concat_pool else 1
    widths = [num_features, *hidden, n_out]
    drops = [ps / 2] * len(hidden) + [ps] if isinstance(ps, float | int) else list(ps)
    if len(drops) != len(widths) - 1:
        raise ConfigError(f"ps={ps} for {len(widths) - 1} layer(s); expected one number, or one for each layer")
    if lin_first:
        layers.append(SeededDropout(drops.pop(0)))
    for i, p in enumerate(drops):
        act = [nn.ReLU(inplace=True)] if lin_first or i < len(hidden) else []
        linear = [nn.Linear(widths[i], widths[i + 1], bias=i == 0 and not first_bn), *act]
        norm = [nn.BatchNorm1d(widths[i + 1] if lin_first else widths[i])] if first_bn or i else []
        layers += [*linear, *norm, SeededDropout(p)] if lin_first else [*norm, SeededDropout(p), *linear]
    if lin_first:
        layers.append(nn.Linear(widths[-2], n_out))
    layers += [nn.BatchNorm1d(n_out, momentum=0.01)] if bn_final else []
    layers += [SigmoidRange(*y_range)] if y_range is not None else []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers)


def vision_splitter(model: Any) -> list[list[nn.Parameter]]:
    """Returns the parameter groups of a body with a head: the early body, the late one, and the head.

    Late is what works at a sixteenth of the image's resolution and below; of a transformer, the second half of its blocks.
    """
    early, late = late_parameters(model.body, model.first_late)
    body = {id(p) for p in model.body.parameters()}
    head = [p for p in model.parameters() if id(p) not in body]
    return [group for group in (early, late, head) if group]
