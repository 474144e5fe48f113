"""Vision: image loaders, transforms, models and learners."""

import dist_ai.vision.show  # registers how images are shown
import dist_ai.vision.statistics  # noqa: F401  # and what is said of them
from dist_ai.vision.augment import (
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    Hue,
    RandomResizedCropGPU,
    Rescale,
    Rotate,
    Saturation,
    Shear,
    Translate,
    View,
    Warp,
    Zoom,
    aug_transforms,
    dihedral_views,
    flip_views,
)
from dist_ai.vision.blocks import ImageBlock, MaskBlock, PointBlock
from dist_ai.vision.data import ImageDataLoaders, SegmentationDataLoaders
from dist_ai.vision.learner import vision_learner
from dist_ai.vision.models import architectures
from dist_ai.vision.transforms import Normalize, Resize, imagenet_stats

__all__ = [
    "Brightness",
    "Contrast",
    "Dihedral",
    "Flip",
    "Hue",
    "ImageBlock",
    "ImageDataLoaders",
    "MaskBlock",
    "Normalize",
    "PointBlock",
    "RandomResizedCropGPU",
    "Rescale",
    "Resize",
    "Rotate",
    "Saturation",
    "SegmentationDataLoaders",
    "Shear",
    "Translate",
    "View",
    "Warp",
    "Zoom",
    "architectures",
    "aug_transforms",
    "dihedral_views",
    "flip_views",
    "imagenet_stats",
    "vision_learner",
]
