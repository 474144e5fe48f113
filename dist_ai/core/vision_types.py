"""Semantic tensors for vision. Apart from `types`, because importing torchvision takes a second that text need not pay.

Each is the tv_tensor of its kind, so torchvision's v2 transforms take them as they are, transform an image, its mask,
its points and its boxes together, and give back what they were given, metadata and all:

```python
image, mask, boxes = v2.Compose([v2.RandomHorizontalFlip(), v2.Resize((64, 64))])(image, mask, boxes)
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torchvision import tv_tensors

from dist_ai.core.types import SemanticTensor, floating
from dist_ai.errors import DataError, did_you_mean

__all__ = ["TensorBBox", "TensorImage", "TensorImageBW", "TensorMask", "TensorPoint"]

V = TypeVar("V", bound="_VisionTensor")


class _VisionTensor(SemanticTensor):
    """What the types of vision share: how torchvision gives a result its type back."""

    @classmethod
    def wrap(cls: type[V], tensor: torch.Tensor, like: Any, **changed: Any) -> V:
        """Returns `tensor` as this type with the metadata of `like`, some of them `changed`; torchvision calls it."""
        typed = tensor.as_subclass(cls)
        typed.__dict__.update(getattr(like, "__dict__", {}), **changed)
        return typed


class TensorImage(_VisionTensor, tv_tensors.Image):
    """Pixels, channels first: (..., channels, height, width); uint8 in 0..255 or float."""

    holds = frozenset({"int", "float"})


class TensorImageBW(TensorImage):
    """Grey pixels: (..., 1, height, width). What is for a `TensorImage` is for it too, unless it has its own."""


class TensorMask(_VisionTensor, tv_tensors.Mask):
    """The class of each pixel: integers or bool, (..., height, width).

    Attributes:
        codes: the name of each class, or None.

    >>> TensorMask(torch.zeros(4, 4, dtype=torch.uint8), codes=["sky", "road"])[:2].codes
    ['sky', 'road']
    """

    holds = frozenset({"bool", "int"})
    codes: Sequence[str] | None = None

    def __new__(cls, data: Any, *, codes: Sequence[str] | None = None, **metadata: Any) -> Any:
        """Returns `data` as a mask."""
        return super().__new__(cls, data, **metadata, **({} if codes is None else {"codes": codes}))


class TensorPoint(_VisionTensor, tv_tensors.KeyPoints):
    """Points (x, y) in an image, in pixels from its top left corner: (..., points, 2), floats (integers are made float32).

    Attributes:
        canvas_size: (height, width) of the image they lie in, in pixels.

    Raises:
        DataError: the last dimension is not 2.

    >>> TensorPoint([[3, 4]], canvas_size=(10, 20))
    TensorPoint([[3., 4.]], canvas_size=(10, 20))
    """

    holds = frozenset({"int", "float"})

    def __new__(cls, data: Any, *, canvas_size: tuple[int, int], **metadata: Any) -> Any:
        """Returns `data` as points."""
        tensor = _coordinates(cls, data, 2, "(x, y)")
        return super().__new__(cls, tensor, canvas_size=_size(cls, canvas_size), **metadata)


class TensorBBox(_VisionTensor, tv_tensors.BoundingBoxes):
    """Boxes in an image, in pixels from its top left corner: (..., boxes, 4), floats (integers are made float32).

    The classes of the boxes stand beside them in the sample, as a `TensorCategory` (..., boxes): choosing some boxes must
    not leave the labels of all of them behind.

    Attributes:
        canvas_size: (height, width) of the image they lie in, in pixels.
        format: what the four numbers are: ``"XYXY"`` left, top, right, bottom; ``"XYWH"``; ``"CXCYWH"`` with the
            centre.
        clamping_mode: what torchvision does with boxes that leave the image: ``"soft"``, ``"hard"`` cut them, None leaves
            them.

    Raises:
        DataError: the last dimension is not 4, or another format.

    >>> TensorBBox([[0, 0, 5, 9]], canvas_size=(10, 20)).format.value
    'XYXY'
    """

    holds = frozenset({"int", "float"})

    def __new__(
        cls,
        data: Any,
        *,
        canvas_size: tuple[int, int],
        format: str | tv_tensors.BoundingBoxFormat = "XYXY",
        clamping_mode: str | None = "soft",
        **metadata: Any,
    ) -> Any:
        """Returns `data` as boxes."""
        return super().__new__(
            cls,
            _coordinates(cls, data, 4, "four numbers a box"),
            format=_format(format),
            canvas_size=_size(cls, canvas_size),
            clamping_mode=clamping_mode,
            **metadata,
        )


def _coordinates(cls: type, data: Any, num: int, expected: str) -> torch.Tensor:
    tensor = floating(data)
    if tensor.dim() < 1 or tensor.shape[-1] != num:
        raise DataError(
            f"{cls.__name__} of shape {tuple(tensor.shape)}: the last dimension is {expected}, so its size is {num}"
        )
    return tensor


def _format(given: str | tv_tensors.BoundingBoxFormat) -> tv_tensors.BoundingBoxFormat:
    known = ("XYXY", "XYWH", "CXCYWH")
    name = given.value if isinstance(given, tv_tensors.BoundingBoxFormat) else given
    if name not in known:
        raise DataError(
            f"TensorBBox(format={name!r}): expected one of {', '.join(known)}{did_you_mean(str(name), known)}"
        )
    return tv_tensors.BoundingBoxFormat(name)


def _size(cls: type, canvas_size: Sequence[int]) -> tuple[int, int]:
    if len(canvas_size) != 2:
        raise DataError(
            f"{cls.__name__}(canvas_size={canvas_size!r}): expected (height, width) of the image, in pixels"
        )
    return int(canvas_size[0]), int(canvas_size[1])


def _keep_metadata_in_older_torchvision() -> None:
    """Makes v2's kernels keep the metadata of these types where torchvision itself does not ask the type.

    Before `TVTensor.wrap` came (torchvision 0.26 has none) only the type and torchvision's own metadata survive, so a
    mask loses its codes. To be removed when the oldest torchvision that is supported has it.
    """
    from torchvision.transforms.v2.functional import register_kernel
    from torchvision.transforms.v2.functional._utils import _KERNEL_REGISTRY

    bases = (tv_tensors.Image, tv_tensors.Mask, tv_tensors.KeyPoints, tv_tensors.BoundingBoxes)
    kinds: tuple[type[SemanticTensor], ...] = (TensorImage, TensorMask, TensorPoint, TensorBBox)
    for functional, kernels in _KERNEL_REGISTRY.items():
        for kind, base in zip(kinds, bases, strict=True):
            if base in kernels:
                register_kernel(functional, kind)(_keeping_metadata(kernels[base]))


def _keeping_metadata(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: SemanticTensor, *args: Any, **kwargs: Any) -> Any:
        result = kernel(x, *args, **kwargs)
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, SemanticTensor):
                part.__dict__.update({**x.__dict__, **part.__dict__})
        return result

    return call


if "wrap" not in vars(tv_tensors.TVTensor):
    _keep_metadata_in_older_torchvision()
