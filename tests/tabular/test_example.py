"""The examples of tables and of ratings reach the targets that they name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kit
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, data: bytes, folder: Path) -> str:
    file = folder / "data.parquet"
    file.write_bytes(data)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), str(file)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_incomes_of_the_census_are_learned(tmp_path: Path) -> None:
    assert "('<=50K', tensor(0)" in run("tabular", kit.table("adult"), tmp_path)  # 8 s


@pytest.mark.slow
def test_who_likes_which_films_is_learned(tmp_path: Path) -> None:
    assert len(eval(run("collab", kit.table("MovieLens100k_data"), tmp_path).splitlines()[-1])) == 3


@pytest.mark.parametrize("name", ["tabular", "collab"])
def test_an_example_fits_a_screen(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 30
