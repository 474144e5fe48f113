"""torchrun on two hosts with addresses of their own: one loses its power, a link is cut; the run ends as the undisturbed one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts, why_not
from lab import wait_until

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]

_spec = importlib.util.spec_from_file_location("kills_of_hosts", Path(__file__).with_name("test_kills.py"))
assert _spec is not None
assert _spec.loader is not None
kills = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kills)

PORT, PATIENCE_S = "29431", 300.0
# Seconds after which a rank gives up its peer, and how long the link is away.
TIMEOUT_S, AWAY_S = 30, 34


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(2) as two:
        yield two


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on two processes of one host."""
    folder = tmp_path_factory.mktemp("undisturbed")
    kills.finish(2, folder)
    return folder


def torchrun(hosts: Hosts, number: int, folder: Path) -> subprocess.Popen[bytes]:
    """Starts a host's part of the run: one rank, started again with the others' after a failure."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    return hosts.start(
        number,
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--nproc-per-node",
            "1",
            "--max-restarts",
            "9",
        ),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts.address(1)}:{PORT}", "--rdzv-id", "hosts"),
        *("--rdzv-conf", f"is_host={int(number == 1)}", "--local-addr", hosts.address(number)),
        *(str(kills.PROGRAM), str(folder / "weights"), "1"),
        log=folder / f"host{number}.log",
        cwd=folder,
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        PYTHONPATH=f"{kills.PROGRAM.parents[2]}:{os.environ.get('PYTHONPATH', '')}",
        DIST_AI_RUN_DIR=str(folder / "run"),
        DIST_AI_TIMEOUT_S=str(TIMEOUT_S),
        # Else the agents that stay keep the address of the first round's store, and one that comes back waits for it in vain
        # (torch 2.14, `DynamicRendezvousHandler.next_rendezvous`).
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )


def until_it_trains(folder: Path, seen: int) -> None:
    """Waits until there are more checkpoint parts than were `seen`."""
    assert wait_until(lambda: len(kills.written(folder)) > 0 and newest(folder) > seen, within_s=PATIENCE_S), said(
        folder
    )


def newest(folder: Path) -> int:
    """Returns at how many steps a checkpoint was begun, over both fits."""
    return sum(1 for line in (folder / "run" / "log.jsonl").read_text().splitlines() if '"step"' in line)


def said(folder: Path) -> str:
    return "\n".join(f"==== {log.name}\n{log.read_text()[-6000:]}" for log in sorted(folder.glob("host*.log")))


def ends_as(undisturbed: Path, folder: Path, parts: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    for part in parts:
        assert part.wait(timeout=max(1.0, deadline - time.monotonic())) == 0, said(folder)
    assert "goes on at epoch" in said(folder)  # it was disturbed
    assert kills.same_weights(undisturbed, folder)
    assert kills.logged(undisturbed) == kills.logged(folder)


def test_a_host_that_loses_its_power_comes_back_and_the_run_goes_on(
    hosts: Hosts, undisturbed: Path, tmp_path: Path
) -> None:
    parts = [torchrun(hosts, number, tmp_path) for number in hosts.numbers]
    until_it_trains(tmp_path, seen=2)
    assert hosts.kill(2) >= 2  # torchrun and its rank
    parts[1].wait(timeout=20)
    parts[1] = torchrun(hosts, 2, tmp_path)
    ends_as(undisturbed, tmp_path, parts)


def test_a_link_that_is_cut_for_a_while_is_survived(hosts: Hosts, undisturbed: Path, tmp_path: Path) -> None:
    parts = [torchrun(hosts, number, tmp_path) for number in hosts.numbers]
    until_it_trains(tmp_path, seen=2)
    hosts.cut(2)
    time.sleep(AWAY_S)
    hosts.mend(2)
    ends_as(undisturbed, tmp_path, parts)
