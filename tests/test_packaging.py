"""The wheel: what is in it, and that it works where nothing else of the project is."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import dist_ai

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def of_dist_info(contents: dict[str, bytes], name: str) -> str:
    return contents[f"dist_ai-{dist_ai.__version__}.dist-info/{name}"].decode()


class Elsewhere:
    """A place where the wheel is installed, and an empty folder to work in."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.packages, self.work = folder / "packages", folder / "work"
        self.work.mkdir()
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
        subprocess.run([*install, str(self.packages), str(wheel)], check=True, capture_output=True)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self.packages),
            "OMP_NUM_THREADS": "1",
            "DIST_AI_CACHE": str(folder / "cache"),
            "HOME": str(folder / "home"),
        }

    def run(self, *command: str) -> str:
        """Runs a command in the folder; returns what it printed."""
        done = subprocess.run(
            command, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, program: str) -> str:
        """Runs a program, which must find the installed package and not this one."""
        check = f"import dist_ai; assert dist_ai.__file__.startswith({str(self.packages)!r}), dist_ai.__file__\n"
        return self.run(sys.executable, "-W", "error", "-c", check + program)


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(wheel, tmp_path_factory.mktemp("elsewhere"))


# ------------------------------------------------------------------------------------ what is in it


def test_the_wheel_holds_every_module_the_data_and_the_mark_that_it_is_typed(contents: dict[str, bytes]) -> None:
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "dist_ai").rglob("*.py")}
    others = {
        "dist_ai/py.typed",
        "dist_ai/data/samples/fashion_mnist.parquet",
        "dist_ai/data/samples/fashion_mnist.LICENSE.txt",
    }
    ours = {name for name in contents if ".dist-info/" not in name}
    assert ours == modules | others
    for name in others:
        assert contents[name] == (ROOT / name).read_bytes()
    assert sum(map(len, contents.values())) < 6_000_000


def test_both_licences_are_in_it_and_named(contents: dict[str, bytes]) -> None:
    metadata = Parser().parsestr(of_dist_info(contents, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT"
    assert metadata.get_all("License-File") == ["LICENSE", "dist_ai/data/samples/fashion_mnist.LICENSE.txt"]
    assert "Apache License" in of_dist_info(contents, "licenses/LICENSE")
    assert "Zalando SE" in of_dist_info(contents, "licenses/dist_ai/data/samples/fashion_mnist.LICENSE.txt")


def test_the_version_the_page_and_what_it_needs_are_told(contents: dict[str, bytes]) -> None:
    metadata = Parser().parsestr(of_dist_info(contents, "METADATA"))
    assert (metadata["Name"], metadata["Version"], metadata["Requires-Python"]) == (
        "dist_ai",
        dist_ai.__version__,
        ">=3.11",
    )
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    needed = {
        each.split(">")[0].split("[")[0] for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each
    }
    assert needed >= {
        "accelerate",
        "numpy",
        "pillow",
        "pyarrow",
        "ray",
        "safetensors",
        "tensorboard",
        "torch",
        "torchvision",
    }


def test_the_command_and_the_applications_are_entry_points(contents: dict[str, bytes]) -> None:
    points = configparser.ConfigParser()
    points.read_string(of_dist_info(contents, "entry_points.txt"))
    assert dict(points["console_scripts"]) == {"dist-ai": "dist_ai.cli.main:main"}
    assert points["dist_ai.applications"]["vision"] == "dist_ai.vision"


# ------------------------------------------------------------------------------------ and it works elsewhere


def test_it_is_imported_from_where_it_is_installed(elsewhere: Elsewhere) -> None:
    assert elsewhere.python("print(dist_ai.__version__)").strip() == dist_ai.__version__


def test_the_command_is_installed(elsewhere: Elsewhere) -> None:
    command = str(elsewhere.packages / "bin" / "dist-ai")
    assert elsewhere.run(command, "--version").strip() == f"dist-ai {dist_ai.__version__}"
    printed = elsewhere.run(command, "--help")
    for name in ("demo", "doctor", "launch", "predict", "train"):
        assert name in printed


def test_a_file_that_names_a_transform_finds_it_in_the_installed_application(elsewhere: Elsewhere) -> None:
    program = """
import sys
from dist_ai.core import Transform
assert "dist_ai.vision" not in sys.modules
print(Transform.from_plain({"transform": "Normalize", "mean": [0.5], "std": [0.25]}))
"""
    assert elsewhere.python(program).strip() == "Normalize(mean=[0.5], std=[0.25])"


def test_the_sample_images_are_unpacked_without_a_network(elsewhere: Elsewhere) -> None:
    printed = elsewhere.python("from dist_ai.data import sample_data; print(sample_data())")
    images = Path(printed.strip())
    assert images.is_relative_to(elsewhere.environment["DIST_AI_CACHE"])
    assert len(list(images.glob("*/*/*.png"))) == 7000


def test_the_demo_trains_exports_and_predicts(elsewhere: Elsewhere) -> None:
    printed = elsewhere.run(sys.executable, "-m", "dist_ai.cli.main", "demo", "--epochs", "1")
    assert "test accuracy" in printed
    run = elsewhere.work / "runs" / "demo"
    for name in ("export/model.safetensors", "export/model.json", "predictions.png", "log.jsonl", "metrics.csv"):
        assert (run / name).stat().st_size > 0
    assert os.listdir(elsewhere.work) == ["runs"]
