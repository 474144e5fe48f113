"""The examples of tables and of ratings reach the targets that they name."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import kit
import numpy as np
import pandas as pd
import pytest

from dist_ai.metrics import rmse
from dist_ai.tabular import TabularDataLoaders, tabular_learner

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, data: bytes, folder: Path) -> str:
    file = folder / "data.parquet"
    file.write_bytes(data)
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # small matrices; threads that wait for each other cost more
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_incomes_of_the_census_are_learned(tmp_path: Path) -> None:
    assert "('<=50K', tensor(0)" in run("tabular", kit.table("adult"), tmp_path)  # 8 s


@pytest.mark.slow
def test_who_likes_which_films_is_learned(tmp_path: Path) -> None:
    assert len(ast.literal_eval(run("collab", kit.table("MovieLens100k_data"), tmp_path).splitlines()[-1])) == 3


@pytest.mark.parametrize("name", ["tabular", "collab"])
def test_an_example_fits_a_screen(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 30


@pytest.mark.slow
def test_house_values_are_learned() -> None:
    houses = pd.read_parquet(io.BytesIO(kit.table("california_housing")))
    for name in ("MedInc", "AveRooms", "AveBedrms", "Population", "AveOccup"):
        houses[name] = np.log(houses[name])  # a few districts have a hundred times the usual
    houses["lat"], houses["lon"] = (houses[name].round(1).astype(str) for name in ("Latitude", "Longitude"))
    conts = [name for name in houses if name not in ("lat", "lon", "MedHouseVal")]
    dls = TabularDataLoaders.from_df(
        houses, cat_names=["lat", "lon"], cont_names=conts, y_names="MedHouseVal", seed=42, bs=256
    )
    learn = tabular_learner(dls, [200, 100], y_range=(0, 5.5), metrics=rmse, run_dir=None, progress=False)
    learn.fit_one_cycle(10, 1e-2)
    assert learn.recorder.final[1] <= 0.5  # 0.46 to 0.48 in three splits
