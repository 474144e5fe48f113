"""MixUp: trains on mixtures of two samples."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import numpy as np
import torch

from dist_ai.callbacks.callback import Callback
from dist_ai.callbacks.mixing import Mixing, deal_in_pairs, draws_of_batch, require_floats
from dist_ai.core.nested import map_tensors
from dist_ai.errors import ConfigError

__all__ = ["MixUp"]


class MixUp(Callback):
    """Trains on ``share * sample + (1 - share) * partner``, inputs and targets alike (Zhang et al., arXiv:1710.09412).

    The share is drawn for each sample from Beta(alpha, alpha), and is the larger of it and its rest, as in fastai. Partners
    are neighbours in the global batch. The same on any number of ranks and after a resume: see `dist_ai.callbacks.mixing`,
    which also tells how targets are mixed.

    Args:
        alpha: the larger, the more even the mixtures.

    Raises:
        ConfigError: `alpha` is not more than 0; when a fit begins: the loader cannot deal pairs to one rank.
        DataError: in a fit: an input is not of a floating-point type.

    >>> MixUp(0.2)
    MixUp(0.2)
    """

    may_cancel: ClassVar[bool] = False

    def __init__(self, alpha: float = 0.4) -> None:
        if not alpha > 0:
            raise ConfigError(f"MixUp(alpha={alpha}): expected more than 0")
        self.alpha = alpha
        self._mixing: Mixing | None = None
        self._dealing = contextlib.ExitStack()

    def before_fit(self) -> None:
        """Lets the loader deal in pairs."""
        self._dealing.enter_context(deal_in_pairs(self.learn, "MixUp"))

    def before_batch(self) -> None:
        """Mixes the inputs of a training batch."""
        self._mixing = None
        state = self.state
        if state.training:
            require_floats(state.xb, "MixUp")
            drawn = draws_of_batch(self.learn, "MixUp").beta(self.alpha, self.alpha)
            share = torch.from_numpy(np.maximum(drawn, 1 - drawn)).to(self.learn.dls.device, non_blocking=True)
            self._mixing = Mixing(share, self.learn.loss_func)
            state.xb = map_tensors(self._mixing.mixed, state.xb)
            state.yb = self._mixing.targets(state.yb)

    def after_loss(self) -> None:
        """Mixes the losses, where it is not the targets that are mixed."""
        if self._mixing is not None and self.state.loss is not None:
            self.state.loss = self._mixing.loss(self.state.pred, self.state.yb, self.state.loss)

    def after_fit(self) -> None:
        """Lets the loader deal as before."""
        self._dealing.close()
        self._mixing = None

    def __repr__(self) -> str:
        return f"MixUp({self.alpha})"
