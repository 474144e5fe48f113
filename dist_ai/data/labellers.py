"""Labellers: functions from an item to its label."""

from __future__ import annotations

from pathlib import Path

__all__ = ["parent_label"]


def parent_label(item: str | Path) -> str:
    """Returns the name of the folder that a file lies in.

    >>> parent_label("train/cat/1.jpg")
    'cat'
    """
    return Path(item).parent.name
