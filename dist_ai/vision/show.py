"""Pictures of batches and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from dist_ai.core.show import show_batch, show_results
from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorRegression, plain
from dist_ai.core.vision_types import TensorImage, TensorMask, TensorPoint
from dist_ai.vision.transforms import ImageToTensor, OpenImage

__all__ = ["image_grid", "save_predictions"]


def image_grid(
    images: Sequence[torch.Tensor],
    titles: Sequence[str],
    colors: Sequence[str] | None = None,
    draw_over: Callable[[Any, int], None] | None = None,
) -> Figure:
    """Returns a figure of images in a grid, as nearly square as their number allows.

    Args:
        images: (channels, height, width) each, float 0..1 or uint8.
        titles: over each image.
        colors: of the titles; black by default.
        draw_over: draws on the axes of image i, which it is given with i.
    """
    columns = max(1, int(len(images) ** 0.5 + 0.999))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        pixels = plain(image).detach().cpu()
        pixels = pixels.float().clamp(0, 1) if pixels.is_floating_point() else pixels
        axes.imshow(pixels.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray" if pixels.shape[0] == 1 else None)
        if draw_over is not None:
            draw_over(axes, i)
        axes.set_title(title, fontsize=9, color=colors[i] if colors else "black")
        axes.axis("off")
    return figure


@show_batch.register(TensorImage, TensorCategory)
def _(_x: TensorImage, _y: TensorCategory, samples: Sequence[tuple[Any, Any]]) -> Figure:
    return image_grid([image for image, _ in samples], [str(label) for _, label in samples])


@show_batch.register(TensorImage, TensorMultiCategory)
def _(_x: TensorImage, _y: TensorMultiCategory, samples: Sequence[tuple[Any, Any]]) -> Figure:
    return image_grid([image for image, _ in samples], ["; ".join(map(str, labels)) for _, labels in samples])


@show_batch.register(TensorImage, TensorRegression)
def _(_x: TensorImage, _y: TensorRegression, samples: Sequence[tuple[Any, Any]]) -> Figure:
    return image_grid([image for image, _ in samples], [_rounded(target) for _, target in samples])


@show_batch.register(TensorImage, TensorMask)
def _(_x: TensorImage, _y: TensorMask, samples: Sequence[tuple[Any, Any]]) -> Figure:
    num = len(samples[0][1].codes or ()) or max(int(mask.max()) for _, mask in samples) + 1

    def draw_over(axes: Any, i: int) -> None:
        mask = plain(samples[i][1]).cpu().numpy()
        axes.imshow(mask, alpha=0.5, cmap="tab20", vmin=0, vmax=num, interpolation="nearest")

    return image_grid([image for image, _ in samples], [""] * len(samples), draw_over=draw_over)


@show_batch.register(TensorImage, TensorPoint)
def _(_x: TensorImage, _y: TensorPoint, samples: Sequence[tuple[Any, Any]]) -> Figure:
    def draw_over(axes: Any, i: int) -> None:
        image, points = samples[i]
        # In the batch they are -1 to 1, as the model sees them; see ScalePoints.
        half = torch.tensor([image.shape[-1] / 2, image.shape[-2] / 2])
        across, down = ((plain(points).cpu() + 1) * half).T.numpy()
        axes.scatter(across, down, s=12, color="red")

    return image_grid([image for image, _ in samples], [""] * len(samples), draw_over=draw_over)


def _rounded(target: Any) -> str:
    return ", ".join(f"{number:.4g}" for number in target) if isinstance(target, list) else f"{target:.4g}"


@show_results.register(TensorImage, TensorCategory)
def _(_x: TensorImage, _y: TensorCategory, samples: Sequence[tuple[Any, Any]], predictions: Sequence[Any]) -> Figure:
    titles = [
        str(label) if label == guess else f"{guess}\nis {label}"
        for (_, label), guess in zip(samples, predictions, strict=True)
    ]
    colors = ["green" if label == guess else "red" for (_, label), guess in zip(samples, predictions, strict=True)]
    return image_grid([image for image, _ in samples], titles, colors)


def save_predictions(file: str | Path, images: Sequence[str | Path], predictions: Sequence[tuple[Any, float]]) -> None:
    """Draws image files with their predicted labels and confidences to a PNG file.

    Args:
        file: the picture.
        images: the files.
        predictions: (label, confidence 0 to 1) of each.
    """
    pixels = [ImageToTensor()(OpenImage()(image)) for image in images]
    figure = image_grid(pixels, [f"{label}\n{confidence:.0%}" for label, confidence in predictions])
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
