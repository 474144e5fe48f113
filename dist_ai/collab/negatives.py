"""Implicit feedback: only what users chose is known, and what they might have chosen instead is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dist_ai.collab.show import TensorChoice
from dist_ai.core.randomness import Draw
from dist_ai.core.transform import ItemTransform
from dist_ai.core.types import TabularRow, plain
from dist_ai.errors import ConfigError, require_whole

__all__ = ["SampleNegatives"]


@dataclass
class SampleNegatives(ItemTransform):
    """Puts items that the user did not choose beside the one that was chosen, whose place, the first, is the target.

    Args:
        num_items: how many items there are, with the unknown one, 0.
        train: different items drawn for each training sample, anew each epoch, by (seed, epoch, sample).
        valid: different items drawn for each validation sample, always the same.
        seed: of the latter.

    Of a batch with targets: codes (batch, 2) become (batch, 2 + drawn), and the targets a one and zeros (batch, 1 + drawn).
    A batch without targets, of a prediction, passes.

    Every set of so many items is as likely as any other. Never among them are a sample's own item and what `remember` was told
    of: for training what the user chose in the training rows, for validation in those of validation too. No user leaves more
    than so many unchosen, so no more are drawn; one who leaves fewer gets them several times, all alike often or once more;
    and one who leaves none gets the unknown item, which counts as an average one.
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
            number = getattr(self, name)
            require_whole(number, f"SampleNegatives({name}={number!r})", "items")
        self.remember(torch.empty(0, 2, dtype=torch.int64))

    def remember(self, train: torch.Tensor, valid: torch.Tensor | None = None) -> None:
        """Keeps what users chose, 16 bytes a pair, those of training twice.

        Args:
            train: the training rows' codes (user, item), int64 (rows, 2).
            valid: those of validation.
        """
        self._in_training = _Chosen(train, self.num_items)
        self._anywhere = self._in_training if valid is None else _Chosen(torch.cat([train, valid]), self.num_items)

    def encodes(self, x: tuple, draw: Draw | None) -> Any:
        """Returns the batch with the drawn items."""
        if len(x) < 2:
            return x
        row = x[0]
        users, items = row.cats.unbind(1)
        chosen, asked = (self._anywhere, self.valid) if draw is None else (self._in_training, self.train)
        draw = draw or Draw(seed=self.seed, epoch=0, samples=users * self.num_items + items)
        others = chosen.draw_others(users, items, min(asked, chosen.most_left), draw)
        target = torch.zeros(len(users), 1 + others.shape[1], device=users.device)
        target[:, 0] = 1
        return (TabularRow(torch.cat([row.cats, others], 1), row.conts), TensorChoice(target))

    def decodes(self, x: tuple) -> Any:
        """Returns the batch without the drawn items."""
        row, *targets = x
        first = [TensorChoice(plain(y)[:, :1]) if y.dim() == 2 else y for y in targets]
        return (TabularRow(row.cats[:, :2], row.conts), *first)


class _Chosen:
    """Pairs (user, item), held so that the n-th item that a user did not choose is found by one binary search.

    Of two sorted columns, `keys` has the pairs, and `gaps` how many items below each one its user did not choose. User and
    item 0 are unknown, so nothing is known of what they chose: they may be several.
    """

    def __init__(self, pairs: torch.Tensor, num_items: int) -> None:
        self.num_items = num_items
        users, items = pairs[(pairs > 0).all(1)].unbind(1)
        self.keys = (users * num_items + items).sort().values.unique_consecutive()
        counts = torch.bincount(self.keys // num_items)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        self.gaps = self.keys - 1 - torch.arange(len(self.keys), device=self.keys.device) + starts
        fewest = int(counts[counts > 0].min()) if len(counts) else 1
        self.most_left = max(1, num_items - 1 - fewest)

    def draw_others(self, users: torch.Tensor, items: torch.Tensor, num: int, draw: Draw) -> torch.Tensor:
        """Returns items besides `items` that the users did not choose, (batch, num), found where the batch is.

        Costs three small operations for each of `num`, on the whole batch.
        """
        self.keys, self.gaps = self.keys.to(users.device), self.gaps.to(users.device)  # once
        start, own = self._start(users), users * self.num_items + items
        below, upto = (torch.searchsorted(self.keys, own, right=right) for right in (False, True))
        left = self.num_items - 1 - (self._start(users + 1) - start)
        # One's own item is among those left where it is a new one.
        own_place = torch.where((below == upto) & (items > 0), items - 1 - (below - start), self.num_items)
        left = left - (own_place < self.num_items).long()
        places = _different(left, num, draw)
        places = places + (places >= own_place[:, None])
        user_keys = users[:, None] * self.num_items
        before = torch.searchsorted(self.gaps, user_keys + places, right=True) - start[:, None]
        return torch.where(left[:, None] > 0, 1 + places + before, 0)

    def _start(self, users: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(self.keys, users * self.num_items)


def _different(upto: torch.Tensor, num: int, draw: Draw) -> torch.Tensor:
    """Returns `num` different numbers of 0, ..., upto - 1 for each sample, int64 (samples, num).

    Every set of them is equally likely (Floyd's algorithm: Bentley, "Programming pearls: a sample of brilliance", 1987). Where
    there are not enough, all come, in a circle from a random one on.
    """
    upto = upto[:, None]
    steps = torch.arange(num, device=upto.device)
    last = (upto - num + steps).clamp(min=0)  # the greatest number of each step
    unit = draw.integers_tensor(0, 1 << 53, (num,), device=upto.device).double() * 2.0**-53
    drawn = (unit * (last + 1)).to(torch.int64)
    for step in range(1, num):
        is_taken = (drawn[:, :step] == drawn[:, step : step + 1]).any(1)
        drawn[:, step] = torch.where(is_taken, last[:, step], drawn[:, step])
    circle = ((unit[:, :1] * upto).to(torch.int64) + steps) % upto.clamp(min=1)
    return torch.where(upto < num, circle, drawn)
