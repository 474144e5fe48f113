"""Sealed directories: complete or absent, and verified when read.

Checkpoints and exports are directories of safetensors and JSON files with a `manifest.json` that holds the size and
SHA-256 of each. They are written beside their final place and renamed into it when the manifest is on disk, so a
process killed at any instruction leaves the old directory or the new one, never a part of one. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dist_ai.errors import ArtifactError, ConfigError

__all__ = [
    "MANIFEST",
    "check_replaceable",
    "open_sealed",
    "remove_sealed",
    "remove_unsealed",
    "seal",
    "sign",
    "sync",
    "unsign",
]

MANIFEST = "manifest.json"
_FORMAT = 1
_PARTIAL = ".partial-"
_ASIDE = ".replaced"
_ATTEMPTS = 10


@contextlib.contextmanager
def seal(directory: str | Path, kind: str, files: Collection[str] | None = None) -> Iterator[Path]:
    """Gives a folder to write files into, and puts it in place of `directory` when the block ends without error.

    Args:
        directory: where it shall stand; an earlier one of the kind is replaced.
        kind: what it holds (``"checkpoint"``, ``"export"``), checked when it is opened.
        files: names of what will be written, if that is known: then what is in the way is refused before the block.

    Raises:
        ConfigError: something else stands there, which replacing would delete.
    """
    directory = Path(directory)
    check_replaceable(directory, kind, files)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(directory)
    partial.mkdir()
    try:
        yield partial
        written = {}
        for path in sorted(partial.iterdir()):
            sync(path)
            written[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        (partial / MANIFEST).write_text(sign({"format": _FORMAT, "kind": kind, "files": written}, indent=2))
        sync(partial / MANIFEST)
        sync(partial)
        check_replaceable(directory, kind, written)  # again: a long write is time enough to put something there
        _put_in_place(partial, directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_sealed(directory: str | Path, kind: str) -> Path:
    """Returns `directory` as a Path after checking that it is a complete, undamaged `kind`.

    Raises:
        ArtifactError: it is missing, of another kind, incomplete or changed; the message names the file.
    """
    directory = Path(directory)
    _put_back(directory)
    if not directory.is_dir():
        raise ArtifactError(f"no {kind} at {directory}: it is {'a file' if directory.exists() else 'not there'}")
    manifest = _read_manifest(directory, kind)
    for name, facts in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise ArtifactError(f"{kind} {directory} is incomplete: {name} is missing; copy or make it again")
        if path.stat().st_size != facts["bytes"]:
            raise ArtifactError(
                f"{kind} {directory} is damaged: {name} has {path.stat().st_size:,} bytes and should have "
                f"{facts['bytes']:,}; copy or make it again"
            )
        if _sha256(path) != facts["sha256"]:
            raise ArtifactError(
                f"{kind} {directory} is damaged: the content of {name} is not what was written (its SHA-256 differs); "
                "copy or make it again"
            )
    return directory


def check_replaceable(directory: str | Path, kind: str, files: Collection[str] | None = None) -> None:
    """Refuses to replace what is no earlier `kind`: a mistyped place must cost neither work nor a checkpoint.

    Args:
        directory: what would be replaced.
        kind: what would stand there.
        files: names of what would be in it; None if they are not known yet, for a look at what is there as a whole.

    Raises:
        ConfigError: something else stands there, or something beside it.
    """
    directory = Path(directory)
    if not directory.exists():
        return
    manifest = unsign(sealed.read_bytes(), indent=2) if (sealed := directory / MANIFEST).is_file() else None
    if manifest is not None and manifest.get("kind", kind) != kind:
        raise ConfigError(
            f"writing the {kind} to {directory} would delete the {manifest['kind']} there; choose another place or move "
            "that away"
        )
    if not directory.is_dir():
        foreign = [directory.name]
    elif files is None:
        return
    else:
        # Of a damaged one the manifest says nothing; it has the files of a new one.
        known = {MANIFEST, *files, *(manifest or {}).get("files", ())}
        foreign = sorted({each.name for each in directory.iterdir()} - known)
    if foreign:
        raise ConfigError(
            f"writing the {kind} to {directory} would delete what is there and is none ({', '.join(foreign[:3])}); "
            "choose another place or move that away"
        )


def remove_sealed(directory: str | Path) -> None:
    """Removes a sealed directory; a process killed meanwhile leaves nothing that looks like a damaged one."""
    directory = Path(directory)
    _discard(_aside(directory))  # first: what stands aside would be put back
    _discard(directory)


def remove_unsealed(parent: str | Path) -> None:
    """Removes what killed processes left half-written in `parent`, and puts back what they were replacing.

    Call it while nobody writes there.
    """
    parent = Path(parent)
    if not parent.is_dir():
        return
    for aside in parent.glob(f".*{_ASIDE}"):
        _put_back(parent / aside.name[1 : -len(_ASIDE)])
        _discard(aside)
    for path in parent.glob(f".*{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def sign(content: dict[str, Any], *, indent: int | None = None) -> str:
    """Returns plain data as JSON with a digest of itself, so that a change of any byte shows.

    It tells damage, not forgery: who can write the file can write the digest.

    >>> unsign(sign({"a": 1}).encode())["a"]
    1
    """
    content = {key: value for key, value in content.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "digest": digest}, indent=indent, sort_keys=True) + "\n"


def unsign(text: bytes, *, indent: int | None = None) -> dict[str, Any] | None:
    """Returns what `sign` wrote, with the same `indent`; None if a byte of it differs."""
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested without end
        return None
    return content if isinstance(content, dict) and text == sign(content, indent=indent).encode() else None


def _partial(directory: Path) -> Path:
    whole = Path(os.path.abspath(directory))  # "." has no name of its own
    return whole.with_name(f".{whole.name}{_PARTIAL}{uuid.uuid4().hex[:8]}")


def _aside(directory: Path) -> Path:
    whole = Path(os.path.abspath(directory))
    return whole.with_name(f".{whole.name}{_ASIDE}")


def _put_in_place(partial: Path, directory: Path) -> None:
    # POSIX cannot swap two folders in one step: the old one steps aside first. A kill between the two renames
    # leaves it aside, and `open_sealed` puts it back.
    aside = _aside(directory)
    _put_back(directory)
    _discard(aside)
    for attempt in range(_ATTEMPTS):
        if directory.exists():
            directory.rename(aside)
        try:
            partial.rename(directory)
            break
        except OSError:  # a reader came between the two renames and put the old one back
            if attempt == _ATTEMPTS - 1 or not directory.exists():
                raise
    _discard(aside)


def _put_back(directory: Path) -> None:
    aside = _aside(directory)
    if aside.is_dir() and not directory.exists():
        try:
            aside.rename(directory)
        except OSError:  # another process was first, or the writer put the new one there
            if not directory.exists():
                raise


def _discard(path: Path) -> None:
    """Removes a folder, if it is there, by renaming it first: a kill in the middle leaves no part of it behind."""
    doomed = _partial(path)
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return
    if doomed.is_symlink():
        doomed.unlink()
    else:
        shutil.rmtree(doomed, ignore_errors=True)


def _read_manifest(directory: Path, kind: str) -> dict[str, Any]:
    path = directory / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{directory} is not a complete {kind}: {MANIFEST}, which is written last, is missing")
    damaged = ArtifactError(f"{kind} {directory} is damaged: {MANIFEST} is not what was written; copy or make it again")
    # The manifest vouches for the files; its own digest, over the exact bytes, vouches for it.
    manifest = unsign(path.read_bytes(), indent=2)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        raise damaged
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{directory} is of the kind {manifest.get('kind')!r}, not {kind!r}")
    if manifest.get("format") != _FORMAT:
        raise ArtifactError(
            f"{kind} {directory} has format {manifest.get('format')}, and this dist_ai reads {_FORMAT}; "
            "use the version that wrote it, or write it again"
        )
    if any(Path(name).name != name for name in manifest["files"]):
        raise ArtifactError(f"{kind} {directory} names files outside itself; it was not written by dist_ai")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until the file or folder is on disk: a rename must not overtake the content in a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
