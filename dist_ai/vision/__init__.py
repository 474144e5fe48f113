"""Vision: image loaders, transforms, models and learners."""

from typing import TYPE_CHECKING

import dist_ai.vision.show  # registers how images are shown
import dist_ai.vision.statistics  # noqa: F401  # and what is said of them
from dist_ai.core.names import missing_name
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorMask, TensorPoint
from dist_ai.vision.albumentations import Albumentations
from dist_ai.vision.annotations import get_annotations, read_voc
from dist_ai.vision.augment import (
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    GaussianBlur,
    GaussianNoise,
    Hue,
    Posterize,
    RandomErasing,
    RandomResizedCropGPU,
    Rescale,
    Rotate,
    Saturation,
    Shear,
    Solarize,
    Translate,
    View,
    Warp,
    Zoom,
    aug_transforms,
    dihedral_views,
    flip_views,
    rand_augment,
    trivial_augment,
)
from dist_ai.vision.blocks import BBoxBlock, BBoxLblBlock, ImageBlock, MaskBlock, PointBlock
from dist_ai.vision.data import DetectionDataLoaders, ImageDataLoaders, PointDataLoaders, SegmentationDataLoaders
from dist_ai.vision.detection import CocoMAP, DetectionLoss, detection_learner
from dist_ai.vision.files import download_images, resize_images, verify_images
from dist_ai.vision.gan import GANLoss, GANTrainer, NoiseBlock, gan_learner
from dist_ai.vision.gradcam import GradCAM, grad_cam
from dist_ai.vision.items import (
    CropPad,
    DihedralItem,
    FlipItem,
    RandomCrop,
    RandomResizedCrop,
    RatioResize,
    Resize,
)
from dist_ai.vision.learner import unet_learner, vision_learner
from dist_ai.vision.models import architectures
from dist_ai.vision.transforms import ImageToFloat, ImageToTensor, Normalize, OpenImage, imagenet_stats

__all__ = [
    "Albumentations",
    "BBoxBlock",
    "BBoxLblBlock",
    "Brightness",
    "CocoMAP",
    "Contrast",
    "CropPad",
    "DetectionDataLoaders",
    "DetectionLoss",
    "Dihedral",
    "DihedralItem",
    "Flip",
    "FlipItem",
    "GANLoss",
    "GANTrainer",
    "GaussianBlur",
    "GaussianNoise",
    "GradCAM",
    "Hue",
    "ImageBlock",
    "ImageDataLoaders",
    "ImageToFloat",
    "ImageToTensor",
    "MaskBlock",
    "NoiseBlock",
    "Normalize",
    "OpenImage",
    "PointBlock",
    "PointDataLoaders",
    "Posterize",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomResizedCropGPU",
    "RatioResize",
    "Rescale",
    "Resize",
    "Rotate",
    "Saturation",
    "SegmentationDataLoaders",
    "Shear",
    "Solarize",
    "TensorBBox",
    "TensorImage",
    "TensorMask",
    "TensorPoint",
    "Translate",
    "View",
    "Warp",
    "Zoom",
    "architectures",
    "aug_transforms",
    "detection_learner",
    "dihedral_views",
    "download_images",
    "flip_views",
    "gan_learner",
    "get_annotations",
    "grad_cam",
    "imagenet_stats",
    "rand_augment",
    "read_voc",
    "resize_images",
    "trivial_augment",
    "unet_learner",
    "verify_images",
    "vision_learner",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
