"""What to do when a loss or a gradient is NaN or infinite: end the fit, or leave the step out."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.event import CancelFit, CancelStep
from dist_ai.callbacks.recorder import Recorder
from dist_ai.distributed.sharded import local_part
from dist_ai.errors import ConfigError, DataError

__all__ = ["SkipNaN", "TerminateOnNaN"]


class TerminateOnNaN(Callback):
    """Ends the fit when the loss of a step is NaN or infinite (fastai's TerminateOnNaNCallback).

    It looks at the losses that the recorder reads, over all ranks, every `Recorder.flush_every` steps: so it costs no
    wait for the device, and the fit may end that many steps late, with weights that are NaN by then. To go on from good
    ones, `SkipNaN` leaves such steps out.

    Attributes:
        step: the step whose loss ended the fit, counted over all fits; None if none did.
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after the Recorder, which is attached first
    cancels_alike: ClassVar[bool] = True
    handles_nan: ClassVar[bool] = True

    def __init__(self) -> None:
        self.step: int | None = None
        self._num_seen = 0

    def before_fit(self) -> None:
        """Begins where the recorder stands."""
        self.step, self._num_seen = None, len(self._recorder.losses)

    def after_batch(self) -> None:
        """Looks at the losses that were read since the last time."""
        self._look()

    def after_train(self) -> None:
        """Looks at the epoch's last losses."""
        self._look()

    @property
    def _recorder(self) -> Recorder:
        return self.learn.callbacks.find(Recorder)

    def _look(self) -> None:
        losses, begin = self._recorder.losses, self._num_seen
        if not self.state.fitting or len(losses) == begin:
            return
        self._num_seen = len(losses)
        self.step = next((step for step in range(begin, len(losses)) if not math.isfinite(losses[step])), None)
        if self.step is not None:
            if self.learn.collectives.world.is_main:
                print(f"the loss of step {self.step} is {losses[self.step]}: TerminateOnNaN ends the fit", flush=True)
            raise CancelFit


class SkipNaN(Callback):
    """Leaves out the steps whose gradients are not finite on some rank, and raises an error if too many come in a row.

    Costs one wait for the device a step, to read whether they are.

    Args:
        limit: steps left out in a row that are too many.

    Attributes:
        num_skipped: steps left out in this fit, for this or another reason, such as an overflow in fp16.

    Raises:
        ConfigError: `limit` is not 1 or more.
        DataError: in a fit: too many steps in a row.

    >>> SkipNaN(limit=5)
    SkipNaN(limit=5)
    """

    phase: ClassVar[Phase] = (
        Phase.RECORD
    )  # after GradientClip, in which the ranks may exchange: none may be missing there
    handles_nan: ClassVar[bool] = True

    def __init__(self, limit: int = 10) -> None:
        if limit < 1:
            raise ConfigError(f"SkipNaN(limit={limit}): expected 1 or more")
        self.limit = limit
        self.num_skipped = self._in_a_row = 0
        self._skipped = False
        self._fit = 0

    def before_fit(self) -> None:
        """Begins to count; what a resumed fit had counted is there already."""
        fit = self.learn.callbacks.find(Recorder).fit
        if fit != self._fit:
            self._fit, self.num_skipped, self._in_a_row = fit, 0, 0

    def before_step(self) -> None:
        """Votes to leave the step out, by this rank's part of the gradients; one vote is enough."""
        if not _all_finite(self.learn.model):
            raise CancelStep

    def after_cancel_step(self) -> None:
        """Counts a step that was left out, on every rank alike."""
        self._skipped = True

    def after_step(self) -> None:
        """Raises an error when there were too many."""
        skipped, self._skipped = self._skipped, False
        self.num_skipped += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row >= self.limit:
            raise DataError(
                f"the gradients were not finite in {self._in_a_row} steps in a row; lower the learning rate, clip the gradients "
                "(GradientClip), or look for inputs that are NaN"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts."""
        return {"fit": self._fit, "num_skipped": self.num_skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self._fit, self.num_skipped, self._in_a_row = state["fit"], state["num_skipped"], state["in_a_row"]

    def __repr__(self) -> str:
        return f"SkipNaN(limit={self.limit})"


def _all_finite(model: nn.Module) -> bool:
    """Returns whether what this rank holds of the gradients is finite."""
    grads = [local_part(p.grad) for p in model.parameters() if p.grad is not None]
    parts = [g for g in grads if g.numel()]
    largest = torch._foreach_norm(parts, math.inf) if parts else []
    return not parts or bool(torch.stack([each.float() for each in largest]).isfinite().all())
