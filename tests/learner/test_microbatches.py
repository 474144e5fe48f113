"""How a batch is cut into parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dist_ai.data.collate import Padded
from dist_ai.data.plan import EpochPlan, Share
from dist_ai.errors import ConfigError
from dist_ai.learner.microbatches import cut, cut_share


def share_of(num_local: int) -> Share:
    return EpochPlan(num_samples=max(1, num_local), batch_size=8).share(0)._replace(num_local=num_local)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 8])
@pytest.mark.parametrize("num_local", [0, 1, 5, 8])
@pytest.mark.parametrize("unit", [1, 2])
def test_every_sample_is_in_one_part_and_none_is_empty(num_parts: int, num_local: int, unit: int) -> None:
    share = share_of(num_local)
    parts = [cut_share(share, part, num_parts, unit=unit)[0] for part in range(num_parts)]
    counted = [index for each in parts for index in each.indices[: each.num_local].tolist()]
    assert counted == list(range(num_local))
    assert all(len(each.indices) >= 1 for each in parts)  # a part without samples runs one along
    assert all(each.num_local % unit == 0 for each in parts if each.num_local and counted[-1] not in each.indices)


def test_a_batch_is_cut_through_all_that_it_is_made_of() -> None:
    x = torch.arange(6).view(3, 2)
    batch = {
        "text": ["a", "b", "c"],
        "padded": Padded(x, torch.tensor([2, 1, 2])),
        "both": [x, x + 1, x + 2],
        "scale": 2.0,
    }
    part = cut(batch, slice(1, 3), num_samples=3)
    assert part["text"] == ["b", "c"]
    assert part["padded"].lengths.tolist() == [1, 2]
    assert [each.tolist() for each in part["both"]] == [[[2, 3], [4, 5]], [[3, 4], [5, 6]], [[4, 5], [6, 7]]]
    assert part["scale"] == 2.0
    assert cut(np.arange(3), slice(0, 1), num_samples=3).tolist() == [0]


def test_what_has_no_row_for_each_sample_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"of 3 samples there is a tensor of shape \(4, 3\); collate it with the samples"
    ):
        cut(torch.zeros(4, 3), slice(0, 1), num_samples=3)
