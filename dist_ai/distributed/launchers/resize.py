"""How ranks leave that are to be more or fewer: their launcher starts them anew, and they go on from their checkpoint."""

from __future__ import annotations

__all__ = ["EXIT_RESIZE", "Resize"]

EXIT_RESIZE = 76
"""What a rank ends with that is to be started again in a group of another size."""


class Resize(SystemExit):
    """Ends a rank so that the launcher starts all anew, on another number of workers.

    Raised on every rank at the same step, after the checkpoint of that step is complete.

    Args:
        workers: on how many.

    >>> Resize(3).workers, Resize(3).code
    (3, 76)
    """

    def __init__(self, workers: int) -> None:
        super().__init__(EXIT_RESIZE)
        self.workers = workers
