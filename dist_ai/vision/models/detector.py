"""Detectors: torchvision's as they are, and one over any body that gives maps of several resolutions.

Torchvision's detectors take images and targets and return a dict of losses in training, and boxes otherwise. Here a
detector is a module of plain tensors: what it returns has the batch first, so that losses, metrics, ranks and exports
treat it as they do any other. The losses are those of each image by itself, which do not depend on which images a batch or a rank
happens to hold; the body sees the batch at once.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models as torchvision_models
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork

from dist_ai.errors import ConfigError
from dist_ai.export import register_builder
from dist_ai.layers import SeededDropout
from dist_ai.vision.models.backbones import backbone
from dist_ai.vision.models.bodies import Pyramid, create_body

__all__ = ["Detector", "detector", "detector_on_backbone", "is_detector"]

_OF_TORCHVISION = "torchvision.models.detection"


class _SharedFeatures(nn.Module):
    """A detector's backbone, which may be told the features it shall return."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = getattr(backbone, "out_channels", None)
        self.held: Any = None

    def forward(self, x: torch.Tensor) -> Any:
        return self.backbone(x) if self.held is None else self.held


class _Unresized(GeneralizedRCNNTransform):
    """Torchvision's normalisation of a detector's images, which leaves their size as the loaders made it."""

    def resize(self, image: torch.Tensor, target: Any = None) -> tuple[torch.Tensor, Any]:
        return image, target


class Detector(nn.Module):
    """A detector of torchvision's kind over plain tensors.

    Args:
        detector: the detector; it sees images in the size in which they come.
        max_detections: how many boxes of an image are kept, those of the highest scores.

    Raises:
        ConfigError: the detector has BatchNorm behind its body, as SSDlite has.

    Input: images (batch, channels, height, width) in 0..1; in training boxes (batch, boxes, 4), left, top, right and bottom in
    pixels, and labels (batch, boxes), int64, where those of class 0 do not count.
    Output: ``losses``, a dict of (batch,), where there are boxes; and unless it is training ``boxes`` (batch, max_detections, 4),
    ``labels`` and ``scores`` (batch, max_detections), filled up with zeros.
    """

    def __init__(self, detector: nn.Module, *, max_detections: int = 100) -> None:
        super().__init__()
        in_body = {id(module) for module in detector.backbone.modules()}  # type: ignore[union-attr]
        if any(isinstance(m, _BatchNorm) and id(m) not in in_body for m in detector.modules()):
            raise ConfigError(
                f"{type(detector).__name__} normalises over the batch behind its body, and here each image is judged by itself; "
                "take a detector without BatchNorm there, such as 'retinanet_resnet50_fpn', or the name of a classifier"
            )
        detector.backbone = _SharedFeatures(detector.backbone)
        given: Any = detector.transform
        detector.transform = _Unresized(1, 1, given.image_mean, given.image_std, given.size_divisible)
        self.detector = detector
        self.max_detections = max_detections
        self.draws = SeededDropout(0.0)  # is told the samples of a batch, by which some detectors choose among anchors

    def forward(
        self, images: torch.Tensor, boxes: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> dict[str, Any]:
        """Returns losses, if there are boxes, and detections, unless it is training."""
        shared: Any = self.detector.backbone
        features = shared(self.detector.transform(list(images))[0].tensors)  # type: ignore[operator]
        found: dict[str, Any] = {}
        try:
            if not self.training:
                shared.held = features
                found.update(self._detected(images))
            if boxes is not None and labels is not None:
                found["losses"] = self._losses(images, boxes, labels, features)
        finally:
            shared.held = None
        return found

    def _detected(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = self.detector(list(images))
        sizes = {"boxes": (4,), "scores": (), "labels": ()}
        return {
            name: torch.stack([_filled(row[name], self.max_detections, size) for row in rows])
            for name, size in sizes.items()
        }

    def _losses(
        self, images: torch.Tensor, boxes: torch.Tensor, labels: torch.Tensor, features: Any
    ) -> dict[str, torch.Tensor]:
        shared: Any = self.detector.backbone
        # Read at once, for torch's generators are seeded on the host: one wait for the device a batch, not one for each image.
        keys = self.draws.sample_keys.tolist() if self.training and self.draws.sample_keys is not None else None
        of_each = []
        with self._as_in_training():
            for i, image in enumerate(images):
                shared.held = _row(features, i)
                is_box = labels[i] > 0
                target = {"boxes": boxes[i][is_box].to(image.dtype), "labels": labels[i][is_box]}
                with _drawing(None if keys is None else keys[i], image.device):
                    of_each.append(self.detector([image], [target]))
        return {name: torch.stack([each[name] for each in of_each]) for name in of_each[0]}

    @contextlib.contextmanager
    def _as_in_training(self) -> Iterator[None]:
        """Lets the detector compute losses; its normalisations stay as they are."""
        own = [m for m in self.detector.modules() if type(m).__module__.startswith(_OF_TORCHVISION)]
        before = [m.training for m in own]
        for module in own:
            module.training = True
        try:
            yield
        finally:
            for module, training in zip(own, before, strict=True):
                module.training = training


@register_builder("detector")
def detector(arch: str, n_out: int, **options: Any) -> Detector:
    """Returns an untrained detector.

    Args:
        arch: a detector of torchvision's (``"retinanet_resnet50_fpn"``), or a convolutional classifier (``"mobilenet_v2"``), over
            which an FCOS is built (arXiv:1904.01355).
        n_out: classes, with class 0, which is none.
        options: ``max_detections``; others go to torchvision's model, or to `detector_on_backbone`.

    Raises:
        ConfigError: no such architecture, or one that finds something else than boxes.
    """
    if not is_detector(arch):
        return detector_on_backbone(backbone(arch), n_out, **options)
    kept = options.pop("max_detections", 100)
    made = torchvision_models.get_model(arch, weights=None, weights_backbone=None, num_classes=n_out, **options)
    return Detector(made, max_detections=kept)


def detector_on_backbone(
    model: nn.Module,
    n_out: int,
    *,
    mean: Any = (0.485, 0.456, 0.406),
    std: Any = (0.229, 0.224, 0.225),
    finest: int = 8,
    width: int = 128,
    max_detections: int = 100,
    **options: Any,
) -> Detector:
    """Returns an FCOS over a feature pyramid over the body of a classifier, whose weights stay.

    Args:
        model: a convolutional classifier.
        n_out: classes, with class 0, which is none.
        mean, std: the statistics that the classifier's images are normalised with.
        finest: maps are used from this reduction of the image's resolution on; 4 finds smaller things.
        width: channels of the feature pyramid, a multiple of 32.
        max_detections: see `Detector`.
        options: of torchvision's `FCOS`, such as ``score_thresh=0.2`` and ``nms_thresh=0.6``.
    """
    pyramid = Pyramid(create_body(model).module)
    maps = _Maps(pyramid, finest, width)
    if not maps.reductions:
        raise ConfigError(f"finest={finest}: the body's maps have reductions {pyramid.reductions}; take one of these")
    anchors = AnchorGenerator(tuple((size,) for size in maps.reductions), ((1.0,),) * len(maps.reductions))
    made = FCOS(
        maps,
        n_out,
        anchor_generator=anchors,
        image_mean=list(mean),
        image_std=list(std),
        detections_per_img=max_detections,
        **options,
    )
    return Detector(made, max_detections=max_detections)


def is_detector(arch: str) -> bool:
    """Returns whether `arch` is a detector of boxes of torchvision's.

    Raises:
        ConfigError: it is one of masks or key points.
    """
    known = torchvision_models.list_models(module=torchvision_models.detection)
    if arch in known and ("mask" in arch or "keypoint" in arch):
        boxes = [name for name in known if not ("mask" in name or "keypoint" in name)]
        raise ConfigError(
            f"{arch} also finds masks or key points, for which there are no targets; take {', '.join(boxes)}"
        )
    return arch in known


class _Maps(nn.Module):
    """The maps of a pyramid from a reduction on, of one width, each of them knowing of the coarser ones."""

    def __init__(self, pyramid: Pyramid, finest: int, width: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        chosen = [i for i, reduction in enumerate(pyramid.reductions) if reduction >= finest]
        self.first = chosen[0] if chosen else 0
        self.reductions = [pyramid.reductions[i] for i in chosen]
        self.fpn = FeaturePyramidNetwork([pyramid.channels[i] for i in chosen], width)
        self.out_channels = width

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.pyramid(x)[self.first :]
        return self.fpn(OrderedDict((str(i), each) for i, each in enumerate(maps)))


def _filled(rows: torch.Tensor, num: int, size: tuple[int, ...]) -> torch.Tensor:
    """Returns the first `num` rows; where there are fewer, zeros behind them."""
    filled = rows.new_zeros(num, *size)
    filled[: len(rows)] = rows[:num]
    return filled


def _row(features: Any, i: int) -> Any:
    """Returns a single image's features, still with a batch dimension."""
    if isinstance(features, torch.Tensor):
        return features[i : i + 1]
    return OrderedDict((name, each[i : i + 1]) for name, each in features.items())


@contextlib.contextmanager
def _drawing(key: int | None, device: torch.device) -> Iterator[None]:
    """Lets what torch draws in the block depend on a sample's key only."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((key or 0) & 0x7FFF_FFFF_FFFF_FFFF)
        yield
