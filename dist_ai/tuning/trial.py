"""One trial of a search: a launch in a process of its own (`dist_ai.tuning.process`), whose epochs' rows are told on."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_ai.distributed.launchers.failures import LINES_OF_LOG
from dist_ai.distributed.launchers.function import Parcel
from dist_ai.distributed.launchers.job import Job
from dist_ai.errors import ConfigError, WorkerError, did_you_mean

__all__ = ["Plan", "error_of", "read_rows", "run_trial", "state_of"]

ERROR = "dist-ai: error: "
"""What the process of a trial says before why its launch failed."""

POLL_S = 0.2
# From the polite signal to SIGKILL: a trial that is stopped has no more to do.
GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all trials of a search have in common.

    Attributes:
        script, args, workers, folder, run_dir, fresh, device, max_restarts: as in `Job`; a trial's own run directory is in
            `run_dir`.
        function: by which the ranks find the function that is the program; None where it is a script.
        metric: the column of the epochs' rows that must be there.
        lower: whether less of it is better.
        threads: what OMP_NUM_THREADS is set to.
    """

    script: str
    args: tuple[str, ...]
    workers: int
    folder: Path
    run_dir: Path
    fresh: bool
    device: str | None
    max_restarts: int
    function: str | None
    metric: str
    lower: bool
    threads: str

    @classmethod
    def of(cls, job: Job, *, function: str | None, metric: str, lower: bool) -> Plan:
        """Returns the plan for the trials of a job."""
        return cls(
            script=job.script,
            args=job.args,
            workers=job.workers,
            folder=job.folder,
            run_dir=job.run_dir,
            fresh=job.fresh,
            device=job.device,
            max_restarts=job.max_restarts,
            function=function,
            metric=metric,
            lower=lower,
            threads=os.environ.get("OMP_NUM_THREADS", "1"),  # of here: Ray sets another one in its processes
        )


def run_trial(
    plan: Plan,
    name: str,
    config: Mapping[str, Any],
    tell: Callable[[dict[str, float]], None],
) -> None:
    """Runs a trial to its end, or until `tell` raises.

    Args:
        plan: of the search.
        name: of the trial's folder.
        config: its parameters.
        tell: is given the row of each epoch that has ended.

    Raises:
        ConfigError: there is another trial in its folder, or its rows do not have the metric.
        WorkerError: its launch failed.
    """
    folder = plan.run_dir / name
    _begin(folder, dict(config), fresh=plan.fresh)
    log = folder / "logs" / "launch.log"
    private = tempfile.TemporaryDirectory(prefix="dist-ai-trial-")
    process = _start(plan, folder, log, config, private=Path(private.name))
    state, failure, told = "stopped", "", 0
    try:
        code = None
        while code is None:
            time.sleep(POLL_S)
            code = process.poll()  # before the rows: what it wrote last is read in the last turn
            rows = read_rows(folder)
            for row in rows[told:]:
                _check(plan.metric, row)
                tell(row)
            told = max(told, len(rows))
        if code != 0:
            raise WorkerError(f"{name} ({_words(config)}) failed: {_cause_in(log)}", exit_code=code)
        if told == 0:
            raise ConfigError(
                f"{name} reported no {plan.metric!r}: no epoch of a fit ended in its run directory {folder}; the program must "
                "train a Learner with run_dir='auto', the default"
            )
        state = "ended"
    except Exception as error:
        state, failure = "failed", str(error)
        raise
    finally:
        _end(process)
        private.cleanup()
        _note(folder, dict(config), state, failure)


def read_rows(folder: Path) -> list[dict[str, float]]:
    """Returns the rows of the epochs that a run directory's table has, numbers only."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    rows: list[dict[str, float]] = []
    for line in table:
        rows.append({})
        for column, text in line.items():
            with contextlib.suppress(TypeError, ValueError):
                rows[-1][column] = float(text)
    return rows


def state_of(folder: Path) -> str:
    """Returns what became of the trial in a folder; one whose process was ended in the middle was stopped."""
    state: str = _noted(folder).get("state", "failed")
    return "stopped" if state == "running" else state


def error_of(folder: Path) -> str:
    """Returns why the trial in a folder failed; "" if it did not, or if its process could not say."""
    error: str = _noted(folder).get("error", "")
    return error


def _begin(folder: Path, config: dict[str, Any], *, fresh: bool) -> None:
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    kept = _noted(folder).get("config")
    if kept is not None and kept != json.loads(json.dumps(config)):
        raise ConfigError(
            f"{folder} holds a trial with {_words(kept)}, and now it would be {_words(config)}; use --fresh, or another run "
            "directory"
        )
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    _note(folder, config, "running")


def _noted(folder: Path) -> dict[str, Any]:
    try:
        noted: dict[str, Any] = json.loads((folder / "trial.json").read_text())
    except (OSError, ValueError):
        return {}
    return noted


def _note(folder: Path, config: dict[str, Any], state: str, error: str = "") -> None:
    draft = folder / ".trial.json"
    draft.write_text(json.dumps({"config": config, "state": state, **({"error": error} if error else {})}))
    draft.replace(folder / "trial.json")


def _start(plan: Plan, folder: Path, log: Path, config: Mapping[str, Any], *, private: Path) -> subprocess.Popen[bytes]:
    if plan.function is None:
        args = [*plan.args, *(word for name, value in config.items() for word in (f"--{name}", str(value)))]
    else:
        args = Parcel.of_reference(plan.function, config).put(private)
    told = {
        "parent": os.getpid(),
        "program": plan.script,
        "args": args,
        "workers": plan.workers,
        "run_dir": str(folder),
        "device": plan.device,
        "max_restarts": plan.max_restarts,
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "dist_ai.tuning.process", json.dumps(told)],
            cwd=plan.folder,
            env={**os.environ, "OMP_NUM_THREADS": plan.threads},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _check(metric: str, row: Mapping[str, float]) -> None:
    if metric not in row:
        names = [name for name in row if name not in ("fit", "epoch", "samples_per_s", "time")]
        raise ConfigError(
            f"the trials report no {metric!r}{did_you_mean(metric, names)}; the columns of their epochs are {', '.join(names)}"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        process.kill()  # its ranks die with it
        process.wait()


def _cause_in(log: Path) -> str:
    """Returns what the launch said of its end, which is the last thing that it says; else the last lines of its log."""
    text = log.read_text(errors="replace")
    _, said, cause = text.rpartition(ERROR)
    return cause.rstrip() if said else "\n" + "\n".join(text.splitlines()[-LINES_OF_LOG:])


def _words(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in config.items())
