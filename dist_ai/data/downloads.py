"""Files and data sets from the network, once for each machine.

```python
path = untar_data("https://example.org/flowers.tgz", sha256="9f86d081...")
dls = ImageDataLoaders.from_folder(path)
```

Any number of processes may ask at once: one downloads, the others wait for it and share what it got. A download that
was cut goes on where it ended; what is there is complete, and is what `sha256` says.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dist_ai.data.archive import ArchiveLimits, unpack
from dist_ai.data.cache import CACHE, alone, cache_folder, partial_folder, put_in_place
from dist_ai.distributed.environment import current_world
from dist_ai.errors import ConfigError, DataError

__all__ = ["download", "untar_data"]

_CHUNK = 1 << 18
_NO_SIGN_OF_LIFE_S = 300.0  # how long to wait for another process that downloads or unpacks, and no longer moves
_FIRST_PAUSE_S = 0.25
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def download(
    url: str,
    dest: str | Path | None = None,
    *,
    sha256: str | None = None,
    force: bool = False,
    progress: bool | None = None,
    timeout_s: float = 30.0,
    retries: int = 5,
) -> Path:
    """Returns a file from the network: complete or absent, downloaded once for all processes of a machine.

    Args:
        url: ``https://``, ``http://``, ``file://``, or a path of this machine.
        dest: where it shall stand; by default a place of its own in the `cache_folder`, and a file of this machine where it is.
        sha256: what its content must be, in hexadecimal digits. Without it, only its length is known.
        force: download it though it is there.
        progress: whether to show a bar; by default on rank 0 in a terminal.
        timeout_s: how long the server may be silent.
        retries: attempts in a row that bring nothing new, after which it is given up. They wait longer each time, 30 s at most.

    A download that was cut goes on where it ended if the server can do that and says that the file has not changed.

    Raises:
        ConfigError: the address or the digest cannot be one.
        DataError: it cannot be had, or its content is not what it must be.
    """
    options = _Options(_checked_digest(sha256), force, progress, timeout_s, retries)
    with _written(url):
        return _download(url, dest, options, still_at_work=lambda: None)


def untar_data(
    url: str,
    *,
    sha256: str | None = None,
    dest: str | Path | None = None,
    force: bool = False,
    limits: ArchiveLimits | None = None,
    progress: bool | None = None,
) -> Path:
    """Returns the folder that an archive on the network unpacks to; the second time at once.

    Where all of the archive is in one folder, that one is returned. Each call looks whether all files are there with the
    sizes that they should have, and puts back what is missing; files of your own beside them are left alone.

    Args:
        url: of a zip or tar file, as in `download`.
        sha256: what its content must be, in hexadecimal digits.
        dest: the folder in which the archive's own shall stand; by default ``data`` in the `cache_folder`.
        force: download and unpack it anew. Removes the folder first, files of your own included.
        limits: how large what it holds may be; see `ArchiveLimits`.
        progress: see `download`.

    Raises:
        ConfigError: something else stands where its folder should.
        DataError: it cannot be had, or not be unpacked; see `download` and `extract`.
    """
    sha256 = _checked_digest(sha256)
    name = re.sub(r"(\.tar)?\.[a-z0-9]+$", "", _file_name(url), flags=re.IGNORECASE)
    if dest is None:
        folder = cache_folder() / "data" / f"{name}-{_key(f'{url} {sha256}')}"
    else:
        folder = Path(dest).expanduser().absolute() / name
    unpacked = _Unpacked(folder, url, sha256)
    if not force and not unpacked.wrong():
        return unpacked.content()
    with _written(url), alone(folder, f"unpacking {_shown(url)}", timeout_s=_NO_SIGN_OF_LIFE_S) as still_at_work:
        if force or (wrong := unpacked.wrong()):
            options = _Options(sha256, force, progress)
            archive = _download(url, None, options, still_at_work)
            unpacked.make(archive, None if force else wrong, limits, still_at_work)
    return unpacked.content()


# ------------------------------------------------------------------------------------ one file


@dataclass(frozen=True)
class _Options:
    """How a file is downloaded; see `download`."""

    sha256: str | None
    force: bool = False
    progress: bool | None = None
    timeout_s: float = 30.0
    retries: int = 5


def _download(url: str, dest: str | Path | None, options: _Options, still_at_work: Callable[[], None]) -> Path:
    if (here := _local(url)) is not None:
        return _copied(here, dest, options.sha256)
    if dest is None:
        dest = cache_folder() / "downloads" / _key(url) / _file_name(url)
    target = _Target(Path(dest).expanduser().absolute(), options.sha256)
    if not options.force and target.is_there():
        return target.path
    doing = f"downloading {_shown(url)}"
    with alone(target.path, doing, timeout_s=_NO_SIGN_OF_LIFE_S) as sign_of_life:
        if not options.force and target.is_there():  # another process got it while this one waited
            return target.path
        with _bar(doing, options.progress) as show:

            def came(done: int, total: int | None) -> None:
                sign_of_life()
                still_at_work()
                show(done, total)

            _Fetching(url, target, options.timeout_s, came).until_done(options.retries)
    return target.path


@dataclass
class _Target:
    """Where a file shall stand, and what is there of it."""

    path: Path
    sha256: str | None

    def __post_init__(self) -> None:
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self.about = self.path.with_name(f".{self.path.name}.partial.json")

    def is_there(self) -> bool:
        if not self.path.is_file():
            return False
        if self.sha256 is not None and (found := _digest(self.path)) != self.sha256:
            raise DataError(
                f"{self.path} is there and is not what it must be: its SHA-256 is {found} and not {self.sha256}; "
                "remove it, or download with force=True"
            )
        return True

    def finish(self, shown: str) -> None:
        """Puts the whole file in its place."""
        if self.sha256 is not None and (found := _digest(self.partial)) != self.sha256:
            self.drop()
            raise _WrongContent(
                f"what came from {shown} is not what it must be: its SHA-256 is {found} and not {self.sha256}; "
                "the file there has changed, or is another one: do not use it unless you know why"
            )
        with self.partial.open("rb+") as file:
            os.fsync(file.fileno())  # the rename must not overtake the content in a power cut
        self.partial.replace(self.path)
        self.about.unlink(missing_ok=True)

    def drop(self) -> None:
        for path in (self.partial, self.about):
            path.unlink(missing_ok=True)


@dataclass
class _About:
    """What the server said of the file that a partial one is the beginning of; without `validator` it cannot go on."""

    url: str
    validator: str | None = None
    total: int | None = None


class _WrongContent(DataError):
    """A whole file came, and is not the one that was asked for."""


class _Again(Exception):
    """An attempt failed in a way that another one may not.

    Attributes:
        after_s: how long the server asks to wait.
    """

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _Fetching:
    """Gets one file, in as many attempts as it takes."""

    def __init__(self, url: str, target: _Target, timeout_s: float, show: Callable[[int, int | None], None]) -> None:
        self.url, self.target, self.timeout_s, self.show = url, target, timeout_s, show
        self.shown = _shown(url)

    def until_done(self, retries: int) -> None:
        failed, furthest = 0, self._have()
        may_be_mixed = furthest > 0
        while True:
            try:
                self._attempt()
                self.target.finish(self.shown)
                return
            except _WrongContent:
                if not may_be_mixed:
                    raise
                may_be_mixed, furthest = False, 0  # it may have been halves of different files; once it begins anew
            except _Again as error:
                may_be_mixed |= self._have() > 0
                # What brought something new does not count: a large file may be cut many times.
                failed = 0 if self._have() > furthest else failed + 1
                furthest = max(furthest, self._have())
                if failed > retries:
                    raise DataError(
                        f"{self.shown} cannot be downloaded: {error}; {failed} attempts in a row brought nothing new. "
                        f"What is there ({furthest:,} bytes) is gone on with when you try again"
                    ) from error
                time.sleep(max(min(30.0, _FIRST_PAUSE_S * 2**failed), min(error.after_s, 60.0)))

    def _have(self) -> int:
        return self.target.partial.stat().st_size if self.target.partial.is_file() else 0

    def _attempt(self) -> None:
        """Downloads what is missing.

        Raises:
            _Again: it was not all.
            DataError: there is no such file.
        """
        have, about = self._beginning()
        if have and have == about.total:  # it was killed just before the file came into its place
            return
        request = urllib.request.Request(self.url, headers={"User-Agent": "dist_ai", "Accept-Encoding": "identity"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", about.validator or "")
        try:
            with _opener().open(request, timeout=self.timeout_s) as response:
                self._receive(response, have, about)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:
                    self.target.drop()
                    raise _Again("the server no longer has the rest of the file") from error
                if error.code in _TRY_AGAIN:
                    raise _Again(
                        f"HTTP {error.code} {error.reason}", _seconds(error.headers.get("Retry-After"))
                    ) from error
                raise DataError(f"{self.shown} cannot be downloaded: HTTP {error.code} {error.reason}") from error
        except TimeoutError as error:
            raise _Again(f"the server was silent for {self.timeout_s:g} s") from error
        except http.client.InvalidURL as error:
            raise ConfigError(f"{self.shown} is no address: {error}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _Again(f"no connection within {self.timeout_s:g} s") from error
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise DataError(f"{self.shown} cannot be downloaded: {error}") from error
            raise _Again(str(getattr(error, "reason", "")) or f"{type(error).__name__}: {error}") from error

    def _beginning(self) -> tuple[int, _About]:
        """Returns how much there is to go on with, and of what."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            about = _About(**json.loads(self.target.about.read_text()))
            if about.url == self.url and about.validator and (have := self._have()):
                return have, about
        self.target.drop()
        return 0, _About(self.url)

    def _receive(self, response: Any, have: int, about: _About) -> None:
        begin, total = _content_range(response)
        goes_on = response.status == 206 and begin == have and about.total in (None, total)
        if response.status == 206 and not goes_on:
            self.target.drop()
            raise _Again(f"the server sent another part than was asked for: {response.headers.get('Content-Range')}")
        if not goes_on:
            have = 0
            length = response.headers.get("Content-Length")
            about = _About(self.url, _validator(response.headers), int(length) if length is not None else None)
            self.target.drop()
            self.target.about.write_text(json.dumps(asdict(about)))
        with self.target.partial.open("ab") as file:
            self.show(have, about.total)
            for chunk in _chunks(response):
                file.write(chunk)
                have += len(chunk)
                self.show(have, about.total)
        if about.total is not None and have != about.total:
            raise _Again(f"the connection ended after {have:,} of {about.total:,} bytes")


def _chunks(response: Any) -> Iterator[bytes]:
    # Here and not around the writing, whose errors are OSErrors too and do not pass.
    try:
        while chunk := response.read1(_CHUNK):
            yield chunk
    except TimeoutError:
        raise
    except OSError as error:
        raise _Again(f"the connection was lost: {error.strerror or error}") from error


class _NoOtherScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects from https to https and from http to both: never to a file of this machine, nor to less safety."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        was, now = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if now not in ("http", "https") or (was == "https" and now == "http"):
            raise DataError(
                f"{_shown(req.full_url)} redirects to {_shown(newurl)}: from {was} to {now or 'nothing'} is not followed; "
                "give the address of the file itself"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener, which adds handlers for files, data and FTP.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _NoOtherScheme(),
    ):
        opener.add_handler(handler)
    return opener


def _validator(headers: Any) -> str | None:
    """Returns what tells this state of the file from another one, if there is such a thing (RFC 9110, 8.8)."""
    if (tag := headers.get("ETag")) and not tag.startswith("W/"):
        return str(tag)
    modified, now = headers.get("Last-Modified"), headers.get("Date")
    with contextlib.suppress(TypeError, ValueError):
        # A date says to the second: of a file that changed in this one it does not tell which state it is.
        if (email.utils.parsedate_to_datetime(now) - email.utils.parsedate_to_datetime(modified)).total_seconds() > 1:
            return str(modified)
    return None


def _content_range(response: Any) -> tuple[int | None, int | None]:
    """Returns which part of the file came: its first byte, and the size of the whole."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
    return (int(match[1]), int(match[2])) if match else (None, None)


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


@contextlib.contextmanager
def _bar(doing: str, wanted: bool | None) -> Iterator[Callable[[int, int | None], None]]:
    """Gives a function that shows how far a download is."""
    if not (sys.stderr.isatty() and current_world().is_main if wanted is None else wanted):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# ------------------------------------------------------------------------------------ one folder


class _Unpacked:
    """The folder of an unpacked archive; a list of its files with their sizes stands beside it."""

    def __init__(self, folder: Path, url: str, sha256: str | None) -> None:
        self.folder = folder
        self.facts = {"url": url, "sha256": sha256}
        self.list = folder.with_name(f".{folder.name}.files.json")

    def wrong(self) -> list[str]:
        """Returns the files that are missing or have another size; ``["."]`` if there is nothing.

        Raises:
            ConfigError: what stands there is something else.
        """
        if not self.folder.exists():
            return ["."]
        try:
            there = json.loads(self.list.read_text())
            files, facts = there["files"], {name: there[name] for name in self.facts}
        except (OSError, ValueError, KeyError):
            facts = None
        if facts != self.facts:
            what = "is of another archive" if facts else "was not unpacked by dist_ai"
            raise ConfigError(f"{self.folder} {what}; move it away, give another dest, or force=True to replace it")
        return [name for name, size in files.items() if _size(self.folder / name) != size]

    def make(
        self, archive: Path, wrong: list[str] | None, limits: ArchiveLimits | None, still_at_work: Callable[[], None]
    ) -> None:
        """Unpacks the archive, and puts what is wrong in place; None is all of it, in place of all that is there."""
        with partial_folder(self.folder, leftovers_after_s=0.0) as partial:
            unpack(archive, partial, limits=limits, still_at_work=still_at_work)
            files = {
                os.path.relpath(os.path.join(parent, name), partial): size
                for parent, _, names in os.walk(partial)
                for name in names
                if (size := _size(Path(parent, name))) is not None
            }
            if wrong is None and self.folder.exists():
                doomed = partial.with_name(f"{partial.name}-replaced")
                self.folder.rename(doomed)
                shutil.rmtree(doomed)
            elif wrong and self.folder.exists():
                lost = [name for name in wrong if name not in files]
                if lost:
                    raise DataError(
                        f"{self.folder} is damaged ({lost[0]} is missing), and the archive no longer has that file; "
                        "give force=True to unpack what there is now"
                    )
            # Before the folder: one without a list is nobody's.
            writing = self.list.with_name(f"{self.list.name}.new")
            writing.write_text(json.dumps({**self.facts, "files": files}))
            writing.replace(self.list)
            put_in_place(partial, self.folder, wrong or ())

    def content(self) -> Path:
        """Returns the folder, or the one in it that holds everything."""
        entries = [entry for entry in os.scandir(self.folder) if not entry.name.startswith(".")]
        alone_in_it = len(entries) == 1 and entries[0].is_dir(follow_symlinks=False)
        return self.folder / entries[0].name if alone_in_it else self.folder


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None


# ------------------------------------------------------------------------------------ addresses


@contextlib.contextmanager
def _written(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"what {_shown(url)} gives cannot be written to {error.filename or 'its place'}: {error.strerror}; give dest=, or "
            f"set {CACHE}, with a folder on a disk that can be written and has room"
        ) from error


def _local(url: str) -> Path | None:
    """Returns the path that an address of this machine means; None for one of the network."""
    parts = urlsplit(str(url))
    if parts.scheme in ("http", "https"):
        if not parts.hostname:
            raise ConfigError(f"{url!r} has no host; expected such as 'https://example.org/flowers.tgz'")
        return None
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{url!r} is a file of the machine {parts.netloc!r}; expected file:///path")
        return Path(unquote(parts.path))
    if parts.scheme and "://" in str(url):
        raise ConfigError(f"{url!r}: {parts.scheme}:// is not known; expected https://, http://, file:// or a path")
    return Path(url).expanduser()


def _copied(source: Path, dest: str | Path | None, sha256: str | None) -> Path:
    if not source.is_file():
        raise DataError(f"no file at {source}: it is {'a folder' if source.is_dir() else 'not there'}")
    if sha256 is not None and (found := _digest(source)) != sha256:
        raise DataError(f"{source} is not what it must be: its SHA-256 is {found} and not {sha256}")
    if dest is None:
        return source
    target = Path(dest).expanduser().absolute()
    with alone(target, f"copying {source}", timeout_s=_NO_SIGN_OF_LIFE_S):
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
    return target


def _file_name(url: str) -> str:
    name = unquote(urlsplit(str(url)).path if _local(url) is None else str(_local(url))).rstrip("/").split("/")[-1]
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "download"


def _shown(url: str) -> str:
    """Returns an address for messages: without its query, which may hold a key to it."""
    parts = urlsplit(url)
    return parts._replace(query="", fragment="", netloc=parts.netloc.rsplit("@", 1)[-1]).geturl()


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_digest(sha256: str | None) -> str | None:
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"sha256={sha256!r}: expected 64 hexadecimal digits")
    return sha256 and sha256.lower()
