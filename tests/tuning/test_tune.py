"""Searches: refused before anything starts where they cannot work; run on Ray Tune, stopped early, and compared."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab

from dist_ai.distributed.launchers.function import find, reference
from dist_ai.errors import ConfigError, MissingDependencyError
from dist_ai.tuning import Results, TrialResult, tune


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        yield it


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    return tmp_path / "train.py"


def train(lr: float, bs: int = 8) -> None:
    raise AssertionError("only named here")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {}}, "the space is empty"),
        (
            {"space": {"lr": 0.1}},
            "nothing in the space varies, so 8 trials would all be the same; use trials=1 or a range",
        ),
        ({"trials": 0}, "trials=0: expected a whole number of 1 or more"),
        (
            {"at_once": "2"},
            "at_once='2': expected a whole number of 1 or more, or None for as many as the cluster has place",
        ),
        ({"workers": (1, 2)}, "workers=(1, 2): expected a whole number of 1 or more"),
        ({"program": "trian.py"}, "script 'trian.py' does not exist in"),
        (
            {"program": train, "space": {"lrr": "uniform(0, 1)"}},
            "train(lr: 'float', bs: 'int' = 8) -> 'None' cannot be called with lrr: missing a required argument: 'lr'; did "
            "you mean 'lr'?",
        ),
        (
            {"program": lambda lr: None},
            "<lambda> cannot be found by the processes of a trial: give a function that stands at ",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_started(
    program: Path, options: dict[str, Any], message: str
) -> None:
    given = {"program": program, "space": {"lr": "uniform(0, 1)"}, **options}
    with pytest.raises(ConfigError, match=re.escape(message)):
        tune(given.pop("program"), given.pop("space"), **given)


def test_ray_that_is_not_installed_is_a_pip_command(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else there(name, *rest))
    with pytest.raises(
        MissingDependencyError, match=r"needs Ray, which is not installed: pip install 'ray\[train\]>=2.54'"
    ):
        tune(program, {"lr": "uniform(0, 1)"})


def test_a_function_is_found_by_its_name_in_another_process() -> None:
    told = reference(tune)
    assert json.loads(told)["name"] == "tune"
    assert find(told) is tune


def trial(number: int, value: float, state: str = "ended") -> TrialResult:
    name = f"trial-{number:05d}"
    return TrialResult(
        name=name, config={"lr": 0.1 * number, "bs": 8}, state=state, epochs=3, value=value, run_dir=Path("s", name)
    )


def test_a_trial_that_failed_is_the_best_only_where_all_did() -> None:
    failed, ended = trial(0, 0.9, "failed"), trial(1, 0.5)
    results = Results(metric="accuracy", lower=False, trials=[failed, ended])
    assert (results.best, results.ranked()) == (ended, [ended, failed])
    assert Results(metric="accuracy", lower=False, trials=[failed]).best is failed


def test_trials_are_told_best_first_with_those_without_a_value_last() -> None:
    trials = [trial(0, 0.5), trial(1, math.nan, "failed"), trial(2, 0.75)]
    assert Results(metric="valid_loss", lower=True, trials=trials).best.name == "trial-00000"
    results = Results(metric="accuracy", lower=False, trials=trials)
    assert results.best.run_dir == Path("s/trial-00002")
    assert results.table().splitlines() == [
        "trial        lr   bs  accuracy  epochs  state",
        "trial-00002  0.2  8   0.75      3       ended",
        "trial-00000  0    8   0.5       3       ended",
        "trial-00001  0.1  8   nan       3       failed",
    ]
    assert results.csv().splitlines()[2] == "trial-00001,0.1,8,nan,3,failed"
    with pytest.raises(ConfigError, match="no trial has a value of 'accuracy'"):
        _ = Results(metric="accuracy", lower=False, trials=[trial(1, math.nan)]).best


PATIENCE_S = 500.0

TRAINS = """
    import sys, time
    import torch
    from torch import nn
    from dist_ai.callbacks import Callback
    from dist_ai.data import DataLoader, DataLoaders, TensorData
    from dist_ai.learner import Learner
    from dist_ai.losses import CrossEntropyLoss
    from dist_ai.metrics import accuracy

    class Waits(Callback):
        may_cancel = False
        def after_epoch(self):
            time.sleep(1)

    def train(lr):
        torch.manual_seed(1)
        x = torch.randn(64, 8)
        data = TensorData(x, x[:, :4].argmax(1))
        dls = DataLoaders(DataLoader(data, 8, shuffle=True, seed=7), DataLoader(data, 32))
        learn = Learner(dls, nn.Linear(8, 4), CrossEntropyLoss(), metrics=accuracy, cbs=Waits(), progress=False)
        learn.fit(4, lr)
        print("world", learn.collectives.world.world_size)

    if __name__ == "__main__":
        if "--lr" in sys.argv:
            train(float(sys.argv[2]))
        else:
            from dist_ai.tuning import tune
            results = tune(train, {"lr": "loguniform(1e-6, 1)"}, trials=3, run_dir="again", at_once=1)
            print(results.table())
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_of_trials_on_two_processes_names_the_best_run(lab: Lab) -> None:
    lab.script("trains.py", TRAINS)
    space = ("--param", "lr=loguniform(1e-6,1)", "--trials", "2", "--metric", "accuracy", "--workers", "2")
    process = lab.start("-m", "dist_ai.cli.main", "tune", "trains.py", *space)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    head, *rows, last = out.splitlines()
    assert head.split() == ["trial", "lr", "accuracy", "epochs", "state"]
    accuracies = [float(row.split()[2]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len({row.split()[1] for row in rows}) == 2
    best = lab.folder / "runs/trains-tune" / rows[0].split()[0]
    assert last == f"the best: {best}"
    assert (best / "logs/launch.log").read_text() == "world 2\n"
    assert list((best / "checkpoints").iterdir())
    assert err.count("begins with lr=") == 2
    assert len((lab.folder / "runs/trains-tune/trials.csv").read_text().splitlines()) == 3


@pytest.mark.ray
@pytest.mark.slow
def test_a_function_is_searched_and_hopeless_trials_are_stopped(lab: Lab) -> None:
    lab.script("trains.py", TRAINS)
    process = lab.start("trains.py")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    rows = [row.split() for row in out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["trial-00000", "trial-00001", "trial-00002"]  # with ever smaller rates
    # One at a time: those that come later and are worse are stopped after an epoch, or soon after.
    assert [row[4] for row in rows] == ["ended", "stopped", "stopped"]
    assert int(rows[0][3]) == 4
    assert max(int(row[3]) for row in rows[1:]) < 4


FAILS = TRAINS.replace("        learn.fit(4, lr)", "        learn.fit(1, lr)\n        assert lr < 0.5, 'too large'")


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_fails_is_a_line_and_what_is_told_agrees_with_the_table(lab: Lab) -> None:
    lab.script("fails.py", FAILS)
    search = ("--param", "lr=choice(0.1,0.9)", "--trials", "4", "--seed", "1", "--no-early-stopping")
    process = lab.start("-m", "dist_ai.cli.main", "tune", "fails.py", *search)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    rows = [row.split() for row in out.splitlines()[1:-1]]
    states = [row[4] for row in rows]
    assert states == sorted(states)  # ended before failed
    assert set(states) == {"ended", "failed"}
    folder = lab.folder / "runs/fails-tune"
    assert out.endswith(f"the best: {folder / rows[0][0]}\n")
    told = err.splitlines()
    assert len(told) == 1 + 2 * len(rows)
    for name, rate, loss, epochs, state in rows:
        assert f"dist-ai: {name} begins with lr={rate}" in told
        assert epochs == "1"
        if state == "ended":
            assert f"dist-ai: {name} has ended after 1 epoch, its best valid_loss {loss}" in told
        else:
            cause = f"(lr={rate}) failed: rank 0 of 1 raised AssertionError: too large"
            assert f"dist-ai: {name} {cause}; see {folder / name}/logs/launch.log" in told


@pytest.mark.ray
@pytest.mark.slow
def test_a_metric_that_nobody_reports_is_an_error(lab: Lab) -> None:
    lab.script("trains.py", TRAINS)
    wrong = ("--param", "lr=choice(0.1,0.5)", "--trials", "2", "--metric", "acuracy")
    process = lab.start("-m", "dist_ai.cli.main", "tune", "trains.py", *wrong)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, err
    assert "all 2 trials failed; the first: the trials report no 'acuracy'; did you mean 'accuracy'?" in err
