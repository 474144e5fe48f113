"""Grad-CAM: which parts of an image a model's decision rests on (arXiv:1610.02391)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.nested import parts
from dist_ai.core.types import plain
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError
from dist_ai.learner import Learner
from dist_ai.losses import decodes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GradCAM", "grad_cam"]


class GradCAM(NamedTuple):
    """Where a model looked.

    Attributes:
        image: the image as it was shown to the model, decoded; a `TensorImage` (channels, height, width).
        heat: how much each pixel spoke for the class, 0 to 1: (height, width), float32.
        output: the number of the output that was asked about.
        label: its name, if the data has classes.
    """

    image: Any
    heat: torch.Tensor
    output: int
    label: str

    def plot(self) -> Figure:
        """Returns a figure of the image with the heat over it."""
        from matplotlib.figure import Figure

        from dist_ai.core.show import draw

        figure = Figure(figsize=(4, 4), layout="constrained")
        axes = figure.add_subplot()
        draw(self.image, self.image, axes)
        height, width = self.heat.shape
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(self.heat.numpy(), cmap="magma", alpha=0.5, extent=extent, vmin=0, vmax=1)
        axes.set_title(self.label)
        axes.axis("off")
        return figure


def grad_cam(learn: Learner, item: Any, *, output: int | str | None = None, layer: nn.Module | None = None) -> GradCAM:
    """Returns where the model looked for one of its outputs.

    Args:
        learn: a Learner whose model has a body that gives a map, as `vision_learner` and `unet_learner` make it.
        item: an image: its path, address, bytes, array or PIL image.
        output: the number of the output, or its class; by default the one that is predicted. Where each pixel has outputs, it
            is all pixels' together, and by default that which most of them have.
        layer: whose map is looked at, (batch, channels, height, width); by default the body's last.

    The model is as it was afterwards: neither its gradients nor its mode change.

    Raises:
        ConfigError: the layer gives no map, or there is no such class.

    ```python
    grad_cam(learn, "cat.jpg").plot().savefig("cat.png")
    ```
    """
    device = next(learn.model.parameters()).device
    loader = learn.dls.test_dl([item], bs=1, num_workers=0, world=World(device=device))
    batch = parts(loader.one_batch())
    target = layer if layer is not None else _last_of(getattr(learn.model, "body", None))
    if not isinstance(target, nn.Module):
        raise ConfigError(
            f"{type(learn.model).__name__} has no body; say whose map to look at: layer=learn.model.conv5"
        )
    maps, raw = _forward(learn.model, target, plain(batch))
    chosen = _output(learn, output, raw)
    (gradient,) = torch.autograd.grad(raw[0, chosen].sum(), maps)
    weights = gradient.mean((2, 3), keepdim=True)
    heat = F.relu((weights * maps).sum(1, keepdim=True)).detach()
    image = learn.dls.recipe.decode_batch(batch)[0][0]
    heat = F.interpolate(heat, size=tuple(image.shape[-2:]), mode="bilinear", align_corners=False)[0, 0].cpu().float()
    return GradCAM(image, heat / heat.max().clamp(min=1e-12), chosen, _label(learn, chosen))


def _last_of(body: Any) -> Any:
    """Returns the last stage of a body of stages, which gives the same: a U-Net calls them one after the other."""
    return body[-1] if type(body) is nn.Sequential and len(body) else body


def _forward(model: nn.Module, target: nn.Module, inputs: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a layer's map, with a gradient, and the model's output."""
    heard: list[Any] = []

    def listen(*call: Any) -> Any:
        # A leaf of its own where the layer and all before it are frozen: the gradient must begin somewhere.
        heard.append(call[2] if call[2].requires_grad else call[2].detach().requires_grad_())
        return heard[-1]

    modes = [(module, module.training) for module in model.modules()]
    handle = target.register_forward_hook(listen)
    model.eval()
    try:
        with torch.enable_grad():
            raw = model(*inputs)
    finally:
        handle.remove()
        for module, training in modes:
            module.training = training
    if not heard or heard[0].dim() != 4:
        shape = tuple(heard[0].shape) if heard else "nothing"
        raise ConfigError(
            f"{type(target).__name__} gives {shape}, and no map (batch, channels, height, width); give layer=, one that does"
        )
    return heard[0], raw


def _output(learn: Learner, output: int | str | None, raw: torch.Tensor) -> int:
    if output is None:
        decoded = plain(decodes(learn.loss_func, raw))
        if decoded.dim() != raw.dim() - 1 or decoded.is_floating_point():
            return int(raw[0].flatten(1).sum(1).argmax()) if raw.dim() > 2 else int(raw[0].argmax())
        return int(decoded[0].flatten().mode().values)
    if isinstance(output, int):
        chosen = output
    else:
        vocab = list(map(str, learn.dls.vocab))
        chosen = vocab.index(str(output)) if str(output) in vocab else -1
    if not 0 <= chosen < raw.shape[1]:
        raise ConfigError(f"output={output!r}: expected a class, or a number from 0 to {raw.shape[1] - 1}")
    return chosen


def _label(learn: Learner, chosen: int) -> str:
    try:
        return str(learn.dls.vocab[chosen])
    except (ValueError, IndexError):  # numbers have no names
        return f"output {chosen}"
