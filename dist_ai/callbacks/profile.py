"""Records where the time goes in a few steps."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError

__all__ = ["Profile"]


class Profile(Callback):
    """Records a few training steps with `torch.profiler`, as traces for TensorBoard's profiler plugin, Perfetto or Chrome.

    Args:
        wait: steps that are passed over first.
        warmup: steps that are recorded and thrown away, because the profiler itself slows them.
        active: steps that are recorded.
        ranks: which ranks record.
        folder: where the traces go; by default ``profile`` in the run directory.

    Raises:
        ConfigError: `active` is not 1 or more; when a fit begins: there is neither a folder nor a run directory.

    >>> Profile(wait=10, active=3)
    Profile(wait=10, warmup=1, active=3)
    """

    phase: ClassVar[Phase] = Phase.SAVE  # a step is over when all others are done with it
    may_cancel: ClassVar[bool] = False

    def __init__(
        self,
        *,
        wait: int = 5,
        warmup: int = 1,
        active: int = 3,
        ranks: Collection[int] = (0,),
        folder: str | Path | None = None,
    ) -> None:
        if active < 1 or wait < 0 or warmup < 0:
            raise ConfigError(
                f"Profile(wait={wait}, warmup={warmup}, active={active}): expected 0 or more, and 1 or more active"
            )
        self.wait, self.warmup, self.active = wait, warmup, active
        self.ranks, self.folder = ranks, folder
        self._profiler: torch.profiler.profile | None = None
        self._running = contextlib.ExitStack()

    def before_fit(self) -> None:
        """Begins to wait."""
        run_dir = self.learn.run_dir
        if self.folder is None and run_dir is None:
            raise ConfigError("Profile: there is no run directory for its traces; give Profile(folder=...)")
        world = self.learn.collectives.world
        if world.rank not in self.ranks:
            return
        folder = Path(self.folder) if self.folder is not None else Path(run_dir or "") / "profile"
        self._profiler = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=self.wait, warmup=self.warmup, active=self.active, repeat=1),
            on_trace_ready=torch.profiler.tensorboard_trace_handler(str(folder), worker_name=f"rank-{world.rank}"),
        )
        self._running.enter_context(self._profiler)

    def after_batch(self) -> None:
        """Goes on to the next step; after the last one the traces are written."""
        if self._profiler is not None and self.state.training and self.state.last_microbatch:
            self._profiler.step()

    def after_fit(self) -> None:
        """Ends the recording; what a short fit has recorded is written."""
        self._profiler = None
        self._running.close()

    def __repr__(self) -> str:
        return f"Profile(wait={self.wait}, warmup={self.warmup}, active={self.active})"
