"""The exception tree. Every error that dist_ai raises on purpose is one of these.

```
DistAIError
├── ConfigError (ValueError)              an argument or setting that cannot work
├── DataError (ValueError)                a source, split or batch that cannot work
│   └── BadSampleError                    one sample that cannot be read; names its file
├── UnknownLengthError (TypeError)        data that only its end tells how long it is
├── ArtifactError (ValueError)            a checkpoint or export that is damaged, missing or foreign
├── StorageError (OSError)                where checkpoints go cannot be reached, after several attempts
├── WorldError (RuntimeError)             the processes of a run cannot work together
│   ├── RendezvousError                   they did not find each other
│   ├── CollectiveError                   an exchange failed; names rank, call and missing peers
│   └── WorkerError                       a launched worker failed; carries the first cause
└── MissingDependencyError (ImportError)  an extra is not installed; carries the pip command
```

House form: what was given, what is expected, how to fix it:
``bs=2 is smaller than the 4 workers; use bs >= 4 or fewer workers``.
Each class also derives from the built-in that a caller would expect to catch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral

__all__ = [
    "ArtifactError",
    "BadSampleError",
    "CollectiveError",
    "ConfigError",
    "DataError",
    "DistAIError",
    "MissingDependencyError",
    "RendezvousError",
    "StorageError",
    "UnknownLengthError",
    "WorkerError",
    "WorldError",
    "did_you_mean",
    "require_whole",
]


class DistAIError(Exception):
    """Base of every error raised on purpose by dist_ai."""


class ConfigError(DistAIError, ValueError):
    """An argument or setting that cannot work; raised at set-up, before any work is done."""


class DataError(DistAIError, ValueError):
    """A source, split or batch that cannot work."""


class BadSampleError(DataError):
    """One sample could not be read or transformed; the message names its file or index."""


class UnknownLengthError(DistAIError, TypeError):
    """The length of data was asked for that only its end will tell.

    A `TypeError`, as Python's own of what has no ``len()``: ``list(loader)`` asks for the length, and can do without.
    """


class ArtifactError(DistAIError, ValueError):
    """A checkpoint or an export that is damaged, incomplete or not ours; the message names the file."""


class StorageError(DistAIError, OSError):
    """A folder or an object store that could not be read or written, after several attempts where these help."""


class WorldError(DistAIError, RuntimeError):
    """The processes of a run cannot work together."""


class RendezvousError(WorldError):
    """The processes of a run did not find each other in time."""


class CollectiveError(WorldError):
    """An exchange between processes failed; the message names this rank, the call and the missing peers."""


class WorkerError(WorldError):
    """A worker started by a launcher failed.

    Attributes:
        rank: the first rank that failed, or None where it is not known.
        exit_code: that worker's exit status (negative: the signal that ended it).
        worker_traceback: the worker's own traceback, or "" if it left none; of an error of this tree, only the lines
            of the user's code.
    """

    def __init__(
        self, message: str, *, rank: int | None = None, exit_code: int = 1, worker_traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.rank = rank
        self.exit_code = exit_code
        self.worker_traceback = worker_traceback


class MissingDependencyError(DistAIError, ImportError):
    """A library that is not installed is needed; the message holds the pip command."""


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` for the nearest of `choices`, or "" when none is near, or where there are over 20,000.

    >>> did_you_mean("before_bacth", ["before_batch", "after_batch"])
    "; did you mean 'before_batch'?"
    >>> did_you_mean("AWD_LSTM", ["gpt", "awd_lstm"])
    "; did you mean 'awd_lstm'?"
    """
    there = list(choices)
    near = [each for each in there if each.casefold() == given.casefold()]
    # Of numbers, one digit more is another number; 20,000 names take a second.
    if not near and not given.isnumeric() and len(there) <= 20_000:
        alike = difflib.get_close_matches(given, there, n=3, cutoff=0.6)
        near = [each for each in alike if _num_edits(given, each) <= -(-max(len(given), len(each)) // 3)]
    return f"; did you mean {near[0]!r}?" if near else ""


def require_whole(given: object, shown: str, what: str = "", *, least: int = 1) -> None:
    """Raises `ConfigError` for what is no whole number, or too small a one. True and False are none, whatever Python says.

    Args:
        given: the value.
        shown: how it was given.
        what: what it counts.
        least: the smallest that will do.

    >>> require_whole(2.5, "recommend(n=2.5)", "items")
    Traceback (most recent call last):
    dist_ai.errors.ConfigError: recommend(n=2.5): expected a whole number of items, at least 1
    """
    if not isinstance(given, Integral) or isinstance(given, bool) or int(given) < least:
        raise ConfigError(f"{shown}: expected a whole number{what and f' of {what}'}, at least {least}")


def _num_edits(one: str, other: str) -> int:
    """Returns how many letters to put in, take out, change, or swap with the next make one word of the other."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, its in enumerate(other, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != its)))
            if i > 1 and j > 1 and (one[i - 2], letter) == (its, other[j - 2]):
                row[-1] = min(row[-1], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
