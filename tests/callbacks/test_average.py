"""Averages of the weights: equal to torch's, on any number of ranks, resumed to the bit, out of the training's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn
from toy import NUM_STEPS, Stop, StopAt, give_back_run_directories, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import EMA, SWA, Callback, Checkpointer, EarlyStopping, SaveBest, on
from dist_ai.data import DataLoaders
from dist_ai.distributed.sharded import gather
from dist_ai.errors import ConfigError
from dist_ai.optimizer import ScheduleFreeAdamW


def by_hand(average: str, *, batch_norm: bool = False, n_epoch: int = 4) -> tuple[AveragedModel, nn.Module]:
    """Returns torch's average of a hand-written loop's weights, and the weights."""
    model, dls = make_model(batch_norm=batch_norm), make_dls(bs=6)
    rule = get_ema_multi_avg_fn(0.8) if average == "EMA" else get_swa_multi_avg_fn()
    averaged = AveragedModel(model, multi_avg_fn=rule, use_buffers=False)
    if average == "EMA":
        averaged.update_parameters(model)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(n_epoch):
        for _, (x, y) in dls.train.batches(epoch):
            nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            if average == "EMA":
                averaged.update_parameters(model)
        if average == "SWA" and (epoch + 1) / n_epoch >= 0.5:
            averaged.update_parameters(model)
    if average == "SWA":
        update_bn((x for _, (x, _) in dls.train.batches(n_epoch - 1)), averaged)
    return averaged, model


def make(average: str) -> Callback:
    return EMA(0.8, warmup=False) if average == "EMA" else SWA(0.5)


def averaged(average: str, batch_norm: bool = False, strategy: str = "auto") -> list[Any]:
    """Returns the weights after a fit, and the validation loss in its last row."""
    learn = make_learner(
        dls=make_dls(bs=6), model=make_model(batch_norm=batch_norm), strategy=strategy, cbs=make(average)
    )
    learn.fit(4)
    weights = torch.cat([t.double().flatten() for t in gather(learn.model.state_dict()).values()])
    return [weights.tolist(), learn.recorder.epochs[-1]["valid_loss"]]


@pytest.mark.parametrize("average", ["EMA", "SWA"])
def test_validation_and_the_end_of_a_fit_have_torchs_average(spawn: Any, average: str) -> None:
    expected, trained = by_hand(average)
    rounding = 1e-8 if average == "SWA" else 0.0  # torch computes 1 / n in float32
    (_, (x, y)) = next(iter(make_dls(val_bs=99).valid.batches()))  # type: ignore[union-attr]
    loss = nn.functional.cross_entropy(expected.module(x), y).item()
    assert loss != pytest.approx(nn.functional.cross_entropy(trained(x), y).item())
    for world_size, strategy in ((1, "auto"), (3, "ddp"), (2, "fsdp")):
        for weights, valid_loss in spawn(world_size, averaged, average=average, strategy=strategy):
            assert weights == pytest.approx(weights_of(expected.module).tolist(), rel=1e-9, abs=rounding)
            assert valid_loss == pytest.approx(loss)


def test_batch_norm_gets_the_statistics_of_the_mean(spawn: Any) -> None:
    expected, _ = by_hand("SWA", batch_norm=True, n_epoch=4)
    weights, _ = averaged("SWA", batch_norm=True)
    assert weights == pytest.approx(weights_of(expected.module).tolist(), abs=1e-8)
    for rank in spawn(3, averaged, average="SWA", batch_norm=True):
        assert rank[0] == pytest.approx(weights, rel=1e-8)


@pytest.mark.parametrize("average", ["EMA", "SWA"])
@pytest.mark.parametrize("options", [{}, {"valid_every": 2}])
def test_the_weights_that_are_trained_are_not_touched(average: str, options: dict[str, int]) -> None:
    def trajectory(*cbs: Callback) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        look = on("after_step", lambda learn: seen.append(weights_of(learn.model)))
        make_learner(cbs=[look, *cbs]).fit(4, **options)
        return seen

    for mine, theirs in zip(trajectory(make(average)), trajectory(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("average", ["EMA", "SWA"])
@pytest.mark.parametrize("event", ["before_validate", "after_epoch", "before_batch"])
def test_a_fit_that_was_stopped_anywhere_goes_on_bit_for_bit(tmp_path: Path, average: str, event: str) -> None:
    def program(folder: str, *cbs: Callback) -> list[Any]:
        learn = make_learner(
            dls=make_dls(bs=6),
            model=make_model(batch_norm=True),
            run_dir=tmp_path / folder,
            checkpoint_every_s=None,
            checkpoint_every_steps=2,
            cbs=[make(average), *cbs],
        )
        learn.callbacks.find(Checkpointer).every_epoch = True
        learn.fit(4)
        give_back_run_directories()
        return [weights_of(learn.model).tolist(), [row["valid_loss"] for row in learn.recorder.epochs]]

    def leave(learn: Any) -> None:
        if learn.state.epoch == 3:
            raise Stop

    expected = program("undisturbed")
    stop = StopAt(2 * NUM_STEPS + 1) if event == "before_batch" else on(event, leave)
    with pytest.raises(Stop):
        program("stopped", stop)
    give_back_run_directories()
    assert program("stopped") == expected


def test_after_an_error_the_weights_are_those_that_were_trained() -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    plain, averaging = make_learner(), make_learner(cbs=EMA(0.9))
    plain.fit(1)
    with pytest.raises(ZeroDivisionError):
        averaging.fit(2, cbs=on("after_validate", fail))
    assert torch.equal(weights_of(averaging.model), weights_of(plain.model))


def test_the_best_weights_are_the_averages_that_were_measured() -> None:
    learn = make_learner(lr=2.0, cbs=[EMA(0.8), SaveBest(), EarlyStopping(patience=2)])
    learn.fit(10)
    best = min(row["valid_loss"] for row in learn.recorder.epochs)
    assert learn.validate()[0] == pytest.approx(best)


def test_without_validation_data_the_fit_ends_with_the_average_too() -> None:
    learn = make_learner(dls=DataLoaders(make_dls(bs=6).train), cbs=EMA(0.8, warmup=False))
    learn.fit(4)
    assert torch.allclose(weights_of(learn.model), weights_of(by_hand("EMA")[0].module))


@pytest.mark.parametrize(
    ("make_callback", "message"),
    [
        (lambda: EMA(1.0), "EMA(decay=1.0): expected between 0 and 1, such as 0.999"),
        (lambda: EMA(every=0), "EMA(every=0): expected 1 step or more"),
        (lambda: SWA(1.0), "SWA(start=1.0): expected a share of the fit, at least 0 and less than 1"),
        (lambda: SWA(every=0), "SWA(every=0): expected 1 step or more"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make_callback: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_callback()
    assert str(refused.value) == message


def test_an_optimizer_that_averages_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="already evaluates with an average of its own"):
        make_learner(opt_func=ScheduleFreeAdamW, cbs=EMA()).fit(1)
