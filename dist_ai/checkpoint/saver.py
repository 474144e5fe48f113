"""Writes checkpoints beside the training: it waits for a copy to host memory, and a thread does the rest.

```
 every rank, in the loop      deal out who writes what ─ copy that to host memory            the stall
 every rank, in a thread      checksums ─ write its shard ─ tell rank 0 what it wrote           one save at a time,
 rank 0, in its thread        write the manifest ─ remove what is no longer kept             over a gloo group of its own
 every rank, in its thread    hear that the checkpoint is complete, or why it is not
```

Until the manifest is there, nobody takes the folder for a checkpoint. Where any rank fails, all remove what they wrote,
the training goes on, and the older checkpoints stay.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dist_ai.checkpoint.checkpoint import Checkpoint, split_place
from dist_ai.checkpoint.chunks import Box, Growing, Piece, Value, deal_out, kind_of
from dist_ai.checkpoint.manifest import Chunk, File, Manifest, Stored
from dist_ai.checkpoint.run import HISTORY, Run
from dist_ai.checkpoint.shard import HostBuffer, Shard
from dist_ai.core.sealed import MANIFEST
from dist_ai.distributed.collectives import Collectives, beside, gather_json
from dist_ai.errors import DistAIError, StorageError

__all__ = ["Saver", "ranks_for_saving", "write_checkpoint"]

_MAX_CHUNK_BYTES = 64 * 2**20
# A rank waits so long for the slowest one to write its shard. It is in nobody's way meanwhile.
_TIMEOUT_S = 3600.0


def ranks_for_saving(collectives: Collectives) -> Collectives:
    """Returns exchanges between the ranks for a `Saver` to use beside the training. Collective."""
    return beside(collectives, "checkpoint", timeout_s=_TIMEOUT_S)


def write_checkpoint(
    place: str | Path,
    groups: Mapping[str, Mapping[str, Value]],
    state: Mapping[str, Any],
    collectives: Collectives,
    *,
    max_chunk_bytes: int = _MAX_CHUNK_BYTES,
) -> None:
    """Writes one checkpoint by itself, and waits until it is complete. Collective.

    Args:
        place: of its folder, a path or a URI; a checkpoint that is there is replaced when this one is complete.
        groups, state, max_chunk_bytes: see `Saver`.
        collectives: the ranks.

    Raises:
        ConfigError: a rank does not see what another writes there.
        StorageError: it could not be written; the message says why.

    >>> from dist_ai.distributed import join
    >>> write_checkpoint("half-way", {"model": {"w": torch.ones(2)}}, {"epoch": 3}, join())
    >>> found = Checkpoint.open("half-way")
    >>> found.state, found.read("model")
    ({'epoch': 3}, {'w': tensor([1., 1.])})
    """
    parent, name = split_place(place)
    run = Run(Path(parent), parent)
    run.check_shared(collectives)
    saver = Saver(run, collectives, max_chunk_bytes=max_chunk_bytes)
    saver.save(name, groups, state)
    if problem := saver.outcome():
        raise StorageError(f"{name} could not be written to {run.storage.place}: {problem}")


class Saver:
    """Saves checkpoints of all ranks to a run, one at a time. Making it and saving are collective.

    Args:
        run: the run, open on rank 0.
        collectives: the ranks; while it saves, these exchanges are its own (see `ranks_for_saving`).
        max_chunk_bytes: of the chunks that tensors are cut into; reading takes that much memory beside the tensor.
    """

    def __init__(self, run: Run, collectives: Collectives, *, max_chunk_bytes: int = _MAX_CHUNK_BYTES) -> None:
        self._run = run
        self._ranks = collectives
        self._max_chunk_bytes = max_chunk_bytes
        # File names differ between attempts: what a killed one left cannot be taken for a part of this one's.
        self._token = self._ranks.broadcast_json(uuid.uuid4().hex[:8], what="name of checkpoint files")
        self._count = 0
        self._buffer, self._history_buffer = HostBuffer(), HostBuffer()
        self._history: dict[str, list[Chunk]] = {}
        self._name = ""
        self._last = ""  # the name of the last complete checkpoint
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written on this rank."""
        return self._thread is not None and self._thread.is_alive()

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Shares the rows of `Growing` values that `checkpoint` has with those that are saved next."""
        self._last = checkpoint.name
        self._history = {
            name: list(stored.chunks)
            for name, stored in checkpoint.manifest.tensors.items()
            if stored.chunks and all(chunk.file.name.startswith(HISTORY) for chunk in stored.chunks)
        }

    def save(self, name: str, groups: Mapping[str, Mapping[str, Value | Growing]], state: Mapping[str, Any]) -> None:
        """Begins to write a checkpoint, once the one before it is done; what is saved may change as soon as this returns.

        Args:
            name: of the checkpoint; one that has it is replaced when this one is complete.
            groups: tensors by group and name, the same names on all ranks.
            state: plain data; rank 0's counts.

        Raises:
            ConfigError: a tensor is of a dtype that cannot be written.
            TypeError: the state is no plain data.
            CollectiveError: the save before it failed because a rank is gone.
        """
        self.wait()
        values = {f"{group}/{key}": value for group, tensors in groups.items() for key, value in tensors.items()}
        world = self._ranks.world
        plain = {key: value for key, value in values.items() if not isinstance(value, Growing)}
        pieces = deal_out(plain, world.rank, world.world_size, max_bytes=self._max_chunk_bytes)
        self._count += 1
        job = _Job(
            name=name,
            state=json.loads(json.dumps(state)),  # as it is now: the training changes it
            file_name=f"rank-{world.rank:05d}-of-{world.world_size:05d}.{self._token}-{self._count}.safetensors",
            shard=Shard(pieces, self._buffer),
            written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        if world.is_main:
            job.shapes = {key: kind_of(value) for key, value in plain.items()}
            self._take_history(job, {key: value for key, value in values.items() if isinstance(value, Growing)})
        self._name, self._problem, self._error = name, "", None
        self._thread = threading.Thread(target=self._work, args=(job,), name=f"save {name}")
        self._thread.start()

    def wait(self) -> None:
        """Waits until the checkpoint under way, if there is one, is complete on all ranks, or is given up.

        One that could not be written is told in a warning on rank 0; the training goes on.

        Raises:
            CollectiveError: a rank is gone.
        """
        problem = self.outcome()
        if problem and self._ranks.world.is_main:
            left = f"the last complete one is {self._last}" if self._last else "there is none before it"
            warnings.warn(
                f"{self._name} could not be written to {self._run.storage.place}: {problem}. The training goes on; {left}",
                stacklevel=3,
            )

    def outcome(self) -> str:
        """Waits, as `wait` does, and returns why the checkpoint could not be written, or ""; it is told once.

        Raises:
            CollectiveError: a rank is gone.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        problem, self._problem = self._problem, ""
        return problem

    def _take_history(self, job: _Job, values: Mapping[str, Growing]) -> None:
        """Copies the rows that no earlier checkpoint has written.

        Rows lie in segments, each in one file, and a new one takes in those before it that are not longer: so there
        are at most log2(rows) of them, and a row is written anew that often.
        """
        pieces = []
        for name, value in values.items():
            segments = list(self._history.get(name, []))
            if segments and segments[-1].box.offsets[0] + segments[-1].box.shape[0] > len(value.rows):
                segments = []  # it began anew
            start = segments[-1].box.offsets[0] + segments[-1].box.shape[0] if segments else 0
            if start < len(value.rows):
                while segments and segments[-1].box.shape[0] <= len(value.rows) - start:
                    start = segments.pop().box.offsets[0]
                tensor = torch.tensor(value.rows[start:], dtype=value.dtype)
                pieces.append(Piece(name, (len(value.rows),), Box((start,), tuple(tensor.shape)), tensor))
            job.history[name] = segments
            job.shapes[name] = (value.dtype, (len(value.rows),))
        if pieces:
            job.history_shard = Shard(pieces, self._history_buffer)

    def _work(self, job: _Job) -> None:
        try:
            self._problem = self._write(job)
        except BaseException as error:
            self._error = error

    def _write(self, job: _Job) -> str:
        """Writes a checkpoint with the other ranks; returns why it could not be written, or ""."""
        storage, what = self._run.storage, f"checkpoint {job.name}"
        report: dict[str, Any] = {"file": None, "chunks": [], "problem": ""}
        try:
            if job.shard.num_tensors:
                file, chunks = job.shard.write(storage, job.name, job.file_name)
                report["file"] = [file.name, file.num_bytes, file.header_bytes, file.header_sha256]
                report["chunks"] = [[c.name, c.begin, c.box.offsets, c.box.shape, c.crc32] for c in chunks]
        except Exception as error:  # whatever it is, the others must not wait for this rank's report
            report["problem"] = f"rank {self._ranks.world.rank}: {_told(error)}"
        reports = gather_json(self._ranks, report, what=what)
        problem = "; ".join(each["problem"] for each in reports if each["problem"])
        if self._ranks.world.is_main and not problem:
            problem = self._complete(job, reports)
        problem = self._ranks.broadcast_json(problem, what=what)
        if problem:
            self._undo(job)
        return problem

    def _complete(self, job: _Job, reports: Sequence[Mapping[str, Any]]) -> str:
        """Writes the manifest, which makes the checkpoint, and removes what is no longer kept; returns what went wrong."""
        storage = self._run.storage
        chunks: dict[str, list[Chunk]] = {name: [] for name in job.shapes}
        history = {name: list(segments) for name, segments in job.history.items()}
        try:
            for report in reports:
                for name, begin, offsets, shape, crc32 in report["chunks"]:
                    box = Box(tuple(offsets), tuple(shape))
                    chunks[name].append(Chunk(File(*report["file"]), begin, box, crc32))
            if job.history_shard is not None:
                file, written = job.history_shard.write(storage, "", f"{HISTORY}{job.file_name}")
                for each in written:
                    history[each.name].append(Chunk(file, each.begin, each.box, each.crc32))
            chunks |= history
            tensors = {
                name: Stored(dtype, shape, tuple(sorted(chunks[name], key=lambda chunk: chunk.box.offsets)))
                for name, (dtype, shape) in job.shapes.items()
            }
            text = Manifest(job.written, self._ranks.world.world_size, job.state, tensors).to_json()
            # Ranks that hold other tensors than rank 0 would show here, and not when it is needed.
            manifest = Manifest.from_json(text, job.name)
            storage.write(f"{job.name}/{MANIFEST}", [memoryview(text)])
        except KeyError as error:
            return f"another rank holds {error}, which rank 0 does not"
        except Exception as error:
            return f"rank 0: {_told(error)}"
        self._history, self._last = history, job.name
        self._run.tidy(job.name, manifest)
        return ""

    def _undo(self, job: _Job) -> None:
        # What cannot be removed now is when the run is opened again.
        with contextlib.suppress(OSError):
            self._run.storage.remove(f"{job.name}/{job.file_name}")
            if self._ranks.world.is_main:
                self._run.storage.remove(f"{HISTORY}{job.file_name}")
                self._run.remove_if_incomplete(job.name)


@dataclass
class _Job:
    """A checkpoint on its way to the storage; the last three are rank 0's."""

    name: str
    state: dict[str, Any]
    file_name: str
    shard: Shard
    written: str
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = field(default_factory=dict)
    history: dict[str, list[Chunk]] = field(default_factory=dict)
    history_shard: Shard | None = None


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, OSError | DistAIError) else f"{type(error).__name__}: {error}"
