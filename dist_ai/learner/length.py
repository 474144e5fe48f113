"""How long a fit lasts, and how its batches make up steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dist_ai.errors import ConfigError, UnknownLengthError

__all__ = ["Length", "Steps"]


@dataclass(frozen=True)
class Steps:
    """How the batches of an epoch make up its steps: `batches` of them each, and what is left over in the last.

    Args:
        num_batches: batches in an epoch; None where only the end tells.
        num_samples: samples in an epoch, over all ranks; None where only the end tells.
        bs: samples in a batch but the last, over all ranks.
        batches: batches in a step but the last.

    Raises:
        UnknownLengthError: several batches make a step, and which is the last is not known.

    >>> steps = Steps(num_batches=5, num_samples=17, bs=4, batches=2)
    >>> len(steps), [steps.num_samples_of(step) for step in range(3)]
    (3, [8, 8, 1])
    """

    num_batches: int | None
    num_samples: int | None
    bs: int
    batches: int = 1

    def __post_init__(self) -> None:
        if self.batches > 1 and self.num_steps is None:
            raise UnknownLengthError(
                f"gradients of {self.batches} batches make a step, and only the end of the training data tells which batch is "
                "the last; give the loader num_samples=..., the samples of an epoch"
            )

    @property
    def num_steps(self) -> int | None:
        """Steps in an epoch; None where only the end tells."""
        return None if self.num_batches is None else -(-self.num_batches // self.batches)

    def __len__(self) -> int:
        if self.num_steps is None:
            raise UnknownLengthError("how many steps an epoch has is not known: only the end of its data tells")
        return self.num_steps

    def num_samples_of(self, step: int) -> int:
        """Returns the samples in a step, over its batches and all ranks."""
        assert self.num_samples is not None  # several batches make a step
        size = self.bs * self.batches
        return min(self.num_samples, (step + 1) * size) - step * size


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a fit lasts: a number of epochs, steps, samples or seconds; one of them.

    Raises:
        ConfigError: none of them is given, or several, or one below 0.

    >>> Length(steps=7).in_epochs(Steps(num_batches=5, num_samples=17, bs=4))
    (2, 7)
    """

    n_epoch: int | None = None
    steps: int | None = None
    samples: int | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        given = self.plain()
        if len(given) != 1:
            listed = ", ".join(f"{name}={value}" for name, value in given.items()) or "nothing"
            raise ConfigError(
                f"{listed} was given for a fit's length; give one of n_epoch, steps, samples, time (seconds)"
            )
        [(name, value)] = given.items()
        whole = name == "time" or (isinstance(value, int) and not isinstance(value, bool))
        if not whole or value < 0:
            kind = "number of seconds" if name == "time" else "whole number"
            raise ConfigError(f"{name}={value!r}: a fit's length is a {kind}, 0 or more")

    def plain(self) -> dict[str, Any]:
        """Returns what was given, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def in_epochs(self, steps: Steps) -> tuple[int | None, int | None]:
        """Returns (epochs, steps) of the fit, of which the last epoch may be part of one; None where the clock decides.

        The steps are None too where only the end of the data tells them.

        Raises:
            UnknownLengthError: the fit lasts for steps or samples, and it is not known how many an epoch has.
        """
        if self.time is not None:
            return None, None
        if self.n_epoch is not None:
            return self.n_epoch, None if steps.num_steps is None else self.n_epoch * steps.num_steps
        if steps.num_steps is None or steps.num_samples is None:
            raise UnknownLengthError(
                "a fit for a number of steps or samples must know where an epoch ends, and only the end of the training data "
                "tells; give the loader num_samples=..., the samples of an epoch, or fit for epochs or a time"
            )
        if self.samples is not None:
            epochs, rest = divmod(self.samples, steps.num_samples)
            total = epochs * len(steps) + -(-rest // (steps.bs * steps.batches))
        else:
            assert self.steps is not None
            total = self.steps
        return -(-total // len(steps)), total
