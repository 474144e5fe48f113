"""A checkpoint that 4 ranks wrote goes on at any number of ranks, with the same curve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import NUM_STEPS, Stop, StopAt, make_dls, make_learner, make_model, weights_of

from dist_ai.checkpoint import Run
from dist_ai.metrics import accuracy
from dist_ai.optimizer import Adam

N_EPOCH = 3


def train(run_dir: str | None, stop_at: int | None = None) -> tuple[list[float], list[dict[str, Any]], list[float]]:
    """Returns the loss of every step, the rows of the epochs, and the weights; of an interrupted fit, what there was."""
    learn = make_learner(
        dls=make_dls(bs=6),
        model=make_model(batch_norm=True),
        opt_func=Adam,
        metrics=accuracy,
        run_dir=run_dir,
        checkpoint_every_s=None,
        checkpoint_every_steps=2,
        cbs=[] if stop_at is None else StopAt(stop_at),
    )
    try:
        learn.fit_one_cycle(N_EPOCH, 0.05)
    except Stop:
        assert stop_at is not None
    rows = [
        {key: row[key] for key in ("epoch", "train_loss", "valid_loss", "accuracy")} for row in learn.recorder.epochs
    ]
    return learn.recorder.losses, rows, weights_of(learn.model).tolist()


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[float], list[dict[str, Any]], list[float]]:
    return train(None)


@pytest.fixture
def interrupted(spawn: Any, tmp_path: Path) -> Path:
    spawn(4, train, run_dir=str(tmp_path / "run"), stop_at=NUM_STEPS + 2)
    found = Run(tmp_path / "run").latest()
    assert found is not None
    assert (found.manifest.world_size, found.state["epoch"], found.state["step"]) == (4, 1, 1)
    return tmp_path / "run"


def check(spawn: Any, interrupted: Path, world_size: int, undisturbed: Any) -> None:
    folder = shutil.copytree(interrupted, interrupted.with_name(str(world_size)))
    for losses, rows, weights in spawn(world_size, train, run_dir=str(folder)):
        assert losses == pytest.approx(undisturbed[0], abs=1e-9)
        assert len(rows) == N_EPOCH
        for row, expected in zip(rows, undisturbed[1], strict=True):
            assert row == pytest.approx(expected, abs=1e-9)
        assert torch.allclose(torch.tensor(weights), torch.tensor(undisturbed[2]), atol=1e-9)


def test_what_four_ranks_wrote_goes_on_at_one_two_and_three(spawn: Any, interrupted: Path, undisturbed: Any) -> None:
    for world_size in (1, 2, 3):
        check(spawn, interrupted, world_size, undisturbed)


@pytest.mark.slow
def test_what_four_ranks_wrote_goes_on_at_eight(spawn: Any, interrupted: Path, undisturbed: Any) -> None:
    check(spawn, interrupted, 8, undisturbed)
