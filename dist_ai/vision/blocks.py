"""Blocks of images and of what is said about them, for `DataBlock`."""

from __future__ import annotations

from collections.abc import Iterable

from dist_ai.data import TransformBlock
from dist_ai.vision.masks import FitMask, MaskToIndex, OpenMask
from dist_ai.vision.points import PlacePoints, ScalePoints, ToPoints
from dist_ai.vision.transforms import ImageToFloat, ImageToTensor, OpenImage

__all__ = ["ImageBlock", "MaskBlock", "PointBlock"]


def ImageBlock(mode: str = "RGB") -> TransformBlock:
    """Returns the block of an image: a file, bytes, an array or a PIL image.

    Args:
        mode: ``"RGB"`` or ``"L"`` (grey, one channel).
    """
    return TransformBlock(type_tfms=[OpenImage(mode)], item_tfms=[ImageToTensor()], batch_tfms=[ImageToFloat()])


def MaskBlock(codes: Iterable[str] | None = None, *, void: int | None = None) -> TransformBlock:
    """Returns the block of the class of each pixel: a file, an array or a PIL image of class numbers.

    Args:
        codes: the name of each class.
        void: a number beyond them that stands for no class, such as 255.
    """
    opener = OpenMask(None if codes is None else list(codes), void)
    return TransformBlock(type_tfms=[opener], item_tfms=[FitMask()], batch_tfms=[MaskToIndex()])


def PointBlock(n: int | None = None, *, y_first: bool = False) -> TransformBlock:
    """Returns the block of points in the image beside it, in its pixels; the model predicts them from -1 to 1.

    Args:
        n: how many points a sample has; by default as many as the first training item.
        y_first: points are given as (y, x).
    """
    return TransformBlock(type_tfms=[ToPoints(n, y_first)], item_tfms=[PlacePoints()], batch_tfms=[ScalePoints()])
