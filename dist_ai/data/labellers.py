"""Labellers: functions from an item to its label."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_ai.errors import BadSampleError, ConfigError

__all__ = ["RegexLabeller", "parent_label"]


def parent_label(item: str | Path) -> str:
    """Returns the name of the folder that a file lies in.

    >>> parent_label("train/cat/1.jpg")
    'cat'
    """
    return (item if isinstance(item, Path) else Path(item)).parent.name  # to parse it again takes longer than the rest


@dataclass(frozen=True)
class RegexLabeller:
    r"""The first group of a regular expression in a file's path, with / between folders on every system.

    Args:
        pat: the expression.
        match: whether it must fit from the path's beginning on; otherwise it may be found anywhere.

    Raises:
        ConfigError: it is no expression with a group.
        BadSampleError: an item does not fit it.

    >>> RegexLabeller(r"/([^/]+)_\d+.jpg$")("images/great_pyrenees_173.jpg")
    'great_pyrenees'
    """

    pat: str
    match: bool = False

    def __post_init__(self) -> None:
        try:
            num_groups = re.compile(self.pat).groups
        except re.error as error:
            raise ConfigError(f"{self.pat!r} is no regular expression: {error}") from error
        if num_groups < 1:
            raise ConfigError(f"{self.pat!r} has no group: put the part that is the label in parentheses")

    def __call__(self, item: Any) -> str:
        """Returns the label."""
        path = os.fspath(item).replace(os.sep, "/")
        found = (re.match if self.match else re.search)(self.pat, path)
        if found is None or found[1] is None:
            raise BadSampleError(f"{path!r} does not fit the pattern {self.pat!r}, so it has no label")
        return found[1]
