"""Functions as programs: found by name where they stand in a file, sent by value where not, refused where neither can be."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import Lab

from dist_ai.distributed.launchers import function, launch
from dist_ai.distributed.launchers.function import Parcel, find, main, name_of, reference, refuse_in_its_processes
from dist_ai.errors import ConfigError, MissingDependencyError

TRAIN = """
import torch
from torch.nn import functional as F

from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.distributed import join
from dist_ai.distributed import launch
from dist_ai.learner import Learner

SAMPLES = 24


def train(epochs, name="nobody"):
    torch.manual_seed(0)
    x = torch.randn(SAMPLES, 4)
    loader = DataLoader(TensorData(x, (x[:, 0] > 0).long()), bs=8)
    learn = Learner(DataLoaders(loader, loader), torch.nn.Linear(4, 2), F.cross_entropy, progress=False)
    learn.fit(epochs)
    print(f"{join().world.rank} of {name}: {len(learn.recorder.losses)} steps in {learn.run_dir.name}")
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as lab:
        yield lab


def run(lab: Lab, *arguments: str, told: str = "") -> subprocess.CompletedProcess[str]:
    """Runs Python in the lab's folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=lab.folder,
        env=lab.environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        input=told,
        capture_output=True,
        text=True,
        timeout=240,
    )


# ------------------------------------------------------------------------------------ launched


def test_a_function_of_a_program_is_called_by_every_rank_and_goes_on_where_it_was(lab: Lab) -> None:
    lab.script(
        "program.py", TRAIN + 'if __name__ == "__main__":\n    launch(train, {"epochs": 2, "name": "her"}, workers=2)\n'
    )
    for _ in range(2):  # again: the fit is over, and not trained again
        done = run(lab, "program.py")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("0 of her: 6 steps in train\n")
    assert (
        "fit 1 is done already; its result is restored. To begin anew there use launch(..., fresh=True);" in done.stdout
    )
    log = (lab.folder / "runs" / "train" / "logs" / "rank1.log").read_text()
    assert "rank 1 of 2: train()\n" in log
    assert "1 of her: 6 steps in train\n" in log


def test_a_function_of_a_notebook_travels_with_what_it_uses(lab: Lab) -> None:
    done = run(lab, "-", told=TRAIN + 'SAMPLES = 40\nlaunch(train, [1], workers=2, run_dir="here")\n')
    assert (done.returncode, done.stdout) == (0, "0 of nobody: 5 steps in here\n"), done.stderr
    assert not [each for each in (lab.folder / "here").rglob("*") if each.name.startswith("function")]
    assert not [*lab.temporary.glob("dist-ai-*")]


READS_ITS_ARGUMENTS = """
import argparse
import sys

from dist_ai.distributed import launch

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, required=True)
given = parser.parse_args()


def train(text, made):
    folder = sys.path[0]  # ray puts its own before it
    import ray  # the library, and not what lies beside the file that runs here

    print(given.epochs, sys.argv, folder, len(text), made, ray.__name__, hasattr(ray, "init"))


if __name__ == "__main__":
    launch(train, {"text": "x" * 1_000_000, "made": %s}, engine="%s", device="cpu")
"""


@pytest.mark.parametrize(
    ("made", "engine"),
    [("1", "local"), ("{1}", "local"), pytest.param("1", "ray", marks=pytest.mark.ray)],
    ids=["by name", "by value", "ray"],
)
def test_a_function_gets_a_megabyte_and_finds_the_programs_own_arguments(lab: Lab, made: str, engine: str) -> None:
    lab.script("program.py", READS_ITS_ARGUMENTS % (made, engine))
    done = run(lab, "program.py", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"3 ['program.py', '--epochs', '3'] {lab.folder} 1000000 {made} ray True\n"


def test_an_error_in_a_function_is_shown_from_there_on(lab: Lab) -> None:
    lab.script(
        "program.py",
        """
        from dist_ai.distributed import launch

        def train():
            raise ValueError("mine")

        if __name__ == "__main__":
            launch(train, workers=2)
        """,
    )
    done = run(lab, "program.py")
    _, _, said = done.stderr.partition("rank 0 of 2 raised ValueError: mine\n\n")
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.count("File ") == 1
    assert "in train\n" in said


def test_a_call_that_its_own_ranks_would_repeat_is_refused_there(lab: Lab) -> None:
    lab.script(
        "program.py",
        """
        from dist_ai.distributed import launch

        def train(): ...

        launch(train, workers=2)
        """,
    )
    done = run(lab, "program.py")
    assert done.returncode == 1
    assert re.search(
        r"launch was called again by a process that it had started, which reads \S+program\.py to find its function; put the "
        r'call there under `if __name__ == "__main__":`',
        done.stderr,
    )


@pytest.mark.ray
def test_ray_calls_a_function_that_was_made_inside_another(lab: Lab) -> None:
    lab.script(
        "program.py",
        """
        import sys
        from dist_ai.distributed import launch

        def main():
            word = "inside"

            def train(*numbers):
                from dist_ai.distributed import join
                print(word, *numbers, join().world.world_size)

            launch(train, [1, (2, 3)], workers=2, engine="ray", device="cpu")

        if __name__ == "__main__":
            main()
        """,
    )
    done = run(lab, "program.py")
    assert (done.returncode, done.stdout) == (0, "inside 1 (2, 3) 2\n"), done.stderr
    assert "inside 1 (2, 3) 2\n" in (lab.folder / "runs" / "train" / "logs" / "rank1.log").read_text()


# ------------------------------------------------------------------------------------ sent


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Returns `called(function, args)`: calls it as a rank does, which was sent it; returns what was sent, in two parts."""

    def call(given: Callable[..., Any], args: Any) -> tuple[dict[str, Any], bytes]:
        parcel = Parcel.of(given, args)
        monkeypatch.setattr(sys, "argv", ["function.py", *parcel.put(tmp_path)])
        main()
        line, _, payload = parcel.content.partition(b"\n")
        return json.loads(line), payload

    return call


def test_what_stands_in_a_file_is_told_by_name_and_its_arguments_as_json(called: Any) -> None:
    where, args = called(threading.settrace, [None])
    assert args == b"[null]"
    assert where["module"] == "threading"
    assert find(reference(threading.settrace)) is threading.settrace


def test_what_does_not_stand_in_a_file_or_gets_more_than_json_is_sent_by_value(called: Any, tmp_path: Path) -> None:
    def save(name: str, value: Any, offset: int = 0) -> None:
        np.save(tmp_path / name, value + offset)

    for number, (given, args) in enumerate(
        [
            (save, {"name": "0.npy", "value": np.arange(3), "offset": 2}),
            (functools.partial(save, offset=2), ["1.npy", np.arange(3)]),
            (lambda name: save(name, np.arange(2, 5)), ["2.npy"]),
            (np.save, (tmp_path / "3.npy", [2, 3, 4])),  # a path is no JSON
        ]
    ):
        assert "module" not in called(given, args)[0]
        assert np.load(tmp_path / f"{number}.npy").tolist() == [2, 3, 4]
    assert [name_of(each) for each in (save, functools.partial(save), lambda: None)] == ["save", "save", "function"]


def test_a_parcel_that_was_changed_or_is_not_here_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, digest = Parcel.of(lambda: None, ()).put(tmp_path)
    monkeypatch.setattr(sys, "argv", ["function.py", file, digest])
    Path(file).write_bytes(b"{}\ncos\nsystem\n(S'touch stolen'\ntR.")
    with pytest.raises(ConfigError, match=r"/function is not what the launcher wrote, and is not read$"):
        main()
    Path(file).unlink()
    with pytest.raises(ConfigError, match="all machines of a run must share its run directory; give one on a shared"):
        main()


# ------------------------------------------------------------------------------------ refused


def train(epochs: int, lr: float = 0.1) -> None: ...


async def serve() -> None: ...


def each_epoch() -> Iterator[int]:
    yield 1


class Trains:
    async def __call__(self) -> None: ...


LOCK: Any = threading.Lock()


def uses_a_lock() -> None:
    with LOCK:
        pass


def holds(value: Any) -> Callable[[], Any]:
    def inner() -> Any:
        return value

    return lambda: inner()


@pytest.mark.parametrize(
    ("program", "args", "message"),
    [
        (
            train,
            (),
            "train(epochs: 'int', lr: 'float' = 0.1) -> 'None' cannot be called with no arguments: missing a required "
            "argument: 'epochs'",
        ),
        (
            train,
            {"epochs": 1, "epoch": 2},
            "cannot be called with epochs, epoch: got an unexpected keyword argument 'epoch'; did you mean 'epochs'?",
        ),
        (train, [1, 2, "x" * 99], f"cannot be called with 1, 2, '{'x' * 59}: too many positional arguments"),
        (lambda: threading.Lock, {"epochs": 1}, "function() cannot be called with epochs: got an unexpected keyword"),
        (
            serve,
            (),
            "serve is an async function, and calling it only makes a coroutine, which nobody runs; give a function that does: "
            "asyncio.run(serve(...))",
        ),
        (Trains(), (), "function is an async function"),
        (functools.partial(serve), (), "serve is an async function"),
        (
            each_epoch,
            (),
            "each_epoch is a generator function (it has a `yield`), and calling it runs nothing of it; give a function that "
            "goes through what it yields: for each in each_epoch(...)",
        ),
        (
            train,
            [threading.Lock()],
            "train cannot be sent to the ranks: its argument epochs is a lock, which cannot be pickled "
            "(cannot pickle '_thread.lock' object); make it inside the function, as open files, connections, loaders and "
            "Learners should be",
        ),
        (
            train,
            {"epochs": {"of": [1, LOCK]}},
            "the ranks: its argument epochs['of'][1] is a lock, which cannot be pickled",
        ),
        (functools.partial(train, lr=LOCK), [1], "the ranks: train.keywords['lr'] is a lock, which cannot be pickled"),
        (holds(Path(".").iterdir()), (), "the ranks: value, which inner uses, is a generator, which cannot be pickled"),
        (holds({"a": [LOCK]}), (), "the ranks: value['a'][0], which inner uses, is a lock, which cannot be pickled"),
        (lambda lock=LOCK: lock, (), "the ranks: lock, which function uses, is a lock, which cannot be pickled"),
        ("train.py", {"lr": 0.1}, "args={'lr': 0.1} are a function's; give a script words, as in ['--lr', '0.1']"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_starts(
    program: Any, args: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").touch()
    with pytest.raises(ConfigError, match=re.escape(message)):
        launch(program, args, workers=2, device="cpu")
    assert [each.name for each in tmp_path.iterdir()] == ["train.py"]


def test_without_cloudpickle_what_must_travel_is_a_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(
        MissingDependencyError, match="function must travel to the ranks by value, which needs cloudpickle"
    ):
        Parcel.of(lambda: None, ())


@pytest.fixture
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])


@pytest.mark.usefixtures("own_path")
def test_a_module_that_is_not_here_is_named() -> None:
    told = json.dumps({"module": "nowhere_at_all", "file": None, "name": "train", "path": [], "argv": []})
    with pytest.raises(ConfigError, match="the module nowhere_at_all of train is not where this process imports from"):
        find(told)


@pytest.mark.usefixtures("own_path")
def test_a_function_that_is_not_at_the_top_of_its_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("")
    told = json.dumps({"module": None, "file": str(tmp_path / "program.py"), "name": "train", "path": [], "argv": []})
    with pytest.raises(
        ConfigError, match=r"program\.py has no train where another process reads it; put the function at its"
    ):
        find(told)
    refuse_in_its_processes("launch")
    assert function._reading is None
