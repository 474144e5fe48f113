"""Goes on with smaller parts of a batch where the memory does not suffice for a whole one."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.errors import ConfigError

__all__ = ["AutoMicrobatch", "is_out_of_memory"]


class AutoMicrobatch(Callback):
    """Survives running out of memory in training: it cuts each rank's part of a batch into twice as many parts.

    When forward or backward of any rank runs out of memory, all ranks drop the step, say so in one line, and do the same
    step again with each share of a batch in two parts, one after the other; then in four, and so on from there. The gradient
    is that of the same global batch, as with `GradientAccumulation`, and ranks exchange gradients once a step. The events of
    a batch come once for each part. A checkpoint holds how many parts there are, so a run that goes on needs not find out
    again. When parts of one sample are too large the error is raised after all.

    What it costs: one more small exchange a step, and a copy of the model's buffers; a step's batches are kept until it is
    done; under DDP gradients are exchanged after the backward instead of during it. What a layer computes over a batch, as
    BatchNorm does, it computes over each part alone. Layers that draw from torch's own generator, and not by sample as those
    of `dist_ai.layers` do, draw anew when a step is done again. Validation is not cut: give its loader a smaller ``bs``.

    Args:
        parts: into how many to cut each rank's share of a batch from the beginning.

    Attributes:
        parts: into how many they are cut now.

    Raises:
        ConfigError: `parts` is not 1 or more.

    >>> AutoMicrobatch().parts
    1
    """

    phase: ClassVar[Phase] = Phase.PREPARE

    def __init__(self, parts: int = 1) -> None:
        if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
            raise ConfigError(f"AutoMicrobatch(parts={parts!r}): expected a whole number, 1 or more")
        self.parts = parts

    def cut_smaller(self, parts: int) -> None:
        """Cuts into `parts` from now on, and says so on rank 0."""
        self.parts = parts
        if self.learn.collectives.world.is_main:
            print(
                f"out of memory in epoch {self.state.epoch}, step {self.state.step}: from here on each worker's share of a "
                f"batch is computed in {parts} parts, with the same gradients; AutoMicrobatch({parts}) begins so",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of parts."""
        return {"parts": self.parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.parts = state["parts"]

    def __repr__(self) -> str:
        return f"AutoMicrobatch({self.parts})"


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error is that of an accelerator or of the CPU that has no memory left.

    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")), is_out_of_memory(ValueError("out of memory"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # what torch's CPU allocator says
