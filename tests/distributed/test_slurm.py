"""Slurm: tasks that find out who they are, and launches by srun, which a small program plays here."""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import ROOT, Lab

from dist_ai.distributed.environment import current_world
from dist_ai.errors import ConfigError


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        yield it


STEP = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "2",
}


def test_a_task_of_srun_finds_out_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**STEP, "DIST_AI_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    world = current_world()
    assert (world.rank, world.world_size, world.local_rank, world.local_world_size) == (5, 7, 1, 3)
    assert (world.node_rank, world.source, world.hosts_store, world.attempt) == (1, "srun", False, 0)
    assert world.store == "tcp://gpu07:29294"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.7")
    monkeypatch.setenv("MASTER_PORT", "4711")
    world = current_world()
    assert (world.store, world.attempt) == ("tcp://10.0.0.7:4711", 3)


def test_another_step_of_the_job_meets_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**STEP, "DIST_AI_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    first = current_world().store
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    assert current_world().store != first


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script: nobody else runs it
        {**STEP, "WORLD_SIZE": "1", "RANK": "0"},  # torchrun inside of a step
        {**STEP, "SLURM_STEP_NUM_TASKS": "1"},  # a shell in an allocation
    ],
)
def test_what_is_no_step_of_several_tasks_is_a_world_of_one(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (current_world().world_size, current_world().source) == (1, "single process")


def test_what_is_missing_of_a_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**STEP, "SLURM_LOCALID": ""}.items():
        monkeypatch.setenv(name, value)
    expected = (
        "SLURM_STEP_NUM_TASKS=7 says that there are several processes, but SLURM_LOCALID is not set; start them with"
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        current_world()


# What srun does, as far as it matters here: so many tasks of this machine, ended together if one fails.
SRUN = """\
#!{python}
import os, subprocess, sys, time
command = sys.argv[sys.argv.index({python!r}):]
told = dict(each[2:].partition("=")[::2] for each in sys.argv[1:sys.argv.index({python!r})])
tasks = int(told["ntasks"])
os.chdir(told["chdir"])
step = dict(SLURM_STEP_NUM_TASKS=str(tasks), SLURM_NODEID="0", SLURM_STEP_TASKS_PER_NODE=str(tasks),
            SLURM_STEP_NODELIST="localhost", SLURM_JOB_ID=str(os.getpid()), SLURM_STEP_ID="0")
running = [
    subprocess.Popen(command, env={{**os.environ, **step, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}})
    for i in range(tasks)
]
import signal
signal.signal(signal.SIGTERM, lambda *_: [each.send_signal(signal.SIGTERM) for each in running])
while any(each.poll() is None for each in running):
    if any(each.poll() for each in running):
        time.sleep(0.3)
        for each in running:
            each.kill()
    time.sleep(0.02)
codes = [each.wait() for each in running]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""

TASK = """
    import os, sys, time
    from dist_ai.distributed.environment import current_world, launch_settings

    world = current_world()
    print(f"rank {world.rank} of {world.world_size}, attempt {world.attempt}, {sys.argv[1:]}", flush=True)
    if "fail" in sys.argv and world.rank == 1 and world.attempt == 0:
        raise ValueError("no such thing")
    time.sleep(0.5 if "wait" not in sys.argv else 300)
"""

TRAIN = """
    import os
    import torch
    from torch import nn
    from dist_ai.data import DataLoader, DataLoaders, TensorData
    from dist_ai.learner import Learner
    from dist_ai.losses import MSELoss

    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    dls = DataLoaders(DataLoader(TensorData(x, x.sum(1)), 4), None)
    learn = Learner(dls, nn.Linear(3, 1), MSELoss(), run_dir=None, progress=False)
    learn.fit(1)
    world, strategy = learn.collectives.world, type(learn.strategy).__name__
    print(f"rank {world.rank} of {world.world_size} trained with {strategy}, loss {learn.recorder.losses[-1]:.3f}")
    assert "LOCAL_RANK" not in os.environ  # srun's word stays the only one
"""


@pytest.fixture
def srun(lab: Lab) -> Lab:
    import sys

    path = lab.folder / "bin" / "srun"
    path.parent.mkdir()
    path.write_text(SRUN.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    lab.environment["PATH"] = f"{path.parent}:{lab.environment['PATH']}"
    lab.script("task.py", TASK)
    return lab


def test_a_launch_by_srun_runs_and_is_started_again(srun: Lab) -> None:
    done = srun.launch(
        "task.py", "--engine", "slurm", "--workers", "2", "--max-restarts", "1", "fail", DIST_AI_DEVICE=""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "rank 0 of 2, attempt 0, ['fail']\nrank 0 of 2, attempt 1, ['fail']\n"
    assert done.stderr == (
        "dist-ai: rank 1 of 2 raised ValueError: no such thing, before its first fit; restart 1 of 1\n"
    )
    log = (srun.folder / "runs/task/logs/rank1.log").read_text()
    assert "rank 1 of 2, attempt 1, ['fail']\n" in log
    assert not list((srun.folder / "runs/task").glob(".launch-*"))


def test_tasks_of_srun_train_together(srun: Lab) -> None:
    srun.script("train.py", TRAIN)
    done = srun.launch("train.py", "--engine", "slurm", "--workers", "2", DIST_AI_DEVICE="cpu")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"rank 0 of 2 trained with DDPStrategy, loss \d\.\d+\n", done.stdout)


def test_tasks_of_srun_call_a_function_that_travels(srun: Lab) -> None:
    import sys

    srun.script(
        "program.py",
        """
        from dist_ai.distributed import join, launch

        def main():
            word = "inside"

            def train(*numbers):
                world = join().world
                print(word, *numbers, world.rank, world.world_size)

            launch(train, [(2, 3)], workers=2, engine="slurm", device="cpu")

        main()
        """,
    )
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=srun.folder,
        env=srun.environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "inside (2, 3) 0 2\n"), done.stderr
    assert "inside (2, 3) 1 2\n" in (srun.folder / "runs/train/logs/rank1.log").read_text()


def test_an_error_in_a_task_of_srun_is_shown_once(srun: Lab) -> None:
    done = srun.launch("task.py", "--engine", "slurm", "--workers", "2", "fail")
    assert done.returncode == 1
    assert done.stderr.startswith("dist-ai: error: rank 1 of 2 raised ValueError: no such thing\n\nTraceback")
    assert done.stderr.endswith(f"Output of rank 1: {srun.folder}/runs/task/logs/rank1.log\n")


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_for_schedulers_are_shell(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
