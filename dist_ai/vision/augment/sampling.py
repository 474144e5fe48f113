"""The one interpolation: every pixel of the result looks up, by one matrix a sample, where in the image it comes from.

`resample` takes plain tensors and no decision that depends on their values, so `torch.compile(fullgraph=True)` makes one graph
of it, and a GPU is never waited for.

**Shrinking.** Bilinear interpolation looks at four pixels, so it would skip some where an image shrinks by more than half. Where
one pixel of the result covers k (2 or more, rounded down) of the image across or down, the average over k pixels is taken
first; `shrinkage` finds k for each sample by itself, from its matrix.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from dist_ai.vision.augment.homography import Frame, Homography

__all__ = ["Mode", "PadMode", "interpolated", "like", "resample", "shrinkage"]

Mode: TypeAlias = Literal["bilinear", "bicubic", "nearest"]
PadMode: TypeAlias = Literal["reflection", "border", "zeros"]


def resample(
    pixels: torch.Tensor,
    sources: torch.Tensor,
    frame: tuple[int, int],
    mode: str = "bilinear",
    pad_mode: str = "reflection",
) -> torch.Tensor:
    """Returns images read where matrices say, by one `grid_sample`.

    Args:
        pixels: (samples, channels, height, width), float32 or float64.
        sources: (samples or 1, 3, 3) of the same dtype and device, from the result's pixels to where they come from, -1 to 1 from
            edge to edge of `pixels`.
        frame: height and width of the result.
        mode: how pixels are interpolated: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        pad_mode: what lies beyond the image: its ``"reflection"``, its ``"border"`` drawn out, or ``"zeros"``.
    """
    height, width = frame
    x = (torch.arange(width, device=pixels.device, dtype=pixels.dtype) + 0.5)[None, None, None]
    y = (torch.arange(height, device=pixels.device, dtype=pixels.dtype) + 0.5)[None, None, :, None]
    rows = sources[..., None, None]  # element by element, not as a product: no sample's rounding depends on its batch
    across, down = rows[:, :, 0] * x + rows[:, :, 2], rows[:, :, 1] * y
    planes = across + down
    # A plane of each coordinate, which `grid_sample` reads as well as pairs; making pairs of them would be one more pass.
    grid = planes[:, :2].div_(planes[:, 2:]).permute(0, 2, 3, 1)
    grid = grid.expand(len(pixels), -1, -1, -1)
    return F.grid_sample(pixels, grid, mode=mode, padding_mode=pad_mode, align_corners=False)


def shrinkage(inverse: Homography, frame: Frame, image: Frame) -> npt.NDArray[np.int64]:
    """Returns how many pixels (down, across) of the image one in the middle of the result covers, rounded down, at least 1."""
    x, y = frame.width / 2, frame.height / 2
    u, v, w = np.moveaxis(inverse @ np.array([x, y, 1.0]), -1, 0)
    across = (inverse[:, 0, :2] - inverse[:, 2, :2] * (u / w)[:, None]) / w[:, None]
    down = (inverse[:, 1, :2] - inverse[:, 2, :2] * (v / w)[:, None]) / w[:, None]
    covered = np.stack([np.hypot(*down.T), np.hypot(*across.T)], -1)
    # A hair more than the number itself: rounding must not make a half of what is shrunk to a third.
    return np.clip(np.floor(covered + 1e-6), 1, [image.height, image.width]).astype(np.int64)


def interpolated(
    pixels: torch.Tensor, inverse: Homography, frame: Frame, *, mode: str = "bilinear", pad_mode: str = "reflection"
) -> torch.Tensor:
    """Returns images (samples, channels, height, width) of `frame`'s size, averaged and interpolated as the module's page says.

    Args:
        pixels: of any dtype and memory format; the result has them too. Whole numbers are rounded.
        inverse: from the result's pixels to the image's, for each sample.
        frame, mode, pad_mode: as for `resample`. ``"nearest"`` takes no average.
    """
    image = Frame(*pixels.shape[-2:])
    exact = torch.float64 if pixels.dtype in (torch.float64, torch.int64, torch.int32) else torch.float32
    values = pixels.to(exact)
    covered = np.ones((1, 2), np.int64) if mode == "nearest" else shrinkage(inverse, frame, image)
    kinds = {(down, across) for down, across in covered.tolist()}
    if len(kinds) == 1:
        result = _averaged(values, inverse, frame, kinds.pop(), mode, pad_mode)
    else:
        result = values.new_empty(len(values), values.shape[1], *frame)
        for kind in sorted(kinds):
            chosen = (covered == kind).all(1).nonzero()[0]
            index = torch.from_numpy(chosen).to(values.device, non_blocking=True)
            result[index] = _averaged(values[index], inverse[chosen], frame, kind, mode, pad_mode)
    if not pixels.is_floating_point():
        limits = None if pixels.dtype == torch.bool else torch.iinfo(pixels.dtype)
        result = result.round_() if limits is None else result.round_().clamp_(limits.min, limits.max)
    return like(result, pixels)


def like(result: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Returns a result in the dtype and the memory format, contiguous or channels last, of what it was made from."""
    channels_last = not pixels.is_contiguous() and pixels.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return result.to(pixels.dtype).contiguous(memory_format=layout)


def _averaged(
    values: torch.Tensor, inverse: Homography, frame: Frame, covered: tuple[int, int], mode: str, pad_mode: str
) -> torch.Tensor:
    if covered != (1, 1):
        values = F.avg_pool2d(values, covered, ceil_mode=True, count_include_pad=False)
    # What is averaged may reach beyond the edge by a part of a pixel, so its own size sets the scale.
    across, down = 2 / (covered[1] * values.shape[-1]), 2 / (covered[0] * values.shape[-2])
    to_edges = np.array([[across, 0, -1], [0, down, -1], [0, 0, 1]])
    sources = torch.from_numpy(to_edges @ inverse).to(values.dtype).to(values.device, non_blocking=True)
    return resample(values, sources, frame, mode, pad_mode)
