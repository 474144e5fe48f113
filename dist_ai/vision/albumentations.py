"""Albumentations' transforms as transforms of a sample: the image with its mask, boxes and points.

One that stands among transforms as it is becomes an `Albumentations` of it.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as PILImage

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import ADAPTERS, ItemTransform
from dist_ai.core.types import plain
from dist_ai.core.vision_types import TensorBBox, TensorMask, TensorPoint
from dist_ai.errors import ConfigError, DataError, MissingDependencyError

__all__ = ["Albumentations"]

_SEEDS = 2**31


class Albumentations(ItemTransform):
    """A transform of Albumentations, for the image of a sample and what lies in it; in ``item_tfms``.

    One that is given as it is, ``item_tfms=[A.CLAHE(), Resize(224)]``, becomes this, in training alone.

    Args:
        tfm: one of its transforms, or a list of them. A `Compose` is taken apart, for boxes and points need it to know of them.
        split_idx: 0 for training alone, the default; None for validation too, as for a resize.

    The image is uint8, so transforms that make floats of it are for other places. What it draws depends on (seed, epoch,
    sample) alone, in any number of workers. Boxes that are cut away are all zeros; points keep their places in the list.
    A file cannot hold it: for an export, give transforms of this library for validation.

    Raises:
        MissingDependencyError: Albumentations is not installed.

    ```python
    import albumentations as A
    dls = ImageDataLoaders.from_folder(path, item_tfms=[Albumentations([A.CLAHE(), A.CoarseDropout()]), Resize(224)])
    ```
    """

    order: ClassVar[int] = 1

    def __init__(self, tfm: Any, *, split_idx: int | None = 0) -> None:
        try:
            albumentations = importlib.import_module("albumentations")
        except ImportError as error:
            raise MissingDependencyError("Albumentations is not installed: pip install albumentations") from error
        tfms = (
            list(getattr(tfm, "transforms", tfm)) if isinstance(tfm, list | tuple | albumentations.Compose) else [tfm]
        )
        self.split_idx = split_idx  # type: ignore[misc]  # of this one, not of its class
        parameters = {
            "bbox_params": albumentations.BboxParams("pascal_voc", label_fields=["box_numbers"], clip=True),
            "keypoint_params": albumentations.KeypointParams(
                "xy", label_fields=["point_numbers"], remove_invisible=False
            ),
        }
        with warnings.catch_warnings():  # transforms of pixels alone have nothing to do with boxes
            warnings.filterwarnings("ignore", message="Got processor for")
            self._compose = albumentations.Compose(tfms, **parameters)

    def encodes(self, x: tuple, draw: Draw | None) -> Any:
        """Returns the sample transformed."""
        places = {kind: [i for i, each in enumerate(x) if isinstance(each, kind)] for kind in _KINDS}
        if any(len(found) > 1 for found in places.values()) or not places[PILImage]:
            raise ConfigError(
                "Albumentations takes samples with one image, and at most one mask, boxes and points beside it"
            )
        given: dict[str, Any] = {"bboxes": [], "box_numbers": [], "keypoints": [], "point_numbers": []}
        given["image"] = np.asarray(x[places[PILImage][0]])
        for kind, (name, numbers) in {
            TensorBBox: ("bboxes", "box_numbers"),
            TensorPoint: ("keypoints", "point_numbers"),
        }.items():
            for i in places[kind]:
                given[name] = plain(x[i]).numpy()
                given[numbers] = list(range(len(x[i])))
        for i in places[TensorMask]:
            given["mask"] = plain(x[i]).numpy()
        self._compose.set_random_seed(0 if draw is None else int(draw.integers(0, _SEEDS)))
        return self._filled_in(x, self._compose(**given))

    def _filled_in(self, x: tuple[Any, ...], made: dict[str, Any]) -> tuple[Any, ...]:
        pixels = made["image"]
        if pixels.dtype != np.uint8:
            raise DataError(
                f"an Albumentations transform made {pixels.dtype} of an image; expected uint8: leave out Normalize"
            )
        size = pixels.shape[:2]

        def one(each: Any) -> Any:
            if isinstance(each, PILImage):
                return Image.fromarray(pixels)
            if isinstance(each, TensorMask):
                return each.give_type_to(torch.from_numpy(np.ascontiguousarray(made["mask"])))
            if isinstance(each, TensorBBox):
                boxes = plain(each).new_zeros(len(each), 4)
                for number, box in zip(made["box_numbers"], made["bboxes"], strict=True):
                    boxes[int(number)] = torch.as_tensor(np.asarray(box[:4]), dtype=boxes.dtype)
                return TensorBBox.wrap(boxes, each, canvas_size=size)
            if isinstance(each, TensorPoint):
                points = torch.as_tensor(np.asarray(made["keypoints"]), dtype=each.dtype).reshape(-1, 2)
                return TensorPoint.wrap(points, each, canvas_size=size)
            return each

        return tuple(map(one, x))

    def __repr__(self) -> str:
        return f"Albumentations({list(self._compose.transforms)})"


_KINDS = (PILImage, TensorMask, TensorBBox, TensorPoint)

ADAPTERS["albumentations"] = Albumentations
