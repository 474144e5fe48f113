"""Training detectors: the Learner, the loss and COCO's average precision, over the loop that trains everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import torch
from torch import nn

from dist_ai.callbacks import Callback, Phase
from dist_ai.core.names import known_arguments
from dist_ai.core.types import TensorCategory
from dist_ai.data import DataLoaders
from dist_ai.distributed.collectives import Collectives
from dist_ai.errors import ConfigError, MissingDependencyError, did_you_mean
from dist_ai.learner import Learner, LearnerOptions, first_weights, with_defaults
from dist_ai.losses import losses
from dist_ai.vision.learner import Arch, Beginning, Pretrained
from dist_ai.vision.models.detector import detector, detector_on_backbone, is_detector
from dist_ai.vision.models.weights import statistics_of

__all__ = ["CocoMAP", "DetectionLoss", "TargetsForModel", "detection_learner"]


@known_arguments(LearnerOptions)
def detection_learner(
    dls: DataLoaders,
    arch: Arch,
    *,
    pretrained: Pretrained = "auto",
    weights: str | Path | None = None,
    n_out: int | None = None,
    thresh: float = 0.3,
    detector_options: dict[str, Any] | None = None,
    **options: Unpack[LearnerOptions],
) -> Learner:
    """Returns a Learner that trains a detector on images, boxes and labels.

    Args:
        dls: such as `DetectionDataLoaders` makes them.
        arch: a detector of torchvision's by its name (``"retinanet_resnet50_fpn"``), or a convolutional classifier, over whose
            body an FCOS is built; see `dist_ai.vision.models.detector`.
        pretrained, weights: of a classifier, as in `vision_learner`; torchvision's detectors begin from random weights.
        n_out: classes, with class 0, which is none; by default those of `dls`.
        thresh: what is predicted has a score above this.
        detector_options: of the detector, such as ``{"finest": 4, "max_detections": 300}``.
        options: see `Learner`. By default the metric is `CocoMAP()`, if there are no others.

    Images must come in 0..1, and not normalised: a detector does that itself.

    Raises:
        ConfigError: an argument that cannot work.
    """
    outputs = dls.recipe.num_outputs if n_out is None else n_out
    shape = dict(detector_options or {})
    if isinstance(arch, str) and is_detector(arch):
        if pretrained is True or weights is not None:
            raise ConfigError(
                f"{arch} begins from random weights here; give the name of a classifier, such as 'resnet50', for pretrained ones"
            )
        begin = Beginning(dls, arch, None, False, None)
        with first_weights(dls):
            model = detector(arch, outputs, **shape)
    else:
        begin = Beginning(dls, arch, None, pretrained, weights)
        mean, std = statistics_of(begin.name)
        shape = {"mean": list(mean), "std": list(std), **shape}
        with first_weights(dls):
            model = detector_on_backbone(begin.classifier(), outputs, **shape)
    spec = begin.spec("detector", outputs, shape)
    if spec is not None:
        spec.arguments.pop("n_in")
    given = with_defaults(options, TargetsForModel(), metrics=CocoMAP(), loss_func=DetectionLoss(thresh))
    learn = Learner(dls, model, spec=spec, splitter=_splitter, **given)
    if begin.found is not None:
        learn.freeze()
    return learn


def _splitter(model: Any) -> list[list[nn.Parameter]]:
    """Returns the parameter groups: the body, and what finds boxes in its maps."""
    shared = model.detector.backbone.backbone
    body = list(getattr(shared, "pyramid", getattr(shared, "body", shared)).parameters())
    known = {id(p) for p in body}
    return [body, [p for p in model.parameters() if id(p) not in known]]


class TargetsForModel(Callback):
    """Gives the model the targets of a batch beside its inputs, for models that compute their losses themselves."""

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def before_batch(self) -> None:
        """Adds the targets to the inputs."""
        self.state.xb = (*self.state.xb, *self.state.yb)


@losses.register("DetectionLoss")
class DetectionLoss(nn.Module):
    """The sum of the losses that a `Detector` returns, on average over images.

    Args:
        thresh: decoded, what has a score above this is a detection.
    """

    def __init__(self, thresh: float = 0.3) -> None:
        super().__init__()
        self.thresh = thresh

    def forward(self, pred: dict[str, Any], *targets: torch.Tensor) -> torch.Tensor:
        """Returns the mean over images."""
        return self.per_sample(pred).mean()

    def per_sample(self, pred: dict[str, Any], *targets: torch.Tensor) -> torch.Tensor:
        """Returns the loss of each image, (batch,)."""
        return torch.stack(list(pred["losses"].values())).sum(0)

    def activation(self, pred: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Returns boxes, labels and scores."""
        return {name: pred[name] for name in ("boxes", "labels", "scores")}

    def decodes(self, pred: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the boxes and labels of what was detected; the rest is padding."""
        found = pred["scores"] > self.thresh
        return pred["boxes"] * found[..., None], TensorCategory(pred["labels"] * found)

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"thresh": self.thresh}


_AVERAGES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")


class CocoMAP:
    """COCO's mean average precision of detections, by torchmetrics and pycocotools; see `dist_ai.metrics.GatheredMetric`.

    Args:
        average: ``"map"`` over overlaps from 0.5 to 0.95, ``"map_50"`` at 0.5, or another of torchmetrics' names.

    Each rank keeps the boxes of its images; they are gathered once an epoch. The same on any number of ranks.

    Raises:
        ConfigError: no such average.
    """

    def __init__(self, average: Literal["map", "map_50", "map_75"] | str = "map") -> None:
        if average not in _AVERAGES:
            raise ConfigError(
                f"CocoMAP({average!r}): expected one of {', '.join(_AVERAGES)}{did_you_mean(average, _AVERAGES)}"
            )
        self.name = average
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._rows: dict[str, list[torch.Tensor]] = {"found": [], "true": []}
        self._images = 0

    def update(self, pred: dict[str, torch.Tensor], target: tuple[torch.Tensor, torch.Tensor], num_local: int) -> None:
        """Keeps the boxes of the images that count."""
        boxes, labels = target
        for i in range(num_local):
            self._keep("found", pred["boxes"][i], pred["labels"][i], pred["scores"][i])
            self._keep("true", boxes[i], labels[i], torch.ones_like(labels[i], dtype=torch.float64))
            self._images += 1

    def _keep(self, kind: str, boxes: torch.Tensor, labels: torch.Tensor, scores: torch.Tensor) -> None:
        columns = [torch.full_like(scores, self._images), labels, scores]
        rows = torch.cat([torch.stack([column.double() for column in columns], 1), boxes.double()], 1)
        self._rows[kind].append(rows[labels > 0].detach().cpu())

    def reduced(self, collectives: Collectives) -> float:
        """Returns the average over the images of all ranks. Collective."""
        world = collectives.world
        images: dict[float, Any] = {}
        for kind, kept in self._rows.items():
            rows = torch.cat(kept) if kept else torch.zeros(0, 7, dtype=torch.float64)
            rows[:, 0] = rows[:, 0] * world.world_size + world.rank
            for row in collectives.all_gather_rows(rows, what=self.name).tolist():
                images.setdefault(row[0], {"found": [], "true": []})[kind].append(row[1:])
        if not images:
            return float("nan")
        # In an order that no rank decides: among equal scores the first comes first.
        ordered = sorted((sorted(each["true"]), sorted(each["found"])) for each in images.values())
        metric = _average_precision()
        metric.update([_described(found) for _, found in ordered], [_described(true) for true, _ in ordered])
        return float(metric.compute()[self.name])


def _described(rows: list[list[float]]) -> dict[str, torch.Tensor]:
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return {"labels": table[:, 0].long(), "scores": table[:, 1].float(), "boxes": table[:, 2:].float()}


def _average_precision() -> Any:
    try:
        from torchmetrics.detection import MeanAveragePrecision

        return MeanAveragePrecision(backend="pycocotools")
    except ImportError as error:
        raise MissingDependencyError(
            f"CocoMAP needs torchmetrics and pycocotools ({error}): pip install torchmetrics pycocotools"
        ) from error
