"""Leaves dropout on when the model is evaluated, to see how sure it is."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.core.randomness import sample_keys
from dist_ai.data.device import to_device
from dist_ai.layers.dropout import Seeded, seed_dropout, seeded_layers

__all__ = ["MCDropout"]


class MCDropout(Callback):
    """Drops activations in validation too: Monte Carlo dropout (Gal and Ghahramani, arXiv:1506.02142).

    Each validation draws other masks, so the spread of several predictions tells how unsure the model is. The masks of
    `SeededDropout` are the same on any number of ranks; ``nn.Dropout`` draws on each rank by itself.

    ```python
    with learn.added_cbs(MCDropout()):
        spread = torch.stack([learn.get_preds()[0] for _ in range(10)]).std(0)
    ```
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def __init__(self) -> None:
        self._num_validations = 0
        self._dropped: list[nn.Module] = []
        self._seeded: list[Seeded] = []

    def before_validate(self) -> None:
        """Finds the layers."""
        self._num_validations += 1
        self._seeded = seeded_layers(self.learn.model)
        self._dropped = [m for m in self.learn.model.modules() if isinstance(m, _DropoutNd | Seeded)]

    def before_batch(self) -> None:
        """Turns dropout on for a validation batch."""
        share = self.state.share
        if self.state.training or share is None:
            return
        for module in self._dropped:
            module.train()
        # Draws of their own: those of training are of epochs from 0 on.
        keys = sample_keys(seed=self.learn.dls.seed, epoch=-self._num_validations, samples=share.keys)
        seed_dropout(self._seeded, to_device(torch.from_numpy(keys.view("int64")), self.learn.dls.device))

    def after_validate(self) -> None:
        """Turns it off."""
        for module in self._dropped:
            module.eval()
        seed_dropout(self._seeded, None)
        self._dropped, self._seeded = [], []

    def state_dict(self) -> dict[str, int]:
        """Returns how many validations have drawn."""
        return {"num_validations": self._num_validations}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restores it."""
        self._num_validations = state["num_validations"]
