"""What changes pixels in no straight line: erased, blurred, noisy, solarised, posterised.

Each is vectorised over the batch on its device, and draws for each sample of a training batch by itself; `p` is how often.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorImage
from dist_ai.errors import ConfigError, DataError
from dist_ai.vision.augment.coordinates import check_samples, of_batch
from dist_ai.vision.augment.geometry import check_range, check_share
from dist_ai.vision.augment.sampling import like

__all__ = [
    "Effect",
    "GaussianBlur",
    "GaussianNoise",
    "Posterize",
    "RandomErasing",
    "Solarize",
    "each_per_sample",
    "float_batch",
    "per_sample",
]


class Effect(Transform):
    """A transform of the pixels of a batch, in 0 to 1, for the samples that `p` draws.

    To write one, say what becomes of all of them in `changed`.
    """

    order: ClassVar[int] = 35
    split_idx: ClassVar[int | None] = 0
    p: float

    @abstractmethod
    def changed(self, pixels: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns plain pixels (samples, channels, height, width), changed in all samples."""

    def encodes(self, x: TensorImage, draw: Draw | None) -> Any:
        """Returns the batch with some of its images changed."""
        draw = of_batch(self, draw)
        pixels = float_batch(self, x)
        chosen = per_sample(draw.bernoulli(self.p), pixels)
        return like(torch.where(chosen, self.changed(pixels, draw).to(pixels.dtype), pixels), pixels)


@dataclass
class GaussianBlur(Effect):
    """Blurs images of a training batch by a bell curve.

    Args:
        min_sigma, max_sigma: from how wide to how wide, in pixels.
        p: how often.
    """

    min_sigma: float = 0.1
    max_sigma: float = 2.0
    p: float = 0.5

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_range(self, "min_sigma", self.min_sigma, "max_sigma", self.max_sigma)

    def changed(self, pixels: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the images blurred, across and then down."""
        reach = math.ceil(3 * self.max_sigma)
        sigma = np.asarray(draw.uniform(self.min_sigma, self.max_sigma))[:, None]
        curve = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        curve /= curve.sum(1, keepdims=True)
        weights = each_per_sample(curve.T, pixels, torch.float32)
        for dim in (-1, -2):
            length = pixels.shape[dim]
            around = F.pad(pixels.float(), (reach, reach, 0, 0) if dim == -1 else (0, 0, reach, reach), "replicate")
            # Term by term, not as a convolution: no sample's rounding depends on its batch.
            blurred = around.narrow(dim, 0, length) * weights[0]
            for i in range(1, len(weights)):
                blurred += around.narrow(dim, i, length) * weights[i]
            pixels = blurred
        return pixels


@dataclass
class GaussianNoise(Effect):
    """Adds normal noise to images of a training batch, each pixel its own, cut off at 0 and 1.

    Args:
        max_std: up to what deviation.
        p: how often.
    """

    max_std: float = 0.1
    p: float = 0.5

    order: ClassVar[int] = 36

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        if self.max_std < 0:
            raise ConfigError(f"GaussianNoise(max_std={self.max_std}): expected a deviation, 0 or more")

    def changed(self, pixels: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the images with noise."""
        std = per_sample(draw.uniform(0, self.max_std), pixels, torch.float32)
        return (pixels + std * draw.normal_tensor(tuple(pixels.shape[1:]), device=pixels.device)).clamp_(0, 1)


@dataclass
class Solarize(Effect):
    """Inverts the bright pixels of images of a training batch.

    Args:
        threshold: from which value on, in 0 to 1.
        p: how often.
    """

    threshold: float = 0.5
    p: float = 0.5

    order: ClassVar[int] = 32

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        check_share(self, "threshold", self.threshold)

    def changed(self, pixels: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the images solarised."""
        return torch.where(pixels >= self.threshold, 1 - pixels, pixels)


@dataclass
class Posterize(Effect):
    """Leaves few shades in images of a training batch.

    Args:
        bits: how many of a pixel's 8 bits are kept, 0 to 8.
        p: how often.
    """

    bits: int = 4
    p: float = 0.5

    order: ClassVar[int] = 32

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        if self.bits not in range(9):
            raise ConfigError(f"Posterize(bits={self.bits}): expected 0 to 8")

    def changed(self, pixels: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the images in fewer shades."""
        step = 2 ** (8 - self.bits)
        return (pixels.float() * 255).round_().div_(step).floor_().mul_(step / 255)


@dataclass
class RandomErasing(Effect):
    """Puts noise, or nothing, in rectangles of images of a training batch, after they are normalised.

    Args:
        p: how often.
        sl, sh: from what to what share of an image's area is erased.
        min_aspect: the least width for a height of 1; the greatest is 1 / min_aspect.
        max_count: up to how many rectangles, which share the area.
        fill: ``"noise"``, normal with mean 0 and deviation 1, or ``"zeros"``, the mean of normalised pixels.

    Source: "Random erasing data augmentation" (Zhong et al., https://arxiv.org/abs/1708.04896).
    """

    p: float = 0.5
    sl: float = 0.0
    sh: float = 0.3
    min_aspect: float = 0.3
    max_count: int = 1
    fill: str = "noise"

    order: ClassVar[int] = 100

    def __post_init__(self) -> None:
        check_share(self, "p", self.p)
        if not 0 <= self.sl <= self.sh <= 1:
            raise ConfigError(f"RandomErasing(sl={self.sl}, sh={self.sh}): expected two shares, the first no larger")
        check_range(self, "min_aspect", self.min_aspect, "1 / min_aspect", 1 / max(self.min_aspect, 1e-9))
        if self.max_count < 1:
            raise ConfigError(f"RandomErasing(max_count={self.max_count}): expected at least 1")
        if self.fill not in ("noise", "zeros"):
            raise ConfigError(f"RandomErasing(fill={self.fill!r}): expected 'noise' or 'zeros'")

    def changed(self, pixels: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Returns the images with rectangles erased."""
        height, width = pixels.shape[-2:]
        count = draw.integers(1, self.max_count + 1)
        x = torch.arange(width, device=pixels.device) + 0.5
        y = (torch.arange(height, device=pixels.device) + 0.5)[:, None]
        edges: list[Any] = []
        for k in range(self.max_count):
            area = draw.uniform(self.sl, self.sh) * height * width / count
            aspect = np.exp(draw.uniform(np.log(self.min_aspect), -np.log(self.min_aspect)))
            across = np.minimum(np.sqrt(area * aspect), width) * (k < count)
            down = np.minimum(np.sqrt(area / aspect), height)
            left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
            edges += [left, left + across, top, top + down]
        erased = torch.zeros(len(pixels), 1, height, width, dtype=torch.bool, device=pixels.device)
        rows = iter(each_per_sample(edges, pixels, torch.float32))
        for left, right, top, bottom in zip(rows, rows, rows, rows, strict=True):
            erased |= (x >= left) & (x < right) & (y >= top) & (y < bottom)
        if self.fill == "zeros":
            return pixels.masked_fill(erased, 0)
        noise = draw.normal_tensor(tuple(pixels.shape[1:]), device=pixels.device)
        return torch.where(erased, noise.to(pixels.dtype), pixels)


def float_batch(tfm: Transform, x: TensorImage) -> torch.Tensor:
    """Returns the plain pixels of a batch of floats.

    Raises:
        ConfigError: this is no batch.
        DataError: pixels are whole numbers.
    """
    name = type(tfm).__name__
    if x.dim() != 4:
        raise ConfigError(f"{name} draws for each sample of a batch; use it in batch_tfms")
    if not x.is_floating_point():
        raise DataError(f"{name} got pixels of {x.dtype}; put ImageToFloat(), which makes them 0..1, before it")
    return plain(x)


def per_sample(numbers: Any, pixels: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Returns one number a sample as a tensor (samples, 1, 1, 1) on the device of `pixels`."""
    return each_per_sample([numbers], pixels, dtype)[0]


def each_per_sample(
    rows: Sequence[Any], pixels: torch.Tensor, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, ...]:
    """Returns several numbers a sample as `per_sample` does one, by one copy to the device."""
    tensor = torch.from_numpy(np.stack(rows))
    check_samples(tensor[0], len(pixels))
    return tensor.to(dtype or tensor.dtype).to(pixels.device, non_blocking=True)[..., None, None, None].unbind()
