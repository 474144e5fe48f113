"""Augmentation on the device: what moves pixels is interpolated once, what changes colours is one pass."""

from dist_ai.vision.augment.colour import Brightness, Colour, Contrast, Hue, Saturation, recolour
from dist_ai.vision.augment.coordinates import Coordinates, move, of_batch
from dist_ai.vision.augment.effects import Effect, GaussianBlur, GaussianNoise, Posterize, RandomErasing, Solarize
from dist_ai.vision.augment.geometry import (
    Dihedral,
    Flip,
    RandomResizedCropGPU,
    Rescale,
    Rotate,
    Shear,
    Translate,
    View,
    Warp,
    Zoom,
    dihedral_views,
    flip_views,
)
from dist_ai.vision.augment.policies import rand_augment, trivial_augment
from dist_ai.vision.augment.recipe import aug_transforms
from dist_ai.vision.augment.sampling import resample

__all__ = [
    "Brightness",
    "Colour",
    "Contrast",
    "Coordinates",
    "Dihedral",
    "Effect",
    "Flip",
    "GaussianBlur",
    "GaussianNoise",
    "Hue",
    "Posterize",
    "RandomErasing",
    "RandomResizedCropGPU",
    "Rescale",
    "Rotate",
    "Saturation",
    "Shear",
    "Solarize",
    "Translate",
    "View",
    "Warp",
    "Zoom",
    "aug_transforms",
    "dihedral_views",
    "flip_views",
    "move",
    "of_batch",
    "rand_augment",
    "recolour",
    "resample",
    "trivial_augment",
]
