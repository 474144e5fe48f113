"""From what the parameters of a trial are drawn: a text a person writes, read and checked before anything is started."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dist_ai.errors import ConfigError, did_you_mean

__all__ = ["KINDS", "Draw", "read_space"]

KINDS = {
    "uniform": "from the first number to the second, all alike",
    "loguniform": "the same of the logarithm: 1e-4 to 1e-3 is as likely as 1e-3 to 1e-2",
    "randint": "a whole number from the first up to, but without, the second",
    "lograndint": "the same of the logarithm",
    "choice": "one of the values",
}
"""What can stand before the brackets."""


@dataclass(frozen=True)
class Draw:
    """A parameter that is drawn for each trial.

    Args:
        kind: one of `KINDS`.
        args: the least and the most, or the values to choose from.

    Raises:
        ConfigError: there is no such kind, or its arguments cannot be.

    >>> str(Draw("loguniform", (1e-4, 1e-1)))
    'loguniform(0.0001, 0.1)'
    """

    kind: str
    args: tuple[Any, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"{self.kind!r} is not a way to draw a parameter: {', '.join(KINDS)}{did_you_mean(self.kind, KINDS)}"
            )
        if self.kind == "choice":
            if not self.args:
                raise ConfigError("choice() has nothing to choose from: choice(16, 32)")
            return
        whole, numbers = "int" in self.kind, [each for each in self.args if isinstance(each, int | float)]
        if len(self.args) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise ConfigError(
                f"{self}: expected the least and the most, as in {self.kind}({'1, 9' if whole else '0.1, 0.9'})"
            )
        if whole and not all(isinstance(each, int) for each in numbers):
            raise ConfigError(f"{self}: expected whole numbers, as in {self.kind}(1, 9)")
        if "log" in self.kind and numbers[0] <= 0:
            raise ConfigError(f"{self}: the logarithm needs numbers above 0")

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.args))})"


def read_space(space: Mapping[str, Any]) -> dict[str, Any]:
    """Returns by name a `Draw`, or a value that is the same in all trials.

    Raises:
        ConfigError: the space is empty, or something in it cannot be.

    >>> read_space({"lr": "loguniform(1e-4, 1e-1)", "arch": "choice(small, large)", "bs": [16, 32], "epochs": "3"})["bs"].args
    (16, 32)
    """
    if not space:
        raise ConfigError(
            "the space is empty: name a parameter and what it is drawn from, as in lr=loguniform(1e-4,1e-1)"
        )
    return {name: _read(name, given) for name, given in space.items()}


def _read(name: str, given: Any) -> Any:
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
        raise ConfigError(f"{name!r} is no name of a parameter: letters, digits and _")
    if isinstance(given, list | tuple):
        return Draw("choice", tuple(given))
    if not isinstance(given, str):
        return given
    call = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", given, re.DOTALL)
    if call is None:
        return _value(given)
    try:
        return Draw(call[1], tuple(_value(each) for each in call[2].split(",") if each.strip()))
    except ConfigError as error:
        raise ConfigError(f"{name}={given}: {error}") from None


def _value(text: str) -> Any:
    """Returns the number, truth value or None that `text` is, or else the text itself."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()
