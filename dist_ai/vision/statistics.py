"""What statistics say of images, masks, points and boxes; the rest is in `dist_ai.data.statistics`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as PILImage

from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorMask, TensorPoint
from dist_ai.data.statistics import Moments, measure

__all__: list[str] = []

_ENOUGH = 256  # pixels a side: more of them tell nothing new of an image's brightness


@measure.register(PILImage)
def _(value: PILImage, source: Any) -> dict[str, Any]:
    small = value if max(value.size) <= _ENOUGH else value.reduce(max(value.size) // _ENOUGH)
    pixels = torch.from_numpy(np.array(small, dtype=np.uint8)).float() / 255
    channels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    return {
        "height": value.height,
        "width": value.width,
        **_file(source, value),
        "channels, 0 to 1": Moments.of(channels),
    }


@measure.register(TensorImage)
def _(value: TensorImage, source: Any) -> dict[str, Any]:
    pixels = plain(value).float() / (1 if value.is_floating_point() else 255)
    return {"height": value.shape[-2], "width": value.shape[-1], "channels, 0 to 1": Moments.of(pixels)}


@measure.register(TensorMask)
def _(value: TensorMask, source: Any) -> dict[str, Any]:
    classes, counts = plain(value).long().unique(return_counts=True)
    names = value.codes or ()
    pixels = {
        str(names[k]) if 0 <= k < len(names) else str(k): count
        for k, count in zip(classes.tolist(), counts.tolist(), strict=True)
    }
    return {"height": value.shape[-2], "width": value.shape[-1], "pixels": Counter(pixels)}


@measure.register(TensorPoint | TensorBBox)
def _(value: TensorPoint | TensorBBox, source: Any) -> dict[str, Any]:
    numbers = plain(value).reshape(-1, value.shape[-1])
    ends = {"least": numbers.min().item(), "greatest": numbers.max().item()} if numbers.numel() else {}
    return {"points" if isinstance(value, TensorPoint) else "boxes": len(numbers), **ends}


def _file(source: Any, opened: PILImage) -> dict[str, Any]:
    """Returns what the file's header says: opening converts an image."""
    try:
        with Image.open(source) as image:
            return {"stored as": f"{image.format} {image.mode}"}
    except Exception:  # it was not made from a file
        return {"mode": opened.mode}
