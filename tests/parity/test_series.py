"""Series give the same numbers on any number of processes: padding, augmentation, BatchNorm and dropout and all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from series import labelled, uneven, waves

from dist_ai.core import Transform
from dist_ai.core.types import TensorSeries
from dist_ai.timeseries import Standardize, TSDataLoaders, TSForecastDataLoaders, ts_learner, ts_tfms

PROGRAM = Path(__file__).parent / "series_program.py"


@dataclass
class ToDoubleSeries(Transform):
    """Gives the model float64."""

    order: ClassVar[int] = 11

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the batch in float64."""
        return x.double()


def tell(arch: str, config: dict[str, Any], pad: bool) -> dict[str, Any]:
    X, y = uneven(30) if pad else labelled(30)
    dls = TSDataLoaders.from_arrays(
        X, y, pad=pad, scale=Standardize(), batch_tfms=[ToDoubleSeries(), *ts_tfms()], bs=11, num_workers=0
    )
    return numbers(ts_learner(dls, arch, config=config, dropout=0.2, run_dir=None, progress=False))


def forecast(arch: str) -> dict[str, Any]:
    X = np.stack([waves(120), np.arange(120) % 8])
    dls = TSForecastDataLoaders.from_arrays(
        X, known=[1], context=16, horizon=5, batch_tfms=[ToDoubleSeries(), *ts_tfms()], bs=23, num_workers=0
    )
    learn = ts_learner(dls, arch, run_dir=None, progress=False)
    return {**numbers(learn), "errors": learn.backtest(8).drop(columns="step").to_numpy()}  # type: ignore[attr-defined]


def numbers(learn: Any) -> dict[str, Any]:
    learn.model.double()
    learn.fit_one_cycle(2, 3e-3)
    return {
        "losses": learn.recorder.losses,
        "final": learn.recorder.final,
        "predictions": learn.get_preds()[0].double().numpy(),
    }


def check(spawn: Any, function: Any, **kwargs: Any) -> None:
    [alone] = spawn(1, function, **kwargs)
    assert np.isfinite(alone["losses"]).all()
    for world_size in (2, 3):
        for rank in spawn(world_size, function, **kwargs):
            for name, value in alone.items():
                torch.testing.assert_close(torch.as_tensor(rank[name]), torch.as_tensor(value), rtol=1e-8, atol=1e-8)


def test_padded_series_and_inceptiontime_agree_on_1_2_and_3_processes(spawn: Any) -> None:
    check(spawn, tell, arch="InceptionTime", config={"filters": 4, "depth": 3}, pad=True)


def test_a_transformer_with_dropout_agrees_on_1_2_and_3_processes(spawn: Any) -> None:
    check(spawn, tell, arch="TST", config={"width": 8, "heads": 2, "hidden": 8, "layers": 1}, pad=True)


def test_minirocket_agrees_on_1_2_and_3_processes(spawn: Any) -> None:
    check(spawn, tell, arch="MiniRocket", config={"num_features": 168}, pad=False)


def test_a_forecaster_with_known_inputs_agrees_on_1_2_and_3_processes(spawn: Any) -> None:
    check(spawn, forecast, arch="MLP")


@pytest.mark.slow
def test_a_run_that_is_killed_and_started_again_ends_bit_identical(tmp_path: Path) -> None:
    def run(name: str, **variables: str) -> int:
        command = [sys.executable, str(PROGRAM), str(tmp_path / name), str(tmp_path / f"{name}.safetensors")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[1]), **variables}
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300).returncode

    assert run("undisturbed") == 0
    assert run("killed", KILL_AT="7") == -signal.SIGKILL
    assert not (tmp_path / "killed.safetensors").exists()
    assert run("killed") == 0
    undisturbed, resumed = (load_file(tmp_path / f"{name}.safetensors") for name in ("undisturbed", "killed"))
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
