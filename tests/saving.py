"""Checkpoints for tests: written by however many ranks call this, and damaged in all ways that can be thought of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dist_ai.checkpoint import Checkpoint, write_checkpoint
from dist_ai.distributed import join


def save(folder: Path, groups: Mapping[str, Mapping[str, Any]], name: str = "c", **options: Any) -> Path:
    """Writes one checkpoint to `folder`; all ranks call this. Returns its folder."""
    write_checkpoint(folder / name, groups, options.pop("state", {"value": 7}), join(), **options)
    return folder / name


def shards(checkpoint: Path) -> list[Path]:
    """Returns the files with tensors in a checkpoint's folder."""
    return sorted(checkpoint.glob("*.safetensors"))


def flip(file: Path, position: int, bit: int = 0) -> None:
    """Flips one bit of a file; a negative position counts from its end."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def damage(checkpoint: Path) -> None:
    """Flips the last bit of the last value."""
    flip(shards(checkpoint)[-1], -1)


def read_all(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Returns all tensors of a checkpoint by group."""
    found = Checkpoint.open(checkpoint)
    groups = dict.fromkeys(name.partition("/")[0] for name in found.manifest.tensors)
    return {group: found.read(group) for group in groups}


def _truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def _shard(damage: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    return lambda checkpoint, _: damage(shards(checkpoint)[0])


def _manifest(damage: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    return lambda checkpoint, _: damage(checkpoint / "manifest.json")


def _length(file: Path) -> int:
    return file.stat().st_size


# What befalls a checkpoint; the second argument is another, sound one. With each, the file that must be named.
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "length of a header": (_shard(lambda file: flip(file, 0)), "rank-00000"),
    "length of a header, huge": (_shard(lambda file: flip(file, 7, bit=7)), "rank-00000"),
    "opening brace of a header": (_shard(lambda file: flip(file, 8)), "rank-00000"),
    "inside a header": (_shard(lambda file: flip(file, 40)), "rank-00000"),
    "first value": (_shard(lambda file: flip(file, 8 + int.from_bytes(file.read_bytes()[:8], "little"))), "rank-00000"),
    "last value": (_shard(lambda file: flip(file, -1, bit=7)), "rank-00000"),
    "shard cut by a byte": (_shard(lambda file: _truncate(file, _length(file) - 1)), "rank-00000"),
    "shard cut in its header": (_shard(lambda file: _truncate(file, 20)), "rank-00000"),
    "shard emptied": (_shard(lambda file: _truncate(file, 0)), "rank-00000"),
    "shard longer by a byte": (_shard(lambda file: file.write_bytes(file.read_bytes() + b"\0")), "rank-00000"),
    "shard missing": (_shard(lambda file: file.unlink()), "rank-00000"),
    "shard of another checkpoint": (
        lambda checkpoint, other: shards(checkpoint)[0].write_bytes(shards(other)[0].read_bytes()),
        "rank-00000",
    ),
    "shard a folder": (_shard(lambda file: (file.unlink(), file.mkdir())), "rank-00000"),
    "manifest, first byte": (_manifest(lambda file: flip(file, 0)), "manifest.json"),
    "manifest, a digit": (
        _manifest(lambda file: flip(file, file.read_bytes().index(b'"chunks"') + 12)),
        "manifest.json",
    ),
    "manifest, its own digest": (
        _manifest(lambda file: flip(file, file.read_bytes().index(b'"digest"') + 14)),
        "manifest.json",
    ),
    "manifest, last byte": (_manifest(lambda file: flip(file, -1)), "manifest.json"),
    "manifest, not text": (_manifest(lambda file: flip(file, 30, bit=7)), "manifest.json"),
    "manifest cut": (_manifest(lambda file: _truncate(file, _length(file) // 2)), "manifest.json"),
    "manifest emptied": (_manifest(lambda file: _truncate(file, 0)), "manifest.json"),
    "manifest missing": (_manifest(lambda file: file.unlink()), "manifest.json"),
    "manifest of another checkpoint": (
        lambda checkpoint, other: (checkpoint / "manifest.json").write_bytes((other / "manifest.json").read_bytes()),
        "rank-00000",
    ),
    "manifest of something else": (_manifest(lambda file: file.write_text('{"kind": "export"}\n')), "manifest.json"),
}
