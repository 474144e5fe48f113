"""A Learner's own optimizer: made when it is first needed, begun afresh when other parameters learn, or given."""

from __future__ import annotations

from collections.abc import Callable

from dist_ai.errors import ConfigError
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = ["OwnOptimizer"]


class OwnOptimizer:
    """The optimizer of a Learner.

    Args:
        make: makes one, of the model's parameters as they are then.

    Attributes:
        now: the one there is; None before it is needed.
    """

    def __init__(self, make: Callable[[], AnyOptimizer]) -> None:
        self._make = make
        self._is_given = False
        self.now: AnyOptimizer | None = None

    def get(self) -> AnyOptimizer:
        """Returns it, made now if there is none."""
        if self.now is None:
            self.now = self._make()
        return self.now

    @property
    def given(self) -> AnyOptimizer | None:
        """The one that was given, if one was."""
        return self.now if self._is_given else None

    def give(self, opt: AnyOptimizer) -> None:
        """Takes another one, which stays."""
        self.now, self._is_given = opt, True

    def drop(self) -> None:
        """Begins with a fresh one, unless it was given: that stays, and leaves alone what has no gradient."""
        if not self._is_given:
            self.now = None

    def reset(self) -> None:
        """Begins with a fresh one, because that was asked for.

        Raises:
            ConfigError: it was given, and nothing can make another.
        """
        if self._is_given:
            raise ConfigError("reset_opt=True: the optimizer was assigned to learn.opt; assign a fresh one instead")
        self.now = None
