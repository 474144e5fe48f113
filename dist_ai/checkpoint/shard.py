"""One rank's part of a checkpoint: copied to host memory in one go, written as one safetensors file later."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dist_ai.checkpoint.chunks import Box, Piece
from dist_ai.checkpoint.manifest import File, dtype_name
from dist_ai.checkpoint.storage import Storage
from dist_ai.errors import ConfigError

__all__ = ["HostBuffer", "Shard", "Written", "as_bytes", "file_header"]

_ALIGNMENT = 8


class HostBuffer:
    """Host memory that is used again and again: taking it anew costs as much as several copies into it."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def take(self, num_bytes: int, *, pinned: bool) -> torch.Tensor:
        """Returns `num_bytes` of it as uint8; what was there is overwritten. Pinned for copies from a GPU."""
        if len(self._memory) < num_bytes or (pinned and not self._memory.is_pinned()):
            self._memory = torch.empty(0, dtype=torch.uint8)  # the old one goes first
            self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
        return self._memory[:num_bytes]


@dataclass(frozen=True)
class Written:
    """A chunk that was written: which box of which tensor, and where in its file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    box: Box
    begin: int
    crc32: int


class Shard:
    """Pieces of tensors in host memory, in the order in which they lie in the file.

    The training may go on once this is made: what it changes is no longer looked at. On a GPU the copies run on the
    stream of the training, before what comes next there; `write` waits for them, and the training does not.

    Args:
        pieces: what to copy.
        buffer: where to.

    Raises:
        ConfigError: a tensor is of a dtype that safetensors does not have.
    """

    def __init__(self, pieces: Sequence[Piece], buffer: HostBuffer) -> None:
        # The widest dtype first: so every piece is aligned in the buffer, and a reader may map the file.
        pieces = sorted(pieces, key=lambda piece: -piece.tensor.element_size())
        sizes = [piece.tensor.numel() * piece.tensor.element_size() for piece in pieces]
        self._ends = list(itertools.accumulate(sizes, initial=0))
        self._header = file_header([(entry_name(p.name, p.shape, p.box), p.tensor.dtype, p.box.shape) for p in pieces])
        on_gpu = any(piece.tensor.is_cuda for piece in pieces)
        self._memory = buffer.take(self._ends[-1], pinned=on_gpu)
        for piece, begin, end in zip(pieces, self._ends, self._ends[1:], strict=False):
            place = self._memory[begin:end].view(piece.tensor.dtype).view(piece.tensor.shape)
            place.copy_(piece.tensor, non_blocking=True)
        self._copied = torch.cuda.Event() if on_gpu else None
        if self._copied is not None:
            self._copied.record()
        self._facts = [(p.name, p.tensor.dtype, p.shape, p.box) for p in pieces]

    @property
    def num_tensors(self) -> int:
        """How many pieces there are."""
        return len(self._facts)

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self._header) + self._ends[-1]

    def write(self, storage: Storage, folder: str, name: str) -> tuple[File, list[Written]]:
        """Writes the file to a checkpoint's folder; returns what the manifest says of it.

        Raises:
            OSError: the storage failed.
        """
        if self._copied is not None:
            self._copied.synchronize()
        content = as_bytes(self._memory)
        chunks = [content[begin:end] for begin, end in itertools.pairwise(self._ends)]
        checksums = [zlib.crc32(chunk) for chunk in chunks]
        storage.write(f"{folder}/{name}".lstrip("/"), [memoryview(self._header), content])
        file = File(name, self.num_bytes, len(self._header), hashlib.sha256(self._header).hexdigest())
        written = [
            Written(name, dtype, shape, box, len(self._header) + begin, crc32)
            for (name, dtype, shape, box), begin, crc32 in zip(self._facts, self._ends, checksums, strict=False)
        ]
        return file, written


def file_header(entries: Sequence[tuple[str, torch.dtype, tuple[int, ...]]]) -> bytes:
    """Returns the head of a safetensors file whose tensors (name, dtype, shape) lie one after the other.

    It is the length of the JSON (8 bytes, little-endian) and the JSON, padded with spaces.

    Raises:
        ConfigError: a dtype is none that such files have.
    """
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, dtype, shape in entries:
        try:
            kind = dtype_name(dtype)
        except KeyError:
            raise ConfigError(
                f"{name} is of {dtype}, which checkpoints (safetensors files) cannot hold; keep it as another dtype"
            ) from None
        end = begin + math.prod(shape) * dtype.itemsize
        content[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """Returns the memory of a contiguous tensor on the CPU, without a copy."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def entry_name(name: str, shape: tuple[int, ...], box: Box) -> str:
    """Returns what a chunk is called in its file: the tensor's name, and which part of it unless it is all.

    >>> entry_name("w", (4, 2), Box((2, 0), (2, 2)))
    'w[2:4,0:2]'
    """
    if box.shape == shape:
        return name
    return f"{name}[{','.join(f'{o}:{o + n}' for o, n in zip(box.offsets, box.shape, strict=True))}]"
