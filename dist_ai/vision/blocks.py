"""Blocks of images and of what is said about them, for `DataBlock`."""

from __future__ import annotations

from collections.abc import Iterable

from dist_ai.data import MultiCategorize, Pad, TransformBlock
from dist_ai.errors import ConfigError
from dist_ai.vision.boxes import BoxesToBatch, DropEmptyBoxes, PlaceBoxes, ToBoxes
from dist_ai.vision.masks import FitMask, MaskToIndex, OpenMask
from dist_ai.vision.points import PlacePoints, ScalePoints, ToPoints
from dist_ai.vision.transforms import CheckImage, ImageToFloat, ImageToTensor, OpenImage

__all__ = ["BBoxBlock", "BBoxLblBlock", "ImageBlock", "MaskBlock", "PointBlock"]


def ImageBlock(mode: str = "RGB") -> TransformBlock:
    """Returns the block of an image: a file, bytes, an array, a PIL image or a `TensorImage`.

    Args:
        mode: ``"RGB"`` or ``"L"`` (grey, one channel).
    """
    return TransformBlock(
        type_tfms=[OpenImage(mode), CheckImage()], item_tfms=[ImageToTensor()], batch_tfms=[ImageToFloat()]
    )


def MaskBlock(codes: Iterable[str] | None = None, *, void: int | None = None) -> TransformBlock:
    """Returns the block of the class of each pixel: a file, an array, a tensor or a PIL image of class numbers.

    Args:
        codes: the name of each class.
        void: a number beyond them that stands for no class, such as 255.

    Raises:
        ConfigError: `codes` are no names.
    """
    if isinstance(codes, str | int):
        raise ConfigError(f"codes={codes!r}: expected the name of each class, such as ['road', 'sky'], or None")
    opener = OpenMask(None if codes is None else list(codes), void)
    return TransformBlock(type_tfms=[opener], item_tfms=[FitMask()], batch_tfms=[MaskToIndex()])


def PointBlock(n: int | None = None, *, y_first: bool = False) -> TransformBlock:
    """Returns the block of points in the image beside it, in its pixels; the model predicts them from -1 to 1.

    Args:
        n: how many points a sample has; by default as many as the first training item.
        y_first: points are given as (y, x).
    """
    return TransformBlock(type_tfms=[ToPoints(n, y_first)], item_tfms=[PlacePoints()], batch_tfms=[ScalePoints()])


def BBoxBlock(format: str = "xyxy") -> TransformBlock:
    """Returns the block of the boxes in the image beside it, in its pixels; of any number, none too.

    Args:
        format: what the four numbers of a box are; see `ToBoxes`. The model gets left, top, right and bottom.

    A batch is filled up with boxes of zeros, which have no area; see `dist_ai.vision.boxes`.
    """
    return TransformBlock(
        type_tfms=[ToBoxes(format)],
        item_tfms=[PlaceBoxes(), DropEmptyBoxes()],
        batch_tfms=[BoxesToBatch()],
        collate=Pad(),
    )


def BBoxLblBlock(vocab: Iterable[str] | None = None, *, add_na: bool = True) -> TransformBlock:
    """Returns the block of the labels of the boxes, which stand before it in the sample: one for each box.

    Args:
        vocab: the classes in order; by default the sorted labels of the training images.
        add_na: class 0 is no class: that of padding, and of the background. Torchvision's detectors count so.
    """
    return TransformBlock(type_tfms=[MultiCategorize(list(vocab or ()), add_na)], collate=Pad())
