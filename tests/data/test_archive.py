"""Archives: what comes out of good ones, and that nothing comes out of bad ones."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_ai.data import ArchiveLimits, extract
from dist_ai.errors import ConfigError, DataError

FILES = {"a.txt": b"first", "in/side/b.bin": bytes(range(256)) * 40, "in/empty": b""}


def tar_of(path: Path, *entries: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tuple):
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
            else:
                tar.addfile(entry)
    return path


def entry(name: str, kind: bytes, target: str = "", **facts: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in entries:
            zipped.writestr(name, content)
    return path


def zip_link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MAKERS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda folder: zip_of(folder / "x.zip", *FILES.items()),
    **{
        kind or "tar": lambda folder, kind=kind: tar_of(folder / "x.any", *FILES.items(), mode=f"w:{kind}")
        for kind in ("", "gz", "bz2", "xz")
    },
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_comes_out_as_it_went_in_whatever_its_name_says(kind: str, tmp_path: Path):
    folder = extract(MAKERS[kind](tmp_path), tmp_path / "out")
    assert folder == tmp_path / "out"
    assert contents(folder) == FILES


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open])
def test_one_compressed_file_comes_out_under_its_name_without_the_ending(opener: Any, tmp_path: Path):
    with opener(tmp_path / "rows.csv.gz", "wb") as file:
        file.write(b"a,b\n1,2\n")
    assert contents(extract(tmp_path / "rows.csv.gz", tmp_path / "out")) == {"rows.csv": b"a,b\n1,2\n"}


def test_an_archive_of_nothing_is_an_empty_folder(tmp_path: Path):
    assert contents(extract(tar_of(tmp_path / "x.tar"), tmp_path / "out")) == {}
    assert contents(extract(zip_of(tmp_path / "x.zip"), tmp_path / "out2")) == {}


def test_programs_stay_programs_and_nothing_else_of_the_permissions_is_kept(tmp_path: Path):
    archive = tar_of(
        tmp_path / "x.tar",
        entry("run.sh", tarfile.REGTYPE, mode=0o4755),
        entry("secret", tarfile.REGTYPE, mode=0o000),
    )
    folder = extract(archive, tmp_path / "out")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    usual = 0o666 & ~_umask()
    assert modes == {"run.sh": usual | (usual & 0o444) >> 2, "secret": usual}


def test_links_within_the_folder_are_kept(tmp_path: Path):
    archive = tar_of(
        tmp_path / "x.tar",
        ("data/one", b"1"),
        entry("latest", tarfile.SYMTYPE, "data/one"),
        entry("data/up", tarfile.SYMTYPE, "../data/one"),
        entry("same", tarfile.LNKTYPE, "data/one"),
    )
    folder = extract(archive, tmp_path / "out")
    assert contents(folder) == {"data/one": b"1", "latest": b"1", "data/up": b"1", "same": b"1"}
    assert (folder / "latest").is_symlink()
    assert not (folder / "same").is_symlink()
    zipped = zip_of(tmp_path / "x.zip", ("one", b"1"), (zip_link("latest"), b"one"))
    assert contents(extract(zipped, tmp_path / "out2")) == {"one": b"1", "latest": b"1"}


# ------------------------------------------------------------------------------------ what must not come out

BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "parent": (lambda p: tar_of(p, ("../evil", b"x")), "'../evil' leads out of the folder"),
    "hidden parent": (lambda p: zip_of(p, ("a/../../evil", b"x")), "'a/../../evil' leads out of the folder"),
    "absolute": (lambda p: tar_of(p, ("/etc/evil", b"x")), "'/etc/evil' leads out of the folder"),
    "drive": (lambda p: zip_of(p, ("C:/evil", b"x")), "'C:/evil' leads out"),
    "backslashes": (lambda p: tar_of(p, ("..\\evil", b"x")), "leads out of the folder"),
    "folder": (lambda p: tar_of(p, entry("../evil", tarfile.DIRTYPE)), "leads out of the folder"),
    "link out": (
        lambda p: tar_of(p, entry("l", tarfile.SYMTYPE, "../x")),
        "'l' is a link out of the folder, to '../x'",
    ),
    "absolute link": (
        lambda p: tar_of(p, entry("l", tarfile.SYMTYPE, "/etc")),
        "'l' is a link out of the folder, to '/etc'",
    ),
    "zip link out": (lambda p: zip_of(p, (zip_link("l"), b"/etc")), "'l' is a link out of the folder"),
    "link by way of a link": (
        lambda p: tar_of(
            p,
            ("x/y/f", b"1"),
            entry("x/y/z", tarfile.SYMTYPE, "../.."),
            entry("out", tarfile.SYMTYPE, "x/y/z/../secret"),
        ),
        "'out' is a link out of the folder",
    ),
    "hard link out": (lambda p: tar_of(p, entry("l", tarfile.LNKTYPE, "../../x")), "leads out of the folder"),
    "hard link to nothing": (lambda p: tar_of(p, entry("l", tarfile.LNKTYPE, "x")), "which is no file before it"),
    "device": (lambda p: tar_of(p, entry("d", tarfile.CHRTYPE)), "'d' is neither a file, a folder nor a link"),
    "pipe": (lambda p: tar_of(p, entry("d", tarfile.FIFOTYPE)), "'d' is neither a file, a folder nor a link"),
    "zip pipe": (lambda p: zip_of(p, (zip_link("d", stat.S_IFIFO), b"")), "'d' is neither a file, a folder nor a link"),
    "twice": (lambda p: tar_of(p, ("a", b"1"), ("./a", b"2")), "'./a' comes twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_must_not_come_out_is_named_and_nothing_stays(case: str, tmp_path: Path):
    make, text = BAD[case]
    archive = make(tmp_path / "bad")
    (tmp_path / "secret").write_text("not to be reached")
    with pytest.raises(DataError, match="was not unpacked: its entry") as caught:
        extract(archive, tmp_path / "deep" / "out")
    assert text in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad", "deep", "secret"]


def test_nothing_is_written_through_a_link(tmp_path: Path):
    (tmp_path / "victim").mkdir()
    archive = tar_of(tmp_path / "x.tar", entry("l", tarfile.SYMTYPE, "."), ("l/file", b"x"))
    with pytest.raises(DataError, match="'l' comes twice"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "gz", "single", "headers"])
def test_a_bomb_is_refused_before_it_has_gone_off(kind: str, tmp_path: Path):
    zeros = bytes(70 << 20)
    if kind == "zip":
        archive = zip_of(tmp_path / "bomb", ("zeros", zeros))
    elif kind == "gz":
        archive = tar_of(tmp_path / "bomb", ("zeros", zeros), mode="w:gz")
    elif kind == "single":
        archive = tmp_path / "bomb"
        archive.write_bytes(gzip.compress(zeros))
    else:  # a name that is as long as a film
        with tarfile.open(tmp_path / "bomb", "w:gz", format=tarfile.GNU_FORMAT) as tar:
            tar.addfile(tarfile.TarInfo("x" * len(zeros)))
        archive = tmp_path / "bomb"
    with pytest.raises(
        DataError, match=r"holds more than 67,108,864 bytes in [\d,]+, .* ArchiveLimits\(max_bytes=..., max_r"
    ):
        extract(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb"]


def test_the_limits_can_be_chosen(tmp_path: Path):
    archive = MAKERS["zip"](tmp_path)
    with pytest.raises(DataError, match="holds more than 100 bytes"):
        extract(archive, tmp_path / "out", limits=ArchiveLimits(max_bytes=100))
    with pytest.raises(DataError, match="has more than 2 entries"):
        extract(archive, tmp_path / "out", limits=ArchiveLimits(max_entries=2))
    trusted = zip_of(tmp_path / "trusted", ("zeros", bytes(70 << 20)))
    assert (
        extract(trusted, tmp_path / "out", limits=ArchiveLimits(max_ratio=2000)) / "zeros"
    ).stat().st_size == 70 << 20
    with pytest.raises(ConfigError, match="max_bytes=0: expected more than 0"):
        ArchiveLimits(max_bytes=0)


# ------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_an_error_that_names_it_and_leaves_nothing(kind: str, damage: str, tmp_path: Path):
    archive = MAKERS[kind](tmp_path)
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        del content[len(content) * 2 // 3 :]
    else:
        content[len(content) // 3] ^= 0xFF
    archive.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"{archive} cannot be unpacked: "):
        extract(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_what_is_no_archive_is_refused(tmp_path: Path):
    (tmp_path / "page").write_text("<html>")
    with pytest.raises(
        DataError, match="page is no archive that can be unpacked: expected zip, tar, or a file compressed by"
    ):
        extract(tmp_path / "page", tmp_path / "out")
    with pytest.raises(DataError, match=r"no archive at .*: it is not there"):
        extract(tmp_path / "none", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="out is there already, and what is there is not replaced"):
        extract(tmp_path / "page", tmp_path / "out")


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
