"""The usual augmentations of images, as one list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dist_ai.core.transform import Transform
from dist_ai.errors import ConfigError
from dist_ai.vision.augment.colour import Brightness, Contrast
from dist_ai.vision.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rescale, Rotate, Warp, Zoom

__all__ = ["aug_transforms"]


def aug_transforms(
    mult: float = 1.0,
    *,
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    xtra_tfms: Transform | Iterable[Transform] = (),
    size: int | Sequence[int] | None = None,
    mode: str = "bilinear",
    pad_mode: str = "reflection",
    min_scale: float = 1.0,
) -> list[Transform]:
    """Returns the usual augmentations of a batch, drawn for each sample on the batch's device, and interpolated once.

    Args:
        mult: times `max_rotate`, `max_lighting` and `max_warp`.
        do_flip: mirror half of the images left to right.
        flip_vert: turn them by quarters and mirror them upside down too.
        max_rotate: turn up to so many degrees.
        min_zoom, max_zoom: enlarge so many times.
        max_lighting: change brightness and contrast by so much.
        max_warp: tilt by so much.
        p_affine, p_lighting: how often each of them.
        xtra_tfms: more transforms.
        size: height and width of the result in pixels, or one number for both; in validation too.
        mode, pad_mode: see `resample`.
        min_scale: below 1, a part of at least this share of each image, of the result's shape, resized to `size`.

    >>> aug_transforms(max_rotate=0, max_warp=0, max_zoom=1, max_lighting=0)
    [Flip(p=0.5, vertical=False)]

    Raises:
        ConfigError: `min_scale` without `size`, or a value that cannot be.
    """
    if min_scale != 1 and size is None:
        raise ConfigError(f"aug_transforms(min_scale={min_scale}): parts of images are resized; give their size too")
    tfms: list[Transform] = []
    if do_flip:
        tfms.append(Dihedral() if flip_vert else Flip())
    if max_warp * mult:
        tfms.append(Warp(max_warp * mult, p_affine, mode, pad_mode))
    if max_rotate * mult:
        tfms.append(Rotate(max_rotate * mult, p_affine, mode, pad_mode))
    if (min_zoom, max_zoom) != (1, 1):
        tfms.append(Zoom(min_zoom, max_zoom, p_affine, mode, pad_mode))
    if max_lighting * mult:
        tfms += [Brightness(max_lighting * mult, p_lighting), Contrast(max_lighting * mult, p_lighting)]
    if min_scale != 1:
        assert size is not None
        tfms.append(RandomResizedCropGPU(size, min_scale, (1, 1), mode=mode, pad_mode=pad_mode))
    elif size is not None:
        tfms.append(Rescale(size, mode, pad_mode))
    return [*tfms, *([xtra_tfms] if isinstance(xtra_tfms, Transform) else xtra_tfms)]
