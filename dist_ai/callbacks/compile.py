"""Trains with a compiled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.distributed.sharded import sharded_modules

__all__ = ["Compile"]


class Compile(Callback):
    """Compiles the model with `torch.compile` for the fit; parameters keep their names, so checkpoints and exports too.

    The model is compiled when its first batch comes, and again where a batch has another shape: the last one of an epoch,
    unless the loader leaves it out (``drop_last=True``). Of a model that FSDP shards, each block is compiled by itself: what is
    gathered before it and given back after it stays outside, and `fullgraph` is asked of blocks without others in them.

    Args:
        backend, mode, dynamic, fullgraph: see `torch.compile`.

    >>> Compile(mode="max-autotune")
    Compile(mode='max-autotune')
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def __init__(
        self,
        *,
        backend: str | Callable[..., Any] = "inductor",
        mode: str | None = None,
        dynamic: bool | None = None,
        fullgraph: bool = False,
    ) -> None:
        self.options: dict[str, Any] = {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": fullgraph}
        self._blocks: list[nn.Module] = []

    def before_fit(self) -> None:
        """Lets the model compile itself when it is called."""
        self._blocks = sharded_modules(self.learn.model)
        for block in self._blocks:
            alone = len(sharded_modules(block)) == 1
            options = {**self.options, "fullgraph": self.options["fullgraph"] and alone}
            # Its forward, and not its call: torch compiles nothing of a call whose hooks exchange parameters.
            block.forward = torch.compile(block.forward, **options)
        if not self._blocks:
            self.learn.model.compile(**self.options)

    def after_fit(self) -> None:
        """Lets the model run as it is written."""
        for block in self._blocks:
            del block.forward  # that of the class is behind it
        self._blocks = []
        # The counterpart of Module.compile, which torch does not have; no wrapper is involved, so no name changes.
        self.learn.model._compiled_call_impl = None

    def __repr__(self) -> str:
        return f"Compile({f'mode={mode!r}' if (mode := self.options['mode']) else ''})"
