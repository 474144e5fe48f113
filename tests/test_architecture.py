"""The house: who may import whom, what a package exports, what importing costs, where the environment is read."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dist_ai

ROOT = Path(dist_ai.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PACKAGES = ["dist_ai", *(f"dist_ai.{name}" for _, name, is_package in pkgutil.iter_modules([str(ROOT)]) if is_package)]


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_lower_rooms_know_nothing_of_higher_ones() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_exports_is_sorted_and_there(package: str) -> None:
    module = importlib.import_module(package)
    if package == "dist_ai.cli":  # commands are found by their files
        return
    constants = sorted(name for name in module.__all__ if name.isupper())
    classes = sorted(name for name in module.__all__ if name[0].isupper() and not name.isupper())
    rest = sorted(name for name in module.__all__ if not name[0].isupper())
    assert module.__all__ == [*constants, *classes, *rest]
    for name in module.__all__:
        thing = getattr(module, name)
        assert not callable(thing) or thing.__doc__, f"{package}.{name} has no docstring"


@pytest.mark.parametrize(
    ("library", "adapter"),
    [
        ("ray", "distributed/launchers/ray.py"),
        ("accelerate", "distributed/strategies/accelerate.py"),
        ("torch.utils.tensorboard", "callbacks/tensorboard.py"),
    ],
)
def test_a_library_is_imported_in_its_one_adapter(library: str, adapter: str) -> None:
    users = {
        str(file.relative_to(ROOT))
        for file in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports(file))
    }
    assert users == {adapter}


def test_nothing_is_unpickled() -> None:
    for file in FILES:
        assert not {"cloudpickle", "dill", "joblib"} & {name.split(".")[0] for name in imports(file)}, file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), (
                    f"{file}:{node.lineno}"
                )
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{file}:{node.lineno}"


def test_the_environment_is_read_in_one_file() -> None:
    readers = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
                readers.add(str(file.relative_to(ROOT)))
    # Rank and run variables are environment.py's alone. The launchers pass the whole environment on; the sample data asks
    # where the user's cache is; the doctor tells what is set for other libraries.
    allowed = {"distributed/environment.py", "data/samples/__init__.py", "cli/doctor.py"}
    assert {file for file in readers if not file.startswith("distributed/launchers/")} <= allowed


def loaded_by(program: str) -> dict[str, float]:
    """Returns the seconds that a program measured, and 1.0 for each heavy library that it loaded."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


MEASURE = """
import json, sys, time
begin = time.perf_counter(); import torch; torch_s = time.perf_counter() - begin
before = set(sys.modules)
begin = time.perf_counter(); import {module}; own_s = time.perf_counter() - begin
new = set(sys.modules) - before
heavy = ["ray", "accelerate", "tensorboard", "pandas", "matplotlib", "torchvision", "pyarrow",
         "torch.distributed.fsdp", "torch.nn.parallel.distributed", "torch.utils.tensorboard"]
print(json.dumps({{"torch": torch_s, "own": own_s, **{{name: 1.0 for name in heavy if name in new}}}}))
"""


def test_importing_dist_ai_costs_next_to_nothing_and_loads_no_backend() -> None:
    cost = loaded_by(MEASURE.format(module="dist_ai"))
    assert cost.pop("own") <= 0.15 * cost.pop("torch")  # measured: a five-hundredth of it
    assert cost == {}


def test_importing_the_learner_loads_no_library_that_a_fit_may_not_need() -> None:
    cost = loaded_by(MEASURE.format(module="dist_ai.learner"))
    assert set(cost) == {"torch", "own"}
