"""A rank that runs out of memory in forward or backward cuts its batches smaller, and the numbers stay those of whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import Stop, StopAt, give_back_run_directories, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import AutoMicrobatch, GradientAccumulation, GradientClip, MixUp
from dist_ai.callbacks.auto_microbatch import is_out_of_memory
from dist_ai.distributed.mesh import Mesh
from dist_ai.distributed.strategies import DDP, FSDP
from dist_ai.errors import ConfigError, WorldError
from dist_ai.losses import CrossEntropyLoss
from dist_ai.optimizer import Adam


class _FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


class SmallMemory(nn.Module):
    """Has no memory for more than `limit` samples, on one rank only; in forward or in backward."""

    def __init__(self, limit: int, rank: int, where: str) -> None:
        super().__init__()
        self.limit, self.rank, self.where = limit, rank, where

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import os

        here = int(os.environ.get("RANK", "0")) == self.rank
        if not (here and self.training and len(x) > self.limit):
            return x
        if self.where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return _FailsBackward.apply(x)


def train(
    limit: int | None,
    *,
    rank: int = 0,
    where: str = "forward",
    strategy: str = "ddp",
    accumulate: int = 1,
    batch_norm: bool = False,
    weights: bool = False,
    mixed: bool = False,
    parts: int = 1,
) -> dict[str, Any]:
    """Trains for two epochs on batches of 8, 8 and 1; returns what must not depend on how much memory there is."""
    layers = list(make_model(batch_norm=batch_norm))
    if limit is not None:  # in the middle, so that layers before and after it have exchanged, or have not
        layers.insert(1, SmallMemory(limit, rank, where))
    auto = AutoMicrobatch(parts)
    loss = (
        CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) if weights else CrossEntropyLoss()
    )
    cbs = [auto, GradientClip(1.0)] if limit is not None or parts > 1 else [GradientClip(1.0)]
    cbs += [GradientAccumulation(batches=accumulate)] if accumulate > 1 else []
    learn = make_learner(
        dls=make_dls(bs=8 // accumulate), model=nn.Sequential(*layers), loss_func=loss, opt_func=Adam,
        strategy={"ddp": DDP(), "fsdp": FSDP(min_block_parameters=10)}[strategy],
        cbs=cbs + ([MixUp()] if mixed else []),
    )  # fmt: skip
    learn.fit_one_cycle(2, 0.05)
    from dist_ai.distributed.sharded import gather

    recorder = learn.recorder
    state = gather(learn.model.state_dict())
    return {
        "weights": torch.cat([tensor.double().flatten() for tensor in state.values()]).tolist(),
        "losses": recorder.losses,
        "sizes": recorder.sizes,
        "lrs": recorder.lrs,
        "rows": [[row["train_loss"], row["valid_loss"]] for row in recorder.epochs],
        "parts": auto.parts,
    }


def agree(results: list[dict[str, Any]], expected: dict[str, Any], parts: int) -> None:
    for result in results:
        assert result["parts"] == parts
        for name in ("weights", "losses", "sizes", "lrs", "rows"):
            torch.testing.assert_close(torch.tensor(result[name]), torch.tensor(expected[name]), rtol=1e-9, atol=1e-11)


def several(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trains several times, one after the other, on the same ranks."""
    return [train(**case) for case in cases]


@pytest.mark.parametrize(("world_size", "limit", "parts"), [(1, 2, 4), (2, 2, 2), (3, 1, 2)])
def test_the_numbers_are_those_of_whole_batches_whichever_rank_runs_out(
    spawn: Any, world_size: int, limit: int, parts: int
) -> None:
    # Of 8 samples each of 1, 2, 3 ranks has 8, 4, 3 (the last 2); the last one has no room for so many.
    cases = [{"limit": limit, "rank": world_size - 1, "where": where} for where in ("forward", "backward")]
    expected = train(None)
    for rank in spawn(world_size, several, cases=cases):
        agree(rank, expected, parts)


def test_a_sharded_model_goes_on_when_one_rank_runs_out(spawn: Any) -> None:
    cases = [{"limit": 2, "rank": 1, "where": where, "strategy": "fsdp"} for where in ("forward", "backward")]
    for rank in spawn(2, several, cases=cases):
        agree(rank, train(None), 2)


def test_with_accumulated_gradients_the_whole_step_is_done_again(spawn: Any) -> None:
    cases = [
        {"limit": 1, "rank": 0, "where": where, "strategy": strategy, "accumulate": 2}
        for where in ("forward", "backward")
        for strategy in ("ddp", "fsdp")
    ]
    for rank in spawn(2, several, cases=cases):
        agree(rank, train(None), 2)


def test_weights_of_a_loss_and_pairs_that_are_mixed_stay_what_they_are(spawn: Any) -> None:
    cases = [{"weights": True}, {"mixed": True}]
    for rank in spawn(2, several, cases=[{"limit": 2, "rank": 1, **case} for case in cases]):
        for case, result in zip(cases, rank, strict=True):
            agree([result], train(None, **case), 2)


def test_ranks_whose_batch_norms_exchange_do_not_wait_for_the_one_that_ran_out(spawn: Any) -> None:
    # Each part is normalised alone, so the numbers are those of a run with these parts from the beginning.
    cases: list[dict[str, Any]] = []
    for strategy in ("ddp", "fsdp"):
        same = {"strategy": strategy, "batch_norm": True}
        cases += [{"limit": None, "parts": 2, **same}]
        cases += [{"limit": 2, "rank": 1, "where": where, **same} for where in ("forward", "backward")]
    for rank in spawn(2, several, cases=cases):
        agree(rank, rank[0], 2)


def too_large(where: str, strategy: str) -> str:
    """Returns what a rank says when a single sample is too much for one of them."""
    with pytest.raises((torch.OutOfMemoryError, WorldError)) as raised:
        train(0, rank=1, where=where, strategy=strategy)
    return f"{type(raised.value).__name__}: {raised.value} {getattr(raised.value, '__notes__', '')}"


def test_a_single_sample_that_is_too_large_is_an_error_on_every_rank(spawn: Any) -> None:
    first, second = spawn(2, too_large, where="backward", strategy="ddp")
    assert first.startswith("WorldError: another worker ran out of memory with a single sample at once")
    assert second.startswith("OutOfMemoryError: CUDA out of memory")
    assert "AutoMicrobatch: this was with a single sample at once" in second
    with pytest.raises(torch.OutOfMemoryError) as raised:
        train(0)
    assert any("nothing left to cut" in note for note in raised.value.__notes__)


def test_it_says_once_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    train(4)
    assert capsys.readouterr().out == (
        "out of memory in epoch 0, step 0: from here on each worker's share of a batch is computed in 2 parts, with the same "
        "gradients; AutoMicrobatch(2) begins so\n"
    )


def test_a_run_that_goes_on_does_not_run_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def program(folder: str, *cbs: Any) -> list[Any]:
        model = nn.Sequential(SmallMemory(4, 0, "forward"), *make_model())
        learn = make_learner(
            model=model, run_dir=tmp_path / folder, checkpoint_every_s=None, checkpoint_every_steps=1,
            cbs=[AutoMicrobatch(), *cbs],
        )  # fmt: skip
        learn.fit(2)
        give_back_run_directories()
        return [learn.recorder.losses, weights_of(learn.model).tolist()]

    expected = program("undisturbed")
    for batch in (1, 4, 6):
        with pytest.raises(Stop):
            program(f"stopped {batch}", StopAt(batch))
        give_back_run_directories()
        capsys.readouterr()
        assert program(f"stopped {batch}") == expected
        assert ("out of memory" in capsys.readouterr().out) == (batch == 1)  # the first step had not been done


def test_other_errors_are_raised_as_ever() -> None:
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    learn = make_learner(model=nn.Sequential(nn.Linear(5, 3)).double(), cbs=AutoMicrobatch())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        learn.fit(1)


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match=r"AutoMicrobatch\(parts=0\): expected a whole number, 1 or more"):
        AutoMicrobatch(0)


def options_that_do_not_go_together() -> list[str]:
    said = []
    for strategy in (DDP(gradient_compression="bf16"), FSDP(mesh=Mesh(data_parallel_replicate=2))):
        learn = make_learner(strategy=strategy, cbs=AutoMicrobatch())
        with pytest.raises(ConfigError) as raised:
            learn.fit(1)
        said.append(str(raised.value))
    return said


def test_options_that_do_not_go_together_are_named(spawn: Any) -> None:
    for compression, replicas in spawn(2, options_that_do_not_go_together):
        assert compression.startswith("AutoMicrobatch exchanges gradients after the backward, without DDP(")
        assert "does not work with FSDP(mesh=Mesh(data_parallel_replicate=2))" in replicas


@pytest.mark.gpu
def test_on_a_gpu_that_is_really_full_training_goes_on_with_the_same_numbers() -> None:
    from dist_ai.data import DataLoader, DataLoaders, TensorData

    def fit(mb: int | None) -> tuple[torch.Tensor, int]:
        torch.manual_seed(0)
        x, y = torch.randn(64, 1024), torch.arange(64) % 3
        model = nn.Sequential(nn.Linear(1024, 1024 * 64), nn.ReLU(), nn.Linear(1024 * 64, 3))
        auto = AutoMicrobatch()
        dls = DataLoaders(DataLoader(TensorData(x.repeat(64, 1), y.repeat(64)), 4096), None)
        learn = make_learner(dls=dls, model=model, lr=0.01, cbs=auto)
        if mb is not None:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(mb * 2**20 / torch.cuda.get_device_properties(0).total_memory)
        try:
            learn.fit(2)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return torch.tensor(learn.recorder.losses), auto.parts

    whole, parts = fit(None)
    assert parts == 1
    short, parts = fit(2200)  # parameters and gradients take 0.5 GB, the activations of a whole batch 3 GB
    assert parts > 1
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-4)
