"""A Ray cluster of three hosts with addresses of their own: one is killed, a link is cut; the run ends as the undisturbed one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts, why_not
from lab import wait_until

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.skipif(bool(REASON), reason=REASON)]

_spec = importlib.util.spec_from_file_location("kills_of_ray_hosts", Path(__file__).with_name("test_kills.py"))
assert _spec is not None
assert _spec.loader is not None
kills = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kills)

PORT, PATIENCE_S = "6399", 400.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": f"{kills.PROGRAM.parents[2]}:{os.environ.get('PYTHONPATH', '')}",
    "RAY_AUTH_MODE": "disabled",  # from Ray 2.60 on a cluster that others can reach asks for a token
    # How soon the head gives up a host that does not answer: 3 s instead of up to a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Cluster:
    """Ray's head on host 1, which trains nothing, and a worker's CPU on each of the others."""

    def __init__(self, hosts: Hosts, folder: Path, ray_folder: str) -> None:
        self.hosts, self.folder = hosts, folder
        self.environment = {**ENVIRONMENT, "RAY_TMPDIR": ray_folder}
        self.head = f"{hosts.address(1)}:{PORT}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        self.start(1, "--head", "--port", PORT, "--num-cpus", "0", "--include-dashboard", "false")
        for number in (2, 3):
            self.join(number)

    def join(self, number: int) -> None:
        self.start(number, "--address", self.head, "--num-cpus", "1")

    def start(self, number: int, *options: str) -> None:
        """Starts Ray on a host, and waits: two at once would take the same names for their sockets, which are in one `/tmp`."""
        ray = str(Path(sys.executable).with_name("ray"))
        command = (
            ray,
            "start",
            "--block",
            "--node-ip-address",
            self.hosts.address(number),
            "--disable-usage-stats",
            *options,
        )
        log = self.folder / f"host{number}-{len(self.processes)}.log"
        self.run(number, *command, log=log)
        assert wait_until(lambda: "Ray runtime started" in log.read_text(), within_s=120), self.said()

    def run(self, number: int, *command: str, log: Path, **variables: str) -> subprocess.Popen[bytes]:
        started = self.hosts.start(number, *command, log=log, cwd=self.folder, **self.environment, **variables)
        self.processes.append(started)
        return started

    def launch(self) -> subprocess.Popen[bytes]:
        (self.folder / "run").mkdir(parents=True, exist_ok=True)
        return self.run(
            1,
            *(
                sys.executable,
                "-m",
                "dist_ai.cli.main",
                "launch",
                str(kills.PROGRAM),
                "--engine",
                "ray",
                "--workers",
                "2",
            ),
            *("--max-restarts", "9", "--timeout", "30", "--run-dir", str(self.folder / "run")),
            *(str(self.folder / "weights"), "1"),
            log=self.folder / "launch.log",
            RAY_ADDRESS=self.head,
        )

    def said(self) -> str:
        return "\n".join(f"==== {log.name}\n{log.read_text()[-6000:]}" for log in sorted(self.folder.glob("*.log")))

    def steps(self) -> int:
        log = self.folder / "run" / "log.jsonl"
        return log.read_text().count('"step"') if log.exists() else 0

    def trains_on(self, launched: subprocess.Popen[bytes], beyond: int) -> None:
        wait_until(lambda: self.steps() > beyond or launched.poll() is not None, within_s=PATIENCE_S)
        assert self.steps() > beyond, self.said()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    # Short, for Ray makes sockets in it; its own, for Ray leaves the cluster's address there.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with Hosts(3) as three:
            cluster = Cluster(three, tmp_path, folder)
            yield cluster
        for process in cluster.processes:  # ended with its host
            process.wait(timeout=20)


def test_a_host_is_killed_and_a_link_is_cut_and_the_run_ends_as_the_undisturbed_one(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    kills.finish(2, undisturbed)
    cluster.begin()
    launched = cluster.launch()
    cluster.trains_on(launched, beyond=2)
    assert cluster.hosts.kill(3) >= 2  # Ray's own processes and the rank
    cluster.join(3)
    cluster.trains_on(launched, beyond=cluster.steps() + 2)
    cluster.hosts.cut(2)
    time.sleep(10)
    cluster.hosts.mend(2)
    cluster.hosts.kill(2)  # its Ray was given up and knows it, or soon will
    cluster.join(2)
    assert launched.wait(timeout=PATIENCE_S) == 0, cluster.said()
    assert "goes on at epoch" in cluster.said()  # it was disturbed
    assert kills.same_weights(undisturbed, cluster.folder)
    assert kills.logged(undisturbed) == kills.logged(cluster.folder)
