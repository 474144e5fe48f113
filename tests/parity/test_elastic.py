"""A run that becomes smaller and larger while it trains sees each sample once, with the losses of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import wait_until
from toy import NUM_TRAIN, make_dls, make_learner, make_model

from dist_ai.callbacks import Callback, RemoteControl
from dist_ai.distributed.environment import LaunchSettings, settings_environment
from dist_ai.distributed.launchers.resize import Resize
from dist_ai.distributed.mailbox import mailbox_at
from dist_ai.optimizer import Adam

PROGRAM = Path(__file__).with_name("elastic_program.py")
STEPS_PER_EPOCH = 3


class SendsWorkers(Callback):
    """Sends the command for so many workers before a training step, and waits until rank 0 has heard it."""

    may_cancel = True  # so that the ranks exchange at every step

    def __init__(self, step: int, count: int) -> None:
        self.step, self.count = step, count

    def before_batch(self) -> None:
        if not self.state.training or self.state.train_step != self.step or not self.learn.collectives.world.is_main:
            return
        assert self.learn.run_dir is not None
        number = mailbox_at(self.learn.run_dir).send("workers", {"count": self.count}).number
        reporter = self.learn.callbacks.find(RemoteControl)._reporter
        assert wait_until(lambda: reporter.newest >= number, within_s=20)


def train(run_dir: str | None, step: int = -1, count: int = 1, bounds: Any = (1, 4)) -> tuple[list[float], int]:
    """Returns the losses so far, and the number of workers that were asked for in the end; 0 for none."""
    if run_dir is not None:
        os.environ.update(settings_environment(LaunchSettings(run_dir=Path(run_dir), workers=bounds)))
    learn = make_learner(
        dls=make_dls(bs=6),
        model=make_model(batch_norm=True),
        opt_func=Adam,
        run_dir=run_dir,
        checkpoint_every_s=None,
        cbs=SendsWorkers(step, count),
    )
    workers = 0
    try:
        learn.fit_one_cycle(3, 0.05)
    except Resize as resize:
        workers = resize.workers
    return learn.recorder.losses, workers


def test_a_run_of_three_ranks_goes_on_as_two_and_as_four_with_the_losses_of_one(spawn: Any, tmp_path: Path) -> None:
    alone, _ = train(None)
    folder = str(tmp_path / "run")
    told = [(size, step, count) for size, step, count in ((3, 1, 2), (2, 4, 4))]
    for size, step, count in told:
        got = spawn(size, train, run_dir=folder, step=step, count=count)
        assert [workers for _, workers in got] == [count] * size  # all leave, at the same step
        assert {len(losses) for losses, _ in got} == {step + 1}
    for losses, workers in spawn(4, train, run_dir=folder):
        assert workers == 0
        assert losses == pytest.approx(alone, abs=1e-12)
    answers = mailbox_at(tmp_path / "run").answers()
    assert [(answers[i].ok, answers[i].step, answers[i].text) for i in (1, 2)] == [
        (True, 2, "workers 2"),
        (True, 5, "workers 4"),
    ]


@pytest.mark.parametrize(
    ("bounds", "count", "ok", "text"),
    [
        (
            (1, 2),
            3,
            False,
            "the run was launched with --workers 1:2; stop it, and launch it with --workers 1:3: it goes on from its checkpoint",
        ),
        (
            None,
            2,
            False,
            "nobody can start this run again with another number of workers: only `dist-ai launch` on one machine or by Slurm "
            "does. Stop it, and start it with so many: it goes on from its checkpoint",
        ),
        ((1, 2), 1, True, "workers 1, as it has now"),
    ],
)
def test_a_number_that_cannot_be_is_refused_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: Any, count: int, ok: bool, text: str
) -> None:
    for name in settings_environment(LaunchSettings(run_dir=tmp_path, workers=(1, 1))):
        monkeypatch.setenv(name, "")  # and as it was when the test ends
    losses, workers = train(str(tmp_path), 1, count, bounds)
    assert (len(losses), workers) == (9, 0)
    answer = mailbox_at(tmp_path).answers()[1]
    assert (answer.ok, answer.text) == (ok, text)


def launched(folder: Path, *options: str) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-m", "dist_ai.cli.main", "launch", str(PROGRAM), *options]
    return subprocess.Popen(
        [*command, "--run-dir", str(folder / "run"), str(folder / "seen")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def seen(folder: Path) -> list[tuple[int, list[int]]]:
    """Returns for every step, as it was done last, on how many workers and which samples were trained on."""
    steps = []
    for step in sorted((folder / "seen").iterdir()):
        last = max(step.iterdir())
        files = list(last.iterdir())
        sizes = {int(file.name.rpartition("-")[2]) for file in files}
        assert sizes == {len(files)}
        steps.append((len(files), sorted(int(index) for file in files for index in file.read_text().split())))
    return steps


def losses_logged(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.slow
def test_a_launch_that_loses_a_worker_goes_on_with_two_and_a_new_one_arrives(tmp_path: Path) -> None:
    alone = launched(tmp_path / "alone")
    output, _ = alone.communicate(timeout=120)
    assert alone.returncode == 0, output
    folder = tmp_path / "elastic"
    process = launched(folder, "--workers", "2:3", "--max-restarts", "3")
    mailbox = mailbox_at(folder / "run")
    assert wait_until(lambda: len(mailbox.statuses()) == 2 and mailbox.statuses()[0].world_size == 2, within_s=120)
    command = [sys.executable, "-m", "dist_ai.cli.main", "control", str(folder / "run"), "workers", "3"]
    control = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert control.stdout.startswith("command 1: workers 3, before step "), control.stderr
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "restart 2 of 3; it goes on with 2 workers, after losing one 2 times\n" in output
    assert "dist-ai: it goes on with 3 workers instead of 2, as was asked\n" in output
    steps = seen(folder)
    sizes = [size for size, _ in steps]
    assert [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before] == [3, 2, 3]
    for start in range(0, len(steps), STEPS_PER_EPOCH):
        samples = [index for _, mine in steps[start : start + STEPS_PER_EPOCH] for index in mine]
        assert sorted(samples) == list(range(NUM_TRAIN))
    assert losses_logged(folder) == pytest.approx(losses_logged(tmp_path / "alone"), abs=1e-12)
