"""Sums over the ranks: of few, each tells the others; of many, they are reduced."""

from __future__ import annotations

import itertools
import warnings
from unittest import mock

import pytest
import torch

from dist_ai.distributed import join
from dist_ai.distributed.strategies import total


@pytest.mark.world_size(3)
def test_all_ranks_have_the_sum_and_keep_what_they_gave() -> None:
    rank = join().world.rank
    for few, shape in itertools.product([8, 2], [(), (1,), (2, 3)]):
        mine = torch.full(shape, 0.1 + rank, dtype=torch.float64)
        with mock.patch.object(total, "_FEW", few), warnings.catch_warnings():
            warnings.simplefilter("error")  # each run of several processes would show it
            waits = [total.total_over_ranks(mine), total.total_over_ranks(mine * 2)]
            sums = [wait() for wait in waits]
        for factor, found in enumerate(sums, 1):
            torch.testing.assert_close(found, torch.full(shape, 3.3 * factor, dtype=torch.float64))
        torch.testing.assert_close(mine, torch.full(shape, 0.1 + rank, dtype=torch.float64))


@pytest.mark.world_size(2)
def test_a_sum_has_the_dtype_that_was_given_which_may_change_meanwhile() -> None:
    rank = join().world.rank
    for few, dtype in itertools.product([8, 1], [torch.int32, torch.bfloat16]):
        mine = (torch.arange(6, dtype=dtype).view(2, 3) + rank).T  # not in order
        with mock.patch.object(total, "_FEW", few):
            wait = total.total_over_ranks(mine)
        mine.fill_(100)
        found = wait()
        assert found.dtype == dtype
        assert found.tolist() == [[1, 7], [3, 9], [5, 11]]
