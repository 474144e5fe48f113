"""How what users chose is shown; the rest is in `dist_ai.core.show`."""

from __future__ import annotations

from typing import Any

from dist_ai.core.show import words
from dist_ai.core.types import TensorMultiCategory, plain

__all__ = ["TensorChoice"]


class TensorChoice(TensorMultiCategory):
    """Which of several items a user chose: (..., items) of zeros and ones, of which the first is the one asked for."""


@words.register(TensorChoice)
def _(_like: TensorChoice, value: Any) -> str:
    return "chosen" if bool(plain(value).flatten()[0]) else "not chosen"
