"""Implicit feedback: only what users chose is known, and what they might have chosen instead is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import torch

from dist_ai.collab.show import TensorChoice
from dist_ai.core.randomness import Draw
from dist_ai.core.transform import ItemTransform
from dist_ai.core.types import TabularRow, plain
from dist_ai.errors import ConfigError

__all__ = ["SampleNegatives"]


@dataclass
class SampleNegatives(ItemTransform):
    """Puts items that the user did not choose beside the one that was chosen, whose place, the first, is the target.

    Args:
        num_items: how many items there are, with the unknown one, 0, which is never drawn.
        train: items drawn for each training sample, anew each epoch, by (seed, epoch, sample).
        valid: items drawn for each validation sample, always the same.
        seed: of the latter.

    Of a batch with targets: codes (batch, 2) become (batch, 2 + drawn), and the targets a one and zeros (batch, 1 + drawn).
    A batch without targets, of a prediction, passes. What a user
    chose in training is drawn only if eight draws in a row hit such.
    """

    num_items: int
    train: int = 4
    valid: int = 99
    seed: int = 0

    order: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if self.num_items < 3:
            raise ConfigError(
                f"{self.num_items - 1} item(s): expected at least 2, to draw others than the one that was chosen"
            )
        for name in ("train", "valid"):
            if not isinstance(number := getattr(self, name), Integral) or number < 1:
                raise ConfigError(f"SampleNegatives({name}={number!r}): expected a whole number of items, at least 1")
        self._chosen = torch.empty(0, dtype=torch.int64)

    def remember(self, cats: torch.Tensor) -> None:
        """Keeps what users chose in training: codes (user, item), (rows, 2)."""
        self._chosen = self._keys(cats[:, 0], cats[:, 1]).unique()

    def encodes(self, x: tuple, draw: Draw | None) -> Any:
        """Returns the batch with the drawn items."""
        if len(x) < 2:
            return x
        row = x[0]
        users, items = row.cats.unbind(1)
        drawn = self.train if draw is not None else self.valid
        draw = draw or Draw(seed=self.seed, epoch=0, samples=self._keys(users, items))
        others = self._others(users, drawn, draw)
        target = torch.zeros(len(users), 1 + drawn, device=users.device)
        target[:, 0] = 1
        return (TabularRow(torch.cat([row.cats, others], 1), row.conts), TensorChoice(target))

    def decodes(self, x: tuple) -> Any:
        """Returns the batch without the drawn items."""
        row, *targets = x
        first = [TensorChoice(plain(y)[:, :1]) if y.dim() == 2 else y for y in targets]
        return (TabularRow(row.cats[:, :2], row.conts), *first)

    def _others(self, users: torch.Tensor, drawn: int, draw: Draw) -> torch.Tensor:
        """Returns items that users did not choose, (batch, drawn), found where the batch is."""
        candidates = draw.integers_tensor(1, self.num_items, (drawn, _TRIES), device=users.device)
        if not len(self._chosen):
            return candidates[..., 0]
        self._chosen = self._chosen.to(users.device)  # once
        keys = self._keys(users[:, None, None], candidates)
        places = torch.searchsorted(self._chosen, keys).clamp(max=len(self._chosen) - 1)
        is_new = (self._chosen[places] != keys).to(torch.uint8)
        first = is_new.argmax(-1, keepdim=True)  # 0 where all of them were chosen
        return candidates.gather(-1, first)[..., 0]

    def _keys(self, users: Any, items: Any) -> Any:
        return users * self.num_items + items


_TRIES = 8
