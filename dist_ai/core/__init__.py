"""The low level: typed values, type dispatch, reversible transforms, counter-based randomness, sealed directories."""

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Composable, Func, ItemTransform, Pipeline, Transform
from dist_ai.core.types import (
    SemanticTensor,
    TabularRow,
    TensorCategory,
    TensorLMText,
    TensorMultiCategory,
    TensorRegression,
    TensorSeries,
    TensorText,
)

__all__ = [
    "Composable",
    "Dispatch",
    "Draw",
    "Func",
    "ItemTransform",
    "Pipeline",
    "SemanticTensor",
    "TabularRow",
    "TensorCategory",
    "TensorLMText",
    "TensorMultiCategory",
    "TensorRegression",
    "TensorSeries",
    "TensorText",
    "Transform",
]
