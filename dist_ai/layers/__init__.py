"""Building blocks of models."""

from dist_ai.layers.dropout import SeededDropout
from dist_ai.layers.pooling import ConcatPool2d

__all__ = ["ConcatPool2d", "SeededDropout"]
