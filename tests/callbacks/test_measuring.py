"""Callbacks that measure: activations, weights and gradients, speed, memory, traces."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy import make_dls, make_learner, make_model

from dist_ai.callbacks import (
    ActivationStats,
    CancelStep,
    GradientAccumulation,
    GradientClip,
    MemoryMonitor,
    ParameterStats,
    Profile,
    Throughput,
    on,
)
from dist_ai.callbacks.throughput import peak_flops
from dist_ai.errors import ConfigError


def leave_out(learn: Any) -> None:
    """Cancels the third step, on the last rank."""
    world = learn.collectives.world
    if learn.state.train_step == 2 and world.rank == world.world_size - 1:
        raise CancelStep


def measured(strategy: str = "auto", batches: int = 1) -> list[Any]:
    activations, parameters = ActivationStats(every=2), ParameterStats(every=3)
    cbs = [activations, parameters, on("after_pred", leave_out, training=True)]
    cbs += [GradientAccumulation(batches=batches)] if batches > 1 else []
    learn = make_learner(dls=make_dls(bs=8 // batches), strategy=strategy, cbs=cbs)
    learn.fit(4)
    return [[tuple(each) for each in activations.stats], [tuple(each) for each in parameters.stats]]


def test_activations_are_measured_over_the_whole_batch() -> None:
    stats = ActivationStats(every=2, layers=["1"])
    learn = make_learner(cbs=stats)
    seen: list[torch.Tensor] = []
    learn.model[1].register_forward_hook(lambda m, i, out: seen.append(out.detach()) if m.training else None)
    learn.fit(2)
    assert [each.step for each in stats.stats] == [1, 3, 5]
    for each in stats.stats:
        values = seen[each.step]
        assert each.mean == pytest.approx(values.mean().item())
        assert each.std == pytest.approx(values.std(correction=0).item())
        assert each.near_zero == pytest.approx((values.abs() <= 0.05).double().mean().item())


def test_norms_are_those_that_the_step_is_taken_with() -> None:
    stats, expected = ParameterStats(every=1), []

    def look(learn: Any) -> None:
        grads = torch.cat([p.grad.flatten() for p in learn.model.parameters()])
        weights = torch.cat([p.detach().flatten() for p in learn.model.parameters()])
        expected.append((weights.norm().item(), grads.norm().item()))

    make_learner(cbs=[GradientClip(0.1), on("before_step", look), stats]).fit(2)
    total = [(each.weight, each.gradient) for each in stats.stats if not each.name]
    assert total == [pytest.approx(pair) for pair in expected]
    assert all(gradient <= 0.1 + 1e-6 for _, gradient in total)
    assert [each.name for each in stats.stats[:5]] == ["", "0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(("world_size", "strategy", "batches"), [(3, "ddp", 1), (2, "fsdp", 1), (3, "ddp", 2)])
def test_measurements_are_those_of_one_process(spawn: Any, world_size: int, strategy: str, batches: int) -> None:
    activations, parameters = measured()
    assert activations
    assert parameters
    for rank in spawn(world_size, measured, strategy=strategy, batches=batches):
        for mine, alone in zip(rank, (activations, parameters), strict=True):
            assert [each[:2] for each in mine] == [each[:2] for each in alone]
            assert [each[2:] for each in mine] == [pytest.approx(each[2:], rel=1e-7, abs=1e-12) for each in alone]


def test_tensorboard_shows_what_was_measured(tmp_path: Path) -> None:
    cbs = [ActivationStats(every=1), ParameterStats(every=1), Throughput(peak=1e12), MemoryMonitor()]
    learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, cbs=cbs)
    learn.fit(2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    for tag in (
        "activations/0/mean",
        "gradient_norm/all",
        "weight_norm/2.bias",
        "throughput/mfu",
        "metrics/memory_mib",
    ):
        assert tag in tags
    assert [event.step for event in events.Scalars("gradient_norm/all")] == list(range(6))


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    from toy import Stop, StopAt, give_back_run_directories

    def program(*cbs: Any) -> None:
        options = {"checkpoint_every_s": None, "checkpoint_every_steps": 1}
        make_learner(run_dir=tmp_path, cbs=[ActivationStats(every=1), *cbs], **options).fit(2)

    with pytest.raises(Stop):
        program(StopAt(4))
    give_back_run_directories()
    program()
    steps: list[int] = []
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        events = EventAccumulator(str(file))
        events.Reload()
        if "activations/0/mean" in events.Tags()["scalars"]:
            steps += [event.step for event in events.Scalars("activations/0/mean")]
    assert steps == list(range(6))


def test_speed_is_samples_over_time_and_mfu_their_operations_over_the_peak() -> None:
    throughput = Throughput(peak=1e9)
    learn = make_learner(cbs=throughput)
    learn.fit(2)
    # A sample's forward is 4 x 6 and 6 x 3 products, of two operations each; a step takes three times that.
    assert throughput.flops_per_sample == 3 * 2 * (4 * 6 + 6 * 3)
    assert [speed.step for speed in throughput.speeds][-1] == 5
    for speed in throughput.speeds:
        assert speed.samples_per_s > 0
        assert speed.mfu == pytest.approx(speed.samples_per_s * throughput.flops_per_sample / 1e9)
        assert speed.tokens_per_s == 0
    unknown = Throughput()
    make_learner(cbs=unknown).fit(1)
    assert math.isnan(unknown.speeds[0].mfu)


def operations(strategy: str) -> float:
    throughput = Throughput()
    make_learner(strategy=strategy, cbs=[throughput, on("before_batch", leave_out)]).fit(1)
    return throughput.flops_per_sample


def test_operations_are_counted_on_every_rank_however_it_holds_the_model(spawn: Any) -> None:
    for strategy in ("ddp", "fsdp"):
        assert spawn(2, operations, strategy=strategy) == [3 * 2 * (4 * 6 + 6 * 3)] * 2


def test_tokens_are_counted_where_inputs_are_sequences() -> None:
    from dist_ai.data import DataLoader, DataLoaders, TensorData

    data = TensorData(torch.randint(0, 9, (12, 7)), torch.arange(12) % 3)
    model = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(14, 3))
    throughput = Throughput()
    make_learner(dls=DataLoaders(DataLoader(data, 4)), model=model, cbs=throughput).fit(1)
    for speed in throughput.speeds:
        assert speed.tokens_per_s == pytest.approx(7 * speed.samples_per_s)


def test_measuring_changes_no_number() -> None:
    usual = make_learner(dls=make_dls(bs=6), model=make_model(batch_norm=True))
    measured = make_learner(
        dls=make_dls(bs=6),
        model=make_model(batch_norm=True),
        cbs=[Throughput(), ActivationStats(every=1), ParameterStats(every=1)],
    )
    for learn in (usual, measured):
        learn.fit(2)
    assert usual.recorder.losses == measured.recorder.losses
    assert [row["valid_loss"] for row in usual.recorder.epochs] == [
        row["valid_loss"] for row in measured.recorder.epochs
    ]


def memory() -> list[float]:
    learn = make_learner(cbs=MemoryMonitor())
    learn.fit(2)
    return [row["memory_mib"] for row in learn.recorder.epochs]


def test_the_epochs_rows_have_the_most_memory_of_any_rank(spawn: Any) -> None:
    first, second = spawn(2, memory)
    assert first == second
    assert 10 < first[0] <= first[1]


def test_a_trace_of_the_active_steps_is_written(tmp_path: Path) -> None:
    make_learner(cbs=Profile(wait=1, warmup=1, active=2, folder=tmp_path)).fit(2)
    [trace] = tmp_path.glob("rank-0.*.pt.trace.json")
    events = json.loads(trace.read_text())["traceEvents"]
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#2", "ProfilerStep#3"}
    assert any(event.get("name") == "aten::addmm" for event in events)


def test_a_profile_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is no run directory for its traces; give Profile\(folder=...\)"):
        make_learner(cbs=Profile()).fit(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationStats(every=0), "ActivationStats(every=0): expected 1 step or more"),
        (lambda: ParameterStats(every=0), "ParameterStats(every=0): expected 1 step or more"),
        (lambda: Throughput(peak=0.0), "Throughput(peak=0.0): expected operations a second, such as 312e12"),
        (
            lambda: Profile(active=0),
            "Profile(wait=5, warmup=1, active=0): expected 0 or more, and 1 or more active",
        ),
    ],
)
def test_numbers_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make()
    assert str(refused.value) == message


def test_an_unknown_layer_is_an_error() -> None:
    with pytest.raises(ConfigError, match="ActivationStats: there is no layer '9'; there are 0, 1, 2"):
        make_learner(cbs=ActivationStats(layers=["9"])).fit(1)


def test_peaks_are_known_by_the_devices_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA L4") == 121e12
    assert peak_flops("something else") is None
