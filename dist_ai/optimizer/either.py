"""A step that gives some parameters other steps than the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dist_ai.optimizer.state import ParamState, Tensors
from dist_ai.optimizer.steps import Hypers, Step

__all__ = ["Either"]


@dataclass(frozen=True)
class Either:
    """A step that runs some steps for the parameters that `condition` holds for, and others for the rest.

    Args:
        condition: a function of a parameter's name and the parameter; whether sharded or not, it must say the same.
        these: steps where it holds.
        those: steps where it does not.
    """

    condition: Callable[[str, torch.Tensor], bool]
    these: Sequence[Step]
    those: Sequence[Step]

    def __call__(self, p: Tensors, g: Tensors, s: ParamState, h: Hypers) -> None:
        """Runs the steps."""
        holds = [self.condition(name, whole) for name, whole in zip(s.names, s.whole_params, strict=True)]
        for answer, steps in ((True, self.these), (False, self.those)):
            if some := [i for i, each in enumerate(holds) if each == answer]:
                part, grads, state = [p[i] for i in some], [g[i] for i in some], s.subset(some)
                for step in steps:
                    step(part, grads, state, h)

    def __repr__(self) -> str:
        return f"[{_names(self.these)}] where {getattr(self.condition, '__name__', '?')} or [{_names(self.those)}]"


def _names(steps: Sequence[Step]) -> str:
    return ", ".join(getattr(step, "__name__", repr(step)) for step in steps)
