"""Image models: a body from torchvision, timm or yours, and a head for the task."""

from dist_ai.vision.models.backbones import architectures, backbone, small_cnn
from dist_ai.vision.models.bodies import Pyramid, adapt_first_convolution, create_body, late_parameters
from dist_ai.vision.models.classifier import VisionModel, create_head, on_backbone, vision_model, vision_splitter
from dist_ai.vision.models.detector import Detector, detector, detector_on_backbone
from dist_ai.vision.models.gan import GANModule, basic_critic, basic_generator, gan
from dist_ai.vision.models.unet import UNet, unet
from dist_ai.vision.models.weights import load_weights, statistics_of, weights_of
from dist_ai.vision.models.xresnet import xresnet

__all__ = [
    "Detector",
    "GANModule",
    "Pyramid",
    "UNet",
    "VisionModel",
    "adapt_first_convolution",
    "architectures",
    "backbone",
    "basic_critic",
    "basic_generator",
    "create_body",
    "create_head",
    "detector",
    "detector_on_backbone",
    "gan",
    "late_parameters",
    "load_weights",
    "on_backbone",
    "small_cnn",
    "statistics_of",
    "unet",
    "vision_model",
    "vision_splitter",
    "weights_of",
    "xresnet",
]
