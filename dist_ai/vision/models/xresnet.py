"""XResNets: residual networks with the tricks of "Bag of Tricks for Image Classification" (arXiv:1812.01187)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.export import register_builder
from dist_ai.layers import ResBlock, SeededDropout, conv_layer
from dist_ai.vision.models.backbones import architectures

__all__ = ["xresnet"]

# Blocks of each of the four stages, and whether they are bottlenecks.
_DEPTHS: dict[int, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "mish": nn.Mish, "silu": nn.SiLU, "gelu": nn.GELU}


@register_builder("xresnet")
def xresnet(
    depth: int = 50, n_out: int = 1000, *, n_in: int = 3, sa: bool = False, act: str = "relu", p: float = 0.0
) -> nn.Sequential:
    """Returns an untrained XResNet: a stem of three convolutions, pooling in the shortcuts, branches that begin as nothing.

    Args:
        depth: 18, 34, 50, 101 or 152; the last three with bottlenecks.
        n_out: outputs.
        n_in: channels of the images.
        sa: self-attention over pixels at the end of the first stage.
        act: ``"relu"``, ``"mish"``, ``"silu"`` or ``"gelu"``.
        p: dropout before the last layer.

    Raises:
        ConfigError: no such depth or activation.

    ``vision_learner(dls, "xresnet50")`` takes one by its name; ``Learner(dls, xresnet(18, 10, sa=True, act="mish"),
    spec=ModelSpec("xresnet", {...}))`` with options.
    """
    if depth not in _DEPTHS:
        raise ConfigError(f"xresnet({depth}): expected a depth of {', '.join(map(str, _DEPTHS))}")
    if act not in _ACTIVATIONS:
        raise ConfigError(
            f"xresnet(act={act!r}): expected one of {', '.join(_ACTIVATIONS)}{did_you_mean(act, _ACTIVATIONS)}"
        )
    blocks, bottleneck = _DEPTHS[depth]
    kind = _ACTIVATIONS[act]
    layers: list[tuple[str, nn.Module]] = [
        (f"stem{i}", conv_layer(a, b, 3, stride, act=kind()))
        for i, (a, b, stride) in enumerate([(n_in, 32, 2), (32, 32, 1), (32, 64, 1)])
    ]
    layers.append(("maxpool", nn.MaxPool2d(3, 2, 1)))
    width = 64
    for stage, num in enumerate(blocks):
        wider = 64 * 2**stage * (4 if bottleneck else 1)
        made = [
            ResBlock(
                width if i == 0 else wider,
                wider,
                2 if stage and i == 0 else 1,
                bottleneck=bottleneck,
                act=kind,
                self_attention=sa and stage == 0 and i == num - 1,
            )
            for i in range(num)
        ]
        layers.append((f"layer{stage + 1}", nn.Sequential(*made)))
        width = wider
    layers += [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]
    layers += [("dropout", SeededDropout(p)), ("fc", nn.Linear(width, n_out))]
    return nn.Sequential(OrderedDict(layers))


for _depth in _DEPTHS:
    architectures.add(f"xresnet{_depth}", partial(xresnet, _depth))
