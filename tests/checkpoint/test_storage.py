"""Storage: the same few operations on a folder, on any file system of pyarrow and on any of fsspec."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem, _MockFileSystem

from dist_ai.checkpoint.storage import ArrowStorage, LocalStorage, RetryingStorage, Storage, open_storage, read
from dist_ai.errors import ConfigError, MissingDependencyError, StorageError

KINDS: dict[str, Callable[[Path], Storage]] = {
    "folder": lambda folder: LocalStorage(folder / "place"),
    "pyarrow's local": lambda folder: ArrowStorage(LocalFileSystem(), f"{folder}/place", place="here"),
    "pyarrow's subtree": lambda folder: ArrowStorage(
        SubTreeFileSystem(str(folder), LocalFileSystem()), "a/place", place="here"
    ),
    "pyarrow's mock": lambda _: ArrowStorage(_MockFileSystem(), "bucket/place", place="here"),
    "fsspec's memory": lambda folder: open_storage(f"memory://{folder.name}/place"),
    "tried again": lambda folder: RetryingStorage(LocalStorage(folder / "place")),
}


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return KINDS[request.param](tmp_path)


def write(storage: Storage, path: str, *pieces: bytes) -> None:
    storage.write(path, [memoryview(piece) for piece in pieces])


# ------------------------------------------------------------------------------------ every kind


def test_what_was_written_is_read_from_any_byte_on(storage: Storage) -> None:
    write(storage, "a/b", b"0123", b"", b"456789")
    assert read(storage, "a/b", 10) == b"0123456789"
    assert read(storage, "a/b", 3, begin=4) == b"456"
    assert read(storage, "a/b", 30, begin=8) == b"89"  # no more than there is
    assert read(storage, "a/b", 1, begin=10) == b""


def test_a_file_is_replaced_whole(storage: Storage) -> None:
    write(storage, "a/b", b"longer")
    write(storage, "a/b", b"new")
    assert read(storage, "a/b", 10) == b"new"
    assert storage.sizes() == {"a/b": 3}


def test_files_are_listed_with_their_sizes_below_a_folder_or_all(storage: Storage) -> None:
    assert storage.sizes() == storage.sizes("a") == {}
    for path, content in {"a/b": b"1", "a/c/d": b"22", "ab/e": b"", "f": b"4444"}.items():
        write(storage, path, content)
    assert storage.sizes() == {"a/b": 1, "a/c/d": 2, "ab/e": 0, "f": 4}
    assert storage.sizes("a") == {"a/b": 1, "a/c/d": 2}


def test_files_and_folders_are_removed_and_those_that_are_not_there_are_no_error(storage: Storage) -> None:
    for path in ("a/b", "a/c/d", "e/f"):
        write(storage, path, b"1")
    storage.remove("a/b")
    storage.remove("a/b")
    assert storage.sizes() == {"a/c/d": 1, "e/f": 1}
    storage.remove_folder("a")
    storage.remove_folder("a")
    assert storage.sizes() == {"e/f": 1}


def test_a_file_that_is_not_there_is_told_from_one_that_cannot_be_read(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        read(storage, "a/b", 1)
    write(storage, "a/b", b"1")
    with pytest.raises(FileNotFoundError):
        read(storage, "a/c", 1)


# ------------------------------------------------------------------------------------ a folder


def test_an_error_while_writing_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    write(storage, "a", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(storage, "a", b"newer")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


# ------------------------------------------------------------------------------------ URIs


def test_a_uri_opens_what_reads_it(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert isinstance(open_storage(place), LocalStorage)
    memory = open_storage(f"memory://{tmp_path.name}")
    write(memory, "a/b", b"1")
    assert fsspec.filesystem("memory").cat(f"/{tmp_path.name}/a/b") == b"1"


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("nonsense://a/b", ConfigError, "nonsense://a/b cannot be read as a place for checkpoints: Protocol not known"),
        ("s3://bucket/a?regoin=x", ConfigError, "s3://bucket/a cannot be read as a place for checkpoints: .*regoin"),
        ("dropbox://a/b", MissingDependencyError, "dropbox:// needs a package that is not installed: "),
    ],
)
def test_a_uri_that_cannot_be_read_is_refused(uri: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        open_storage(uri)


# ------------------------------------------------------------------------------------ trying again


class Failing:
    """A storage whose operations fail a number of times."""

    place = "s3://bucket/run"

    def __init__(self, folder: Path, failures: int) -> None:
        self.inner = LocalStorage(folder)
        self.left = failures

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            if self.left:
                self.left -= 1
                raise OSError("503 Slow Down")
            return getattr(self.inner, name)(*args)

        return call


OPERATIONS: dict[str, tuple[str, Sequence[Any]]] = {
    "writing a": ("write", ("a", [memoryview(b"2")])),
    "reading a": ("read_into", ("a", 0, memoryview(bytearray(1)))),
    "listing it": ("sizes", ()),
    "removing a": ("remove", ("a",)),
    "removing b": ("remove_folder", ("b",)),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_an_operation_is_tried_again_a_few_times_and_then_given_up(tmp_path: Path, what: str) -> None:
    write(LocalStorage(tmp_path), "a", b"1")
    operation, args = OPERATIONS[what]
    failing = Failing(tmp_path, failures=2)
    getattr(RetryingStorage(failing, attempts=3, wait_s=0.01), operation)(*args)
    assert failing.left == 0
    failing = Failing(tmp_path, failures=3)
    with pytest.raises(StorageError, match=rf"^s3://bucket/run: {what} failed 3 times; the last time: 503 Slow Down$"):
        getattr(RetryingStorage(failing, attempts=3, wait_s=0.01), operation)(*args)


def test_waits_between_attempts_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(StorageError):
        RetryingStorage(Failing(tmp_path, failures=9), attempts=4, wait_s=1.0).sizes()
    assert waits == [1.0, 2.0, 4.0]


def test_messages_do_not_hold_the_keys_that_a_uri_may() -> None:
    assert open_storage("s3://key:secret@bucket/run?region=us-east-1").place == "s3://bucket/run"


@pytest.mark.slow
def test_a_store_that_nobody_answers_for_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    place = "s3://key:secret@bucket/run?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(StorageError, match="listing it failed 4 times"):
            open_storage(place).sizes()


def test_files_are_listed_while_others_are_written_and_removed(tmp_path: Path) -> None:
    storage, done = LocalStorage(tmp_path), threading.Event()
    storage.write("stays/a", [memoryview(b"12")])

    def come_and_go() -> None:
        while not done.is_set():
            for number in range(20):
                (tmp_path / f"goes/{number}/deep").mkdir(parents=True)
            shutil.rmtree(tmp_path / "goes")

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(come_and_go)
        try:
            assert all(storage.sizes() == {"stays/a": 2} for _ in range(500))
        finally:
            done.set()
        busy.result()
