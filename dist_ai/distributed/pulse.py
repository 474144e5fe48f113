"""Where a rank is in its work, written down at every stage of a step, so that who looks on knows it to the moment.

A launcher on the same machine reads it from a file that both map into memory: a write costs less than a microsecond,
stays when the rank is killed, and is readable while the rank hangs.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

__all__ = ["EXIT_HUNG", "Beat", "Pulse", "Stage", "read_beat"]

EXIT_HUNG = 75
"""What a rank ends with that was found to make no progress: "try again", as sysexits.h has it."""


class Stage(IntEnum):
    """What a rank is doing."""

    OUTSIDE = 0
    """No fit is under way, so no progress is expected."""
    STARTING = 1
    """The fit begins."""
    DATA = 2
    """It waits for the next training batch, or ends an epoch."""
    FORWARD = 3
    """Batch transforms, model and loss."""
    BACKWARD = 4
    """Gradients, their exchange, and the optimizer's step."""
    VALIDATE = 5
    """A validation."""
    PAUSED = 6
    """It was asked to pause."""
    ENDING = 7
    """The fit ends."""
    MEETING = 8
    """It waits for its peers to be there; a time limit of its own ends that."""


class Beat(NamedTuple):
    """One reading of a pulse.

    Attributes:
        fit, epoch, step: where it is; the fit from 1, the step over the whole fit.
        stage: what it does there.
        since: when it came there, by this machine's `time.monotonic`.
    """

    fit: int = 0
    epoch: int = 0
    step: int = 0
    stage: Stage = Stage.OUTSIDE
    since: float = 0.0

    @property
    def has_met(self) -> bool:
        """Whether it has met its peers, or need not, being alone."""
        return self.since > 0 and self.stage is not Stage.MEETING

    @property
    def quiet_s(self) -> float:
        """Seconds without progress; 0 where none is expected."""
        return 0.0 if self.stage in (Stage.OUTSIDE, Stage.MEETING) else max(0.0, time.monotonic() - self.since)

    def __str__(self) -> str:
        if self.fit == 0:
            return "before its first fit"
        return f"step {self.step} of fit {self.fit}, in epoch {self.epoch} ({self.stage.name.lower()})"


class Pulse:
    """Takes down a rank's progress.

    Args:
        folder: where a launcher of this machine reads it; by default it is kept in this process alone.
        rank: whose it is.
    """

    def __init__(self, folder: Path | None = None, rank: int = 0) -> None:
        self._bytes: bytearray | mmap.mmap = bytearray(_LAYOUT.size)
        if folder is not None and folder.is_dir():
            descriptor = os.open(folder / _name(rank), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.ftruncate(descriptor, _LAYOUT.size)
                self._bytes = mmap.mmap(descriptor, _LAYOUT.size)
            finally:
                os.close(descriptor)
        self._write: Callable[..., None] = _LAYOUT.pack_into

    def beat(self, fit: int, epoch: int, step: int, stage: Stage) -> None:
        """Takes down that the rank has come so far."""
        self._write(self._bytes, 0, fit, epoch, step, stage, _now())

    def again(self) -> None:
        """Takes down that it is still at work, at the same place."""
        beat = self.read()
        self.beat(beat.fit, beat.epoch, beat.step, beat.stage)

    def read(self) -> Beat:
        """Returns what was taken down last."""
        return _beat(self._bytes)


def read_beat(folder: Path, rank: int) -> Beat:
    """Returns what a rank took down last in `folder`; a `Beat()` if it has not begun."""
    try:
        content = (folder / _name(rank)).read_bytes()
    except OSError:
        return Beat()
    return _beat(content) if len(content) == _LAYOUT.size else Beat()


def _beat(content: bytes | bytearray | mmap.mmap) -> Beat:
    fit, epoch, step, stage, since = _LAYOUT.unpack_from(content)
    return Beat(fit, epoch, step, Stage(stage), since)


def _name(rank: int) -> str:
    return f"pulse{rank}"


_LAYOUT = struct.Struct("<qqqqd")
_now = time.monotonic
