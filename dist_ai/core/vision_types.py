"""Semantic tensors for vision. Apart from `types`, because importing torchvision takes a second that text need not pay."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import tv_tensors

from dist_ai.core.types import SemanticTensor

__all__ = ["TensorImage"]


class TensorImage(SemanticTensor, tv_tensors.Image):
    """Pixels, channels first: (..., channels, height, width); uint8 in 0..255 or float.

    It is a `torchvision.tv_tensors.Image`, so torchvision's v2 transforms take it as it is and give one back.
    """

    @classmethod
    def wrap(cls, tensor: torch.Tensor, like: Any, **kwargs: Any) -> TensorImage:
        """Returns `tensor` as a `TensorImage` with the metadata of `like`; torchvision calls it."""
        image = tensor.as_subclass(cls)
        image.__dict__.update(getattr(like, "__dict__", {}), **kwargs)
        return image
