"""The learning rate finder: what the loss does while the learning rate grows, and where on that curve to learn.

A rate is suggested by rule; look at the picture too. Source of the idea: Smith, arXiv:1506.01186.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dist_ai.callbacks import ParamScheduler
from dist_ai.callbacks.callback import Callback, Callbacks, Phase
from dist_ai.callbacks.event import CancelFit, CancelValidate
from dist_ai.core.names import missing_attribute
from dist_ai.errors import ConfigError, DataError
from dist_ai.learner.fits import Fits
from dist_ai.learner.length import Length
from dist_ai.learner.loop import Cursor
from dist_ai.learner.parts import LearnerParts
from dist_ai.learner.rehearsal import nothing_happened
from dist_ai.optimizer import exponential

__all__ = ["LRFinder", "LRFinding", "find_lr", "minimum", "slide", "steep", "valley"]

_BETA = 0.98  # of the average that smooths the curve, as in fastai
_DIVERGED = 4.0  # times the best smoothed loss


def valley(lrs: list[float], losses: list[float]) -> float:
    """Returns the rate halfway down the longest descent: the longest subsequence of ever smaller losses.

    >>> valley([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [9, 8, 7, 6, 5, 4, 10])
    3.0
    """
    longest = np.ones(len(losses), dtype=np.int64)
    for i in range(1, len(losses)):
        higher = np.asarray(losses[:i]) > losses[i]
        longest[i] = 1 + (longest[:i][higher].max() if higher.any() else 0)
    end = int(longest.argmax())
    # A third and a sixth of its length, counted back from its end: still well in the descent.
    begin, third = end - int(longest[end]), int(longest[end]) // 3
    return lrs[max(0, begin + third + third // 2)]


def slide(lrs: list[float], losses: list[float], *, width: int = 15, threshold: float = 0.005) -> float:
    """Returns the largest rate before the loss begins to change fast, with an interval slid down from the right end.

    Args:
        lrs, losses: the curve.
        width: of the interval, in steps.
        threshold: the slopes at its ends differ by less than this where the curve is even.

    >>> slide([1.0, 2.0, 3.0, 4.0, 5.0], [4.0, 4.0, 4.0, 4.0, 9.0], width=1)
    3.0
    """
    slopes = np.gradient(np.asarray(losses)) if len(losses) > 1 else np.zeros(1)
    right, left = len(losses) - 1, max(0, len(losses) - 1 - width)
    found = lrs[left]
    while left >= 0 and abs(slopes[right] - slopes[left]) > threshold:
        found = lrs[left]
        right, left = right - 1, left - 1
    return found


def minimum(lrs: list[float], losses: list[float]) -> float:
    """Returns a tenth of the rate at which the loss is smallest.

    >>> minimum([1.0, 10.0, 100.0], [3.0, 1.0, 5.0])
    1.0
    """
    return lrs[int(np.argmin(losses))] / 10


def steep(lrs: list[float], losses: list[float]) -> float:
    """Returns the rate at which the loss falls fastest over the logarithm of the rate.

    >>> steep([1.0, 10.0, 100.0, 1000.0], [5.0, 4.0, 1.0, 0.5])
    10.0
    """
    if len(losses) < 2:
        return lrs[0]
    return lrs[int(np.argmin(np.diff(losses) / np.diff(np.log(lrs))))]


_RULES: dict[str, Callable[[list[float], list[float]], float]] = {
    "valley": valley,
    "slide": slide,
    "minimum": minimum,
    "steep": steep,
}


@dataclass(frozen=True)
class LRFinding:
    """What `Learner.lr_find` found: the curve and the suggestions on it.

    Attributes:
        lrs: the rate at each step.
        losses: the smoothed loss of the global batch there, the same on any number of ranks.
        valley, slide, minimum, steep: the suggested rates; see the functions of these names. The first is the safest bet.

    The ends of the curve, where it has not settled and where it diverges, are left out of the suggestions.
    """

    lrs: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)
    valley: float
    slide: float
    minimum: float
    steep: float

    @classmethod
    def of(cls, lrs: list[float], losses: list[float], num_it: int) -> LRFinding:
        """Returns the suggestions for a curve of at most `num_it` steps.

        Raises:
            DataError: the curve has no points.
        """
        if not lrs:
            raise DataError(
                "lr_find: the loss is not finite at the first step, at the smallest learning rate; look at the data and the "
                "loss function, for there is nothing to find"
            )
        # A curve that broke off early is short: then less is left out, and never all of it.
        first, last = min(num_it // 10, len(lrs) // 4), len(lrs) - min(5, len(lrs) // 4)
        inner = lrs[first:last], losses[first:last]
        return cls(lrs, losses, **{name: rule(*inner) for name, rule in _RULES.items()})

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    def plot(self) -> Any:
        """Returns a figure of the curve with the suggestions."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses)
        for number, name in enumerate(_RULES):
            rate = getattr(self, name)
            loss = float(np.interp(math.log(rate), np.log(self.lrs), self.losses))
            axes.plot([rate], [loss], "o", color=f"C{number + 1}", label=f"{name} {rate:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()
        return figure


class LRFinder(Callback):
    """Takes down the curve of a fit whose learning rate grows, and ends it when the loss diverges.

    Reads the loss of each step from the device, which a fit does not; it is for a hundred steps.

    Args:
        stop_div: end when the smoothed loss exceeds four times its best, or is not finite.
    """

    phase: ClassVar[Phase] = Phase.RECORD

    def __init__(self, *, stop_div: bool = True) -> None:
        self.stop_div = stop_div
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self._average = self._step_loss = 0.0
        self._best = math.inf

    def after_batch(self) -> None:
        """Takes down a step."""
        state = self.state
        if not state.training or state.loss is None:
            return
        mine = (state.loss.detach() * state.weight).double()
        self._step_loss += float(self.learn.data_collectives.all_reduce(mine, what="loss"))
        if not state.last_microbatch:
            return
        loss, self._step_loss = self._step_loss, 0.0
        self._average = _BETA * self._average + (1 - _BETA) * loss
        smooth = self._average / (1 - _BETA ** (len(self.losses) + 1))
        self._best = min(self._best, smooth) if len(self.losses) else smooth
        if self.stop_div and not smooth <= _DIVERGED * self._best:  # `not`: a loss that is not a number is no less
            raise CancelFit
        if math.isfinite(smooth):
            self.lrs.append(self.learn.opt.get_hyper("lr")[-1])
            self.losses.append(smooth)

    def before_validate(self) -> None:
        """Skips validation."""
        raise CancelValidate


def find_lr(
    learn: LearnerParts,
    fits: Fits,
    start_lr: float,
    end_lr: float,
    num_it: int,
    *,
    stop_div: bool,
    cbs: Sequence[Callback],
) -> LRFinding:
    """Returns what the loss does while the rate grows, and leaves everything as it was; see `Learner.lr_find`. Collective."""
    if not 0 < start_lr < end_lr:
        raise ConfigError(f"lr_find({start_lr}, {end_lr}): expected 0 < start_lr < end_lr")
    if num_it < 2:
        raise ConfigError(f"lr_find(num_it={num_it}): expected 2 or more")
    if fits.running:
        raise ConfigError("lr_find was called in the middle of a fit; call it before or after one")

    def find() -> dict[str, Any]:
        finder = LRFinder(stop_div=stop_div)
        with learn.added_cbs(cbs), nothing_happened(learn):
            taking_part = [each for each in learn.callbacks if each.phase < Phase.RECORD]
            grows = ParamScheduler({"lr": exponential(start_lr, end_lr)})
            events = Callbacks([*taking_part, grows, finder], learn)
            fits.loop(fits.steps(), events=events).fit(Length(steps=num_it), Cursor())
        return {"lrs": finder.lrs, "losses": finder.losses}

    facts = {"start_lr": start_lr, "end_lr": end_lr, "num_it": num_it, "stop_div": stop_div}
    curve = fits.remembered("lr_find", facts, find)
    return LRFinding.of(curve["lrs"], curve["losses"], num_it)
