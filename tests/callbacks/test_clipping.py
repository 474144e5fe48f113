"""Gradient clipping, by norm and by value, of the global batch's gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from toy import make_data, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, CancelBatch, GradientAccumulation, GradientClip, Phase
from dist_ai.callbacks.clipping import clip_grad_norm
from dist_ai.distributed.sharded import gather
from dist_ai.distributed.strategies import FSDP
from dist_ai.errors import ConfigError


def fit_clipped(**options: Any) -> list[float]:
    learn = make_learner(cbs=GradientClip(**options))
    learn.fit(2)
    return weights_of(learn.model).tolist()


def fit_by_hand(max_norm: float | None, max_value: float | None, norm_type: float) -> list[float]:
    model, dls = make_model(), make_dls()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(2):
        for _, (x, y) in dls.train.batches(epoch):
            torch.nn.functional.cross_entropy(model(x), y).backward()
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, norm_type)
            else:
                torch.nn.utils.clip_grad_value_(model.parameters(), max_value or 0.0)
            opt.step()
            opt.zero_grad()
    return weights_of(model).tolist()


@pytest.mark.parametrize(
    ("max_norm", "max_value", "norm_type"),
    [(0.1, None, 2.0), (0.05, None, math.inf), (0.1, None, 1.0), (None, 0.01, 2.0)],
)
def test_gradients_are_clipped_as_torch_does_on_any_number_of_ranks(
    spawn: Any, max_norm: float | None, max_value: float | None, norm_type: float
) -> None:
    expected = fit_by_hand(max_norm, max_value, norm_type)
    assert expected != fit_by_hand(1e9, None, 2.0)  # it makes a difference
    for world_size in (1, 3):
        for rank in spawn(world_size, fit_clipped, max_norm=max_norm, max_value=max_value, norm_type=norm_type):
            assert rank == pytest.approx(expected, rel=1e-9)


def test_what_is_clipped_are_the_gradients_of_the_whole_step() -> None:
    accumulated = make_learner(dls=make_dls(bs=2), cbs=[GradientClip(0.1), GradientAccumulation(batches=4)])
    at_once = make_learner(dls=make_dls(bs=8), cbs=GradientClip(0.1))
    for learn in (accumulated, at_once):
        learn.fit(2)
    torch.testing.assert_close(weights_of(accumulated.model), weights_of(at_once.model), rtol=1e-10, atol=1e-12)


def test_the_norm_before_clipping_is_kept() -> None:
    clip = GradientClip(0.1)
    make_learner(cbs=clip).fit(1)
    assert clip.norm is not None
    assert clip.norm.item() > 0.1
    assert repr(clip) == "GradientClip(0.1)"
    assert GradientClip().max_norm == 1.0  # as in fastai


def test_the_norm_of_no_gradients_is_0() -> None:
    assert clip_grad_norm([torch.nn.Parameter(torch.ones(2))], 1.0).item() == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": 0.0}, "GradientClip(max_norm=0.0): expected more than 0"),
        ({"max_value": -1.0}, "GradientClip(max_value=-1.0): expected more than 0"),
        ({"norm_type": 0.0}, "GradientClip(norm_type=0.0): expected more than 0"),
        ({"max_norm": 1.0, "max_value": 1.0}, "GradientClip(max_norm=1.0, max_value=1.0): give one of them"),
    ],
)
def test_limits_that_cannot_be_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        GradientClip(**options)
    assert str(refused.value) == message


@pytest.mark.world_size(2)
def test_sharded_gradients_are_clipped_by_the_norm_of_the_whole() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from dist_ai.distributed import join

    join()
    x, y = make_data()
    whole, sharded = make_model(), make_model()
    for layer in (sharded[0], sharded[2]):
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
    for model in (whole, sharded):
        torch.nn.functional.cross_entropy(model(x), y).backward()
    expected = clip_grad_norm(list(whole.parameters()), 0.1)
    got = clip_grad_norm(list(sharded.parameters()), 0.1)
    torch.testing.assert_close(got, expected)
    assert expected > 0.1
    for mine, theirs in zip(sharded.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.full_tensor(), theirs.grad)  # type: ignore[union-attr]


class CancelsOnLastRank(Callback):
    """Cancels the second batch in one event, on one rank alone, before or after the gradients are clipped."""

    def __init__(self, event: str, phase: Phase) -> None:
        self.phase = phase  # type: ignore[misc]  # of this one
        setattr(self, event, self.cancels)

    def cancels(self) -> None:
        state, world = self.state, self.learn.collectives.world
        if world.rank == world.world_size - 1 and state.training and state.step == 1:
            raise CancelBatch


CASES = [(event, Phase.PREPARE) for event in ("before_batch", "after_loss", "after_backward", "before_step")]
CASES.append(("before_step", Phase.RECORD))


def test_a_rank_that_cancels_does_not_keep_others_waiting_that_clip_sharded_gradients(spawn: Any) -> None:
    alone = cancelled_under_fsdp()
    for each in spawn(2, cancelled_under_fsdp):
        assert [weights == pytest.approx(expected) for weights, expected in zip(each, alone, strict=True)] == [True] * 5


def cancelled_under_fsdp() -> list[list[float]]:
    weights = []
    for event, phase in CASES:
        clips = [CancelsOnLastRank(event, phase), GradientClip(0.1)]
        learn = make_learner(strategy=FSDP(blocks=[nn.Linear]), cbs=clips)
        learn.fit(1)
        weights.append(torch.cat([each.flatten() for each in gather(learn.model.state_dict()).values()]).tolist())
    return weights
