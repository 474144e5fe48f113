"""Sealed directories: complete or absent whenever the writer is killed, and verified when read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dist_ai.core.sealed as sealed
from dist_ai.core.sealed import MANIFEST, open_sealed, remove_sealed, remove_unsealed, seal
from dist_ai.errors import ArtifactError, ConfigError

KILL_WRITER = Path(__file__).with_name("kill_writer.py")
FILES = {"model.safetensors": b"\x00weights\xff" * 4, "model.json": b'{"builder": "m"}\n', "empty": b""}


def write(directory: Path, files: dict[str, bytes] = FILES, kind: str = "export") -> Path:
    with seal(directory, kind) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return directory


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


# ------------------------------------------------------------------------------------ written and read


def test_what_is_sealed_is_what_was_written_and_a_manifest(export: Path):
    assert open_sealed(export, "export") == export
    written = contents(export)
    manifest = json.loads(written.pop(MANIFEST))
    assert written == FILES
    assert manifest["files"]["model.json"] == {
        "bytes": len(FILES["model.json"]),
        "sha256": hashlib.sha256(FILES["model.json"]).hexdigest(),
    }
    assert (manifest["kind"], manifest["format"]) == ("export", 1)
    assert os.listdir(export.parent) == ["model"]


def test_the_same_content_is_the_same_bytes(tmp_path: Path):
    assert contents(write(tmp_path / "a")) == contents(write(tmp_path / "b"))


def test_an_older_one_is_replaced_whole(export: Path):
    write(export, {"other.json": b"{}"})
    assert set(contents(open_sealed(export, "export"))) == {"other.json", MANIFEST}
    assert os.listdir(export.parent) == ["model"]


def test_parents_are_made_and_strings_and_relative_paths_are_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "deep" / "er" / "model")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    write(Path("model"))
    assert open_sealed("model", "export") == Path("model")
    with seal("../sibling", "export") as folder:
        (folder / "a").write_text("a")
    assert open_sealed(tmp_path / "sibling", "export").is_dir()


def test_an_error_while_writing_leaves_what_was_there_and_nothing_else(export: Path, tmp_path: Path):
    def fail(directory: Path) -> None:
        with seal(directory, "export") as folder:
            (folder / "model.json").write_text("half")
            raise ZeroDivisionError

    for directory in (export, tmp_path / "new"):
        with pytest.raises(ZeroDivisionError):
            fail(directory)
    assert contents(open_sealed(export, "export"))["model.json"] == FILES["model.json"]
    assert os.listdir(tmp_path) == ["model"]


def test_it_is_on_disk_before_it_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A power cut may undo what was not synced, and must not undo the content of a folder that has its final name.
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        synced = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append("folder" if ".partial-" in synced.name else synced.name)
        fsync(descriptor)

    def watched_rename(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        done.append(f"rename to {Path(target).name}")
        return moved

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    write(tmp_path / "model")
    assert done == [*sorted(FILES), MANIFEST, "folder", "rename to model", tmp_path.name]


# ------------------------------------------------------------------------------------ what is refused


def test_what_nobody_sealed_is_never_replaced(tmp_path: Path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("text")
    for name, what in (("work", "thesis.tex"), ("file", "file")):
        message = (
            f"writing the export to {tmp_path / name} would delete what is there and is none ({what}); "
            "choose another place or move that away"
        )
        with pytest.raises(ConfigError, match=re.escape(message)):
            write(tmp_path / name)
    assert (tmp_path / "work" / "thesis.tex").read_text() == "years"
    assert (tmp_path / "file").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["file", "work"]


def test_neither_another_kind_nor_what_was_put_beside_is_replaced(tmp_path: Path):
    with seal(tmp_path / "best", "checkpoint") as folder:
        (folder / "shard").write_text("weights")
    message = f"writing the export to {tmp_path / 'best'} would delete the checkpoint there; choose another place"
    with pytest.raises(ConfigError, match=re.escape(message)):
        write(tmp_path / "best")
    write(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"would delete what is there and is none \(notes.txt\)"):
        write(tmp_path / "model")
    assert (tmp_path / "best" / "shard").read_text() == "weights"
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("there", ["another kind", "something beside it", "a file"])
def test_what_is_in_the_way_is_refused_before_anything_is_written(tmp_path: Path, there: str):
    place = tmp_path / "model"
    if there == "a file":
        place.write_text("text")
    else:
        with seal(place, "checkpoint" if there == "another kind" else "export") as folder:
            (folder / "model.json").write_text("{}")
        if there == "something beside it":
            (place / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="would delete"), seal(place, "export", ["model.json"]):
        raise AssertionError("nothing is to be written")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_came_while_it_was_written_is_not_replaced(tmp_path: Path):
    def slowly() -> None:
        with seal(tmp_path / "model", "export", ["model.json"]) as folder:
            (folder / "model.json").write_text("{}")
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / "notes.txt").write_text("mine")

    with pytest.raises(ConfigError, match=r"would delete what is there and is none \(notes.txt\)"):
        slowly()
    assert [each.name for each in tmp_path.rglob("*")] == ["model", "notes.txt"]


def test_an_empty_folder_and_a_damaged_seal_are_replaced(tmp_path: Path, export: Path):
    (tmp_path / "empty").mkdir()
    (export / MANIFEST).unlink()
    for directory in (tmp_path / "empty", export):
        open_sealed(write(directory), "export")


def test_a_link_to_a_sealed_directory_is_replaced_and_the_directory_left_alone(tmp_path: Path, export: Path):
    link = tmp_path / "link"
    link.symlink_to(export)
    for text in (b"1", b"2"):
        write(link, {"new": text})
        assert contents(open_sealed(link, "export"))["new"] == text
    open_sealed(export, "export")
    assert sorted(os.listdir(tmp_path)) == ["link", "model"]


# ------------------------------------------------------------------------------------ verified when read


def refused(directory: Path, kind: str = "export") -> str:
    with pytest.raises(ArtifactError) as error:
        open_sealed(directory, kind)
    return str(error.value)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_flipped_byte_is_noticed_and_its_file_is_named(export: Path, name: str):
    content = (export / name).read_bytes()
    for i in range(len(content)):
        for flip in (0x01, 0x80):
            (export / name).write_bytes(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])
            message = refused(export)
            assert "is damaged" in message
            assert name in message
    (export / name).write_bytes(content)
    open_sealed(export, "export")


@pytest.mark.parametrize("name", FILES)
def test_added_and_missing_bytes_are_noticed(export: Path, name: str):
    content = (export / name).read_bytes()
    for other in {content + b"\x00", content[:-1]} - {content}:
        (export / name).write_bytes(other)
        assert refused(export) == (
            f"export {export} is damaged: {name} has {len(other)} bytes and should have {len(content)}; "
            "copy or make it again"
        )


def test_a_changed_content_of_the_same_size_is_noticed(export: Path):
    (export / "model.json").write_bytes(FILES["model.json"].replace(b"m", b"n"))
    assert refused(export) == (
        f"export {export} is damaged: the content of model.json is not what was written (its SHA-256 differs); "
        "copy or make it again"
    )


def test_any_missing_file_is_noticed(export: Path):
    for name in FILES:
        (export / name).rename(export / "elsewhere")
        assert refused(export) == f"export {export} is incomplete: {name} is missing; copy or make it again"
        (export / "elsewhere").rename(export / name)
    (export / MANIFEST).unlink()
    assert refused(export) == f"{export} is not a complete export: {MANIFEST}, which is written last, is missing"


def test_a_truncated_or_reformatted_manifest_is_noticed(export: Path):
    text = (export / MANIFEST).read_text()
    for other in ("", "{", "[]", "null", text + " ", json.dumps(json.loads(text)), text[:-1]):
        (export / MANIFEST).write_text(other)
        assert f"{MANIFEST} is not what was written" in refused(export)


def test_another_kind_another_place_and_nothing_at_all_are_told_apart(export: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert refused(export, "checkpoint") == f"{export} is of the kind 'export', not 'checkpoint'"
    assert refused(tmp_path / "nowhere") == f"no export at {tmp_path / 'nowhere'}: it is not there"
    assert refused(tmp_path / "file") == f"no export at {tmp_path / 'file'}: it is a file"


def forge(directory: Path, **changes: Any) -> None:
    """Rewrites the manifest as somebody would who knows how it is made."""
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(sealed.sign({**manifest, **changes}, indent=2))


def test_a_format_of_the_future_is_refused(export: Path):
    forge(export, format=2)
    assert refused(export) == (
        f"export {export} has format 2, and this dist_ai reads 1; use the version that wrote it, or write it again"
    )


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "."])
def test_a_manifest_that_names_files_outside_is_refused(export: Path, name: str):
    forge(export, files={name: {"bytes": 0, "sha256": ""}})
    assert refused(export) == f"export {export} names files outside itself; it was not written by dist_ai"


# ------------------------------------------------------------------------------------ killed at any moment

AFTER_A_KILL = {
    "write": ["absent", "new"],
    "replace": ["old", "new"],
    "replace after a kill in the middle": ["old", "new"],
    "replace after a kill at the end": ["old", "new"],
    "remove": ["old", "absent"],
    "remove after a kill in the middle": ["old", "absent"],
    "remove after a kill at the end": ["old", "absent"],
    "open after a kill in the middle": ["old"],
    "clean up after a kill in the middle": ["old"],
    "clean up after a kill at the end": ["old"],
}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[Any]]]:
    """What stood there after each kill, by scenario: one process tries all, for importing takes a second."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(KILL_WRITER), str(folder)], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("scenario", AFTER_A_KILL)
def test_a_kill_before_any_file_operation_leaves_the_old_or_the_new_and_nothing_else(killed: Any, scenario: str):
    states = AFTER_A_KILL[scenario]
    outcomes = killed[scenario]
    assert len(outcomes) >= 2
    found = [outcome["found"] for outcome in outcomes]
    assert sorted(found, key=states.index) == found  # once it is done, it is done
    assert list(dict.fromkeys(found)) == states  # and both were seen
    for outcome in outcomes:
        assert outcome["again"] == outcome["cleaned"] == outcome["found"]
        assert outcome["left"] == ([] if outcome["found"] == "absent" else ["thing"])
        assert outcome["later"] == "later"  # whatever was left, the next one can be written


def test_a_kill_at_any_moment_leaves_a_whole_version_or_none(killed: Any):
    outcomes = killed["random moments"]
    assert any(outcome["found"] != "absent" for outcome in outcomes)
    for outcome in outcomes:
        assert outcome["again"] == outcome["cleaned"] == outcome["found"]
        assert outcome["left"] == ([] if outcome["found"] == "absent" else ["thing"])
        assert outcome["later"] == "later"


def test_a_reader_that_puts_the_old_one_back_while_it_is_replaced_does_not_stop_the_writer(
    export: Path, monkeypatch: pytest.MonkeyPatch
):
    rename = Path.rename
    meddled = []

    def rename_and_be_read(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if Path(target).name.endswith(".replaced") and len(meddled) < 3:
            meddled.append(1)
            assert contents(open_sealed(export, "export"))["model.json"] == FILES["model.json"]
        return moved

    monkeypatch.setattr(Path, "rename", rename_and_be_read)
    write(export, {"new": b"1"})
    assert len(meddled) == 3
    assert set(contents(open_sealed(export, "export"))) == {"new", MANIFEST}


def test_a_reader_that_comes_too_late_to_put_the_old_one_back_reads_the_new(
    export: Path, monkeypatch: pytest.MonkeyPatch
):
    new = write(export.with_name("new"), {"new": b"1"})
    export.rename(sealed._aside(export))
    rename = Path.rename

    def writer_is_faster(path: Path, target: Path) -> Path:
        if path.name.endswith(".replaced"):
            rename(new, export)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", writer_is_faster)
    assert set(contents(open_sealed(export, "export"))) == {"new", MANIFEST}


# ------------------------------------------------------------------------------------ removed


def test_removing_leaves_nothing_and_may_be_done_twice(export: Path):
    remove_sealed(export)
    assert os.listdir(export.parent) == []
    remove_sealed(export)
    remove_sealed(export.parent / "no" / "where")


def test_cleaning_up_leaves_everything_but_leftovers(export: Path, tmp_path: Path):
    (tmp_path / ".model.partial-0123abcd").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "other.partial-1").mkdir()
    remove_unsealed(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "model", "other.partial-1"]
    remove_unsealed(tmp_path / "nowhere")
