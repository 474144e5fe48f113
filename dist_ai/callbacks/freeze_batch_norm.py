"""Keeps BatchNorm's statistics as they are."""

from __future__ import annotations

from typing import ClassVar

from torch.nn.modules.batchnorm import _BatchNorm

from dist_ai.callbacks.callback import Callback, Phase

__all__ = ["FreezeBatchNorm"]


class FreezeBatchNorm(Callback):
    """Normalises by the running statistics in training too, and leaves them alone (fastai's BnFreeze).

    Args:
        all_layers: of all BatchNorm layers; otherwise of those whose own parameters are frozen. (A Learner lets BatchNorm
            learn in frozen groups unless ``train_bn=False``.)

    >>> FreezeBatchNorm()
    FreezeBatchNorm()
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def __init__(self, *, all_layers: bool = False) -> None:
        self.all_layers = all_layers
        self._frozen: list[_BatchNorm] = []

    def before_fit(self) -> None:
        """Finds the layers."""
        norms = [module for module in self.learn.model.modules() if isinstance(module, _BatchNorm)]
        self._frozen = [n for n in norms if self.all_layers or not any(p.requires_grad for p in n.parameters())]

    def before_batch(self) -> None:
        """Puts them in evaluation mode, whatever the model is in."""
        for norm in self._frozen:
            norm.eval()

    def after_fit(self) -> None:
        """Lets go of the layers."""
        self._frozen = []
