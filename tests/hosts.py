"""Several hosts on one machine: network namespaces with an address each, joined by a bridge. Needs root.

```
 host 1: eth0 10.77.0.1 ── veth ──┐
 host 2: eth0 10.77.0.2 ── veth ──┤ bridge
```
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

NETWORK = "10.77.0"


def why_not() -> str:
    """Returns why this machine cannot have such hosts; "" if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` command (iproute2)"
    probe = f"da{os.getpid()}p"
    added = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if added.returncode == 0:
        subprocess.run(["ip", "netns", "del", probe], check=False)
        added = subprocess.run(
            ["ip", "link", "add", probe, "type", "bridge"], capture_output=True, text=True, check=False
        )
        subprocess.run(["ip", "link", "del", probe], capture_output=True, check=False)
    return "" if added.returncode == 0 else f"this machine lets nobody make network namespaces: {added.stderr.strip()}"


class Hosts:
    """So many hosts, from 1. None of them, and none of their processes, is left when the block is left.

    What a test process left behind that was killed itself is removed by the next.
    """

    def __init__(self, count: int, *, owner: int | None = None) -> None:
        self.numbers = range(1, count + 1)
        self._mark = f"da{os.getpid() if owner is None else owner}"

    def __enter__(self) -> Hosts:
        _remove_stale()
        try:
            _ip("link", "add", self._mark, "type", "bridge")
            _ip("link", "set", self._mark, "up")
            for number in self.numbers:
                self._add(number)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def address(self, number: int) -> str:
        """Returns a host's address."""
        return f"{NETWORK}.{number}"

    def start(self, number: int, *command: str, log: Path, cwd: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Starts a command on a host; its output is added to a file."""
        with log.open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._name(number), *command],
                cwd=cwd,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "eth0", **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self, number: int) -> int:
        """Kills every process of a host, as if its power went; returns how many there were."""
        found = subprocess.run(["ip", "netns", "pids", self._name(number)], capture_output=True, text=True, check=False)
        pids = [int(each) for each in found.stdout.split()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def cut(self, number: int) -> None:
        """Takes a host off the network: what is sent to it or by it is lost, and nobody is told."""
        _ip("link", "set", self._link(number), "down")

    def mend(self, number: int) -> None:
        """Puts it back."""
        _ip("link", "set", self._link(number), "up")

    def remove(self) -> None:
        """Ends all that is there of the hosts."""
        for number in self.numbers:
            self.kill(number)
            subprocess.run(["ip", "netns", "del", self._name(number)], capture_output=True, check=False)
            subprocess.run(["ip", "link", "del", self._link(number)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._mark], capture_output=True, check=False)

    def _add(self, number: int) -> None:
        name, link = self._name(number), self._link(number)
        _ip("netns", "add", name)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", link, "master", self._mark, "up")
        _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")

    def _name(self, number: int) -> str:
        return f"{self._mark}h{number}"

    def _link(self, number: int) -> str:
        return f"{self._mark}v{number}"


def _remove_stale() -> None:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for owner in {int(each) for each in re.findall(r"^da(\d+)h\d+", listed, re.MULTILINE)}:
        if not Path(f"/proc/{owner}").exists():
            Hosts(9, owner=owner).remove()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
