"""Drives real launches for tests: small scripts in a folder of their own, and no process left behind.

Every process of a test carries a mark in its environment, so the ones that a launcher forgot are found, however they
were started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARK = "DIST_AI_TEST_MARK"
# What a developer may have set, and what would change how a launch behaves.
UNSET = ("OMP_NUM_THREADS", "RAY_ADDRESS", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "GLOO_SOCKET_IFNAME")


class Lab:
    """A folder with scripts, and the processes that run them. Leaving it fails if any of them is still there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        # Short: Ray makes sockets in it, whose paths have at most 107 characters.
        self.ray_folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        kept = {name: value for name, value in os.environ.items() if name not in UNSET}
        self.environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            "RAY_TMPDIR": str(self.ray_folder),
            MARK: uuid.uuid4().hex,
        }

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.left_behind(within_s=20.0)  # Ray's own processes take their time on a busy machine
        told = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200] for pid in left}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.ray_folder, ignore_errors=True)
        assert not left, f"left behind: {told}"

    def script(self, name: str, text: str) -> Path:
        """Writes a script."""
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Starts python with these arguments, in a process group of its own, as a terminal would."""
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def python(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs python with these arguments to its end."""
        process = self.start(*command, **variables)
        try:
            out, err = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{command} did not end within 100 s\n{out}\n{err}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def launch(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs `dist-ai launch` with these arguments to its end."""
        return self.python("-m", "dist_ai.cli.main", "launch", *arguments, **variables)

    def start_launch(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts `dist-ai launch` with these arguments."""
        return self.start("-m", "dist_ai.cli.main", "launch", *arguments, **variables)

    def marked(self) -> list[int]:
        """Returns the processes that this lab started, directly or not."""
        mark = f"{MARK}={self.environment[MARK]}".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it ended just now, or is not ours to read
                if mark in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
        return found

    def left_behind(self, *, within_s: float) -> list[int]:
        """Returns the processes that are still there after `within_s` seconds; earlier if none is."""
        wait_until(lambda: not self.marked(), within_s=within_s)
        return self.marked()


def wait_until(condition: Callable[[], bool], *, within_s: float) -> bool:
    """Returns True as soon as `condition()` holds, False if it does not within `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()
