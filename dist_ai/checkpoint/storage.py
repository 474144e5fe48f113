"""Where checkpoints lie: a folder, or an object store by URI, behind the few operations that they need.

No operation renames or appends: object stores can do neither. What is written is complete when `write` returns.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dist_ai.errors import ConfigError, MissingDependencyError, StorageError

__all__ = ["ArrowStorage", "LocalStorage", "RetryingStorage", "Storage", "open_storage"]

T = TypeVar("T")


class Storage(Protocol):
    """Files by path, ``/`` between folders, relative to one place. Failures are `OSError`s."""

    place: str

    def write(self, path: str, pieces: Sequence[memoryview]) -> None:
        """Writes the pieces as one file, or replaces it; when this returns, it is there to stay."""
        ...

    def read_into(self, path: str, begin: int, buffer: memoryview) -> int:
        """Fills `buffer` with the file's bytes from `begin` on; returns how many there were."""
        ...

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the bytes of every file below `folder`, by path relative to the storage; {} if there is no such folder."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Removes a folder and what is in it, if it is there."""
        ...


def read(storage: Storage, path: str, size: int, begin: int = 0) -> bytes:
    """Returns up to `size` bytes of a file, from `begin` on."""
    buffer = bytearray(size)
    return bytes(buffer[: storage.read_into(path, begin, memoryview(buffer))])


def open_storage(place: str | Path) -> Storage:
    """Returns the storage at a folder's path, or at a URI such as ``s3://bucket/run``.

    URIs are what pyarrow reads (s3, gs, hdfs, file; with options, as in ``s3://bucket/run?endpoint_override=host:9000``),
    and otherwise what fsspec reads.

    Raises:
        ConfigError: the URI cannot be read.
        MissingDependencyError: a package is needed for this kind of URI.

    >>> open_storage("runs/cats").place
    'runs/cats'
    """
    text = str(place)
    if "://" not in text:
        return LocalStorage(Path(place))
    if text.startswith("file://"):
        return LocalStorage(Path(text.removeprefix("file://")))
    filesystem, path = _from_uri(text)
    return RetryingStorage(ArrowStorage(filesystem, path, place=_without_secrets(text)))


class LocalStorage:
    """Files in a folder of this machine, or of a file system that machines share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = str(folder)

    def write(self, path: str, pieces: Sequence[memoryview]) -> None:
        """Writes a file beside its place, flushes it to the disk, and renames it into place."""
        final = self.folder / path
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.partial-{uuid.uuid4().hex[:8]}")
        try:
            with partial.open("xb", buffering=0) as file:
                for piece in pieces:
                    _write_all(file, piece)
                os.fsync(file.fileno())
            partial.replace(final)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(final.parent)

    def read_into(self, path: str, begin: int, buffer: memoryview) -> int:
        """Fills `buffer`; see `Storage`."""
        with (self.folder / path).open("rb", buffering=0) as file:
            file.seek(begin)
            return _fill(file, buffer)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the files below `folder`; see `Storage`."""
        found = {}
        for place, _, names in os.walk(self.folder / folder):  # passes over folders that are removed meanwhile
            for path in map(Path(place).joinpath, names):
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        return found

    def remove(self, path: str) -> None:
        """Removes a file; see `Storage`."""
        (self.folder / path).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Removes a folder; see `Storage`."""
        shutil.rmtree(self.folder / folder, ignore_errors=True)


class ArrowStorage:
    """Files of a `pyarrow.fs.FileSystem`, below `base`."""

    def __init__(self, filesystem: Any, base: str, *, place: str) -> None:
        self._files = filesystem
        self._base = base.strip("/") if not base.startswith("/") else base.rstrip("/")
        self.place = place

    def write(self, path: str, pieces: Sequence[memoryview]) -> None:
        """Writes a file; see `Storage`. An object store shows it once it is whole."""
        try:
            self._write(path, pieces)
        except FileNotFoundError:  # a file system that has folders, and not this one yet
            self._files.create_dir(self._full(path).rpartition("/")[0], recursive=True)
            self._write(path, pieces)

    def _write(self, path: str, pieces: Sequence[memoryview]) -> None:
        with self._files.open_output_stream(self._full(path)) as stream:
            for piece in pieces:
                stream.write(piece)

    def read_into(self, path: str, begin: int, buffer: memoryview) -> int:
        """Fills `buffer`; see `Storage`."""
        with self._files.open_input_file(self._full(path)) as file:
            file.seek(begin)
            return _fill(file, buffer)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the files below `folder`, in one listing; see `Storage`."""
        from pyarrow.fs import FileSelector, FileType

        below = FileSelector(self._full(folder), allow_not_found=True, recursive=True)
        start = len(self._full("x")) - 1
        return {info.path[start:]: info.size for info in self._files.get_file_info(below) if info.type == FileType.File}

    def remove(self, path: str) -> None:
        """Removes a file; see `Storage`."""
        from pyarrow.fs import FileType

        if self._files.get_file_info(self._full(path)).type == FileType.File:
            self._files.delete_file(self._full(path))

    def remove_folder(self, folder: str) -> None:
        """Removes a folder; see `Storage`."""
        from pyarrow.fs import FileType

        if self._files.get_file_info(self._full(folder)).type == FileType.Directory:
            self._files.delete_dir(self._full(folder))

    def _full(self, path: str) -> str:
        return "/".join(part for part in (self._base, path.strip("/")) if part)


class RetryingStorage:
    """Another storage, whose operations are tried again when they fail.

    Args:
        storage: the other one.
        attempts: how often an operation is tried.
        wait_s: seconds before the second attempt; each further wait is twice as long.

    Raises:
        StorageError: from its operations, when the last attempt has failed.
    """

    def __init__(self, storage: Storage, *, attempts: int = 4, wait_s: float = 1.0) -> None:
        self._storage = storage
        self._attempts = attempts
        self._wait_s = wait_s
        self.place = storage.place

    def write(self, path: str, pieces: Sequence[memoryview]) -> None:
        """Writes a file; see `Storage`."""
        self._try(f"writing {path}", lambda: self._storage.write(path, pieces))

    def read_into(self, path: str, begin: int, buffer: memoryview) -> int:
        """Fills `buffer`; see `Storage`."""
        return self._try(f"reading {path}", lambda: self._storage.read_into(path, begin, buffer))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the files below `folder`; see `Storage`."""
        return self._try(f"listing {folder or 'it'}", lambda: self._storage.sizes(folder))

    def remove(self, path: str) -> None:
        """Removes a file; see `Storage`."""
        self._try(f"removing {path}", lambda: self._storage.remove(path))

    def remove_folder(self, folder: str) -> None:
        """Removes a folder; see `Storage`."""
        self._try(f"removing {folder}", lambda: self._storage.remove_folder(folder))

    def _try(self, what: str, action: Callable[[], T]) -> T:
        for attempt in range(1, self._attempts + 1):
            try:
                return action()
            except FileNotFoundError:  # is an answer
                raise
            except OSError as error:
                if attempt == self._attempts:
                    raise StorageError(
                        f"{self.place}: {what} failed {attempt} times; the last time: {error}"
                    ) from error
                time.sleep(self._wait_s * 2 ** (attempt - 1))
        raise AssertionError


def _from_uri(uri: str) -> tuple[Any, str]:
    """Returns a pyarrow file system and the path in it."""
    import pyarrow
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    scheme = uri.split("://", 1)[0]
    try:
        return FileSystem.from_uri(uri)
    except pyarrow.ArrowInvalid as refused:
        if "Unrecognized" not in str(refused):
            raise ConfigError(
                f"{_without_secrets(uri)} cannot be read as a place for checkpoints: {refused}"
            ) from refused
    import fsspec

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that only this kind of URI brings in
        try:
            filesystem, path = fsspec.core.url_to_fs(uri)
        except ImportError as error:
            raise MissingDependencyError(f"{scheme}:// needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{_without_secrets(uri)} cannot be read as a place for checkpoints: {error}") from error
    return PyFileSystem(FSSpecHandler(filesystem)), path


def _without_secrets(uri: str) -> str:
    """Returns a URI for messages: without options, and without the key that may stand before the host."""
    scheme, _, rest = uri.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _write_all(file: Any, piece: memoryview) -> None:
    # A raw file may take a part only: Linux takes 2 GB at once, a disk that fills up what fits.
    piece = piece.cast("B")
    while len(piece):
        piece = piece[file.write(piece) :]


def _fill(file: Any, buffer: memoryview) -> int:
    done = 0
    while done < len(buffer) and (count := file.readinto(buffer[done:])):
        done += count
    return done


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
