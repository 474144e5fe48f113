"""CutMix: trains on images with a piece of another one."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import numpy as np
import torch

from dist_ai.callbacks.callback import Callback
from dist_ai.callbacks.mixing import Mixing, deal_in_pairs, draws_of_batch
from dist_ai.errors import ConfigError, DataError

__all__ = ["CutMix"]


class CutMix(Callback):
    """Puts a box of the partner's image in each image, and mixes the targets by its area (Yun et al., arXiv:1905.04899).

    For each sample: the box covers ``1 - share`` of the image, with the share from Beta(alpha, alpha), and is centred
    anywhere; what is outside of the image is cut off, and the area that is left counts. Partners are neighbours in the
    global batch. The same on any number of ranks and after a resume: see `dist_ai.callbacks.mixing`, which also tells how
    targets are mixed.

    Args:
        alpha: 1 makes all areas equally likely.

    The model's one input is a batch of images, (batch, channels, height, width).

    Raises:
        ConfigError: `alpha` is not more than 0; when a fit begins: the loader cannot deal pairs to one rank.
        DataError: in a fit: the input is no batch of images.

    >>> CutMix()
    CutMix(1.0)
    """

    may_cancel: ClassVar[bool] = False

    def __init__(self, alpha: float = 1.0) -> None:
        if not alpha > 0:
            raise ConfigError(f"CutMix(alpha={alpha}): expected more than 0")
        self.alpha = alpha
        self._mixing: Mixing | None = None
        self._dealing = contextlib.ExitStack()

    def before_fit(self) -> None:
        """Lets the loader deal in pairs."""
        self._dealing.enter_context(deal_in_pairs(self.learn, "CutMix"))

    def before_batch(self) -> None:
        """Mixes the images of a training batch."""
        self._mixing = None
        state = self.state
        if not state.training:
            return
        if len(state.xb) != 1 or not isinstance(state.xb[0], torch.Tensor) or state.xb[0].dim() != 4:
            shapes = ", ".join(str(tuple(getattr(x, "shape", ()))) for x in state.xb)
            raise DataError(
                f"CutMix takes one input, images of (batch, channels, height, width), and the model has {shapes}; "
                "MixUp mixes others"
            )
        images = state.xb[0]
        height, width = images.shape[-2:]
        boxes, area = self._boxes(height, width)
        device = images.device
        numbers = np.stack([*boxes, 1 - area / (height * width)])
        top, bottom, left, right, share = torch.from_numpy(numbers).to(device, non_blocking=True).unbind()
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        in_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
        in_columns = (columns >= left[:, None]) & (columns < right[:, None])
        inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        self._mixing = Mixing(share, self.learn.loss_func)
        state.xb = (torch.where(inside, images[self._mixing.partners], images),)
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
        return f"CutMix({self.alpha})"

    def _boxes(self, height: int, width: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns the sides (top, bottom, left, right) of each sample's box, in pixels, and its area."""
        draw = draws_of_batch(self.learn, "CutMix")
        side = np.sqrt(1 - draw.beta(self.alpha, self.alpha))
        sides = []
        for length in (height, width):
            centre = np.floor(draw.uniform(size=()) * length)
            half = np.floor(side * length) // 2
            sides += [np.clip(centre - half, 0, length), np.clip(centre + half, 0, length)]
        top, bottom, left, right = sides
        return sides, (bottom - top) * (right - left)
