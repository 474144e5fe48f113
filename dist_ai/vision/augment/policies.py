"""RandAugment and TrivialAugment: a few operations of fourteen, drawn for each sample, on the device.

A policy is three transforms, one for each kind of operation: what moves pixels joins the row of the other coordinate transforms
and is interpolated with them; what changes colours joins theirs; the rest follows. All three draw the same operations for a
sample, each does its own part of them. So where several are drawn, pixels move before colours change, whatever their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.core.vision_types import TensorImage
from dist_ai.errors import ConfigError
from dist_ai.vision.augment.colour import Colour, faded, lit, stretched
from dist_ai.vision.augment.coordinates import Coordinates, check_samples, check_sampling, of_batch
from dist_ai.vision.augment.effects import float_batch
from dist_ai.vision.augment.homography import Frame, Homography, centred, moved, rotated, sheared
from dist_ai.vision.augment.sampling import like

__all__ = ["PolicyColours", "PolicyEffects", "PolicyMoves", "rand_augment", "trivial_augment"]

_OPERATIONS = (
    "identity", "shear across", "shear down", "shift across", "shift down", "rotate", "brightness", "saturation", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip


def rand_augment(n: int = 2, magnitude: float = 9, *, pad_mode: str = "reflection") -> list[Transform]:
    """Returns RandAugment: `n` operations a sample, all of the same magnitude.

    Args:
        n: how many.
        magnitude: how strong, 0 to 30.
        pad_mode: what lies beyond an image; see `resample`.

    Source: Cubuk et al., https://arxiv.org/abs/1909.13719; ranges as torchvision's.
    """
    if not 0 <= magnitude <= 30:
        raise ConfigError(f"rand_augment(magnitude={magnitude}): expected 0 to 30")
    level = magnitude / 30
    return [
        PolicyMoves(n, level, False, pad_mode=pad_mode),
        PolicyColours(n, level, False),
        PolicyEffects(n, level, False),
    ]


def trivial_augment(*, pad_mode: str = "reflection") -> list[Transform]:
    """Returns TrivialAugment: one operation a sample, of a magnitude that is drawn, from wide ranges.

    Args:
        pad_mode: what lies beyond an image; see `resample`.

    Source: Müller and Hutter, https://arxiv.org/abs/2103.10158; ranges as torchvision's.
    """
    return [PolicyMoves(1, None, True, pad_mode=pad_mode), PolicyColours(1, None, True), PolicyEffects(1, None, True)]


@dataclass(frozen=True)
class _Drawn:
    """The operations of a policy, (samples, n) each: which, and how strong, -1 to 1."""

    operation: npt.NDArray[np.int64]
    level: npt.NDArray[np.float64]

    @classmethod
    def of(cls, tfm: Any, draw: Draw | None) -> _Drawn:
        # The three transforms of a policy stand at places of their own, and must draw alike.
        draw = of_batch(tfm, draw).anywhere("policy")
        operation = draw.integers(0, len(_OPERATIONS), size=(tfm.n,))
        sign = np.where(draw.bernoulli(0.5, size=(tfm.n,)), 1, -1)
        levels = draw.integers(0, 31, size=(tfm.n,)) / 30
        return cls(operation, sign * (levels if tfm.level is None else tfm.level))

    def strength(self, k: int, name: str) -> npt.NDArray[np.float64]:
        """Returns how strong an operation is as the k-th of each sample, 0 where another was drawn."""
        return np.where(self.is_drawn(k, name), self.level[:, k], 0.0)

    def is_drawn(self, k: int, name: str) -> npt.NDArray[np.bool_]:
        """Returns of which samples an operation is the k-th."""
        return self.operation[:, k] == _OPERATIONS.index(name)


@dataclass
class PolicyMoves(Coordinates):
    """What a policy moves; see `rand_augment`.

    Args:
        n: how many operations a sample.
        level: how strong, 0 to 1; None draws it.
        wide: TrivialAugment's wide ranges.
        mode, pad_mode: see `resample`; neighbours must agree.
    """

    n: int
    level: float | None
    wide: bool
    mode: str | None = "bilinear"
    pad_mode: str | None = "reflection"

    def __post_init__(self) -> None:
        _check(self, self.n, self.level)
        check_sampling(self, self.mode, self.pad_mode)

    def homography(self, frame: Frame, draw: Draw | None) -> Homography:
        """Returns the shears, shifts and turns of each sample."""
        drawn = _Drawn.of(self, draw)
        slope, degrees = (0.99, 135.0) if self.wide else (0.3, 30.0)
        across, down = (32.0, 32.0) if self.wide else (150 / 331 * frame.width, 150 / 331 * frame.height)
        product = np.eye(3)[None]
        for k in range(self.n):
            shear_x, shear_y, shift_x, shift_y, turn = (drawn.strength(k, name) for name in _OPERATIONS[1:6])
            step = (
                sheared(np.rad2deg(np.arctan(slope * shear_x)))
                @ sheared(np.rad2deg(np.arctan(slope * shear_y)), vertical=True)
                @ moved(across * shift_x, down * shift_y)
                @ rotated(degrees * turn)
            )
            product = centred(step, frame) @ product
        return product


@dataclass
class PolicyColours(Colour):
    """What a policy does to colours; see `rand_augment`.

    Args:
        n, level, wide: see `PolicyMoves`.
    """

    n: int
    level: float | None
    wide: bool

    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self, self.n, self.level)

    def matrix(self, channels: int, draw: Draw | None) -> npt.NDArray[np.float64]:
        """Returns brightness, saturation and contrast of each sample."""
        drawn = _Drawn.of(self, draw)
        most = 0.99 if self.wide else 0.9
        product = np.eye(channels + 1)[None]
        for k in range(self.n):
            bright, colourful, strong = (1 + most * drawn.strength(k, name) for name in _OPERATIONS[6:9])
            product = stretched(channels, strong) @ lit(channels, bright) @ product
            if channels == 3:
                product = faded(colourful) @ product
        return product


@dataclass
class PolicyEffects(Transform):
    """What a policy does to pixels besides; see `rand_augment`.

    Args:
        n, level, wide: see `PolicyMoves`.
    """

    n: int
    level: float | None
    wide: bool

    order: ClassVar[int] = 31
    split_idx: ClassVar[int | None] = 0

    def __post_init__(self) -> None:
        _check(self, self.n, self.level)

    def encodes(self, x: TensorImage, draw: Draw | None) -> Any:
        """Returns the batch, some of it sharper, posterised, solarised, stretched or equalised."""
        drawn = _Drawn.of(self, draw)
        pixels = float_batch(self, x)
        check_samples(drawn.operation, len(pixels))
        result = pixels.float()
        changes, chosen, strengths = [], [], []
        for k in range(self.n):
            for name, (strength, change) in _EFFECTS.items():
                if len(index := drawn.is_drawn(k, name).nonzero()[0]):
                    changes.append(change)
                    chosen.append(index)
                    strengths.append(strength(drawn.level[index, k], self.wide))
        if not changes:
            return like(result, pixels)
        sizes = [len(index) for index in chosen]
        # One copy to the device for all of them, not one for each.
        indices = torch.from_numpy(np.concatenate(chosen)).to(pixels.device, non_blocking=True)
        numbers = torch.from_numpy(np.concatenate(strengths)).to(torch.float32).to(pixels.device, non_blocking=True)
        for change, index, number in zip(
            changes, indices.split(sizes), numbers[:, None, None, None].split(sizes), strict=True
        ):
            result = result.index_copy(0, index, change(result[index], number))
        return like(result, pixels)


def _sharpness(level: npt.NDArray[np.float64], wide: bool) -> npt.NDArray[np.float64]:
    return 1 + (0.99 if wide else 0.9) * level


def _sharper(pixels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Returns images sharper, or softer: away from, or towards, a blur of 3 x 3 pixels; their edges stay."""
    height, width = pixels.shape[-2:]
    if min(height, width) < 3:
        return pixels
    rows = F.pad(pixels, (1, 1, 1, 1), "replicate")
    blurred = 5 * pixels
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                blurred = blurred + rows[..., i : i + height, j : j + width]
    blurred = blurred / 13
    inner = (blurred + factor * (pixels - blurred)).clamp_(0, 1)[..., 1:-1, 1:-1]
    result = pixels.clone()
    result[..., 1:-1, 1:-1] = inner
    return result


def _step(level: npt.NDArray[np.float64], wide: bool) -> npt.NDArray[np.float64]:
    return 2.0 ** np.round((6 if wide else 4) * np.abs(level))


def _posterized(pixels: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return (pixels * 255).round_().div_(step).floor_().mul_(step).div_(255)


def _threshold(level: npt.NDArray[np.float64], wide: bool) -> npt.NDArray[np.float64]:
    return 1 - np.abs(level)


def _solarized(pixels: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return torch.where(pixels >= threshold, 1 - pixels, pixels)


def _nothing(level: npt.NDArray[np.float64], wide: bool) -> npt.NDArray[np.float64]:
    return np.zeros_like(level)


def _stretched(pixels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Returns images whose channels reach from 0 to 1; those of a single value stay."""
    low, high = pixels.amin((-1, -2), keepdim=True), pixels.amax((-1, -2), keepdim=True)
    return torch.where(high > low, (pixels - low) / (high - low).clamp(min=1e-12), pixels)


def _equalized(pixels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Returns images in whose channels the 256 shades are about equally frequent; those of too few pixels stay."""
    shades = (pixels * 255).round_().clamp_(0, 255).long().flatten(2)
    counts = torch.zeros(*shades.shape[:2], 256, dtype=torch.int64, device=pixels.device)
    counts.scatter_add_(2, shades, torch.ones_like(shades))
    # How many pixels make a shade: those of the brightest are not counted, since they get what is left.
    step = (shades.shape[2] - counts.gather(2, shades.amax(2, keepdim=True))) // 255
    darker = counts.cumsum(2) - counts
    equal = ((darker + step // 2) // step.clamp(min=1)).clamp(0, 255).gather(2, shades).view(pixels.shape)
    return torch.where((step > 0)[..., None], equal.to(pixels.dtype) / 255, pixels)


# Of each operation how strong it is, a number a sample, and what it makes of pixels and those numbers.
_EFFECTS = {
    "sharpness": (_sharpness, _sharper),
    "posterize": (_step, _posterized),
    "solarize": (_threshold, _solarized),
    "autocontrast": (_nothing, _stretched),
    "equalize": (_nothing, _equalized),
}


def _check(tfm: Any, n: int, level: float | None) -> None:
    if n < 1:
        raise ConfigError(f"{type(tfm).__name__}(n={n}): expected at least 1 operation")
    if level is not None and not 0 <= level <= 1:
        raise ConfigError(f"{type(tfm).__name__}(level={level}): expected 0 to 1, or None to draw it")
