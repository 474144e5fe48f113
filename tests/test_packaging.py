"""The wheel: what is in it, and that it works where nothing else of the project is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_package_its_data_and_its_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "dist_ai/py.typed",
        "dist_ai/data/samples/fashion_mnist.parquet",
        "dist_ai/data/samples/fashion_mnist.LICENSE.txt",
        "dist_ai/data/samples/make_fashion_mnist.py",
    ):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "launch/")) for name in names)
    assert wheel.stat().st_size < 5_000_000


def test_installed_in_an_empty_folder_the_demo_runs(wheel: Path, tmp_path: Path) -> None:
    packages, work = tmp_path / "packages", tmp_path / "work"
    work.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "OMP_NUM_THREADS": "1",
        "DIST_AI_CACHE": str(tmp_path / "cache"),
    }
    where = [sys.executable, "-c", "import dist_ai; print(dist_ai.__file__)"]
    assert (
        str(packages)
        in subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout
    )
    demo = [sys.executable, "-m", "dist_ai.cli.main", "demo", "--epochs", "1"]
    done = subprocess.run(demo, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy" in done.stdout
    assert (work / "runs" / "demo" / "export" / "model.safetensors").is_file()
    assert (work / "runs" / "demo" / "predictions.png").is_file()
