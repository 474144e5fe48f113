"""A checkpoint that was written: opened, verified, and read in parts by any number of ranks."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dist_ai.checkpoint.chunks import Box, Value, box_of
from dist_ai.checkpoint.manifest import Chunk, File, Manifest, Stored
from dist_ai.checkpoint.shard import as_bytes, file_header
from dist_ai.checkpoint.storage import Storage, open_storage, read
from dist_ai.core.sealed import MANIFEST
from dist_ai.distributed.sharded import is_sharded
from dist_ai.errors import ArtifactError, StorageError

__all__ = ["PIN", "Checkpoint", "write_consolidated"]

PIN = "pinned"
"""An empty file of this name in a checkpoint keeps it from being removed."""


class Checkpoint:
    """A complete checkpoint. Opening it reads the manifest only; tensors are read, and verified, when asked for.

    Args:
        storage: where it lies.
        folder: its folder there.

    Attributes:
        name: its folder's name.
        state: the plain data in it.

    Raises:
        ArtifactError: it is not there, not complete, or its manifest is damaged.
        StorageError: the storage cannot be reached.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self.name = folder
        self._where = f"checkpoint {storage.place.rstrip('/')}/{folder}"
        self.manifest = Manifest.from_json(self._read_manifest(), self._where)
        self.state: dict[str, Any] = self.manifest.state
        self._sound_headers: set[File] = set()

    @classmethod
    def open(cls, place: str | Path) -> Checkpoint:
        """Opens the checkpoint at a path or URI; see the class for what it raises."""
        parent, name = split_place(place)
        return cls(open_storage(parent), name)

    def names(self, group: str) -> list[str]:
        """Returns the names of the tensors in a group, such as ``"model"``."""
        return [name.removeprefix(f"{group}/") for name in self.manifest.tensors if name.startswith(f"{group}/")]

    def shape(self, group: str, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return self.manifest.tensors[f"{group}/{name}"].shape

    def read(
        self, group: str, like: Mapping[str, Value] | None = None, *, only: Collection[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Returns a group's tensors by name; every byte that is read is verified.

        Args:
            group: such as ``"model"``.
            like: live tensors by name, whose layout the result takes: for a DTensor, this rank's shard is read, and comes
                as a DTensor on its mesh; for a `Part`, its box. What is not named is read whole, to the CPU.
            only: names of those to read; by default all.

        Raises:
            ArtifactError: a chunk is missing or damaged, or a tensor has another shape than in `like`.
            StorageError: the storage cannot be reached.
        """
        names = [name for name in self.names(group) if only is None or name in only]
        return {name: self._read_tensor(f"{group}/{name}", (like or {}).get(name)) for name in names}

    def verify(self, rank: int = 0, world_size: int = 1) -> None:
        """Checks every byte of it, or of one rank's share of it.

        Raises:
            ArtifactError: a file is missing or damaged; the message names it.
            StorageError: the storage cannot be reached.
        """
        chunks = [
            (stored, chunk) for stored in self.manifest.tensors.values() for chunk in stored.chunks
        ]  # in an order that is the same on all ranks
        for file in self.manifest.files[rank::world_size]:
            self._check_header(file)
        for stored, chunk in chunks[rank::world_size]:
            self.read_chunk(stored, chunk)

    def strangers(self) -> list[str]:
        """Returns the names of files in its folder that are not its own; they are never read."""
        own = {f"{self.name}/{file.name}" for file in self.manifest.files} | {
            f"{self.name}/{MANIFEST}",
            f"{self.name}/{PIN}",
        }
        return sorted(path.removeprefix(f"{self.name}/") for path in self._storage.sizes(self.name) if path not in own)

    def read_chunk(self, stored: Stored, chunk: Chunk, into: torch.Tensor | None = None) -> torch.Tensor:
        """Returns a chunk's values, verified; read straight `into` a contiguous tensor of its shape, if one is given.

        Raises:
            ArtifactError, StorageError: see `read`.
        """
        self._check_header(chunk.file)
        values = torch.empty(chunk.box.shape, dtype=stored.dtype) if into is None else into
        buffer = as_bytes(values)
        self._fill(chunk.file, chunk.begin, buffer)
        if zlib.crc32(buffer) != chunk.crc32:
            raise self._damaged(chunk.file)
        return values

    def _read_tensor(self, name: str, like: Value | None) -> torch.Tensor:
        stored = self.manifest.tensors[name]
        if like is not None and tuple(like.shape) != stored.shape:
            raise ArtifactError(f"{self._where} has {name!r} in shape {stored.shape} and not {tuple(like.shape)}")
        box = Box.whole(stored.shape) if like is None else box_of(like)
        local = self._read_box(stored, box)
        if not is_sharded(like):
            return local
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            local.to(like.device), like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )

    def _read_box(self, stored: Stored, box: Box) -> torch.Tensor:
        result = torch.empty(box.shape, dtype=stored.dtype)
        for chunk in stored.chunks:
            shared = chunk.box.overlap(box) if box.numel else None
            if shared is None:
                continue
            place = result[shared.slices_in(box)]
            if shared == chunk.box and place.is_contiguous():
                self.read_chunk(stored, chunk, into=place)
            else:
                place.copy_(self.read_chunk(stored, chunk)[shared.slices_in(chunk.box)])
        return result

    def _read_manifest(self) -> bytes:
        path = f"{self.name}/{MANIFEST}"
        try:
            files = self._storage.sizes(self.name)
            if path not in files:
                if not files:
                    raise ArtifactError(f"no {self._where.replace(' ', ' at ', 1)}: it is not there")
                raise ArtifactError(f"{self._where} is not complete: {MANIFEST}, which is written last, is missing")
            return read(self._storage, path, files[path])
        except StorageError:
            raise
        except OSError as error:
            raise ArtifactError(f"{self._where} is damaged: manifest.json cannot be read: {error}") from error

    def _check_header(self, file: File) -> None:
        if file in self._sound_headers:
            return
        # One byte more than there should be would be there to read.
        tail = memoryview(bytearray(1))
        header = memoryview(bytearray(file.header_bytes))
        self._fill(file, 0, header)
        if self._read_into(file, file.num_bytes, tail):
            raise ArtifactError(f"{self._where} is damaged: {file.name} has more than its {file.num_bytes:,} bytes")
        if hashlib.sha256(header).hexdigest() != file.header_sha256:
            raise self._damaged(file)
        self._sound_headers.add(file)

    def _fill(self, file: File, begin: int, buffer: memoryview) -> None:
        if self._read_into(file, begin, buffer) < len(buffer):
            raise ArtifactError(f"{self._where} is damaged: {file.name} has less than its {file.num_bytes:,} bytes")

    def _read_into(self, file: File, begin: int, buffer: memoryview) -> int:
        # What checkpoints share lies beside their folders.
        path = file.name if "/" in file.name else f"{self.name}/{file.name}"
        try:
            return self._storage.read_into(path, begin, buffer)
        except FileNotFoundError:
            raise ArtifactError(f"{self._where} is not complete: {file.name} is missing") from None
        except StorageError:
            raise
        except OSError as error:
            raise ArtifactError(f"{self._where} is damaged: {file.name} cannot be read: {error}") from error

    def _damaged(self, file: File) -> ArtifactError:
        return ArtifactError(
            f"{self._where} is damaged: the content of {file.name} is not what was written (its checksum differs)"
        )


def split_place(place: str | Path) -> tuple[str, str]:
    """Returns the place of the folder that holds a checkpoint, and the checkpoint's name there.

    >>> split_place("s3://bucket/cats/fit-0001-done?region=eu-central-1")
    ('s3://bucket/cats?region=eu-central-1', 'fit-0001-done')
    """
    path, mark, options = str(place).partition("?") if "://" in str(place) else (str(place), "", "")
    parent, slash, name = path.rstrip("/").rpartition("/")
    return (parent or slash or ".") + mark + options, name


def write_consolidated(checkpoint: Checkpoint, path: str | Path, *, group: str = "model") -> None:
    """Writes the tensors of a group to one safetensors file, chunk by chunk: in the memory of a single chunk.

    Args:
        checkpoint: written by any number of ranks, in any layout.
        path: of the file; one that is there is replaced, in the end.
        group: which tensors.

    Raises:
        ArtifactError: the checkpoint is damaged; then there is no file.
    """
    path = Path(path)
    stored = [(name, checkpoint.manifest.tensors[f"{group}/{name}"]) for name in checkpoint.names(group)]
    stored.sort(key=lambda item: -item[1].dtype.itemsize)  # aligned, as safetensors' own files are
    header = file_header([(name, tensor.dtype, tensor.shape) for name, tensor in stored])
    begin = len(header)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(header)
            for _, tensor in stored:
                for chunk in tensor.chunks:
                    values = checkpoint.read_chunk(tensor, chunk)
                    for first, run in _runs(chunk.box, tensor.shape, values):
                        file.seek(begin + first * tensor.dtype.itemsize)
                        file.write(as_bytes(run))
                begin += tensor.num_bytes
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _runs(box: Box, shape: tuple[int, ...], values: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields the parts of a box that lie in one piece in the whole tensor, each with the number of its first element."""
    if box.shape[1:] == shape[1:]:
        row = values[0].numel() if box.shape else 1
        yield (box.offsets[0] * row if box.offsets else 0), values
        return
    row = 1
    for size in shape[1:]:
        row *= size
    for i in range(box.shape[0]):
        for first, run in _runs(Box(box.offsets[1:], box.shape[1:]), shape[1:], values[i]):
            yield (box.offsets[0] + i) * row + first, run
