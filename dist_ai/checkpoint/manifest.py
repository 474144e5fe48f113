"""The manifest of a checkpoint: the one file that says what it holds, written last.

```
manifest.json   format  kind  written (UTC)  world_size
                state     plain data
                files     name, bytes, and of the safetensors header its bytes and SHA-256
                tensors   name -> dtype, shape, chunks: [number of the file, first byte, offsets, shape, CRC-32]
                digest    SHA-256 of all of this
```

Each chunk has a checksum of its own: a rank that reads a part of a checkpoint verifies what it reads, and no more. They are
CRC-32, which shows damage as well as SHA-256 does and costs a tenth of it; neither would stop a forger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dist_ai.checkpoint.chunks import Box
from dist_ai.core.sealed import sign, unsign
from dist_ai.errors import ArtifactError

__all__ = ["DTYPES", "Chunk", "File", "Manifest", "Stored"]

# safetensors' names. It has none for complex128 and quantised numbers.
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}

_FORMAT = 2
_KIND = "checkpoint"
# Files of the checkpoint's own folder, or of the folder that checkpoints share; nothing above or elsewhere.
_FILE_NAME = re.compile(r"(history/)?[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")


@dataclass(frozen=True)
class File:
    """A safetensors file: its name, its size, and the size and digest of its header (with the 8 bytes before it)."""

    name: str
    num_bytes: int
    header_bytes: int
    header_sha256: str


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor that lies in one piece in a file."""

    file: File
    begin: int
    box: Box
    crc32: int


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored: chunks that make it up without gap or overlap."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the whole tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        written: when, in UTC, ISO 8601.
        world_size: how many ranks wrote it.
        state: plain data.
        tensors: by name.
    """

    written: str
    world_size: int
    state: dict[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def files(self) -> list[File]:
        """The files that it needs, each once."""
        return list(dict.fromkeys(chunk.file for stored in self.tensors.values() for chunk in stored.chunks))

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(stored.num_bytes for stored in self.tensors.values())

    def to_json(self) -> bytes:
        """Returns the file's content."""
        files = self.files
        number = {file: i for i, file in enumerate(files)}
        content = {
            "format": _FORMAT,
            "kind": _KIND,
            "written": self.written,
            "world_size": self.world_size,
            "state": self.state,
            "files": [[file.name, file.num_bytes, file.header_bytes, file.header_sha256] for file in files],
            "tensors": {
                name: {
                    "dtype": dtype_name(stored.dtype),
                    "shape": stored.shape,
                    "chunks": [
                        [number[chunk.file], chunk.begin, chunk.box.offsets, chunk.box.shape, chunk.crc32]
                        for chunk in stored.chunks
                    ],
                }
                for name, stored in self.tensors.items()
            },
        }
        return sign(content).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Manifest:
        """Returns the manifest that `to_json` wrote.

        Raises:
            ArtifactError: it is damaged, or of another format; the message begins with `where`.
        """
        content = unsign(text)
        if content is None or content.get("kind") != _KIND:
            raise ArtifactError(f"{where} is damaged: manifest.json is not what was written")
        if content.get("format") != _FORMAT:
            raise ArtifactError(
                f"{where} has format {content.get('format')}, and this dist_ai reads {_FORMAT}; use the version that wrote it"
            )
        try:
            return _from_plain(content)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ArtifactError(f"{where} was not written by dist_ai: in manifest.json, {error}") from error


def dtype_name(dtype: torch.dtype) -> str:
    """Returns safetensors' name of a dtype.

    Raises:
        KeyError: it has none.
    """
    return _NAMES[dtype]


_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def _from_plain(content: Mapping[str, Any]) -> Manifest:
    # Its digest shows damage, but anybody can make one: what it says is checked before memory is taken for it.
    files = [File(str(name), int(size), int(header), str(sha256)) for name, size, header, sha256 in content["files"]]
    for file in files:
        if not _FILE_NAME.fullmatch(file.name):
            raise ValueError(f"{file.name!r} is no name of a file of a checkpoint")
    tensors = {}
    taken = dict.fromkeys(files, 0)
    for name, plain in content["tensors"].items():
        shape, dtype = _sizes(plain["shape"]), DTYPES[plain["dtype"]]
        chunks = []
        for number, begin, offsets, sizes, crc32 in plain["chunks"]:
            box = Box(_sizes(offsets), _sizes(sizes))
            chunk = Chunk(files[number], int(begin), box, int(crc32))
            num_bytes = box.numel * dtype.itemsize
            if not (chunk.file.header_bytes <= begin <= chunk.file.num_bytes - num_bytes):
                raise ValueError(f"a chunk of {name!r} lies outside its file")
            if len(sizes) != len(shape) or len(offsets) != len(shape) or Box.whole(shape).overlap(box) != box:
                raise ValueError(f"a chunk of {name!r} lies outside the tensor")
            taken[chunk.file] += num_bytes
            chunks.append(chunk)
        if sum(chunk.box.numel for chunk in chunks) != math.prod(shape):
            raise ValueError(f"the chunks of {name!r} do not make up the tensor")
        tensors[name] = Stored(dtype, shape, tuple(chunks))
    for file in files:
        if not file.name.startswith("history/") and file.header_bytes + taken[file] != file.num_bytes:
            raise ValueError(f"{file.name} holds what no tensor is made of")
    return Manifest(str(content["written"]), int(content["world_size"]), dict(content["state"]), tensors)


def _sizes(values: Sequence[int]) -> tuple[int, ...]:
    if any(type(value) is not int or value < 0 for value in values):
        raise ValueError(f"{values} are no sizes")
    return tuple(values)
