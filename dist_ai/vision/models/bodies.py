"""Bodies: what is left of a classifier when its head is cut off, and the feature maps in it.

A body is cut where the classifier pools the whole image: it gives a map (batch, channels, height, width), and a head or
a U-Net follows. Models that have no map at the end (vision transformers, and what only its author knows) give a vector.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.func import functional_call
from torchvision.ops import Permute

from dist_ai.errors import ConfigError
from dist_ai.layers import ConcatPool2d
from dist_ai.vision.models.backbones import last_linear

__all__ = ["Body", "Cut", "Pyramid", "adapt_first_convolution", "create_body", "late_parameters"]

Cut: TypeAlias = int | Callable[[nn.Module], nn.Module] | None
"""Where a classifier is cut: so many children from the end (negative), or a function that returns the body."""

# Children in which the stages of a body stand one by one, and those that come after it.
_STAGES = ("features", "layers", "trunk_output", "blocks")
_BEHIND = ("aux1", "aux2", "AuxLogits", "avgpool", "classifier", "dropout", "fc", "flatten", "head")
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, ConcatPool2d, nn.Flatten)
_SIDE = 224  # pixels of the image that shapes are found with; some models take no other


class Body(NamedTuple):
    """A body and what follows from it.

    Attributes:
        module: the body.
        num_features: channels of its map, or numbers of its vector.
        is_map: whether it gives a map.
        first_late: the name of the first module in it that learns faster in fine-tuning; "" if all learn alike.
    """

    module: nn.Module
    num_features: int
    is_map: bool
    first_late: str


def create_body(model: nn.Module, n_in: int = 3, *, cut: Cut = None) -> Body:
    """Returns the body of a classifier; its weights are the classifier's.

    Args:
        model: a classifier of torchvision or timm, an `nn.Sequential` with a pooling of the whole image in it, or any model
            whose last layer is linear.
        n_in: channels of the images.
        cut: where it is cut; by default before its pooling, or before its last linear layer.

    Raises:
        ConfigError: it is not known where to cut the model.
    """
    module = _cut_at(model, cut) if cut is not None else _map_body(model)
    if module is not None:
        shapes = _shapes(module, n_in)
        if len(shapes[-1]) == 4:
            late = (
                [
                    name
                    for (name, stage), shape in zip(module.named_children(), shapes, strict=True)
                    if shape[-1] * 16 <= _SIDE and next(stage.parameters(), None) is not None
                ]
                if isinstance(module, nn.Sequential)
                else []
            )
            return Body(module, shapes[-1][1], True, late[0] if late else "")
        return Body(module, shapes[-1][-1], False, _second_half(module))
    if (name := last_linear(model)) is None:
        raise ConfigError(
            f"{type(model).__name__} has no linear layer to replace by a head, and no pooling to cut at; give cut=, a function "
            "that returns its body, or use a Learner directly"
        )
    features = model.get_submodule(name).in_features
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return Body(model, int(features), False, _second_half(model))  # type: ignore[arg-type]  # a tensor or a number


def adapt_first_convolution(model: nn.Module, n_in: int, *, pretrained: bool) -> None:
    """Makes a model of images with 3 channels one of `n_in`.

    Args:
        model: its first convolution is replaced.
        n_in: channels.
        pretrained: keep what its weights have learned: one channel gets their sum, two 1.5 times the first two of three,
            and those beyond three begin as nothing. Otherwise it begins afresh.

    Raises:
        ConfigError: the model has no convolution, or not of 3 channels.
    """
    name, first = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if not isinstance(n_in, int):
        raise ConfigError(f"n_in={n_in!r}: expected a number of channels")
    if (first is None and n_in == 3) or (first is not None and first.in_channels == n_in):
        return
    if n_in < 1 or first is None or first.in_channels != 3 or first.groups != 1:
        has = "no convolution" if first is None else f"a first convolution of {first.in_channels} channel(s)"
        raise ConfigError(
            f"n_in={n_in}: {type(model).__name__} has {has}; expected 3, and at least 1 channel of images"
        )
    wider = nn.Conv2d(
        n_in,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]  # a pair
        first.stride,  # type: ignore[arg-type]  # pairs
        first.padding,  # type: ignore[arg-type]  # pairs
        first.dilation,  # type: ignore[arg-type]  # pairs
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    if pretrained:
        with torch.no_grad():
            wider.weight.copy_(_of_channels(first.weight, n_in))
            if first.bias is not None:
                wider.bias.copy_(first.bias)  # type: ignore[union-attr]  # the wider one has it too
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, wider)


def _of_channels(weight: torch.Tensor, n_in: int) -> torch.Tensor:
    if n_in == 1:
        return weight.sum(1, keepdim=True)
    if n_in == 2:
        return weight[:, :2] * 1.5
    return torch.cat([weight, weight.new_zeros(len(weight), n_in - 3, *weight.shape[2:])], 1)


def late_parameters(body: nn.Module, first_late: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the parameters of a body before and from its first late module on; see `Body`."""
    early: list[nn.Parameter] = []
    late: list[nn.Parameter] = []
    for name, parameter in body.named_parameters():
        is_late = bool(late) or bool(first_late and f"{name}.".startswith(f"{first_late}."))
        (late if is_late else early).append(parameter)
    return early, late


class Pyramid(nn.Module):
    """A body that gives the last map of each resolution, the finest first.

    Args:
        body: of stages that run one after the other, or one of timm's, which gives its maps itself.
        n_in: channels of the images.

    Attributes:
        channels: of each map.
        reductions: how many times as few pixels a side each has as the image.

    Raises:
        ConfigError: the body is not such a one, or has a single resolution.
    """

    def __init__(self, body: nn.Module, n_in: int = 3) -> None:
        super().__init__()
        maps = body.resolutions if isinstance(body, _OfTimm) else _resolutions(body, n_in)
        if not maps:
            model = body.model if isinstance(body, _OfTimm) else body
            raise ConfigError(
                f"{type(model).__name__} gives no maps of several resolutions, which a U-Net or a detector needs; take a "
                "convolutional architecture such as 'resnet18', or Swin"
            )
        ends = [i for i, each in enumerate(maps) if i + 1 == len(maps) or maps[i + 1].side != each.side]
        if len(ends) < 2:
            raise ConfigError(
                f"the body gives maps of one resolution, {maps[0].side:g} pixels a side of {_SIDE}; expected several"
            )
        self.body = body
        self.channels = [maps[i].channels for i in ends]
        self.reductions = [round(_SIDE / maps[i].side) for i in ends]
        self._ends = ends
        if isinstance(body, _OfTimm):
            body.keep_maps(ends)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the maps."""
        if isinstance(self.body, _OfTimm):
            return self.body.maps(x, self._ends)
        maps = []
        for i, stage in enumerate(self.body.children()):
            x = stage(x)
            if i in self._ends:
                maps.append(x)
        return maps


# ------------------------------------------------------------------------------------ where to cut


def _cut_at(model: nn.Module, cut: Cut) -> nn.Module:
    children = list(model.named_children())
    if callable(cut):
        module = cut(model)
    elif isinstance(cut, int) and 0 < len(kept := children[:cut]) < len(children):
        module = nn.Sequential(OrderedDict(kept))
    else:
        raise ConfigError(
            f"cut={cut!r} of a {type(model).__name__}: expected how many of its {len(children)} parts are kept "
            f"({', '.join(name for name, _ in children)}), counted from its end if negative, or a function that returns the body"
        )
    if not isinstance(module, nn.Module):
        raise ConfigError(f"cut returned a {type(module).__name__}; expected the body, an nn.Module")
    return module


def _map_body(model: nn.Module) -> nn.Module | None:
    """Returns what comes before the pooling of the whole image, or None where that cannot be told."""
    if type(model).__module__.startswith("torchvision.models."):
        return _of_torchvision(model)
    if type(model).__module__.startswith("timm."):
        return _OfTimm(model)
    if isinstance(model, nn.Sequential):
        children = list(model.named_children())
        before = next((i for i, (_, child) in enumerate(children) if isinstance(child, _POOLS)), 0)
        return nn.Sequential(OrderedDict(children[:before])) if before else None
    return None


def _of_torchvision(model: nn.Module) -> nn.Module | None:
    kind = type(model).__name__
    if kind == "VisionTransformer":
        return None
    if kind == "SwinTransformer":
        return _of_swin(model)
    stages: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        if name in _STAGES:
            stages += child.named_children()
        elif name not in _BEHIND:
            stages.append((name, child))
    if kind == "DenseNet":
        stages.append(("relu", nn.ReLU(inplace=True)))  # a function in its forward
    return nn.Sequential(OrderedDict(stages))


def _of_swin(model: Any) -> nn.Module:
    """Swin's stages, which have the channels last inside, with channels first between them."""
    first, last = Permute([0, 3, 1, 2]), Permute([0, 2, 3, 1])
    stages = [nn.Sequential(stage, first) if i == 0 else nn.Sequential(last, stage, first)
              for i, stage in enumerate(model.features)]  # fmt: skip
    return nn.Sequential(*stages, nn.Sequential(last, model.norm, first))


class _OfTimm(nn.Module):
    """A model of timm's without its head: a map, or where it has tokens what it makes of them itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        model.reset_classifier(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.model.forward_features(x)
        if features.dim() == 4 and features.shape[1] == self.model.num_features:
            return features
        return self.model.forward_head(features, pre_logits=True)

    @property
    def resolutions(self) -> list[_Resolution]:
        """Each map on the way to the last, as the model notes it; empty if it gives none of them."""
        if not hasattr(self.model, "forward_intermediates"):
            return []
        noted = self.model.feature_info
        return [
            _Resolution(each["num_chs"], _SIDE / each["reduction"])
            for each in getattr(noted, "get_dicts", lambda: noted)()
        ]

    def maps(self, x: torch.Tensor, which: Sequence[int]) -> list[torch.Tensor]:
        """Returns some of the maps."""
        return self.model.forward_intermediates(x, indices=list(which), intermediates_only=True)

    def keep_maps(self, which: Sequence[int]) -> None:
        """Drops what comes after the last of these maps, whose weights would learn nothing."""
        self.model.prune_intermediate_layers(list(which), prune_norm=True, prune_head=True)


def _second_half(model: nn.Module) -> str:
    """Returns the name of the block in the middle of the longest row of them, or ""."""
    rows = [
        (name, list(module.named_children()))
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList) and name
    ]
    name, blocks = max(rows, key=lambda row: len(row[1]), default=("", []))
    return f"{name}.{blocks[len(blocks) // 2][0]}" if len(blocks) >= 4 else ""


# ------------------------------------------------------------------------------------ shapes


class _Resolution(NamedTuple):
    """A map of an image of `_SIDE` pixels a side."""

    channels: int
    side: float


def _resolutions(body: nn.Module, n_in: int) -> list[_Resolution]:
    """Returns the map of each stage of a body; empty if they are not all maps."""
    shapes = _shapes(body, n_in) if isinstance(body, nn.Sequential) else []
    return [_Resolution(shape[1], shape[-1]) for shape in shapes] if all(len(shape) == 4 for shape in shapes) else []


def _shapes(body: nn.Module, n_in: int) -> list[torch.Size]:
    """Returns the shape that each stage of a body gives of one image, or of the body as a whole; nothing is computed."""
    stages = list(body.children()) if isinstance(body, nn.Sequential) else [body]
    shapes = []
    with _evaluated(body), torch.no_grad():
        x = torch.empty(1, n_in, _SIDE, _SIDE, device="meta")
        for stage in stages:
            state = {name: tensor.to("meta") for name, tensor in chain(stage.named_parameters(), stage.named_buffers())}
            x = functional_call(stage, state, (x,))
            shapes.append(x.shape)
    return shapes


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
