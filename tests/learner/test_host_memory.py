"""Memory of large tensors on a CPU: kept from one step of a fit to the next, and given back at its end."""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.learner import Learner
from dist_ai.learner.host_memory import kept_memory
from dist_ai.losses import MSELoss

NUM_BYTES = 64 * 2**20
PAGES = NUM_BYTES // resource.getpagesize()

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")


def pages_cleared(work: Callable[[], object]) -> int:
    """Returns how many pages the system gave to this process, cleared, while it worked."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def large_tensors() -> None:
    """Makes four, one after the other."""
    for _ in range(4):
        torch.empty(NUM_BYTES, dtype=torch.uint8).fill_(1)


def test_a_large_block_is_cleared_once_and_not_each_time() -> None:
    with kept_memory(torch.device("cpu")):
        large_tensors()
        assert pages_cleared(large_tensors) < PAGES // 10
    assert pages_cleared(large_tensors) > PAGES // 2


def test_afterwards_the_memory_is_the_systems_again() -> None:
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    with kept_memory(torch.device("cpu")):
        large_tensors()
        within = held()
    assert within - held() > NUM_BYTES // 2


def test_a_fit_in_a_fit_leaves_it_to_the_outer_one() -> None:
    with kept_memory(torch.device("cpu")):
        with kept_memory(torch.device("cpu")):
            large_tensors()
        large_tensors()
        assert pages_cleared(large_tensors) < PAGES // 10


def test_an_error_ends_it() -> None:
    with pytest.raises(RuntimeError, match="stop"), kept_memory(torch.device("cpu")):
        raise RuntimeError("stop")
    assert pages_cleared(large_tensors) > PAGES // 2


class Wide(nn.Module):
    """Makes a large tensor in each forward, and notes the pages that it took."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.cleared: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cleared.append(pages_cleared(lambda: torch.empty(NUM_BYTES, dtype=torch.uint8).fill_(1)))
        return self.linear(x)


def test_the_steps_of_a_fit_find_it() -> None:
    loader, model = DataLoader(TensorData(torch.ones(32, 1), torch.ones(32, 1)), 2), Wide()
    Learner(DataLoaders(loader, loader), model, MSELoss(), run_dir=None, progress=False).fit(1)
    assert len(model.cleared) == 32
    # Where small blocks took some of a large one's place, the next needs another; soon there is one for all.
    assert PAGES // 2 < sum(model.cleared) < 12 * PAGES
    assert sum(model.cleared[-8:]) < 4 * PAGES


def test_of_a_gpu_nothing_is_changed() -> None:
    with kept_memory(torch.device("meta")):
        assert pages_cleared(large_tensors) > PAGES // 2


def test_smaller_blocks_are_kept_after_a_fit_as_before_it() -> None:
    def small_tensors() -> None:
        for _ in range(20):
            torch.empty(NUM_BYTES // 4, dtype=torch.uint8).fill_(1)  # 16 MiB

    with kept_memory(torch.device("cpu")):
        large_tensors()
    small_tensors()
    assert pages_cleared(small_tensors) < PAGES  # 5 times as many where each is mapped
