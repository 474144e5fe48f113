"""Augmentations of series: drawn by (seed, epoch, sample) alone, blind to padding, and what each does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dist_ai.core import TensorSeries
from dist_ai.core.randomness import Draw
from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries import (
    ChannelDrop,
    CutOut,
    Jitter,
    MagnitudeWarp,
    RandomWindow,
    Scaling,
    TensorForecast,
    TimeWarp,
    ts_tfms,
)

ALL: list[Any] = [
    Jitter(p=1),
    Scaling(p=1),
    MagnitudeWarp(p=1),
    TimeWarp(p=1),
    RandomWindow(0.5, 0.8, p=1),
    CutOut(0.5, p=1),
    ChannelDrop(0.5, p=1),
]
NAMES = [type(tfm).__name__ for tfm in ALL]


def batch(num: int = 6, channels: int = 3, length: int = 40) -> TensorSeries:
    steps = torch.arange(length, dtype=torch.float64)
    rows = torch.arange(num * channels, dtype=torch.float64).view(num, channels, 1)
    return TensorSeries(torch.sin(steps / 5 + rows) + 2 + rows / 10)


def draws(samples: Any, epoch: int = 0) -> Draw:
    return Draw(seed=3, epoch=epoch, samples=samples)


@pytest.mark.parametrize("tfm", ALL, ids=NAMES)
def test_what_is_drawn_for_a_series_depends_on_it_and_the_epoch_not_on_its_batch(tfm: Any) -> None:
    x = batch()
    together = tfm(x, draws(range(6)))
    assert not torch.equal(together, x)
    assert not torch.equal(together, tfm(x, draws(range(6), epoch=1)))
    for i in (0, 3, 5):
        torch.testing.assert_close(tfm(x[[i]], draws([i]))[0], together[i], rtol=0, atol=0)


@pytest.mark.parametrize("tfm", ALL, ids=NAMES)
def test_padding_stays_padding_and_does_not_change_what_is_drawn(tfm: Any) -> None:
    x = batch()
    padded = torch.nn.functional.pad(x, (0, 7), value=float("nan"))
    changed = tfm(padded, draws(range(6)))
    assert torch.equal(changed.isnan(), padded.isnan())
    if not isinstance(tfm, Jitter | MagnitudeWarp):  # their numbers run along the tensor, padding too
        torch.testing.assert_close(changed[..., :40], tfm(x, draws(range(6))))


@pytest.mark.parametrize("tfm", ALL, ids=NAMES)
def test_nothing_happens_outside_training_nor_to_what_is_forecast(tfm: Any) -> None:
    x = batch()
    assert tfm(x) is x
    target = TensorForecast(x)
    assert tfm(target, draws(range(6))) is target
    assert tfm.split_idx == 0


def test_each_does_what_its_name_says() -> None:
    x = batch(64, 4, 60)
    draw = draws(range(64))
    noise = Jitter(0.5, p=1)(x, draw) - x
    assert abs(float(noise.std()) - 0.5) < 0.02
    ratio = Scaling(p=1)(x, draw) / x
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
    curve = MagnitudeWarp(p=1)(x, draw) / x
    assert float(curve.diff(dim=-1).abs().max()) < 0.15
    warped = TimeWarp(p=1)(x, draw)
    torch.testing.assert_close(warped[..., [0, -1]], x[..., [0, -1]])
    cut = CutOut(0.5, p=1)(x, draw) == 0
    assert torch.equal(cut[:, 0], cut[:, 1])
    assert 0.15 < float(cut.double().mean()) < 0.35
    dropped = (ChannelDrop(0.9, p=1)(x, draw) == 0).all(-1)
    assert (dropped.sum(1) < 4).all()
    assert (dropped.sum(1) > 0).any()


def test_a_window_is_a_slice_stretched_to_the_whole_length() -> None:
    ramp = TensorSeries(torch.arange(41, dtype=torch.float64).expand(8, 1, 41).contiguous())
    cut = RandomWindow(0.5, 0.5, p=1)(ramp, draws(range(8)))
    torch.testing.assert_close(cut[..., -1] - cut[..., 0], torch.full((8, 1), 20.0, dtype=torch.float64))
    assert float(cut.min()) >= 0
    assert float(cut.max()) <= 40


def test_p_says_how_often() -> None:
    x = batch(400, 1, 5)
    changed = (Jitter(p=0.25)(x, draws(range(400))) != x).any(-1).any(-1)
    assert 0.18 < float(changed.double().mean()) < 0.32
    assert ts_tfms(magnitude=0.0)[0](x, draws(range(400))).equal(x)


def test_they_keep_the_dtype_and_the_type() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = TensorSeries(batch().to(dtype))
        for tfm in ALL:
            changed = tfm(x, draws(range(6)))
            assert (changed.dtype, type(changed)) == (dtype, TensorSeries)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Jitter(-1), r"Jitter\(std=-1\): expected at least 0"),
        (lambda: Scaling(p=2), r"Scaling\(p=2\): expected at least 0 and at most 1"),
        (lambda: TimeWarp(knots=1), r"TimeWarp\(knots=1\): expected 2 or more"),
        (lambda: RandomWindow(0.9, 0.5), "expected 0 < min_share <= max_share <= 1"),
        (lambda: CutOut(1.5), r"CutOut\(max_share=1.5\): expected at least 0 and at most 1"),
    ],
)
def test_an_option_that_cannot_work_is_named(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_one_series_is_no_batch() -> None:
    with pytest.raises(DataError, match=r"Jitter changes a batch .* and got \(1, 5\); put it in batch_tfms"):
        Jitter()(TensorSeries(np.zeros((1, 5))), Draw(seed=0, epoch=0, samples=1))
