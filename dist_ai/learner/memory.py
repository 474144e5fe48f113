"""What becomes of a step for which a rank has no memory: it is left as it was before, and done again in smaller parts."""

from __future__ import annotations

import torch
from torch import nn

from dist_ai.callbacks.auto_microbatch import is_out_of_memory
from dist_ai.callbacks.state import TrainState
from dist_ai.errors import WorldError
from dist_ai.learner.microbatches import Microbatches

__all__ = ["ShortMemory"]


class ShortMemory:
    """Keeps what it takes to do a step again; does nothing without `AutoMicrobatch`.

    Args:
        model: has buffers that a forward changes, such as BatchNorm's statistics.
        microbatches: are cut smaller, and begin the step over.
        state: of the loop.

    Attributes:
        error: why this rank cannot finish the batch under way; None if it can.
    """

    def __init__(self, model: nn.Module, microbatches: Microbatches, state: TrainState) -> None:
        self._model, self._microbatches, self._state = model, microbatches, state
        self._buffers: list[torch.Tensor] = []
        self.error: Exception | None = None

    def begin_batch(self, *, begins_step: bool) -> None:
        """Notes what the model's buffers are before a step."""
        self.error = None
        if self._microbatches.auto is not None and begins_step:
            self._buffers = [buffer.clone() for buffer in self._model.buffers()]

    def run_out(self, error: Exception) -> bool:
        """Returns whether an error is that of a rank without memory in training, and lets go of what the batch holds."""
        state = self._state
        if self._microbatches.auto is None or not state.training or not is_out_of_memory(error):
            return False
        if self._can_cut():
            error.__traceback__ = error.__context__ = None  # whose frames hold the activations
        self.error = error
        state.pred = state.loss = state.loss_parts = None
        return True

    def put_back_buffers(self) -> None:
        """Undoes what the step did to the model's buffers."""
        with torch.no_grad():
            for buffer, was in zip(self._model.buffers(), self._buffers, strict=True):
                buffer.copy_(was)

    def begin_step_over(self) -> None:
        """Has the step done again in twice as many parts, on all ranks alike.

        Raises:
            WorldError: they are as small as can be; on a rank that ran out of memory, its own error is raised.
        """
        state, auto = self._state, self._microbatches.auto
        assert state.share is not None
        assert auto is not None
        if not self._can_cut():
            if self.error is None:
                raise WorldError(
                    "another worker ran out of memory with a single sample at once; its own error has more"
                )
            self.error.add_note(
                "AutoMicrobatch: this was with a single sample at once, so there is nothing left to cut"
            )
            raise self.error
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # blocks of other sizes than will be asked for now
        auto.cut_smaller(min(2 * auto.parts, self._microbatches.most_parts(state.share.num_global)))
        self._microbatches.redo, state.last_microbatch = True, False

    def _can_cut(self) -> bool:
        share, auto = self._state.share, self._microbatches.auto
        assert share is not None
        assert auto is not None
        return auto.parts < self._microbatches.most_parts(share.num_global)
