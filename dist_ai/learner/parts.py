"""What a Learner's own parts use of it. They are below it, and it is made of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from dist_ai.callbacks import Recorder
from dist_ai.callbacks.callback import Trainer
from dist_ai.export import ModelSpec
from dist_ai.learner.arguments import Cbs
from dist_ai.learner.own_optimizer import OwnOptimizer

__all__ = ["LearnerParts"]


class LearnerParts(Trainer, Protocol):
    """What fits, evaluations, saving and the run directory work with: what callbacks do, and a little more."""

    wd: float | None
    own_optimizer: OwnOptimizer
    recorder: Recorder
    device: torch.device
    spec: ModelSpec | None

    def added_cbs(self, cbs: Cbs) -> AbstractContextManager[Any]:
        """Attaches callbacks for the block."""
        ...
