"""How images, and what is said about their places, are drawn; the rest is in `dist_ai.core.show`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dist_ai.core.show import draw, draw_over, together
from dist_ai.core.types import TensorCategory, plain
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorMask, TensorPoint
from dist_ai.vision.transforms import ImageToTensor, OpenImage

__all__ = ["LabelledBoxes", "save_predictions"]


class LabelledBoxes(NamedTuple):
    """Boxes and what is in each of them, which stand side by side in a sample.

    Attributes:
        boxes: a `TensorBBox`.
        labels: a `TensorCategory` with one for each box; decoded, their names.
    """

    boxes: Any
    labels: Any


@together.register(TensorBBox, TensorCategory)
def _(_boxes: TensorBBox, _labels: TensorCategory) -> type[LabelledBoxes]:
    return LabelledBoxes


@draw.register(TensorImage)
def _(_like: TensorImage, image: Any, axes: Any) -> None:
    pixels = plain(torch.as_tensor(image)).detach().cpu()
    pixels = pixels.reshape(-1, *pixels.shape[-3:])[0] if pixels.dim() > 2 else pixels[None]  # of a video, a frame
    bands = _bands(pixels)
    axes.imshow(bands.numpy(), cmap="gray" if bands.dim() == 2 else None, vmin=0, vmax=1, interpolation="nearest")
    height, width = pixels.shape[-2:]
    if max(height, width) > 8 * min(height, width):  # else it would be a line
        axes.set_aspect("auto")
    if len(pixels) > 4 or len(pixels) == 2:
        axes.text(0.02, 0.02, f"of {len(pixels)} channels", transform=axes.transAxes, fontsize=6, color="tab:orange")


def _bands(pixels: torch.Tensor) -> torch.Tensor:
    """Returns pixels (channels, height, width) as what can be drawn, in 0..1: (height, width, 3), or (height, width).

    The first three channels are taken for red, green and blue. Numbers that are no pixel's are stretched to 0..1, so
    that what was not undone can be told apart all the same.
    """
    channels = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    if channels.dtype == torch.uint8:
        numbers = channels.float() / 255
    else:
        numbers = channels.double().nan_to_num(0.0, 0.0, 0.0)
        low, high = numbers.aminmax()
        if not pixels.is_floating_point() or low < -0.5 or high > 1.5:
            numbers = (numbers - low) / max(float(high - low), 1e-12)
        numbers = numbers.clamp(0, 1).float()
    return numbers.permute(1, 2, 0) if len(numbers) == 3 else numbers[0]


# ------------------------------------------------------------------------------------------------ masks


@draw.register(TensorMask)
def _(like: TensorMask, mask: Any, axes: Any) -> None:
    _draw_mask(like, mask, axes, alpha=1.0)


@draw_over.register(TensorImage, TensorMask)
def _(_image: TensorImage, like: TensorMask, _pixels: Any, mask: Any, axes: Any, _name: str) -> None:
    _draw_mask(like, mask, axes, alpha=0.5)


def _draw_mask(like: TensorMask, mask: Any, axes: Any, *, alpha: float) -> None:
    from matplotlib import colors

    classes = plain(torch.as_tensor(mask)).detach().cpu().long()
    codes = list(like.codes or ())
    num = len(codes) or max(int(plain(like).max()) + 1, int(classes.max()) + 1, 2)
    palette = _palette(num)
    # A number beyond the codes stands for no class: nothing is drawn there.
    shown = torch.where((classes >= 0) & (classes < num), classes, num).numpy()
    cmap = colors.ListedColormap([*palette, (0.0, 0.0, 0.0, 0.0)])
    axes.imshow(shown, alpha=alpha, cmap=cmap, vmin=-0.5, vmax=num + 0.5, interpolation="nearest")
    for i in classes.unique().tolist():
        if 0 <= i < num:
            name = codes[i] if codes else str(i)
            axes.scatter([], [], marker="s", s=40, color=[palette[i]], alpha=max(alpha, 0.7), label=name)


def _palette(num: int) -> list[tuple[float, ...]]:
    """Returns a colour for each of so many classes: told apart easily if they are few."""
    import matplotlib

    if num <= 20:
        few = matplotlib.colormaps["tab10" if num <= 10 else "tab20"]
        return [few(i) for i in range(num)]
    # Neighbours in the list far apart on the circle of hues: by the golden ratio.
    hues = matplotlib.colormaps["hsv"]
    return [hues((i * 0.618034) % 1.0) for i in range(num)]


# ------------------------------------------------------------------------------------------------ points and boxes

_COLORS = {"prediction": "tab:red", "target": "lime", "input": "lime"}


@draw_over.register(TensorImage, TensorPoint)
def _(_image: TensorImage, _like: TensorPoint, _pixels: Any, points: Any, axes: Any, name: str) -> None:
    places = plain(torch.as_tensor(points)).detach().cpu().double().reshape(-1, 2)
    places = places[places.isfinite().all(1)]
    view = axes.get_xlim(), axes.get_ylim()
    # A pixel's number is its left edge, and matplotlib's its middle.
    across, down = (places - 0.5).T.numpy()
    axes.scatter(across, down, s=14, color=_COLORS[name], edgecolors="black", linewidths=0.4)
    axes.set(xlim=view[0], ylim=view[1])  # points that were cut away lie outside


@draw_over.register(TensorImage, TensorBBox)
def _(_image: TensorImage, like: TensorBBox, _pixels: Any, boxes: Any, axes: Any, name: str) -> None:
    _draw_boxes(like, boxes, None, axes, name)


@draw_over.register(TensorImage, LabelledBoxes)
def _(_image: TensorImage, like: LabelledBoxes, _pixels: Any, both: Any, axes: Any, name: str) -> None:
    _draw_boxes(like.boxes, both.boxes, both.labels, axes, name)


def _draw_boxes(like: TensorBBox, boxes: Any, labels: Any, axes: Any, name: str) -> None:
    from matplotlib.patches import Rectangle

    corners = _corners(plain(torch.as_tensor(boxes)).detach().cpu().double().reshape(-1, 4), like.format.value)
    view = axes.get_xlim(), axes.get_ylim()
    kinds = [str(label) for label in labels] if labels is not None else [""] * len(corners)
    known = list(dict.fromkeys(kinds))
    for (left, top, right, bottom), kind in zip(corners.tolist(), kinds, strict=True):
        # Padding stands for no box: it has no area.
        if not all(map(math.isfinite, (left, top, right, bottom))) or right <= left or bottom <= top:
            continue
        color = f"C{known.index(kind) % 10}" if kind else _COLORS[name]
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=color, lw=1.5)
        )
        if kind:
            axes.text(
                max(left - 0.5, min(view[0])),
                max(top - 0.5, min(view[1])),
                kind if len(kind) <= 20 else f"{kind[:19]}…",
                fontsize=7,
                color="white",
                va="top",
                bbox={"facecolor": color, "edgecolor": "none", "pad": 1},
                parse_math=False,
                clip_on=True,
            )
    axes.set(xlim=view[0], ylim=view[1])


def _corners(boxes: torch.Tensor, form: str) -> torch.Tensor:
    """Returns boxes as left, top, right, bottom."""
    if form == "XYXY":
        return boxes
    place, size = boxes[:, :2], boxes[:, 2:]
    start = place - size / 2 if form == "CXCYWH" else place
    return torch.cat([start, start + size], 1)


# ------------------------------------------------------------------------------------------------ predictions of files


def save_predictions(file: str | Path, images: Sequence[str | Path], predictions: Sequence[tuple[Any, float]]) -> None:
    """Draws image files with their predicted labels and confidences to a PNG file.

    Args:
        file: the picture.
        images: the files.
        predictions: (label, confidence 0 to 1) of each.
    """
    from dist_ai.core.figures import Panel, grid

    pixels = [ImageToTensor()(OpenImage()(image)) for image in images]
    panels = [
        Panel(
            f"{label}\n{confidence:.0%}" if math.isfinite(confidence) else str(label),
            [partial(draw, image, image)],
            shape=image.shape[-2] / image.shape[-1],
        )
        for image, (label, confidence) in zip(pixels, predictions, strict=True)
    ]
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    grid(panels).savefig(file, dpi=120)
