"""What texts are predicted by default with; how they are shown is in `dist_ai.core.show`."""

from __future__ import annotations

from dist_ai.core.types import TensorLMText
from dist_ai.losses import CrossEntropyLoss, default_loss

__all__: list[str] = []


@default_loss.register(TensorLMText)
def _(target: TensorLMText) -> CrossEntropyLoss:
    return CrossEntropyLoss(axis=-1)
