"""Downloads from a server that fails in every way, by many processes at once."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dist_ai.data.downloads as downloads_module
from dist_ai.data import download, untar_data
from dist_ai.data.cache import alone, cache_folder
from dist_ai.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 4000  # 1 MB, more than the sockets between hold
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A server of this machine that answers with `content`, and fails as its switches say.

    Attributes:
        cuts: after how many bytes the next answers end too early.
        statuses: what the next answers are instead of the file.
        ranges: whether it can send the rest of a file.
        requests: the headers of each request so far.
    """

    def __init__(self) -> None:
        self.content, self.etag, self.ranges = CONTENT, '"one"', True
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.silent_s = self.slow_s = 0.0
        self.requests: list[dict[str, str]] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(dict(self.headers))
                time.sleep(server.silent_s)
                if server.statuses and (status := server.statuses.pop(0)) != 200:
                    self.send_response(status)
                    for name, value in server.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    return
                begin = 0
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
                    begin = int(wanted[1])
                self.send_response(206 if begin else 200)
                if begin:
                    end = len(server.content)
                    self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{end}")
                if server.etag:
                    self.send_header("ETag", server.etag)
                self.send_header("Content-Length", str(len(server.content) - begin))
                self.end_headers()
                part = server.content[begin:]
                if server.cuts:
                    part = part[: server.cuts.pop(0)]
                for i in range(0, len(part), 1 << 16):
                    self.wfile.write(part[i : i + (1 << 16)])
                    time.sleep(server.slow_s)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("DIST_AI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads_module, "_FIRST_PAUSE_S", 0.001)
    server = Server()
    yield server
    server.close()


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# ------------------------------------------------------------------------------------ one file


def test_a_file_is_downloaded_once_and_then_is_there(server: Server):
    path = download(server.url())
    assert path.name == "file.bin"
    assert path.is_relative_to(cache_folder())
    assert path.read_bytes() == CONTENT
    assert download(server.url()) == path
    assert len(server.requests) == 1
    assert download(server.url("other/file.bin")) != path  # the same name of another address


def test_it_can_be_put_anywhere_and_be_downloaded_anew(server: Server, tmp_path: Path):
    dest = tmp_path / "here" / "mine"
    assert download(server.url(), dest, sha256=SHA256) == dest
    server.content = b"other"
    assert download(server.url(), dest).read_bytes() == CONTENT
    assert download(server.url(), dest, force=True).read_bytes() == b"other"
    with pytest.raises(DataError, match="mine is there and is not what it must be: its SHA-256 is d9298a10"):
        download(server.url(), dest, sha256=SHA256)


def test_a_cut_download_goes_on_where_it_ended(server: Server):
    server.cuts = [300_000, 200_000]
    assert download(server.url(), sha256=SHA256).read_bytes() == CONTENT
    assert [request.get("Range") for request in server.requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert {request.get("If-Range") for request in server.requests[1:]} == {'"one"'}


def test_a_killed_download_is_gone_on_with_by_the_next_process(server: Server):
    server.slow_s = 0.05
    process = download_elsewhere(server.url())
    while not any(path.stat().st_size > 200_000 for path in cache_folder().rglob(".file.bin.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.slow_s = 0
    assert not list(cache_folder().rglob("file.bin"))
    assert download(server.url()).read_bytes() == CONTENT
    assert int(server.requests[-1]["Range"].removeprefix("bytes=").removesuffix("-")) > 200_000


def test_a_whole_download_that_did_not_come_into_its_place_is_not_asked_for_again(server: Server):
    path = download(server.url(), cache_folder() / "x")
    about = {"url": server.url(), "validator": server.etag, "total": len(CONTENT)}
    path.rename(cache_folder() / ".x.partial")
    (cache_folder() / ".x.partial.json").write_text(json.dumps(about))
    assert download(server.url(), path, sha256=SHA256).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_server_that_cannot_go_on_is_begun_anew_with(server: Server):
    server.ranges, server.cuts = False, [300_000]
    assert download(server.url()).read_bytes() == CONTENT
    server.etag, server.cuts = "", [300_000]
    assert download(server.url("two.bin")).read_bytes() == CONTENT
    assert "Range" not in server.requests[-1]  # nothing says that it is still the same file


def test_halves_of_different_files_are_never_put_together(server: Server, monkeypatch: pytest.MonkeyPatch):
    server.cuts = [300_000]
    monkeypatch.setattr(time, "sleep", lambda _: change())

    def change() -> None:
        server.content, server.etag = CONTENT[::-1], '"two"'

    assert download(server.url()).read_bytes() == CONTENT[::-1]


def test_a_server_that_lies_about_its_file_is_found_out_by_the_digest(server: Server):
    server.cuts, server.statuses = [300_000], [200, 500]
    wrong = Server()  # of the same tag
    try:
        wrong.content = CONTENT[::-1]
        with pytest.raises(
            DataError, match=r"HTTP 500 .* What is there \(300,000 bytes\) is gone on with when you try"
        ):
            download(server.url(), cache_folder() / "x", retries=0, sha256=SHA256)
        about = cache_folder() / ".x.partial.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), "url": wrong.url()}))
        with pytest.raises(DataError, match=f"is not what it must be: its SHA-256 is [0-9a-f]+ and not {SHA256}"):
            download(wrong.url(), cache_folder() / "x", sha256=SHA256)
        assert [request.get("Range") for request in wrong.requests] == ["bytes=300000-", None]
        assert visible(cache_folder()) == []
    finally:
        wrong.close()


def test_a_wrong_digest_leaves_nothing(server: Server):
    with pytest.raises(DataError, match=f"its SHA-256 is {SHA256} and not {'0' * 64}; the file there has changed"):
        download(server.url(), sha256="0" * 64)
    assert len(server.requests) == 1
    assert not [path for path in cache_folder().rglob("*file.bin*") if not path.name.endswith(".lock")]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_trouble_is_tried_again(server: Server, status: int):
    server.statuses = [status, status, 200]
    assert download(server.url()).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_server_is_given_the_time_that_it_asks_for(server: Server):
    server.statuses, server.headers = [503, 200], {"Retry-After": "1"}
    began = time.monotonic()
    download(server.url())
    assert time.monotonic() - began >= 1


def test_what_stays_is_given_up(server: Server):
    server.statuses = [500] * 10
    with pytest.raises(DataError, match=r"cannot be downloaded: HTTP 500 .*; 3 attempts in a row brought nothing new"):
        download(server.url(), retries=2)
    assert len(server.requests) == 3


def test_many_cuts_are_no_trouble_as_long_as_each_attempt_brings_something(server: Server):
    server.cuts = [100_000] * 8
    assert download(server.url(), retries=1).read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_an_error_at_once(server: Server):
    server.statuses = [404]
    with pytest.raises(DataError, match=r"file.bin cannot be downloaded: HTTP 404 Not Found$"):
        download(server.url("file.bin?key=secret"))
    assert len(server.requests) == 1


def test_a_silent_server_is_given_up(server: Server):
    server.silent_s = 0.5
    with pytest.raises(DataError, match=r"the server was silent for 0.1 s; 2 attempts in a row brought nothing new"):
        download(server.url(), timeout_s=0.1, retries=1)


def test_nobody_there_is_an_error_that_says_so(server: Server):
    url = server.url()
    server.close()
    with pytest.raises(DataError, match=r"cannot be downloaded: .*Connection refused; 1 attempts in a row"):
        download(url, retries=0)


def test_redirects_are_followed_within_the_network_and_not_to_files(server: Server, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    server.statuses, server.headers = [302, 200], {"Location": server.url("there.bin")}
    assert download(server.url()).read_bytes() == CONTENT
    for place in ((tmp_path / "secret").as_uri(), "ftp://127.0.0.1/x", "data:text/plain,x"):
        server.statuses, server.headers = [302], {"Location": place}
        with pytest.raises(DataError, match=r"cannot be downloaded|is not followed"):
            download(server.url("other.bin"))


def test_files_of_this_machine_are_where_they_are_or_copied(tmp_path: Path, server: Server):
    (tmp_path / "a b").write_bytes(CONTENT)
    assert download((tmp_path / "a b").as_uri()) == tmp_path / "a b"
    assert download(str(tmp_path / "a b"), sha256=SHA256.upper()) == tmp_path / "a b"
    assert download((tmp_path / "a b").as_uri(), tmp_path / "c").read_bytes() == CONTENT
    with pytest.raises(DataError, match="is not what it must be"):
        download(str(tmp_path / "a b"), sha256="0" * 64)
    with pytest.raises(DataError, match=r"no file at .*: it is a folder"):
        download(str(tmp_path))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s3://bucket/x", "s3:// is not known; expected https://, http://, file:// or a path"),
        ("https:///x", "has no host"),
        ("file://elsewhere/x", "is a file of the machine 'elsewhere'"),
        ("http://127.0.0.1/a b", "is no address"),
    ],
)
def test_what_cannot_be_an_address_is_refused(url: str, text: str, server: Server):
    with pytest.raises(ConfigError, match=text):
        download(url)
    with pytest.raises(ConfigError, match="sha256='abc': expected 64 hexadecimal digits"):
        download(server.url(), sha256="abc")


def test_a_bar_is_shown_where_it_is_wanted_and_nothing_where_nobody_looks(
    server: Server, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    download(server.url())
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    download(server.url(), progress=True, force=True)
    assert "downloading" in capsys.readouterr().err


@pytest.mark.parametrize("function", [download, untar_data])
def test_a_place_that_cannot_be_written_to_is_named(server: Server, function: Callable[[str], Path]):
    cache_folder().write_text("a file, where a folder should be")
    message = "file.bin gives cannot be written to .*cache.*: Not a directory; give dest=, or set DIST_AI_CACHE, with a folder"
    with pytest.raises(ConfigError, match=message):
        function(server.url())


# ------------------------------------------------------------------------------------ many at once


def download_elsewhere(url: str, function: str = "download") -> subprocess.Popen[str]:
    code = f"from dist_ai.data import {function}; print({function}({url!r}))"
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE)


def test_processes_and_threads_of_a_machine_download_once(server: Server):
    server.slow_s = 0.02
    processes = [download_elsewhere(server.url()) for _ in range(2)]
    got: list[Path] = []
    threads = [threading.Thread(target=lambda: got.append(download(server.url()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert {*printed, *map(str, got)} == {str(got[0])}
    assert len(got) == 3
    assert len(server.requests) == 1


def fetch_on_a_rank(url: str) -> str:
    return str(untar_data(url))


def test_ranks_of_a_machine_unpack_once(server: Server, spawn: Callable[..., list[Any]]):
    server.content = tar()
    paths = spawn(3, fetch_on_a_rank, url=server.url("flowers.tar"))
    assert len(set(paths)) == 1
    assert len(server.requests) == 1


def test_waiting_for_one_that_does_nothing_ends_and_names_it(tmp_path: Path):
    code = (
        "import time; from pathlib import Path; from dist_ai.data.cache import alone\n"
        f"with alone(Path({str(tmp_path / 'x')!r}), 'sleeping', timeout_s=1): print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    with (
        pytest.raises(
            DataError, match=f"process {process.pid} is sleeping, and gave no sign of life for 0.2 s; stop it"
        ),
        alone(tmp_path / "x", "sleeping", timeout_s=0.2),
    ):
        pass
    process.kill()
    process.communicate()
    with alone(tmp_path / "x", "working", timeout_s=5):  # the lock of a dead process is nobody's
        thread_waits = threading.Thread(target=lambda: waits(tmp_path / "x"))
        thread_waits.start()
        thread_waits.join(10)
    assert waited == ["another thread is working, and gave no sign of life for 0.1 s"]


waited: list[str] = []


def waits(path: Path) -> None:
    try:
        with alone(path, "working", timeout_s=0.1):
            pass
    except DataError as error:
        waited.append(str(error).split(";")[0])


# ------------------------------------------------------------------------------------ one folder


def tar(top: str = "flowers/", files: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in (files or {"train/a.txt": b"a", "valid/b.txt": b"bb"}).items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_an_archive_becomes_a_folder_and_the_second_time_nothing_is_asked(server: Server, tmp_path: Path):
    server.content = tar()
    digest = hashlib.sha256(server.content).hexdigest()
    path = untar_data(server.url("flowers.tgz"), sha256=digest)
    assert path.name == "flowers"
    assert (path / "train" / "a.txt").read_bytes() == b"a"
    assert untar_data(server.url("flowers.tgz"), sha256=digest) == path
    assert len(server.requests) == 1
    server.content = tar(top="")  # nothing above
    assert visible(untar_data(server.url("loose.tar.gz"), dest=tmp_path / "here")) == ["train", "valid"]
    assert visible(tmp_path / "here") == ["loose"]


def test_what_is_missing_or_cut_is_put_back_and_what_is_yours_stays(server: Server):
    server.content = tar()
    path = untar_data(server.url("flowers.tgz"))
    (path / "train" / "a.txt").unlink()
    (path / "valid" / "b.txt").write_bytes(b"")
    (path / "mine").write_text("work")
    assert untar_data(server.url("flowers.tgz")) == path
    assert (path / "train" / "a.txt").read_bytes() == b"a"
    assert (path / "valid" / "b.txt").read_bytes() == b"bb"
    assert (path / "mine").read_text() == "work"


def test_a_killed_unpacking_leaves_no_folder(server: Server):
    server.content = tar(files={f"train/{i:05}": os.urandom(100) for i in range(20_000)})
    url = server.url("flowers.tgz")
    download(url)
    process = download_elsewhere(url, "untar_data")
    data = cache_folder() / "data"
    while not list(data.glob(".flowers-*.partial-*/flowers/train/*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert visible(data) == []
    path = untar_data(url)
    assert len(list((path / "train").iterdir())) == 20_000
    assert not list(data.glob(".*.partial-*"))


def test_an_archive_that_must_not_be_unpacked_leaves_nothing(server: Server):
    server.content = tar(top="../../")
    with pytest.raises(DataError, match=r"its entry '../../train/a.txt' leads out of the folder"):
        untar_data(server.url("flowers.tgz"))
    assert visible(cache_folder() / "data") == []


def test_it_can_be_made_anew(server: Server):
    server.content = tar()
    path = untar_data(server.url("flowers.tgz"))
    (path / "mine").write_text("gone")
    server.content, server.etag = tar(files={"test/c.txt": b"c"}), '"two"'
    assert visible(untar_data(server.url("flowers.tgz"), force=True)) == ["test"]


def test_a_folder_of_something_else_is_not_touched(server: Server, tmp_path: Path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(
        ConfigError, match="flowers was not unpacked by dist_ai; move it away, give another dest, or force=True"
    ):
        untar_data(server.url("flowers.tgz"), dest=tmp_path)
    server.content = tar()
    untar_data(server.url("roses.tgz"), dest=tmp_path)
    with pytest.raises(ConfigError, match="roses is of another archive"):
        untar_data(server.url("other/roses.tgz"), dest=tmp_path)
