"""The workers that belong to a loader in this process, and to no copy of it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dist_ai.data.workers import Workers

__all__ = ["OwnWorkers"]

Task = TypeVar("Task")


class OwnWorkers(Generic[Task]):
    """Workers that are made at their first use, and again after one was killed.

    A copy of the loader has none yet, nor has a fork of this process: those of the parent serve the parent alone.
    """

    def __init__(self) -> None:
        self._workers: Workers[Task] | None = None
        _ALL.add(self)

    def get(self, make: Callable[[], Workers[Task]]) -> Workers[Task]:
        """Returns the workers, by `make` where there are none."""
        if self._workers is None or self._workers.ended:
            self._workers = make()
        return self._workers

    def leave_to_parent(self) -> None:
        """Forgets workers that a fork brought into this process."""
        if self._workers is not None:
            _OF_PARENT.append(self._workers)
            self._workers = None

    def __reduce__(self) -> tuple[type[OwnWorkers[Task]], tuple[()]]:
        return type(self), ()  # a copy, deep or by pickle, is a new one


_ALL: weakref.WeakSet[OwnWorkers[Any]] = weakref.WeakSet()
_OF_PARENT: list[Workers[Any]] = []  # kept: what torch does when it lets go of them would end the parent's processes


def _after_fork() -> None:
    for each in list(_ALL):
        each.leave_to_parent()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_after_fork)
