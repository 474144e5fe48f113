"""A Learner in bf16 and fp16: what computes in which type, and that it learns what fp32 learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy import make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, GradientAccumulation, GradientClip, on
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.errors import ConfigError
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy
from dist_ai.optimizer import Adam

INSIDE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Types(Callback):
    """Writes down the types of what each event sees."""

    may_cancel = False

    def __init__(self) -> None:
        self.inside: set[torch.dtype] = set()
        self.seen: set[torch.dtype] = set()

    def before_fit(self) -> None:
        self.hook = self.learn.model[0].register_forward_hook(lambda _m, _i, out: self.inside.add(out.dtype))

    def after_loss(self) -> None:
        self.seen |= {self.state.pred.dtype, self.state.loss.dtype}  # type: ignore[union-attr]

    def before_step(self) -> None:
        self.seen |= {p.grad.dtype for p in self.learn.model.parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", INSIDE)
def test_the_model_computes_in_the_type_and_all_else_sees_float32(precision: Any) -> None:
    types = Types()
    learn = make_learner(
        dls=make_dls(dtype=torch.float32), model=make_model(torch.float32), precision=precision, cbs=types
    )
    learn.fit(1)
    learn.validate()
    preds, _ = learn.get_preds()
    assert types.inside == {INSIDE[precision]}
    assert types.seen == {torch.float32}
    assert preds.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())


def test_the_precision_is_changed_as_in_fastai() -> None:
    learn = make_learner(dls=make_dls(dtype=torch.float32), model=make_model(torch.float32))
    names = [learn.precision.name]
    for change in (learn.to_bf16, learn.to_fp16, learn.to_fp32):
        assert change() is learn
        names.append(learn.precision.name)
    assert names == ["fp32", "bf16", "fp16", "fp32"]
    with pytest.raises(ConfigError, match="precision='fp8'"):
        make_learner(precision="fp8")


def real_task(precision: Any, accumulate: int = 1) -> dict[str, Any]:
    """Trains a small convolutional network to tell four kinds of noisy stripes apart."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(512) % 4
    wave = torch.sin(torch.arange(16) * 0.9)
    stripes = torch.stack([wave.expand(16, 16), wave.expand(16, 16).T, wave[:, None] * wave, wave.expand(16, 16) ** 2])
    x = (stripes[y] + 1.5 * torch.randn(512, 16, 16, generator=generator))[:, None]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 4)
    )
    dls = DataLoaders(
        DataLoader(TensorData(x[:384], y[:384]), 32 // accumulate, shuffle=True),
        DataLoader(TensorData(x[384:], y[384:]), 64),
    )
    learn = Learner(
        dls, model, CrossEntropyLoss(), metrics=accuracy, run_dir=None, progress=False, precision=precision,
        cbs=[GradientClip(1.0), *([GradientAccumulation(batches=accumulate)] if accumulate > 1 else [])],
    )  # fmt: skip
    learn.fit_one_cycle(3, 0.02)
    return {"losses": learn.recorder.losses, "final": learn.recorder.final, "precision": learn.precision.state()}


# 32 samples of a batch, 36 steps: rounding of the forward pass to 8 or 11 bits moves single losses, not what is learned.
TOLERANCES = {"bf16": 0.06, "fp16": 0.03}


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_small_real_task_is_learned_as_in_float32(precision: str) -> None:
    full, less = real_task("fp32"), real_task(precision)
    assert full["final"][1] > 0.9
    assert full["losses"] != less["losses"]
    assert abs(less["final"][1] - full["final"][1]) <= 0.04
    differences = torch.tensor(less["losses"]) - torch.tensor(full["losses"])
    assert differences.abs().max() < TOLERANCES[precision]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_two_ranks_learn_in_less_precision_what_one_does(spawn: Any, precision: str) -> None:
    alone = real_task(precision)
    for rank in spawn(2, real_task, precision=precision):
        differences = torch.tensor(rank["losses"]) - torch.tensor(alone["losses"])
        assert differences.abs().max() < TOLERANCES[precision]
        assert rank["precision"] == alone["precision"]


def test_accumulated_losses_are_scaled_once(spawn: Any) -> None:
    learn = make_learner(
        dls=make_dls(bs=2, dtype=torch.float32), model=make_model(torch.float32), precision="fp16",
        cbs=GradientAccumulation(batches=4),
    )  # fmt: skip
    plainly = make_learner(dls=make_dls(dtype=torch.float32), model=make_model(torch.float32), precision="fp16")
    for each in (learn, plainly):
        each.fit(2)
    torch.testing.assert_close(weights_of(learn.model), weights_of(plainly.model), rtol=2e-3, atol=2e-3)


def fit_with_overflow() -> dict[str, Any]:
    """In the second step one rank's loss is so large that the gradients overflow."""

    def blow_up(learn: Any) -> None:
        if learn.collectives.world.rank == learn.collectives.world.world_size - 1:
            learn.state.loss = learn.state.loss * 1e38

    log: list[str] = []
    learn = make_learner(
        dls=make_dls(dtype=torch.float32), model=make_model(torch.float32), precision="fp16", opt_func=Adam,
        cbs=[
            on("after_loss", blow_up, once=2, training=True),
            on("after_cancel_step", lambda learn: log.append(f"left out {learn.state.step}")),
            on("after_step", lambda learn: log.append(f"after {learn.state.step}")),
        ],
    )  # fmt: skip
    learn.fit(1)
    return {
        "log": log,
        "losses": len(learn.recorder.losses),
        "weights": weights_of(learn.model).tolist(),
        "scale": learn.precision.state()["scale"],
        "ages": sorted(set(learn.opt.state()[1]["steps"].values())),
    }


def test_a_step_whose_gradients_overflow_is_left_out_on_all_ranks_alike(spawn: Any) -> None:
    for world_size in (1, 2):
        ranks = spawn(world_size, fit_with_overflow)
        assert all(rank == ranks[0] for rank in ranks)
        assert ranks[0]["log"] == ["after 0", "left out 1", "after 1", "after 2"]
        assert ranks[0]["losses"] == 2
        assert ranks[0]["scale"] == 32768.0
        assert ranks[0]["ages"] == [2]
        assert torch.tensor(ranks[0]["weights"]).isfinite().all()


def test_an_epoch_whose_steps_all_overflowed_says_why_it_has_no_loss(capsys: pytest.CaptureFixture[str]) -> None:
    def blow_up(learn: Any) -> None:
        learn.state.loss = learn.state.loss * 1e38

    def fit(**options: Any) -> list[str]:
        learn = make_learner(dls=make_dls(dtype=torch.float32), model=make_model(torch.float32), **options)
        learn.fit(2)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: epoch")]

    always = on("after_loss", blow_up, training=True)
    first_epoch_only = on("after_loss", lambda learn: blow_up(learn) if learn.state.epoch == 0 else None, training=True)
    text = (
        "warning: epoch {} has no train_loss, and nothing was learned: all of its 3 step(s) were left out, because gradients "
        "overflowed in fp16. The loss is scaled by half as much after each, so a few at the beginning are usual; longer epochs "
        "or precision='bf16' avoid it"
    )
    assert fit(precision="fp16", cbs=always) == [text.format(0), text.format(1)]
    assert fit(precision="fp16", cbs=first_epoch_only) == [text.format(0)]
    assert fit(precision="fp16") == []


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_on_a_gpu_a_small_real_task_is_learned_as_in_float32(precision: str) -> None:
    full, less = real_task("fp32"), real_task(precision)
    differences = torch.tensor(less["losses"]) - torch.tensor(full["losses"])
    assert differences.abs().max() < 0.06
    assert abs(less["final"][1] - full["final"][1]) <= 0.04


@pytest.mark.gpu
@pytest.mark.parametrize("precision", INSIDE)
def test_on_a_gpu_the_model_computes_in_the_type(precision: Any) -> None:
    types = Types()
    dls = make_dls(dtype=torch.float32)
    learn = make_learner(dls=dls, model=make_model(torch.float32), precision=precision, cbs=types)
    learn.fit(1)
    assert learn.device.type == "cuda"
    assert types.inside == {INSIDE[precision]}
    assert types.seen == {torch.float32}


def fit_in_fp16(accumulate: int = 1, strategy: str = "ddp") -> dict[str, Any]:
    """Trains on batches of 8, 8 and 1, of which the last is a rank's alone."""
    from dist_ai.distributed.sharded import gather

    learn = make_learner(
        dls=make_dls(bs=8 // accumulate, dtype=torch.float32), model=make_model(torch.float32), precision="fp16",
        strategy=strategy, cbs=[GradientAccumulation(batches=accumulate)] if accumulate > 1 else [],
    )  # fmt: skip
    learn.fit(2)
    weights = gather(learn.model.state_dict()).values()
    return {
        "losses": learn.recorder.losses,
        "weights": torch.cat([each.flatten() for each in weights]).tolist(),
        "scale": learn.precision.state()["scale"],
    }


@pytest.mark.parametrize(("world_size", "strategy"), [(2, "ddp"), (3, "ddp"), (2, "fsdp")])
def test_gradients_in_fp16_are_as_large_as_in_one_process_so_they_overflow_no_sooner(
    spawn: Any, world_size: int, strategy: str
) -> None:
    alone = fit_in_fp16()
    for rank in spawn(world_size, fit_in_fp16, accumulate=4, strategy=strategy):
        assert rank["scale"] == alone["scale"]
        assert rank["losses"] == pytest.approx(alone["losses"], abs=5e-4)  # float16 has 11 bits
        assert rank["weights"] == pytest.approx(alone["weights"], abs=5e-4)
