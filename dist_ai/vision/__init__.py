"""Vision: image loaders, transforms, models and learners."""

import dist_ai.vision.show  # registers how images are shown
import dist_ai.vision.statistics  # noqa: F401  # and what is said of them
from dist_ai.vision.blocks import ImageBlock, MaskBlock, PointBlock
from dist_ai.vision.data import ImageDataLoaders, SegmentationDataLoaders
from dist_ai.vision.learner import vision_learner
from dist_ai.vision.models import architectures
from dist_ai.vision.transforms import Flip, Normalize, Resize, aug_transforms, imagenet_stats

__all__ = [
    "Flip",
    "ImageBlock",
    "ImageDataLoaders",
    "MaskBlock",
    "Normalize",
    "PointBlock",
    "Resize",
    "SegmentationDataLoaders",
    "architectures",
    "aug_transforms",
    "imagenet_stats",
    "vision_learner",
]
