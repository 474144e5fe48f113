"""Parquet files as numbered row groups: found, checked once, and read one row group at a time.

Nothing stays open here and nothing is kept but what the files' footers say: 8 numbers a row group. A read names the file
when it fails, and waits out a store that cannot be reached for a while.
"""

from __future__ import annotations

import copy
import errno
import fnmatch
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from dist_ai.errors import BadSampleError, ConfigError, DataError, did_you_mean

__all__ = ["ParquetFiles", "resolved"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Footer:
    """What a file's footer says; an array has one number a row group."""

    size: int
    types: dict[str, Any]
    num_rows: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]

    @property
    def has_rows(self) -> bool:
        return bool(self.num_rows.sum())


class ParquetFiles:
    """The row groups of Parquet files of one schema, numbered through all files.

    Args:
        source: a file, a folder (all ``.parquet`` files under it, in the order of their paths; names that begin with "." or
            "_" are left out), or several of both; paths or URIs (``s3://bucket/folder``).
        columns: those that are read; by default all.
        filesystem: where the paths are; by default this machine, or what the URI says.
        bad_files: what a file that cannot be read at all does: ``"raise"`` an error, or ``"skip"``: it is warned of and
            left out.
        retry_s: for how many seconds a store that fails is asked again.

    Attributes:
        paths: of the files.
        names: of the columns.
        types: of the columns in the first file, Arrow's.
        num_rows, num_bytes: of each row group, int64; the bytes are those of the columns that are read, decoded.
        skipped: why a file was left out, by its path.

    Raises:
        DataError: no files, one that is none or has other columns, or a store that cannot be reached.
    """

    def __init__(
        self,
        source: Any,
        *,
        columns: Iterable[str] | None = None,
        filesystem: Any = None,
        bad_files: Literal["raise", "skip"] = "raise",
        retry_s: float = 60.0,
    ) -> None:
        if bad_files not in ("raise", "skip"):
            raise ConfigError(f"bad_files={bad_files!r}: expected 'raise' or 'skip'")
        if not retry_s >= 0:
            raise ConfigError(f"retry_s={retry_s}: expected seconds, 0 or more")
        if isinstance(columns, str):
            raise ConfigError(f"columns={columns!r} is one name; expected a list of them: [{columns!r}]")
        self.retry_s = retry_s
        self._process = os.getpid()
        self._filesystem, given = resolved(source, filesystem)
        wanted = None if columns is None else list(columns)
        found = self._patiently(lambda: _found(self._filesystem, given), f"the files of {_shown(given)}")
        self.skipped: dict[str, str] = {}
        footers: dict[str, _Footer] = {}
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:  # each is a round trip where the files are remote
            for path, footer in zip(found, pool.map(lambda path: self._footer(path, wanted), found), strict=True):
                if isinstance(footer, _Footer):
                    footers[path] = footer
                elif bad_files == "raise":
                    raise footer
                else:
                    warnings.warn(f"left out: {footer}", stacklevel=4)
                    self.skipped[path] = str(footer)
        if not footers:
            raise DataError(f"none of the {len(found)} files of {_shown(given)} can be read")
        self.paths = list(footers)
        # One without rows often has no types either: what wrote it had no value to tell them from.
        filled = {path: footer for path, footer in footers.items() if footer.has_rows} or footers
        self.names = list(next(iter(filled.values())).types) if wanted is None else wanted
        _check_types(filled, self.names)
        self.types = dict(next(iter(footers.values())).types)
        self._sizes = [each.size for each in footers.values()]
        per_file = [len(each.num_rows) for each in footers.values()]
        self.num_rows = np.concatenate([each.num_rows for each in footers.values()])
        self.num_bytes = np.concatenate([each.num_bytes for each in footers.values()])
        self.file_of = np.repeat(np.arange(len(per_file)), per_file)
        self._first_group = np.cumsum(per_file) - per_file

    def __len__(self) -> int:
        """Number of row groups."""
        return len(self.num_rows)

    def place(self, group: int) -> str:
        """Returns the file and the number in it of a row group, in words."""
        file = int(self.file_of[group])
        return f"row group {group - self._first_group[file]} of {self.paths[file]}"

    def shared_with(self, other: ParquetFiles) -> list[str]:
        """Returns the paths that are among another's too, of the same file system."""
        theirs = set(other.paths) if self._here() == other._here() else set()
        return [path for path in self.paths if path in theirs]

    def matching(self, pattern: str) -> npt.NDArray[np.bool_]:
        """Returns which row groups are in files whose name, or the end of whose path, matches a pattern such as ``valid-*``.

        Raises:
            DataError: no file does.
        """
        matches = [
            fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}") for path in self.paths
        ]
        if not any(matches):
            names = [path.rpartition("/")[2] for path in self.paths]
            raise DataError(
                f"none of the {len(names)} files, such as {names[0]}, matches {pattern!r}{did_you_mean(pattern, names[:2000])}"
            )
        return np.asarray(matches)[self.file_of]

    def opened(self, group: int) -> Any:
        """Returns the `pyarrow.parquet.ParquetFile` of a row group.

        Raises:
            BadSampleError: the file has gone or changed, may not be read, or is damaged.
            DataError: the store could not be reached in time.
        """
        file = int(self.file_of[group])
        return self._read(file, lambda: self._open(self.paths[file], self._sizes[file]), self.paths[file])

    def read(self, opened: Any, group: int, names: Sequence[str]) -> Any:
        """Returns some columns of a row group as a `pyarrow.Table`, whole; raises as `opened` does.

        Args:
            opened: what `opened` returned for this row group, or another of its file.
            group: its number.
            names: of the columns.
        """
        file = int(self.file_of[group])
        number, num_rows = int(group - self._first_group[file]), int(self.num_rows[group])

        def read() -> Any:
            # In one thread: ranks and loader workers are the processes that share the cores, and each thread keeps memory.
            table = opened.read_row_group(number, columns=list(names), use_threads=False)
            if len(table) != num_rows:
                raise BadSampleError(f"{self.place(group)} has {len(table)} rows and had {num_rows}: {_CHANGED}")
            return table

        return self._read(file, read, self.place(group))

    def _read(self, file: int, read: Callable[[], T], what: str) -> T:
        """Returns what `read` does; where it fails, finds out whether the store, the file or its content is to blame."""
        import pyarrow

        def once() -> T:
            for attempt in range(2):
                try:
                    return read()
                except (OSError, pyarrow.ArrowException) as error:
                    self._check_bytes(file)  # raises, unless all of its bytes can be read
                    if attempt:
                        raise BadSampleError(
                            f"{what} cannot be read as Parquet, the file is damaged: {error}"
                        ) from error
            raise AssertionError

        return self._patiently(once, what)

    def _check_bytes(self, file: int) -> None:
        self._check_size(self.paths[file], self._sizes[file])
        with self._here().open_input_stream(self.paths[file]) as stream:
            while stream.read(1 << 20):
                pass

    def _check_size(self, path: str, expected: int) -> None:
        info = self._here().get_file_info(path)
        if not info.is_file:
            raise BadSampleError(f"{path} has gone since this program began to read it; put it back, or start again")
        if info.size != expected:
            raise BadSampleError(f"{path} has {info.size:,} bytes and had {expected:,}: {_CHANGED}")

    def _open(self, path: str, size: int | None = None) -> Any:
        from pyarrow import parquet

        if size is not None:
            self._check_size(path, size)
        filesystem = self._here()
        # Coalesced reads are for stores with round trips; on a disk they only cost memory.
        return parquet.ParquetFile(
            path, filesystem=filesystem, pre_buffer=filesystem.type_name != "local", page_checksum_verification=True
        )

    def _here(self) -> Any:
        """Returns the file system for this process: connections that a forked process shares with its parent get mixed up."""
        if self._process != os.getpid():
            self._filesystem, self._process = copy.deepcopy(self._filesystem), os.getpid()
        return self._filesystem

    def _footer(self, path: str, wanted: list[str] | None) -> _Footer | DataError:
        import pyarrow

        def once() -> _Footer:
            try:
                size = self._here().get_file_info(path).size
                if size == 0:
                    raise DataError(f"{path} is empty (0 bytes) and no Parquet file; {_LEAVE_OUT}")
                with self._open(path) as opened:
                    return _footer_of(path, opened, size, wanted)
            except pyarrow.ArrowException as error:
                raise DataError(
                    f"{path} cannot be read as Parquet: {str(error).strip()}. Was it written to its end? {_LEAVE_OUT}"
                ) from error

        try:
            return self._patiently(once, path)
        except _StoreError:
            raise
        except DataError as error:
            return error

    def _patiently(self, call: Callable[[], T], what: str) -> T:
        """Returns what `call` does, called again while its store fails, for `retry_s` seconds at most."""
        begin, pause, attempts = time.monotonic(), 0.05, 0
        while True:
            attempts += 1
            try:
                return call()
            except FileNotFoundError as error:
                raise BadSampleError(f"{what} is not there (any more): {error}") from error
            except PermissionError as error:
                raise BadSampleError(f"{what} may not be read by this user: {error}") from error
            except OSError as error:
                if error.errno in _LASTING:
                    raise BadSampleError(f"{what} cannot be read: {error}") from error
                waited = time.monotonic() - begin
                if waited + pause > self.retry_s:
                    raise _StoreError(
                        f"{what} could not be read, tried {attempts} time(s) in {waited:.1f} s (retry_s={self.retry_s:g}): "
                        f"{error}. Is the store reachable? Started again, the run goes on from its last checkpoint"
                    ) from error
            time.sleep(pause)
            pause = min(5.0, 2 * pause)


class _StoreError(DataError):
    """The store could not be reached: no reason to leave samples out."""


_FOOTERS_AT_ONCE = 16
_LASTING = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}
_CHANGED = "it changed since this program began to read it; write new data to new files, and start again"
_LEAVE_OUT = "mend or remove it, or leave such files out with bad_files='skip'"


def resolved(source: Any, filesystem: Any) -> tuple[Any, list[str]]:
    """Returns the file system and the paths in it."""
    from pyarrow import fs

    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not given:
        raise DataError("no files: the list of paths is empty")
    if strange := [each for each in given if not isinstance(each, str | os.PathLike)]:
        raise ConfigError(f"{strange[0]!r:.100} is no path; expected a path, a URI, or a list of them")
    if filesystem is not None:
        if not isinstance(filesystem, fs.FileSystem):
            raise ConfigError(
                f"filesystem={type(filesystem).__name__}: expected a pyarrow.fs.FileSystem; one of fsspec's becomes one with "
                "PyFileSystem(FSSpecHandler(filesystem))"
            )
        return filesystem, [os.fspath(each) for each in given]
    found: Any = None
    paths = []
    for each in given:
        if isinstance(each, str) and "://" in each:
            try:
                here, path = fs.FileSystem.from_uri(each)
            except Exception as error:
                raise DataError(f"{each} is no URI that pyarrow can open: {error}") from error
        else:
            here, path = fs.LocalFileSystem(), Path(each).expanduser().absolute().as_posix()
        if found is not None and found != here:
            raise ConfigError(f"{each} is in another file system than {given[0]}; one data set is in one")
        found = here
        paths.append(path)
    return found, paths


def _found(filesystem: Any, given: list[str]) -> list[str]:
    from pyarrow import fs

    files: list[str] = []
    for path in given:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            pattern = set(path) & set("*?[") and "; a pattern is no path: give the folder, or a list of files"
            raise DataError(f"no file or folder at {path}{pattern or ''}")
        if info.is_file:
            files.append(path)
            continue
        under = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        inside = sorted(each.path for each in under if each.is_file and _counts(each.path[len(path) :]))
        if not inside:
            raise DataError(f"no .parquet file under {path}, among {len(under)} file(s) and folder(s)")
        files += inside
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise DataError(f"{twice} is given twice; each file counts once")
    return files


def _counts(path: str) -> bool:
    return path.endswith(".parquet") and not any(part.startswith((".", "_")) for part in path.split("/"))


def _footer_of(path: str, opened: Any, size: int, wanted: list[str] | None) -> _Footer:
    schema = opened.schema_arrow
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has several columns named {twice[0]!r}; rename them")
    names = schema.names if wanted is None else wanted
    for name in names:
        if name not in schema.names:
            there = ", ".join(schema.names[:12])
            raise DataError(f"no column {name!r} in {path}; there are {there}{did_you_mean(name, schema.names)}")
    metadata = opened.metadata
    rows, decoded = [], []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows.append(group.num_rows)
        chunks = (group.column(place) for place in range(group.num_columns))
        decoded.append(sum(chunk.total_uncompressed_size for chunk in chunks if _belongs(chunk.path_in_schema, names)))
    return _Footer(
        size,
        {name: schema.field(name).type for name in names},
        np.asarray(rows, dtype=np.int64),
        np.asarray(decoded, dtype=np.int64),
    )


def _belongs(path: str, names: Sequence[str]) -> bool:
    """Returns whether a column of the file, such as ``box.list.element``, is part of one of these."""
    return path in names or any(path.startswith(f"{name}.") for name in names)


def _check_types(footers: dict[str, _Footer], names: list[str]) -> None:
    first, expected = next(iter(footers.items()))
    for path, footer in footers.items():
        if footer.types.keys() != expected.types.keys():
            differ = sorted(footer.types.keys() ^ expected.types.keys())
            raise DataError(
                f"{path} and {first} differ in the columns {', '.join(differ[:8])}; name those that all files have: columns=[...]"
            )
        for name in names:
            one, other = _plain(footer.types[name]), _plain(expected.types[name])
            if one != other:
                raise DataError(
                    f"column {name!r} is {one} in {path} and {other} in {first}; write the files with one schema, or leave "
                    "the column out with columns=[...]"
                )


def _plain(kind: Any) -> Any:
    """Returns a type without what the writer's library decides: large offsets, dictionaries."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pyarrow.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pyarrow.binary()
    if types.is_large_list(kind) or types.is_list(kind):
        return pyarrow.list_(_plain(kind.value_type))
    return kind


def _shown(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
