"""Starts the ranks of a run with Slurm's srun, in this allocation or a new one, again after a failure as often as it says.

The ranks find out who they are from Slurm's variables. The run directory must be on storage that all machines share: the
reports of ranks that fail, their logs and their statuses are in it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dist_ai.distributed.environment import launch_settings, launched_rank, slurm_environment
from dist_ai.distributed.launchers.failures import (
    Failure,
    first_cause,
    log_header,
    read_failures,
    worker_error,
)
from dist_ai.distributed.launchers.job import Job
from dist_ai.distributed.launchers.restarts import Restarts, furthest
from dist_ai.distributed.launchers.signals import Interruption, noting_signals
from dist_ai.distributed.launchers.worker import main as run_worker
from dist_ai.distributed.mailbox import mailbox_at

__all__ = ["main", "run"]

POLL_S = 0.1
# From the polite signal to SIGKILL. Ranks may have a checkpoint to finish.
GRACE_S = 30.0


def run(job: Job) -> None:
    """Runs `job` by srun.

    Raises:
        WorkerError: a rank failed, and no restart is left or would help.
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM or SIGHUP.
    """
    restarts = Restarts(limit=job.max_restarts, workers=job.workers, min_workers=job.min_workers)
    with noting_signals() as interruption:
        for number in itertools.count():
            with _shared_folder(job) as folder:
                cause = _attempt(job.delivered(folder), folder, number, interruption)
            interruption.obey()
            if cause is None:
                return
            place = furthest(mailbox_at(job.run_dir).statuses())
            verdict = restarts.after(cause, place)
            if not verdict.workers:
                log = job.log(cause.rank) if cause.rank > 0 else None
                raise worker_error(cause, world_size=job.workers, log=log, note=verdict.why)
            told = restarts.told(cause, place, verdict, world_size=job.workers)
            print(f"dist-ai: {told}", file=sys.stderr, flush=True)
            job = replace(job, workers=verdict.workers, fresh=False)


def _attempt(job: Job, folder: Path, number: int, interruption: Interruption) -> Failure | None:
    command = ["srun", f"--ntasks={job.workers}", "--kill-on-bad-exit=1", f"--chdir={job.folder}"]
    sys.stdout.flush()
    process = subprocess.Popen(
        [*command, sys.executable, "-m", "dist_ai.distributed.launchers.slurm", job.script, *job.args],
        env=slurm_environment(job.settings(failure_dir=folder), attempt=number, inherited=os.environ),
        process_group=0,  # srun would take a terminal's Ctrl-C for itself, and ask for a second one
    )
    try:
        while process.poll() is None and interruption.signal is None:
            time.sleep(POLL_S)
        if interruption.signal is not None:
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_S
            while process.poll() is None and time.monotonic() < deadline and not interruption.again:
                time.sleep(POLL_S)
            return None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return None
    if failures := read_failures(folder):
        return first_cause(failures)
    code = process.returncode
    return Failure(
        rank=0, time=time.time(), exit_code=code, message=f"or another left no report; srun ended with code {code}"
    )


@contextmanager
def _shared_folder(job: Job) -> Iterator[Path]:
    folder = job.run_dir / f".launch-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Runs the script named by this process's arguments as one of srun's tasks: rank 0 on the terminal, others in a log."""
    rank, run_dir = launched_rank(), launch_settings().run_dir
    if rank > 0 and run_dir is not None:
        path = run_dir / "logs" / f"rank{rank}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            log.write(log_header(f"rank {rank}: {' '.join(sys.argv[1:])}").encode())
            log.flush()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    run_worker()


if __name__ == "__main__":
    main()
