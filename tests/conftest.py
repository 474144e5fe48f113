"""Fixtures shared by all tests.

`@pytest.mark.world_size(n)` runs a test function on n gloo processes; it passes if it passes on each. The fixture
`spawn` runs any module-level function on n processes and returns what each returned.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ranks import RankError, run_on_ranks

from dist_ai.distributed.environment import DEVICE


@pytest.fixture
def spawn() -> Callable[..., list[Any]]:
    """Returns `spawn(world_size, function, **kwargs)`: the results of a module-level function on each rank."""

    def run(world_size: int, function: Callable[..., Any], **kwargs: Any) -> list[Any]:
        file = sys.modules[function.__module__].__file__
        assert file is not None
        return run_on_ranks(world_size, file, function.__name__, kwargs)

    return run


@pytest.fixture(autouse=True)
def on_the_device_that_is_meant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test on the CPU also where there is a GPU, unless it is marked `gpu`: what it expects was computed on a CPU."""
    import torch

    if torch.cuda.is_available() and request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv(DEVICE, "cpu")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    marker = pyfuncitem.get_closest_marker("world_size")
    if marker is None:
        return None
    kwargs = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    try:
        run_on_ranks(marker.args[0], str(pyfuncitem.path), pyfuncitem.originalname, kwargs)
    except RankError as error:
        pytest.fail(str(error), pytrace=False)
    return True


def pytest_sessionstart() -> None:
    import torch

    torch.set_num_threads(1)  # the same sums in the same order as in the ranks


def pytest_sessionfinish() -> None:
    from multiprocessing import forkserver

    # Stopping it politely waits for every process that inherited its pipe, loader workers included.
    if (pid := forkserver._forkserver._forkserver_pid) is not None:  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
