"""Archives to folders, from anybody: nothing gets out of the folder, and nothing swells without end.

What comes out is files, folders, and links that lead to something within the folder. All else is an error that names it,
and then there is no folder at all.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from dist_ai.data.cache import partial_folder
from dist_ai.errors import ConfigError, DataError

__all__ = ["ArchiveLimits", "extract", "unpack"]

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """How large what an archive holds may be: a few kilobytes can swell to fill every disk.

    Attributes:
        max_bytes: of all files together.
        max_ratio: bytes that come out for each that is in the archive; looked at beyond 64 MiB, below which the harm is small.
        max_entries: files, folders and links.
    """

    max_bytes: int = 1 << 42
    max_ratio: float = 200.0
    max_entries: int = 20_000_000

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_ratio", "max_entries"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)}: expected more than 0")


def extract(archive: str | Path, dest: str | Path, *, limits: ArchiveLimits | None = None) -> Path:
    """Returns `dest`, a new folder with what is in an archive: complete or absent.

    Args:
        archive: a zip or tar file, plain or compressed by gzip, bzip2 or xz, or one compressed file; told by its content.
        dest: the folder; nothing may be there.
        limits: by default `ArchiveLimits()`.

    Files get the usual permissions, those of a program included; owners and times are not kept.

    Raises:
        ConfigError: `dest` is there already.
        DataError: it is no archive, is damaged, or holds what must not come out; names the entry.
    """
    archive, dest = Path(archive), Path(os.path.abspath(dest))
    if dest.exists():
        raise ConfigError(
            f"{dest} is there already, and what is there is not replaced; give another folder or remove it"
        )
    with partial_folder(dest, leftovers_after_s=3600.0) as partial:
        unpack(archive, partial, limits=limits)
        partial.rename(dest)
    return dest


def unpack(
    archive: Path,
    folder: Path,
    *,
    limits: ArchiveLimits | None = None,
    still_at_work: Callable[[], None] = lambda: None,
) -> None:
    """Writes what is in an archive to an empty folder; see `extract`. An error leaves some of it there.

    Args:
        archive, limits: see `extract`.
        folder: where to.
        still_at_work: called now and then.
    """
    if not archive.is_file():
        raise DataError(f"no archive at {archive}: it is {'a folder' if archive.is_dir() else 'not there'}")
    writer = _Writer(archive, folder, limits or ArchiveLimits(), still_at_work)
    try:
        with archive.open("rb") as file:
            head = file.read(6)
        if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            _unzip(archive, writer)
        else:
            _untar(archive, head, writer)
        writer.make_links()
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,  # a compression that zipfile does not know
        RuntimeError,  # an encrypted zip file
        UnicodeError,
        OSError,
    ) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{archive} cannot be unpacked: {reason or type(error).__name__}") from error


class _Writer:
    """Writes the entries of an archive, and refuses those that must not be."""

    def __init__(self, archive: Path, folder: Path, limits: ArchiveLimits, still_at_work: Callable[[], None]) -> None:
        self.archive, self.folder, self.limits = archive, folder, limits
        self._still_at_work = still_at_work
        self._most = min(limits.max_bytes, max(_HARMLESS, int(limits.max_ratio * archive.stat().st_size)))
        self._bytes = self._entries = 0
        self._links: list[tuple[Path, str]] = []

    def spend(self, num_bytes: int) -> None:
        """Takes down bytes that came out of the archive."""
        self._bytes += num_bytes
        if self._bytes > self._most:
            size = self.archive.stat().st_size
            raise DataError(
                f"{self.archive} holds more than {self._most:,} bytes in {size:,}, which is more than a data set would: "
                f"at most {self.limits.max_bytes:,} are unpacked, and {self.limits.max_ratio:g} times its size. If you trust "
                "it, give ArchiveLimits(max_bytes=..., max_ratio=...)"
            )
        self._still_at_work()

    def place(self, name: str) -> Path | None:
        """Returns where an entry goes; None for the folder itself."""
        self._entries += 1
        if self._entries > self.limits.max_entries:
            raise DataError(
                f"{self.archive} has more than {self.limits.max_entries:,} entries; if you trust it, give "
                "ArchiveLimits(max_entries=...)"
            )
        if "\0" in name:
            raise self._refused(name, "has no possible name")
        ours, windows = PurePosixPath(name), PureWindowsPath(name)
        if ours.is_absolute() or windows.drive or windows.root or ".." in ours.parts or ".." in windows.parts:
            raise self._refused(name, "leads out of the folder")
        return None if not ours.parts else self.folder / ours

    def make_folder(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, place: Path, content: IO[bytes], *, mode: int, counted: bool) -> None:
        """Writes a file; `counted` says that the bytes of `content` are taken down where they are read."""
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with place.open("xb") as file:
                while chunk := content.read(_CHUNK):
                    if not counted:
                        self.spend(len(chunk))
                    file.write(chunk)
        except FileExistsError:
            raise self._refused(name, "comes twice") from None
        if mode & stat.S_IXUSR:
            place.chmod(place.stat().st_mode | (place.stat().st_mode & 0o444) >> 2)  # for whom it is readable

    def link(self, name: str, place: Path, target: str) -> None:
        """Takes down a link, which is made when all files are there: nothing is written through one."""
        inside = os.path.normpath(PurePosixPath(name).parent / target)
        if PurePosixPath(target).is_absolute() or PureWindowsPath(target).drive or inside.startswith(".."):
            raise self._refused(name, f"is a link out of the folder, to {target!r}")
        self._links.append((place, target))

    def make_links(self) -> None:
        for place, target in self._links:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.symlink_to(target)
            except FileExistsError:
                raise self._refused(str(place.relative_to(self.folder)), "comes twice") from None
        real = Path(os.path.realpath(self.folder))
        for place, target in self._links:  # again: a link by way of another one can lead elsewhere than it reads
            if not Path(os.path.realpath(place)).is_relative_to(real):
                raise self._refused(str(place.relative_to(self.folder)), f"is a link out of the folder, to {target!r}")

    def copy(self, name: str, place: Path, target: str) -> None:
        """Makes a hard link to a file of the archive."""
        source = self.place(target)
        if source is None or source.is_symlink() or not source.is_file():
            raise self._refused(name, f"is a link to {target!r}, which is no file before it in the archive")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, place)
        except FileExistsError:
            raise self._refused(name, "comes twice") from None

    def refuse_kind(self, name: str) -> DataError:
        return self._refused(name, "is neither a file, a folder nor a link")

    def _refused(self, name: str, why: str) -> DataError:
        return DataError(
            f"{self.archive} was not unpacked: its entry {name!r} {why}. Get it from a source that you trust"
        )


def _unzip(archive: Path, writer: _Writer) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for entry in zipped.infolist():
            place = writer.place(entry.filename)
            mode = entry.external_attr >> 16
            kind = stat.S_IFMT(mode)
            if place is None:
                continue
            if entry.is_dir():
                writer.make_folder(place)
            elif kind == stat.S_IFLNK:
                with zipped.open(entry) as content:
                    writer.link(entry.filename, place, content.read(_LONGEST_LINK).decode())
            elif kind in (0, stat.S_IFREG):  # 0: made where there are no kinds
                with zipped.open(entry) as content:
                    writer.write(entry.filename, place, content, mode=mode, counted=False)
            else:
                raise writer.refuse_kind(entry.filename)


def _untar(archive: Path, head: bytes, writer: _Writer) -> None:
    with _decompressed(archive, head) as (stream, compressed):
        if not _is_tar(archive, head):
            if not compressed:
                raise DataError(
                    f"{archive} is no archive that can be unpacked: expected zip, tar, or a file compressed by gzip, bzip2 or xz"
                )
            writer.write(archive.name, writer.folder / archive.stem, stream, mode=0, counted=False)
            return
        # Counted where they are read: the headers of a tar file can swell too.
        counted = _Counted(stream, writer.spend)
        with tarfile.open(fileobj=cast(IO[bytes], counted), mode="r|") as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined]  # it keeps them all: a kilobyte for each of a million files
                place = writer.place(entry.name)
                if place is None:
                    continue
                if entry.isdir():
                    writer.make_folder(place)
                elif entry.issym():
                    writer.link(entry.name, place, entry.linkname)
                elif entry.islnk():
                    writer.copy(entry.name, place, entry.linkname)
                elif entry.isreg() and not entry.issparse():
                    content = tar.extractfile(entry)
                    assert content is not None
                    with content:
                        writer.write(entry.name, place, content, mode=entry.mode, counted=True)
                    if place.stat().st_size != entry.size:
                        raise tarfile.ReadError("it ends in the middle of a file")
                else:
                    raise writer.refuse_kind(entry.name)
        while counted.read(_CHUNK):  # to the end of the compressed file, where its check sum is
            pass


def _is_tar(archive: Path, head: bytes) -> bool:
    with _decompressed(archive, head) as (stream, _):
        try:
            tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape")
        except tarfile.HeaderError as error:
            return "end of file" in str(error)  # an archive of nothing: its first block is its last one
    return True


@contextlib.contextmanager
def _decompressed(archive: Path, head: bytes) -> Iterator[tuple[IO[bytes], bool]]:
    """Gives the content of a file, decompressed if it is compressed, and whether it is."""
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
    opener = next((opener for magic, opener in openers.items() if head.startswith(magic)), None)
    with archive.open("rb") if opener is None else opener(archive, "rb") as stream:
        yield stream, opener is not None


class _Counted:
    """A file to read from that says how much was read."""

    def __init__(self, file: IO[bytes], spend: Callable[[int], None]) -> None:
        self.file = file
        self.spend = spend

    def read(self, size: int) -> bytes:
        chunk = self.file.read(size)
        self.spend(len(chunk))
        return chunk


_HARMLESS = 64 << 20
_LONGEST_LINK = 4096
