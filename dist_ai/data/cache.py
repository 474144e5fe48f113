"""Files that can be made again: where they stand, who makes them, and how a folder of them comes into its place.

What is unpacked or downloaded is complete or absent, whenever a process is killed, and any number of processes may ask
for it at once: those of one machine share its cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from dist_ai.errors import DataError

__all__ = ["CACHE", "alone", "cache_folder", "partial_folder", "put_in_place"]

CACHE = "DIST_AI_CACHE"
_PARTIAL = ".partial-"


def cache_folder() -> Path:
    """Returns where files stand that can be made again: ``$DIST_AI_CACHE``, else ``dist_ai`` in the user's cache."""
    if chosen := os.environ.get(CACHE):
        return Path(chosen).expanduser()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "dist_ai"


@contextlib.contextmanager
def alone(path: Path, doing: str, *, timeout_s: float) -> Iterator[Callable[[], None]]:
    """Keeps other processes and threads of this machine from making `path` meanwhile; waits for one that does.

    A process that dies gives its turn away, for the system holds the lock.

    Args:
        path: what is made; the lock is a hidden file beside it, which stays.
        doing: for messages, ``"downloading x.tgz"``.
        timeout_s: how long to wait for one that gives no sign of life. Yields a function that gives one.

    Raises:
        DataError: waited in vain; names what for, and for which process.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    with _threads_alone(str(file), doing, timeout_s), file.open("a+", encoding="utf-8") as lock:
        _take(lock, file, doing, timeout_s)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lambda: os.utime(file)


def _take(lock: IO[str], file: Path, doing: str, timeout_s: float) -> None:
    with contextlib.suppress(ImportError):  # Windows has no fcntl, and goes without
        import fcntl

        began, pause = time.time(), 0.01
        while True:
            try:
                # lockf and not flock: forked loader workers would inherit the latter and hold it after a kill.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.time() - max(began, file.stat().st_mtime) > timeout_s:
                    lock.seek(0)
                    raise _waited(f"process {lock.read() or 'unknown'}", doing, timeout_s) from None
            time.sleep(pause)
            pause = min(0.25, 2 * pause)


@contextlib.contextmanager
def _threads_alone(name: str, doing: str, timeout_s: float) -> Iterator[None]:
    # The system's lock belongs to the process: another thread would get it too, and end it when it closes its file.
    with _guard:
        lock = _locks.setdefault(name, threading.Lock())
    if not lock.acquire(timeout=timeout_s):
        raise _waited("another thread", doing, timeout_s)
    try:
        yield
    finally:
        lock.release()


_guard = threading.Lock()
_locks: dict[str, threading.Lock] = {}


def _waited(who: str, doing: str, timeout_s: float) -> DataError:
    return DataError(
        f"{who} is {doing}, and gave no sign of life for {timeout_s:g} s; stop it and try again: what it began is gone on with"
    )


@contextlib.contextmanager
def partial_folder(folder: Path, *, leftovers_after_s: float) -> Iterator[Path]:
    """Gives an empty hidden folder beside `folder` to write into, and removes it in the end if it is still there.

    Args:
        folder: where its content shall stand.
        leftovers_after_s: when what a killed process left is removed: at once (0) where nobody else can be at work.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.glob(f".{folder.name}{_PARTIAL}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= leftovers_after_s:
                shutil.rmtree(path, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}{_PARTIAL}{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, folder: Path, files: Iterable[str]) -> None:
    """Moves `files` of `partial` into `folder`: in one step if that is absent, else file by file, each in one step."""
    if not folder.exists():
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, and what it put there is whole
                raise
        return
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).replace(folder / path)
