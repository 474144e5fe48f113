"""The house: who may import whom, what a room exports, what importing costs, where the environment is read."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dist_ai
from dist_ai.distributed.environment import OWN_VARIABLES, RANK_VARIABLES

ROOT = Path(dist_ai.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = ["dist_ai", *sorted(each.name for each in pkgutil.walk_packages(dist_ai.__path__, "dist_ai."))]
COMMANDS = "dist_ai.cli"  # finds its commands by their files


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def place(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(file: Path) -> Iterator[str]:
    """The names of the modules that a file imports, inside functions too; `from a import b` gives a and a.b."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(file)) if isinstance(node, ast.Call))


# ------------------------------------------------------------------------------------ the rooms


def test_lower_rooms_know_nothing_of_higher_ones() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_no_room_is_a_drawer_for_odds_and_ends() -> None:
    odds = re.compile(r"utils?|helpers?|common|misc|tools|base")
    assert [name for name in MODULES if odds.fullmatch(name.rpartition(".")[2])] == []


@pytest.mark.parametrize(
    ("library", "adapters"),
    [
        ("ray", {"data/prepared.py", "distributed/launchers/ray.py", "tuning/ray.py"}),
        ("accelerate", {"distributed/strategies/accelerate.py"}),
        ("torch.utils.tensorboard", {"callbacks/tensorboard.py"}),
        ("tensorboard", set()),  # torch's writer brings it
    ],
)
def test_a_library_is_imported_in_its_adapter_alone(library: str, adapters: set[str]) -> None:
    users = {place(file) for file in FILES if any(f"{name}.".startswith(f"{library}.") for name in imports(file))}
    assert users == adapters


def test_star_imports_are_for_notebooks_alone() -> None:
    starred = [place(file) for file in FILES if any(name.endswith(".*") for name in imports(file))]
    assert [
        file for file in starred if not file.endswith(("/all.py", "basics.py"))
    ] == []  # for a notebook's first line


# ------------------------------------------------------------------------------------ what a room exports


def isort_key(name: str) -> tuple[int, str]:
    """CONSTANTS, Classes, the_rest: the order that ruff keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name != COMMANDS and not name.endswith((".all", ".basics"))]
)
def test_what_a_module_exports_is_sorted_there_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is"
    if not hasattr(module, "__all__"):
        assert inspect.getmodule(getattr(module, "main", None)) is module, f"{name} has neither __all__ nor a main"
        return
    assert module.__all__ == sorted(set(module.__all__), key=isort_key)
    missing = [each for each in module.__all__ if not hasattr(module, each)]
    assert missing == []
    silent = [each for each in module.__all__ if not is_documented(getattr(module, each))]
    assert silent == []


def is_documented(thing: Any) -> bool:
    if isinstance(thing, types.FunctionType | types.MethodType):
        return bool(thing.__doc__)
    if isinstance(thing, type) and not isinstance(thing, types.GenericAlias):
        # A dataclass without a docstring is given its signature as one; a subclass inherits its base's by getdoc.
        own = vars(thing).get("__doc__") or ""
        return bool(own) and not own.startswith(f"{thing.__name__}(")
    return True  # values and aliases: see the next test


@functools.cache
def documented_values() -> dict[str, set[str]]:
    """The names that a module assigns, by module, of those that a string right below says something about."""
    found: dict[str, set[str]] = {}
    for file in FILES:
        body = tree(file).body
        for node, following in itertools.pairwise(body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found.setdefault(place(file), set()).update(each.id for each in targets if isinstance(each, ast.Name))
    return found


@pytest.mark.parametrize(
    "name", [name for name in MODULES if (ROOT / "/".join(name.split(".")[1:]) / "__init__.py").is_file()]
)
def test_a_value_that_a_package_exports_is_explained_where_it_is_defined(name: str) -> None:
    module = importlib.import_module(name)
    explained = set().union(*documented_values().values())
    values = [each for each in getattr(module, "__all__", []) if not callable(getattr(module, each))]
    assert [each for each in values if each not in explained and each != "__version__"] == []


# ------------------------------------------------------------------------------------ what must not be done


def test_nothing_is_unpickled() -> None:
    picklers = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    anywhere = {"pickle", "pickle.UnpicklingError"}  # the error may be named where torch.load raises it
    in_one = {
        # A notebook's function, which a launcher sends to its own processes with a digest (decision 0025).
        "distributed/launchers/function.py": {"cloudpickle", "cloudpickle.dumps", "pickle.loads"},
        # What a process and its own children send each other over pipes that nobody else has, as multiprocessing does.
        "data/processes.py": {"pickle.dumps", "pickle.loads", "pickle.HIGHEST_PROTOCOL"},
    }
    for file in FILES:
        imported = set(imports(file))
        used = {name for name in imported if name.split(".")[0] in picklers}
        used |= {
            ast.unparse(node)
            for node in ast.walk(tree(file))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in picklers
        }
        assert used <= anywhere | in_one.get(place(file), set()), place(file)
        for call in calls(file):
            where, given = f"{place(file)}:{call.lineno}", {each.arg: ast.unparse(each.value) for each in call.keywords}
            called = ast.unparse(call.func)
            if called == "torch.load" or ("torch.load" in imported and called == "load"):
                assert given.get("weights_only") == "True", f"{where}: torch.load without weights_only=True"
            assert given.get("allow_pickle", "False") == "False", f"{where}: allow_pickle"


def test_rank_and_run_variables_are_named_in_one_file() -> None:
    # By the strings, whatever is done with them: os.environ, getenv, a mapping that is passed on, a constant.
    mine = re.compile(r"(DIST_AI|TORCHELASTIC|SLURM)_\w+|NODE_RANK|MASTER_(ADDR|PORT)|" + "|".join(RANK_VARIABLES))
    allowed = {"distributed/environment.py": None, "data/cache.py": {"DIST_AI_CACHE"}}
    assert all(mine.fullmatch(name) for name in OWN_VARIABLES)
    for file in FILES:
        named = {
            node.value
            for node in ast.walk(tree(file))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and mine.fullmatch(node.value)
        }
        known = allowed.get(place(file), set())
        assert known is None or named <= known, place(file)


def test_the_environment_is_touched_in_few_files() -> None:
    touching = {
        place(file)
        for file in FILES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv", "unsetenv")
    }
    touching |= {place(file) for file in FILES if {"os.environ", "os.getenv"} & set(imports(file))}
    # The launchers, and a search's trials, pass the whole environment on and ask for other libraries' variables; the data
    # layer asks where the user's cache is; the doctor tells what is set for other libraries.
    allowed = {"distributed/environment.py", "data/cache.py", "cli/doctor.py", "tuning/ray.py", "tuning/trial.py"}
    assert {file for file in touching if not file.startswith("distributed/launchers/")} <= allowed


# ------------------------------------------------------------------------------------ what importing costs

MEASURE = """
import json, os, signal, sys, threading, time
begin = time.perf_counter()
{first}
first_s = time.perf_counter() - begin
def facts():
    return (dict(os.environ), threading.active_count(), [signal.getsignal(n) for n in signal.valid_signals()],
            sys.excepthook, list(sys.path), os.getcwd())
before, loaded = facts(), set(sys.modules)
begin = time.perf_counter()
import {module}
own_s = time.perf_counter() - begin
done_nothing = facts() == before
new = sorted(set(sys.modules) - loaded)
print(json.dumps({{"first_s": first_s, "own_s": own_s, "done_nothing": done_nothing, "new": new}}))
"""

HEAVY = {
    "accelerate",
    "matplotlib",
    "pandas",
    "PIL",
    "pyarrow",
    "ray",
    "tensorboard",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.nn.parallel.distributed",
    "torch.utils.tensorboard",
    "torchvision",
}


def cost_of(module: str, *, first: str = "import torch") -> dict[str, Any]:
    """What a fresh process says of importing `module`, after `first`."""
    command = [sys.executable, "-c", MEASURE.format(first=first, module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_dist_ai_loads_one_module_in_no_time_and_does_nothing() -> None:
    cost = cost_of("dist_ai")
    assert cost["new"] == ["dist_ai"]
    assert cost["done_nothing"]
    assert cost["own_s"] <= 0.15 * cost["first_s"]  # measured: a thousandth of torch


@pytest.mark.parametrize("module", ["dist_ai.learner", "dist_ai.callbacks", "dist_ai.export", "dist_ai.checkpoint"])
def test_importing_a_room_loads_no_library_that_a_fit_may_not_need(module: str) -> None:
    cost = cost_of(module)
    assert HEAVY & set(cost["new"]) == set()
    assert cost["done_nothing"]


def test_the_command_does_not_wait_for_torch() -> None:
    cost = cost_of("dist_ai.cli.main", first="")
    assert {"torch", "numpy", *HEAVY} & set(cost["new"]) == set()
    assert cost["done_nothing"]
