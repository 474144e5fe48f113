"""What arguments may be, each in words and as a test: what cannot work is refused before anything is started."""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from dist_ai.errors import ConfigError, did_you_mean

__all__ = ["LAUNCH", "TRUE_OR_FALSE", "Expected", "check_arguments", "or_none", "whole"]


@dataclass(frozen=True)
class Expected:
    """What an argument may be.

    Attributes:
        words: for the message: ``"a whole number of 1 or more"``.
        holds: tells whether a value is that.
        hint: returns what may have been meant by one that is not, as an ending of the message; or "". By default the value that
            stands between quotes, if that is one.
    """

    words: str
    holds: Callable[[Any], bool]
    hint: Callable[[Any], str] | None = None

    def meant(self, given: Any) -> str:
        """Returns the hint."""
        if self.hint is not None:
            return self.hint(given)
        try:
            written = ast.literal_eval(given) if isinstance(given, str) else None
        except (SyntaxError, ValueError):
            return ""
        return f"; did you mean {written!r}, without quotes?" if written is not None and self.holds(written) else ""


def check_arguments(given: Mapping[str, Any], expected: Mapping[str, Expected]) -> None:
    """Checks each argument by its name.

    Raises:
        ConfigError: one is not what is expected; the message names it.

    >>> check_arguments({"trials": "8"}, {"trials": whole(1)})
    Traceback (most recent call last):
    dist_ai.errors.ConfigError: trials='8': expected a whole number of 1 or more; did you mean 8, without quotes?
    """
    for name, value in given.items():
        what = expected[name]
        if not what.holds(value):
            raise ConfigError(f"{name}={value!r:.200}: expected {what.words}{what.meant(value)}")


def whole(least: int) -> Expected:
    """A whole number that is not too small. True and False are none, whatever Python says."""

    def holds(given: Any) -> bool:
        return isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= least

    return Expected(f"a whole number of {least} or more", holds)


def or_none(expected: Expected, means: str) -> Expected:
    """What may be left out.

    Args:
        expected: what it is otherwise.
        means: what None stands for.
    """
    return replace(
        expected, words=f"{expected.words}, or None {means}", holds=lambda given: given is None or expected.holds(given)
    )


def _seconds(option: str) -> Expected:
    def holds(given: Any) -> bool:
        return isinstance(given, Real) and not isinstance(given, bool) and 0 < float(given) < math.inf

    return Expected(f"a number of seconds above 0 ({option})", holds)


def _one_of(*choices: str) -> Expected:
    words = " or ".join([", ".join(map(repr, choices[:-1])), repr(choices[-1])])
    return Expected(words, lambda given: given in choices, lambda given: did_you_mean(str(given), choices))


def _range_of_workers(given: Any) -> bool:
    ends = given if isinstance(given, tuple) else (given, given)
    return len(ends) == 2 and all(whole(1).holds(each) for each in ends) and ends[0] <= ends[1]


def _workers_meant(given: Any) -> str:
    if isinstance(given, tuple) and len(given) == 2 and _range_of_workers(given[::-1]):
        return f"; the first is the least: did you mean {given[::-1]}?"
    return whole(1).meant(given)


def _is_text(given: Any) -> bool:
    return isinstance(given, str) and bool(given)


def _is_path(given: Any) -> bool:
    return isinstance(given, str | os.PathLike) and _is_text(os.fspath(given)) and "\0" not in os.fspath(given)


def _are_arguments(given: Any) -> bool:
    return isinstance(given, Sequence | Mapping) and not isinstance(given, str | bytes | bytearray)


TRUE_OR_FALSE = Expected("True or False", lambda given: isinstance(given, bool))

LAUNCH = {
    "program": Expected("a Python file, or a function", lambda given: _is_path(given) or callable(given)),
    "args": Expected(
        "a list, of what a script finds in sys.argv[1:] or a function gets in order; or a dict of what it gets by name",
        _are_arguments,
        lambda given: f"; did you mean {given.split()!r}?" if isinstance(given, str) else "",
    ),
    "workers": Expected(
        "a whole number of 1 or more, or the least and the most, as in (2, 4) or --workers 2:4",
        _range_of_workers,
        _workers_meant,
    ),
    "engine": _one_of("local", "ray", "slurm"),
    "run_dir": or_none(Expected("a folder", _is_path), "for one by the program's name"),
    "fresh": TRUE_OR_FALSE,
    # Its hint would be of what is near in letters, and by "gpu" nobody means "cpu".
    "device": or_none(replace(_one_of("cpu", "cuda"), hint=lambda given: ""), "for GPUs where there are some"),
    "timeout_s": or_none(_seconds("--timeout"), "for 600"),
    "address": or_none(Expected("a Ray cluster, such as 'head:6379', 'auto' or 'local'", _is_text), "to find one"),
    "max_restarts": whole(0),
    "hang_s": or_none(_seconds("--hang-timeout"), "for that of timeout_s"),
}
"""By name what `dist_ai.distributed.launch` takes."""
