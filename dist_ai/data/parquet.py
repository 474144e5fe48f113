"""Parquet data sets larger than memory: rows by number, read by whole row groups that are soon forgotten.

```python
data = ParquetData("s3://bucket/photographs")  # reads the files' footers
for batch in DataLoader(data, bs=256, shuffle=True):  # {"image": [b"...", ...], "label": tensor([...])}
    ...
```
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from dist_ai.core.randomness import sample_keys
from dist_ai.data.collate import collate
from dist_ai.data.orders import GroupOrder, RearrangedOrder
from dist_ai.data.parquet_files import ParquetFiles
from dist_ai.data.plan import Indices, Order
from dist_ai.data.table import Row, no_column, ordered_dictionary
from dist_ai.errors import BadSampleError, ConfigError, DataError

__all__ = ["ParquetData"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class ParquetData(Sequence[Row]):
    """The rows of Parquet files, of which a few row groups are in memory at a time.

    A sample is a `Row`, as a `Table`'s: a mapping from column to value, of which a column is read when it is asked for. So it
    can be the items of a `DataBlock`, split by index, column or file. `fetch` gives batches: a dict of columns.

    Shuffled, row groups come in random order, in `num_lanes` lanes that are read side by side: each batch has an equal part of
    every lane, and the rows of a row group come in random order. Measured with 500 row groups of 64 rows and batches of 64:
    a batch mixes 8 row groups or more with 8 lanes, 3 with 2; the rows of a row group come within `num_lanes` x `num_tracks`
    times as many rows. So what is sorted by class, with few row groups a class, should be shuffled once when it is written. The
    order depends on the files, the columns and these arguments, never on the number of ranks or workers.

    Args:
        source: a file, a folder (all ``.parquet`` files under it, in the order of their paths; names that begin with "." or
            "_" are left out), or several of both; paths or URIs (``s3://bucket/folder``).
        columns: those that a row has; by default all. Others are never read.
        filesystem: a `pyarrow.fs.FileSystem` in which the paths are; by default this machine's, or what the URI says.
        buffer_bytes: how many bytes of decoded rows each process that reads holds; one row group at least.
        num_lanes: row groups that a batch mixes; by default 8, or as many as fit into the buffer. A multiple of the ranks
            reads least.
        num_tracks: batch k is of track k modulo this, and each track has lanes of its own; by default 4, or as many as
            fit. A multiple of the loader workers (`num_workers`) reads least: each then reads row groups of its own.
        bad_files: what a file that is no Parquet file, or has not the columns, does: ``"raise"`` an error, or ``"skip"``:
            it is warned of and left out. Rows that cannot be read later are the loader's business (`bad_samples`).
        retry_s: for how many seconds a store that fails is asked again, with growing pauses, before that is an error.

    Row groups of about a fiftieth of the buffer are best. Without shuffling batches follow the rows, so each rank and worker
    reads every row group.

    Attributes:
        files: the paths of the files.
        names: of the columns.
        skipped_files: why a file was left out, by its path.

    Raises:
        ConfigError: the lanes and tracks do not fit into the buffer.
        DataError: there are no files or rows, a file cannot be read or has other columns, or the store does not answer.

    >>> import tempfile, pyarrow
    >>> from pyarrow import parquet
    >>> folder = tempfile.TemporaryDirectory()
    >>> rows = pyarrow.table({"text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]})
    >>> parquet.write_table(rows, f"{folder.name}/1.parquet", row_group_size=2)
    >>> data = ParquetData(folder.name)
    >>> len(data), data[2].text, data.fetch(torch.tensor([0, 3]))
    (4, 'c', {'text': ['a', 'd'], 'label': tensor([0, 0])})
    >>> folder.cleanup()
    """

    def __init__(
        self,
        source: Any,
        *,
        columns: Iterable[str] | None = None,
        filesystem: Any = None,
        buffer_bytes: int = 64 << 20,
        num_lanes: int | None = None,
        num_tracks: int | None = None,
        bad_files: Literal["raise", "skip"] = "raise",
        retry_s: float = 60.0,
    ) -> None:
        for name, number in (("buffer_bytes", buffer_bytes), ("num_lanes", num_lanes), ("num_tracks", num_tracks)):
            if number is not None and number < 1:
                raise ConfigError(f"{name}={number}: expected at least 1")
        self._groups = ParquetFiles(
            source, columns=columns, filesystem=filesystem, bad_files=bad_files, retry_s=retry_s
        )
        self.files, self.names = self._groups.paths, self._groups.names
        self.skipped_files = self._groups.skipped
        self._ends = np.cumsum(self._groups.num_rows).tolist()
        if not len(self):
            raise DataError(f"no rows in {self.files[0]}{f' and {len(self.files) - 1} more' if self.files[1:] else ''}")
        self.buffer_bytes = buffer_bytes
        self.num_lanes, self.num_tracks = self._lanes(num_lanes, num_tracks)
        self._kept: _RowGroups | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} rows")
        return Row(self, int(index) % len(self))

    def item(self, index: int) -> Row:
        """Returns a row, for messages."""
        return self[index]

    def value(self, name: str | int, index: int) -> Any:
        """Returns one value: as a `Table`'s, but that a list of numbers is an array.

        Raises:
            BadSampleError: its row group cannot be read; names the file.
            DataError: the store could not be reached in time.
            KeyError: there is no such column; names the nearest.
        """
        group = bisect_right(self._ends, index)
        column = self._reader().column(group, self._name(name))
        return column.item(index - (self._ends[group - 1] if group else 0))

    def column(self, name: str | int) -> list[Any]:
        """Returns all values of a column; see `value`."""
        name, reader = self._name(name), self._reader()
        values: list[Any] = []
        for group, size in enumerate(self._groups.num_rows.tolist()):
            values += _listed(reader.column(group, name).take(np.arange(size)))
        return values

    def categories(self, name: str | int) -> tuple[list[Any], bool] | None:
        """Returns the categories of a column in the order that they were written with; None where their order means nothing.

        They are read of the first row group.
        """
        name = self._name(name)
        if not getattr(self._groups.types.get(name), "ordered", False):
            return None
        found = ordered_dictionary(self._groups.read(self._groups.opened(0), 0, [name]).column(name))
        return None if found is None else (found, True)

    def fetch(self, indices: torch.Tensor) -> dict[str, Any]:
        """Returns a batch of rows, as `collate` would make it: numbers in tensors, text and bytes in lists.

        Args:
            indices: of the rows, int64 (n,).

        Raises:
            BadSampleError: a row group cannot be read; names the file.
            DataError: a value is missing or fits into no batch, or the store could not be reached in time.
        """
        rows = indices.numpy()
        return {name: self._joined(name, rows, parts) for name, parts in self._parts(rows).items()}

    def take(self, indices: Indices) -> dict[str, Any]:
        """Returns rows as columns: arrays of numbers where none is missing, else lists, with None for what is.

        Args:
            indices: of the rows, int64 (n,).
        """
        return {name: _side_by_side(len(indices), parts) for name, parts in self._parts(indices).items()}

    def rows_all_over(self, num_rows: int) -> Indices:
        """Returns the indices of so many rows, in order, from row groups all over the files; of all rows if there are fewer.

        Each of 32 equal parts of the rows gives a share, from the row group in its middle, so that large row groups give more;
        where these have too few rows there are more parts. The rows are drawn by a hash, so that no regularity of theirs is
        met. Whoever takes them holds them and, as always, `buffer_bytes`.
        """
        sizes, total, num_parts = self._groups.num_rows, len(self), _PARTS_LOOKED_INTO
        if num_rows >= total:
            return np.arange(total)
        while True:
            middles = (2 * np.arange(num_parts) + 1) * total // (2 * num_parts)
            chosen = np.bincount(np.searchsorted(self._ends, middles, side="right"), minlength=len(sizes))
            if sizes[chosen > 0].sum() >= num_rows:
                break
            num_parts *= 2
        nums = np.minimum(_shares(num_rows, chosen), sizes)
        nums += _shares(num_rows - int(nums.sum()), np.where(chosen > 0, sizes - nums, 0))  # what small ones lack
        begins = np.asarray(self._ends) - sizes
        return np.concatenate([_drawn(begins[g], sizes[g], nums[g]) for g in np.flatnonzero(nums)])

    def files_shared_with(self, other: ParquetData) -> list[str]:
        """Returns the paths of files that are another data set's too."""
        return self._groups.shared_with(other._groups)

    def _parts(self, rows: Indices) -> dict[str, list[tuple[Indices, Any]]]:
        """Returns the columns of rows in parts, one a row group: (places among the rows, values)."""
        groups = np.searchsorted(self._ends, rows, side="right")
        reader, sizes = self._reader(), self._groups.num_rows
        parts: dict[str, list[tuple[Indices, Any]]] = {name: [] for name in self.names}
        for group in reader.begin(tuple(np.unique(groups).tolist())):
            here = np.flatnonzero(groups == group)
            within = rows[here] - (self._ends[group] - sizes[group])
            for name, column in reader.columns(group, self.names).items():
                parts[name].append((here, column.take(within)))  # copied, so that the row group may go
        return parts

    def expect(self, indices: torch.Tensor) -> None:
        """Begins to read, in the background, what these rows will need; a loader says so some batches before it fetches them.

        Args:
            indices: of the rows, int64 (n,).
        """
        groups = np.searchsorted(self._ends, indices.numpy(), side="right")
        self._reader().expect(tuple(np.unique(groups).tolist()), self.names)

    def rows_in(self, pattern: str) -> Indices:
        """Returns the indices of the rows in files whose name, or the end of whose path, matches a pattern; int64.

        ``IndexSplitter(data.rows_in("valid-*.parquet"))`` validates with whole files.

        Raises:
            DataError: no file does.
        """
        return np.flatnonzero(np.repeat(self._groups.matching(pattern), self._groups.num_rows))

    def loading_order(self, shuffle: bool) -> Order | None:
        """Returns the order that a loader reads the rows in; None is their own."""
        return self._order(self._groups.num_rows) if shuffle else None

    def order_of(self, indices: Sequence[int] | Indices, shuffle: bool) -> Order | None:
        """Returns the order for some of the rows, such as the training part: of positions in `indices`."""
        if not shuffle:
            return None
        groups = np.searchsorted(self._ends, np.asarray(indices, dtype=np.int64), side="right")
        order = self._order(np.bincount(groups, minlength=len(self._groups)))
        by_group = np.argsort(groups, kind="stable")
        return order if (by_group[1:] > by_group[:-1]).all() else RearrangedOrder(order, by_group)

    def row_repr(self, index: int) -> str:
        """Returns what a row's `repr` is: where it is. To show what it holds would read the files."""
        group = bisect_right(self._ends, index)
        return f"Row({index - (self._ends[group - 1] if group else 0)} in {self._groups.place(group)})"

    def __repr__(self) -> str:
        return (
            f"ParquetData({len(self):,} rows of {', '.join(self.names)} in {len(self._groups):,} row groups of "
            f"{len(self.files):,} file(s), num_lanes={self.num_lanes}, num_tracks={self.num_tracks})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}

    def _reader(self) -> _RowGroups:
        """Returns this process's row groups: what a forked worker inherits was opened by another."""
        if self._kept is None or self._kept.process != os.getpid():
            worker = get_worker_info()
            # A worker has the tracks k, k + num_workers, ... and needs no more room than they do.
            sharing = 1 if worker is None or self._fits else math.gcd(self.num_tracks, worker.num_workers)
            self._kept = _RowGroups(self._groups, self.buffer_bytes // sharing)
        return self._kept

    def _name(self, column: str | int) -> str:
        if isinstance(column, int) and -len(self.names) <= column < len(self.names):
            return self.names[column]
        if column in self.names:
            return str(column)
        raise KeyError(no_column(column, self.names))

    def _order(self, sizes: npt.NDArray[np.int64]) -> GroupOrder:
        return GroupOrder(sizes, num_lanes=self.num_lanes, num_tracks=self.num_tracks)

    def _lanes(self, num_lanes: int | None, num_tracks: int | None) -> tuple[int, int]:
        """Returns how many lanes and tracks there are: what was asked for, else what fits into the buffer."""
        sizes = self._groups.num_bytes.astype(np.float64)
        total = float(sizes.sum())
        self._fits = total <= self.buffer_bytes
        typical = float((sizes * sizes).sum() / max(1.0, total))  # that of the row group of an average byte
        # A quarter is left for what was just read to its end, and lanes begin and end within a row group.
        fitting = _MOST_LANES if self._fits else min(int(0.75 * self.buffer_bytes / typical), len(sizes) // 4)
        tracks_given = num_tracks or 1
        lanes = num_lanes or max(1, min(_LANES, fitting // tracks_given))
        tracks = num_tracks or max(1, min(_TRACKS, fitting // lanes))
        if (num_lanes or num_tracks) and not self._fits and lanes * tracks * typical > max(self.buffer_bytes, typical):
            raise ConfigError(
                f"num_lanes={lanes} x num_tracks={tracks} row groups of {_megabytes(typical)} do not fit into "
                f"buffer_bytes={self.buffer_bytes:,}; give fewer, at least {int(lanes * tracks * typical / 0.75):,} bytes, "
                "or write smaller row groups"
            )
        if lanes < 2 and not self._fits:
            wanted = max(1, int(len(self) * min(1.0, 0.75 * self.buffer_bytes / total / (_LANES * _TRACKS))))
            warnings.warn(
                f"the files' row groups are large ({len(sizes)} of up to {_megabytes(sizes.max())}, buffer_bytes="
                f"{_megabytes(self.buffer_bytes)}): each is held whole, and a batch has rows of one only. Write them with "
                f"pyarrow.parquet.write_table(..., row_group_size={wanted}), or give more buffer_bytes",
                stacklevel=3,
            )
        return lanes, tracks

    def _joined(self, name: str, rows: Indices, parts: list[tuple[Indices, Any]]) -> Any:
        """Returns a column of a batch from its parts: (places in the batch, values)."""
        if all(isinstance(taken, np.ndarray) for _, taken in parts):
            first = parts[0][1]
            dtype = _COLLATED[first.dtype.kind] if first.ndim == 1 else first.dtype
            result: npt.NDArray[Any] = np.empty((len(rows), *first.shape[1:]), dtype)
            for here, taken in parts:
                result[here] = taken
            return torch.from_numpy(result)
        values = _side_by_side(len(rows), parts, listed=True)
        if set(map(type, values)) in ({str}, {bytes}):  # as `collate` finds them too, in ten times as long
            return values
        for place, value in enumerate(values):
            if value is None:
                raise DataError(
                    f"column {name!r} has no value in {self.row_repr(int(rows[place]))}, and a batch needs one of every row; "
                    "fill it with a transform (of a DataBlock), leave such rows out, or the column with columns=[...]"
                )
        try:
            return collate(values)
        except DataError as error:
            raise DataError(f"column {name!r}: {error}") from error


_LANES, _TRACKS, _MOST_LANES = 8, 4, 1 << 20
_PARTS_LOOKED_INTO = 32
_COLLATED = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float32}


def _shares(num: int, weights: Indices) -> Indices:
    """Divides a number in proportion to weights, none to a weight of 0; none gets more than its weight if the sum is enough."""
    ends = np.cumsum(weights)
    return np.diff(ends * num // max(1, int(ends[-1])), prepend=0)


def _drawn(begin: int, size: int, num: int) -> Indices:
    """Returns one number of each of `num` equal parts of begin, ..., begin + size - 1."""
    edges = begin + np.arange(num + 1) * size // num
    keys = sample_keys(seed=0, epoch=0, samples=edges[:-1])
    return edges[:-1] + (keys % np.diff(edges).astype(np.uint64)).astype(np.int64)


def _megabytes(size: float) -> str:
    return f"{size / 2**20:,.4g} MiB"


class _Kept(Generic[K, T]):
    """What was used last, as many as fit into a number of bytes; the newest always.

    Args:
        num_bytes: how many.
        forget: is told what is no longer held.
        choose: which of the keys, those used longest ago first, goes next.
    """

    def __init__(
        self,
        num_bytes: int,
        forget: Callable[[T], object] = lambda value: None,
        choose: Callable[[Iterable[K]], K] = lambda keys: next(iter(keys)),
    ) -> None:
        self.num_bytes, self.used, self.forget, self.choose = num_bytes, 0, forget, choose
        self.values: OrderedDict[K, tuple[T, int]] = OrderedDict()

    def get(self, key: K) -> T | None:
        found = self.values.get(key)
        if found is None:
            return None
        self.values.move_to_end(key)
        return found[0]

    def make_room(self, num_bytes: int) -> None:
        while self.values and self.used + num_bytes > self.num_bytes:
            value, size = self.values.pop(self.choose(self.values))
            self.used -= size
            self.forget(value)

    def put(self, key: K, value: T, num_bytes: int) -> None:
        _, replaced = self.values.pop(key, (None, 0))
        self.used -= replaced
        self.make_room(num_bytes)
        self.values[key] = value, num_bytes
        self.used += num_bytes


class _RowGroups:
    """The columns of row groups that a process holds, the files it has open, and what it found to be bad.

    What the coming batches need is known: so it is read as early as there is room for it, and what is needed last, or no more,
    is forgotten first. Once something is expected, one thread does all the reading: files are not read by two at a time.
    """

    def __init__(self, groups: ParquetFiles, num_bytes: int) -> None:
        self.process = os.getpid()
        self.groups = groups
        self.decoded: _Kept[tuple[int, str], _Column] = _Kept(num_bytes, choose=self._needed_last)
        self.opened: _Kept[int, Any] = _Kept(_BYTES_OF_FOOTERS, lambda opened: opened.close())
        self.bad: dict[int, str] = {}
        self.thread: ThreadPoolExecutor | None = None
        self.under_way: dict[int, Future[Any]] = {}
        self.now: list[int] = []  # what the batch that is being made still needs
        self.coming: deque[tuple[int, ...]] = deque(maxlen=_MOST_COMING)  # what each batch needs that was announced
        self.said, self.found = 1, 1  # bytes by the footers of what was read, and in memory

    def begin(self, batch: tuple[int, ...]) -> list[int]:
        """Returns a batch's row groups in the order to ask for them now: those needed no more come first, to make room."""
        if batch in self.coming:  # those before it were announced by somebody who never came
            while self.coming.popleft() != batch:
                pass
        later = set(itertools.chain(*self.coming))
        self.now = sorted(batch, key=later.__contains__)
        return list(self.now)

    def column(self, group: int, name: str) -> _Column:
        found = self.decoded.get((group, name))
        return self.columns(group, [name])[name] if found is None else found

    def columns(self, group: int, names: Sequence[str]) -> dict[str, _Column]:
        """Returns columns of a row group; reads those that are not held, in one go."""
        self._keep_what_came()
        if group in self.under_way:
            with suppress(DataError):  # of a store that failed then; now it is asked again
                self._keep(group, self.under_way.pop(group).result)
        if group in self.bad:  # found out once: each of its rows would read it again
            raise BadSampleError(self.bad[group])
        found = {name: self.decoded.get((group, name)) for name in names}
        if lacking := [name for name, column in found.items() if column is None]:
            self._make_room(group, lacking)
            if self.thread is None:
                kept = self._keep(group, lambda: self._read(group, lacking))
            else:
                kept = self._keep(group, self.thread.submit(self._read, group, lacking).result)
            found.update(kept)
        if group in self.now:
            self.now.remove(group)
        return found  # type: ignore[return-value]  # what was None was read

    def expect(self, batch: tuple[int, ...], names: Sequence[str]) -> None:
        """Begins to read the row groups of a batch that is soon asked for, once there is room beside what is needed sooner."""
        self.coming.append(batch)
        self._keep_what_came()

        def held(group: int) -> bool:
            return group in self.under_way or all((group, name) in self.decoded.values for name in names)

        room, needed = self.decoded.num_bytes, self._needed()
        for group in sorted(needed, key=lambda group: (needed[group], not held(group))):
            room -= self._size(group, names)
            if room < 0:
                return
            if not held(group) and group not in self.bad:
                self._make_room(group, names)
                self.thread = self.thread or ThreadPoolExecutor(1, thread_name_prefix="parquet")
                self.under_way[group] = self.thread.submit(self._read, group, names)

    def _needed(self) -> dict[int, int]:
        """Returns which row groups are needed, and in how many batches from now."""
        needed: dict[int, int] = {}
        for number, batch in enumerate((self.now, *self.coming)):
            for group in batch:
                needed.setdefault(group, number)
        return needed

    def _needed_last(self, keys: Iterable[tuple[int, str]]) -> tuple[int, str]:
        needed = self._needed()
        for key in keys:
            if key[0] not in needed:
                return key
        return max(keys, key=lambda key: needed[key[0]])

    def _size(self, group: int, names: Sequence[str]) -> int:
        """Returns about how many bytes columns take: the footers count repeated values once, in memory each is there."""
        part = len(names) / len(self.groups.names)
        return int(self.groups.num_bytes[group] * part * max(1.0, self.found / self.said))

    def _make_room(self, group: int, names: Sequence[str]) -> None:
        """Forgets what must go before a row group is read, so that the two are never held together."""
        coming = sum(self._size(each, self.groups.names) for each in self.under_way)
        self.decoded.make_room(coming + self._size(group, names))

    def _keep_what_came(self) -> None:
        for group in [group for group, reading in self.under_way.items() if reading.done()]:
            with suppress(DataError):  # it comes up again if the row group is asked for; until then a store may recover
                self._keep(group, self.under_way.pop(group).result)

    def _keep(self, group: int, result: Callable[[], Any]) -> dict[str, _Column]:
        """Returns the columns of a table that was read, which are held from now on."""
        try:
            table = result()
        except BadSampleError as error:
            self.bad[group] = str(error)
            raise
        columns: dict[str, _Column] = {}
        self.said += int(self.groups.num_bytes[group] * table.num_columns / len(self.groups.names))
        for name, chunks in zip(table.column_names, table.columns, strict=True):
            columns[name], size = _column(chunks), chunks.nbytes
            self.found += size
            self.decoded.put((group, name), columns[name], size + _OVERHEAD)
        return columns

    def _read(self, group: int, names: Sequence[str]) -> Any:
        file = int(self.groups.file_of[group])
        opened = self.opened.get(file)
        if opened is None:
            opened = self.groups.opened(group)
            # In memory a footer is several times as large as in the file; 32 KiB are the file's buffers.
            self.opened.put(file, opened, 8 * opened.metadata.serialized_size + (32 << 10))
        return self.groups.read(opened, group, names)


_BYTES_OF_FOOTERS = 16 << 20
_MOST_COMING = 64  # batches
_OVERHEAD = 1 << 10  # bytes of the objects around a column


class _Numbers:
    """A column of numbers, of yes and no, or of lists of numbers of one length, without missing ones."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values

    def item(self, row: int) -> Any:
        # A copy: a view would keep the whole column.
        return self.values[row].item() if self.values.ndim == 1 else self.values[row].copy()

    def take(self, rows: Indices) -> npt.NDArray[Any]:
        return self.values[rows]


class _Lists:
    """A column of lists of numbers of any length, none missing: the values end to end, and where each list begins."""

    def __init__(self, values: npt.NDArray[Any], begins: list[int]) -> None:
        self.values, self.begins = values, begins

    def item(self, row: int) -> npt.NDArray[Any]:
        return self.values[self.begins[row] : self.begins[row + 1]].copy()

    def take(self, rows: Indices) -> list[Any]:
        return [self.item(row) for row in rows.tolist()]


class _Texts:
    """A column of texts or bytes, none missing: all bytes end to end, and where each value begins."""

    def __init__(self, content: memoryview, begins: npt.NDArray[Any], *, is_text: bool) -> None:
        self.content, self.begins, self.is_text = content, begins, is_text

    def item(self, row: int) -> str | bytes:
        return self.take(np.array([row]))[0]

    def take(self, rows: Indices) -> list[Any]:
        content, places = self.content, zip(self.begins[rows].tolist(), self.begins[rows + 1].tolist(), strict=True)
        if self.is_text:
            return [str(content[begin:end], "utf-8") for begin, end in places]
        return [bytes(content[begin:end]) for begin, end in places]


class _Coded:
    """A column of few values, each held once, and which of them each row has."""

    def __init__(self, codes: npt.NDArray[Any], values: _Column) -> None:
        self.codes, self.values = codes, values

    def item(self, row: int) -> Any:
        return self.values.item(int(self.codes[row]))

    def take(self, rows: Indices) -> Any:
        return self.values.take(self.codes[rows])


class _Arrow:
    """A column of anything else."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def item(self, row: int) -> Any:
        return self.values[row].as_py()

    def take(self, rows: Indices) -> list[Any]:
        return [self.values[row].as_py() for row in rows.tolist()]


_Column: TypeAlias = "_Numbers | _Lists | _Texts | _Coded | _Arrow"


def _column(chunked: Any) -> _Column:
    array = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
    return (
        _column_of(array) if hasattr(array, "buffers") else _Arrow(array)
    )  # above 2 GiB, text stays in several chunks


def _column_of(array: Any) -> _Column:
    from pyarrow import types

    kind = array.type
    if array.null_count == 0:
        if types.is_dictionary(kind):
            return _Coded(array.indices.to_numpy().astype(np.int64), _column_of(array.dictionary))
        is_text = types.is_string(kind) or types.is_large_string(kind)
        if is_text or types.is_binary(kind) or types.is_large_binary(kind):
            _, begins, content = array.buffers()
            if begins is not None and content is not None:  # as they are where there is something in them
                width = np.int64 if types.is_large_string(kind) or types.is_large_binary(kind) else np.int32
                places = np.frombuffer(begins, width)[array.offset : array.offset + len(array) + 1]
                return _Texts(memoryview(content), places, is_text=is_text)
        if types.is_boolean(kind) or (_is_number(kind) and not types.is_uint64(kind)):
            return _Numbers(array.to_numpy(zero_copy_only=False))
        fixed = types.is_fixed_size_list(kind) and kind.list_size > 0
        if fixed or types.is_list(kind) or types.is_large_list(kind):
            inner = array.flatten()
            if inner.null_count == 0 and _is_number(inner.type):
                values = inner.to_numpy(zero_copy_only=False)
                if fixed:
                    return _Numbers(values.reshape(-1, kind.list_size))
                return _Lists(values, list(itertools.accumulate(array.value_lengths().to_pylist(), initial=0)))
    return _Arrow(array)


def _side_by_side(num: int, parts: list[tuple[Indices, Any]], *, listed: bool = False) -> Any:
    """Returns a column from its parts: an array if all of them are such, unless it shall be a list."""
    if not listed and all(isinstance(taken, np.ndarray) and taken.ndim == 1 for _, taken in parts):
        result = np.empty(num, np.result_type(*(taken for _, taken in parts)))
        for here, taken in parts:
            result[here] = taken
        return result
    values: list[Any] = [None] * num
    for here, taken in parts:
        for place, value in zip(here.tolist(), _listed(taken), strict=True):
            values[place] = value
    return values


def _listed(taken: Any) -> list[Any]:
    if not isinstance(taken, np.ndarray):
        return taken
    return taken.tolist() if taken.ndim == 1 else list(taken)


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind)
