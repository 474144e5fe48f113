"""Memory of large tensors on a CPU: a fit keeps it from step to step, as CUDA's allocator keeps a GPU's."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator

import torch

__all__ = ["kept_memory"]


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Has the C library keep what is freed for the next that asks, instead of giving it back to the system; until the end.

    By default glibc maps each block of more than 32 MiB anew. The system clears every page of it at the first touch, which for
    the logits of 4,608 tokens of 6,900 took two fifths of the decoder's, the loss's and their gradients' time. What it costs:
    the process holds the most that it ever needed at once, until the fit ends. Where the C library is another, and on a GPU,
    nothing is done.

    >>> with kept_memory(torch.device("cpu")):
    ...     pass
    """
    mallopt, trim = _glibc()
    if device.type != "cpu" or mallopt is None or trim is None:
        yield
        return
    global _holders
    _holders += 1
    try:
        if _holders == 1:
            mallopt(_MMAP_MAX, 0)
            mallopt(_TRIM_THRESHOLD, _NEVER)
        yield
    finally:
        _holders -= 1
        if not _holders:
            # Once set, glibc no longer adapts these by itself: they stay where a program with large blocks would be.
            mallopt(_MMAP_MAX, _USUAL_MMAPS)
            mallopt(_MMAP_THRESHOLD, _LARGEST_HELD)
            mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_HELD)
            trim(0)


_holders = 0
"""Fits under way in this process, whose setting it is."""

# Of mallopt(3): how many blocks may be mapped, from which size they are, and how much free memory at the heap's end stays.
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1
_NEVER = -1
_USUAL_MMAPS, _LARGEST_HELD = 65_536, 32 * 2**20


@functools.cache
def _glibc() -> tuple[Callable[[int, int], int] | None, Callable[[int], int] | None]:
    """Returns `mallopt` and `malloc_trim`; None where the C library has none."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None, None
    return getattr(library, "mallopt", None), getattr(library, "malloc_trim", None)
