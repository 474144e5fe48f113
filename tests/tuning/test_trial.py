"""One trial: its epochs are told as they are written, and what goes wrong is told with its reason."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dist_ai.distributed.launchers.job import Job
from dist_ai.errors import ConfigError, WorkerError
from dist_ai.tuning.trial import Plan, error_of, run_trial, state_of

# What a run's table looks like, without torch: it starts at once.
WRITES = """
import os, sys, time
from pathlib import Path
run_dir = Path(os.environ["DIST_AI_RUN_DIR"])
print(os.environ["RANK"], os.environ["WORLD_SIZE"], *sys.argv[1:], flush=True)
lines = ["fit,epoch,valid_loss,note"]
for epoch in range(3):
    lines.append(f"1,{epoch},{1 / (1 + epoch)},")
    draft = run_dir / f"draft{os.environ['RANK']}"
    draft.write_text("\\n".join(lines) + "\\n")
    draft.replace(run_dir / "metrics.csv")
    time.sleep(0.3)
"""


def plan_of(folder: Path, script: str = WRITES, **facts: Any) -> Plan:
    (folder / "program.py").write_text(script)
    job = Job.checked(
        folder / "program.py",
        ["--epochs", "3"],
        workers=facts.pop("workers", 1),
        engine="local",
        run_dir=folder / "search",
        fresh=facts.pop("fresh", False),
        device="cpu",
        timeout_s=None,
        address=None,
    )
    return Plan.of(job, function=None, metric=facts.pop("metric", "valid_loss"), lower=True)


def test_each_epoch_is_told_as_it_ends_and_the_parameters_reach_every_rank(tmp_path: Path) -> None:
    rows: list[tuple[float, dict[str, float]]] = []
    run_trial(
        plan_of(tmp_path, workers=2),
        "trial-00003",
        {"lr": 0.5, "arch": "small"},
        lambda row: rows.append((time.monotonic(), row)),
    )
    folder = tmp_path / "search" / "trial-00003"
    assert [row for _, row in rows] == [{"fit": 1.0, "epoch": i, "valid_loss": 1 / (1 + i)} for i in range(3)]
    assert rows[2][0] - rows[0][0] > 0.2  # not all at the end
    assert (folder / "logs" / "launch.log").read_text().startswith("0 2 --epochs 3 --lr 0.5 --arch small\n")
    assert "\n1 2 --epochs 3 --lr 0.5 --arch small\n" in (folder / "logs" / "rank1.log").read_text()
    assert json.loads((folder / "trial.json").read_text()) == {"config": {"lr": 0.5, "arch": "small"}, "state": "ended"}


def test_a_trial_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    def stop(row: dict[str, float]) -> None:
        raise SystemExit(0)  # as Ray Tune does

    slow = plan_of(tmp_path, WRITES.replace("sleep(0.3)", "sleep(300)"), workers=2)
    with pytest.raises(SystemExit):
        run_trial(slow, "trial-00000", {"lr": 0.5}, stop)
    assert state_of(tmp_path / "search" / "trial-00000") == "stopped"
    left = [
        each.info for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or [])
    ]
    assert left == []


@pytest.mark.parametrize(
    ("script", "metric", "kind", "message"),
    [
        (
            WRITES,
            "valid_los",
            ConfigError,
            "the trials report no 'valid_los'; did you mean 'valid_loss'?; the columns of their epochs are valid_loss",
        ),
        (
            "print('trains nothing')",
            "valid_loss",
            ConfigError,
            "trial-00000 reported no 'valid_loss': no epoch of a fit ended in its run directory ",
        ),
        (
            "print('lots of it\\n' * 50); raise KeyError('x')",
            "valid_loss",
            WorkerError,
            "trial-00000 (lr=0.5) failed: rank 0 of 1 raised KeyError: 'x'\n\nTraceback (most recent call last):\n",
        ),
    ],
)
def test_what_goes_wrong_is_told(tmp_path: Path, script: str, metric: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        run_trial(plan_of(tmp_path, script, metric=metric), "trial-00000", {"lr": 0.5}, lambda row: None)
    assert state_of(tmp_path / "search" / "trial-00000") == "failed"
    assert error_of(tmp_path / "search" / "trial-00000").startswith(message)


def test_a_folder_with_another_trial_is_refused_unless_it_is_to_be_fresh(tmp_path: Path) -> None:
    short = WRITES.replace("sleep(0.3)", "sleep(0)")
    run_trial(plan_of(tmp_path, short), "trial-00000", {"lr": 0.5}, lambda row: None)
    with pytest.raises(
        ConfigError, match=r"holds a trial with lr=0\.5, and now it would be lr=0\.25; use --fresh, or another"
    ):
        run_trial(plan_of(tmp_path, short), "trial-00000", {"lr": 0.25}, lambda row: None)
    run_trial(plan_of(tmp_path, short, fresh=True), "trial-00000", {"lr": 0.25}, lambda row: None)
    assert json.loads((tmp_path / "search" / "trial-00000" / "trial.json").read_text())["config"] == {"lr": 0.25}
