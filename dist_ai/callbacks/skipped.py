"""Tells how many bad samples a fit did without."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder

__all__ = ["SkippedSamples"]


class SkippedSamples(Callback):
    """Counts the bad samples that loaders with ``bad_samples="skip"`` skipped, over all ranks.

    Each epoch's row has the number as ``skipped``, and so has the log; a warning at the end of a fit sums up. Without
    such a loader it does nothing; with one it costs a small exchange an epoch.

    Attributes:
        num_skipped: (in training, in validation) in this fit so far, over all ranks.
    """

    phase: ClassVar[Phase] = Phase.RECORD
    may_cancel: ClassVar[bool] = False

    def __init__(self) -> None:
        self.num_skipped = (0, 0)
        self._active = False
        self._seen = (0, 0)

    def before_fit(self) -> None:
        """Begins to count."""
        loaders = (self.learn.dls.train, self.learn.dls.valid)
        self._active = any(getattr(loader, "bad_samples", "raise") == "skip" for loader in loaders)
        self.num_skipped, self._seen = (0, 0), self._here()

    def after_epoch(self) -> None:
        """Adds the epoch's to its row."""
        if not self._active:
            return
        here = self._here()
        new = torch.tensor([now - before for now, before in zip(here, self._seen, strict=True)])
        self._seen = here
        train, valid = map(int, self.learn.data_collectives.all_reduce(new, what="skipped samples").tolist())
        self.learn.callbacks.find(Recorder).epochs[-1]["skipped"] = train + valid
        self.num_skipped = (self.num_skipped[0] + train, self.num_skipped[1] + valid)

    def after_fit(self) -> None:
        """Sums up, on rank 0."""
        train, valid = self.num_skipped
        if self._active and train + valid and self.learn.collectives.world.is_main:
            warnings.warn(
                f"this fit skipped bad samples: {train} times in training, where others took their place, and {valid} times "
                "in validation, which did without them; each is named where it was first met, and in dls.train.skipped and "
                "dls.valid.skipped of its rank",
                stacklevel=2,
            )
        self._active = False

    def _here(self) -> tuple[int, int]:
        """Returns how often this rank has skipped a sample, in training and in validation, since the loaders were made."""
        train, valid = (self._total(loader) for loader in (self.learn.dls.train, self.learn.dls.valid))
        return train, valid

    @staticmethod
    def _total(loader: Any) -> int:
        return sum(getattr(loader, "skipped", {}).values())
