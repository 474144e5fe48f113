"""Trains with a compiled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from dist_ai.callbacks.callback import Callback, Phase

__all__ = ["Compile"]


class Compile(Callback):
    """Compiles the model with `torch.compile` for the fit; parameters keep their names, so checkpoints and exports too.

    The model is compiled when its first batch comes, and again where a batch has another shape: the last one of an epoch,
    unless the loader leaves it out (``drop_last=True``).

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
        self.options = {"backend": backend, "mode": mode, "dynamic": dynamic, "fullgraph": fullgraph}

    def before_fit(self) -> None:
        """Lets the model compile itself when it is called."""
        self.learn.model.compile(**self.options)

    def after_fit(self) -> None:
        """Lets the model run as it is written."""
        # The counterpart of Module.compile, which torch does not have; no wrapper is involved, so no name changes.
        self.learn.model._compiled_call_impl = None

    def __repr__(self) -> str:
        return f"Compile({f'mode={mode!r}' if (mode := self.options['mode']) else ''})"
