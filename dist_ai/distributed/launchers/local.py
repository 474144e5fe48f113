"""Starts the ranks of a run as processes of this machine, and looks after them until all have ended.

The ranks meet through a file in a private folder, so no port is opened. No rank outlives the launcher, however that
ends; a rank that fails takes the others with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from dist_ai.distributed.environment import worker_environment
from dist_ai.distributed.launchers.failures import (
    Failure,
    first_cause,
    log_header,
    read_failures,
    worker_error,
)
from dist_ai.distributed.launchers.job import Job
from dist_ai.distributed.launchers.machine import loopback_interface, share_of_cores
from dist_ai.distributed.launchers.restarts import Restarts
from dist_ai.distributed.launchers.signals import Interruption, noting_signals
from dist_ai.distributed.launchers.worker import STACKS_SIGNAL
from dist_ai.distributed.pulse import EXIT_HUNG, Beat, Stage, read_beat

__all__ = ["run"]

POLL_S = 0.02
# After the first failure: time for others to report that they failed in the same way (a mistake in the script).
SETTLE_S = 0.3
# From the polite signal to SIGKILL: after a failure, when the others can only wait for it in vain; and when a person or
# a scheduler asks us to end, when they may have a checkpoint to finish.
GRACE_AFTER_FAILURE_S = 5.0
GRACE_S = 15.0
# Between two looks at the ranks' progress, and what they get to write their stacks.
LOOK_S = 1.0
STACKS_S = 0.5

FOLDER = "dist-ai-launch-"
LOCK = "lock"


def run(job: Job) -> None:
    """Runs `job` on processes of this machine, again after a failure as often as it says.

    Raises:
        WorkerError: a rank failed, and no restart is left or would help.
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM or SIGHUP.
    """
    restarts = Restarts(limit=job.max_restarts, workers=job.workers, min_workers=job.min_workers)
    with noting_signals() as interruption, _private_folder() as folder:
        job = job.delivered(folder)
        for number in itertools.count():
            cause, place = _attempt(job, folder / f"attempt{number}", number, interruption)
            interruption.obey()
            if cause is None:
                return
            verdict = restarts.after(cause, place)
            if not verdict.workers:
                log = job.log(cause.rank) if cause.rank > 0 else None
                raise worker_error(cause, world_size=job.workers, log=log, note=verdict.why)
            _say(job, restarts.told(cause, place, verdict, world_size=job.workers))
            job = replace(job, workers=verdict.workers, fresh=False)


def _attempt(job: Job, folder: Path, number: int, interruption: Interruption) -> tuple[Failure | None, Beat]:
    """Runs the ranks once; returns what ended them and where they had come to, or None if all ended well."""
    folder.mkdir()
    with _Ranks(job, folder, number) as ranks:
        ranks.start()
        failures = ranks.wait(interruption)
        if interruption.signal is not None:
            ranks.stop(interruption.signal, GRACE_S, hurry=lambda: interruption.again)
        elif failures:
            ranks.stop(signal.SIGTERM, GRACE_AFTER_FAILURE_S, hurry=lambda: interruption.signal is not None)
        cause, beats = (first_cause(failures) if failures else None), ranks.beats()
        return cause, max(beats, key=lambda beat: beat[:3]) if cause is None else beats[cause.rank]


def _say(job: Job, text: str) -> None:
    print(f"dist-ai: {text}", file=sys.stderr, flush=True)
    path = job.run_dir / "logs" / "launcher.log"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            log.write(log_header(text))


class _Ranks:
    """The processes of one attempt. None of them is left when the block is left by an error."""

    def __init__(self, job: Job, folder: Path, attempt: int) -> None:
        self._job = job
        self._folder = folder
        self._attempt = attempt
        self._processes: list[subprocess.Popen[bytes]] = []
        self._look_at = time.monotonic()

    def __enter__(self) -> _Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running():
            self._kill()

    def start(self) -> None:
        """Starts every rank."""
        job = self._job
        settings = job.settings(failure_dir=self._folder)
        inherited = {**_threads_and_network(job.workers), **os.environ}
        sys.stdout.flush()  # what the caller printed comes before what rank 0 prints
        for rank in range(job.workers):
            environment = worker_environment(
                settings,
                rank=rank,
                world_size=job.workers,
                store=f"file://{self._folder / 'store'}",
                attempt=self._attempt,
                inherited=inherited,
            )
            with contextlib.ExitStack() as files:
                output = None
                if rank > 0:
                    output = files.enter_context(_open_log(job, rank))
                    environment.setdefault("PYTHONUNBUFFERED", "1")  # a killed rank's last words are the useful ones
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "dist_ai.distributed.launchers.worker", job.script, *job.args],
                        cwd=job.folder,
                        env=environment,
                        # A terminal would stop a reader that is not in its foreground group, without a word.
                        stdin=None if rank == 0 and not os.isatty(0) else subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT if output else None,
                        # A group of its own: a terminal's Ctrl-C reaches the launcher alone, which passes it on once,
                        # and a rank's own children (loader workers) can be ended with it.
                        process_group=0,
                    )
                )

    def wait(self, interruption: Interruption) -> list[Failure]:
        """Returns when all ranks have ended well, when one has failed (and why), or at an interruption."""
        while interruption.signal is None:
            codes = [process.poll() for process in self._processes]
            if any(codes) or read_failures(self._folder):
                return self._failures(interruption)
            if all(code == 0 for code in codes):
                return []
            if alone := self._left_alone(codes):
                return [alone]
            if hung := self._hung():
                return [hung]
            time.sleep(POLL_S)
        return []

    def beats(self) -> list[Beat]:
        """Returns where each rank has come to."""
        return [read_beat(self._folder, rank) for rank in range(self._job.workers)]

    def _left_alone(self, codes: list[int | None]) -> Failure | None:
        """Returns the report on a rank that has ended well before it met the others, who wait for it in vain."""
        if 0 not in codes or None not in codes:
            return None
        beats = self.beats()
        gone = [rank for rank, code in enumerate(codes) if code == 0 and not beats[rank].has_met]
        waiting = [rank for rank, code in enumerate(codes) if code is None and beats[rank].stage is Stage.MEETING]
        if not gone or not waiting:
            return None
        return self._left(gone[0], "before it met the others", waiting)

    def _left(self, rank: int, when: str, waiting: list[int]) -> Failure:
        """Returns the report on a rank that ended well, but too early."""
        return Failure(
            rank=rank,
            time=time.time(),
            exit_code=1,  # what the launch ends with
            again=False,
            message=f"ended, with code 0, {when}, and rank{'s' * (len(waiting) > 1)} {', '.join(map(str, waiting))} waited "
            "for it: every rank runs the same program to its end (look for what only some ranks do, such as an early return "
            "where the rank is not 0)",
        )

    def _hung(self) -> Failure | None:
        """Returns the report on the rank that has made no progress for too long, with all ranks' stacks in the log."""
        limit_s, now = self._job.settings().hang_limit_s(self._job.workers), time.monotonic()
        if limit_s is None or now < self._look_at:
            return None
        self._look_at = now + min(LOOK_S, limit_s / 4)
        beats = self.beats()
        # Its peers wait for it, so they hang too; but it was the first to come no further.
        rank = max(range(len(beats)), key=lambda each: beats[each].quiet_s)
        beat, quiet_s = beats[rank], beats[rank].quiet_s
        if quiet_s <= limit_s:
            return None
        stacks = self._write_stacks(f"rank {rank} made no progress for {quiet_s:.0f} s at {beat}")
        where = "; ".join(f"rank {each}: {its}" for each, its in enumerate(beats))
        return Failure(
            rank=rank,
            time=time.time(),
            exit_code=EXIT_HUNG,
            message=f"made no progress for {quiet_s:.0f} s at {beat}, so all ranks were stopped ({where}). {stacks}",
        )

    def _write_stacks(self, why: str) -> str:
        """Has every rank write its stack, and puts them in one log; returns a sentence that says where."""
        files = [self._folder / f"stacks{rank}" for rank in range(self._job.workers)]
        for process, file in zip(self._processes, files, strict=True):
            if process.poll() is None and file.exists():  # else it does not listen, and the signal would end it
                process.send_signal(STACKS_SIGNAL)
        time.sleep(STACKS_S)
        path = self._job.run_dir / "logs" / "stacks.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            log.write(log_header(why))
            for rank, file in enumerate(files):
                text = file.read_text(errors="replace") if file.exists() else ""
                log.write(f"---- rank {rank}\n{text or 'it did not write its stack'}\n")
        return f"Every rank's stack is in {path}"

    def stop(self, first: signal.Signals, grace_s: float, hurry: Callable[[], bool]) -> None:
        """Ends every rank: sends `first`, and SIGKILL to what is still there after `grace_s` seconds or at `hurry`."""
        ending = {failure.rank for failure in read_failures(self._folder)}
        for rank, process in enumerate(self._processes):
            if rank not in ending:
                process.send_signal(first)
        deadline = time.monotonic() + grace_s
        while self._running() and time.monotonic() < deadline and not hurry():
            time.sleep(POLL_S)
        self._kill()

    def _running(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def _failures(self, interruption: Interruption) -> list[Failure]:
        # A failed rank needs a moment to end, and the others to fail in the same way.
        deadline = time.monotonic() + SETTLE_S
        deaths: dict[int, Failure] = {}
        while time.monotonic() < deadline and interruption.signal is None:
            for rank, process in enumerate(self._processes):
                code = process.poll()
                if code and rank not in deaths:
                    deaths[rank] = Failure(rank=rank, time=time.time(), exit_code=code)
            time.sleep(POLL_S)
        # What a rank says of itself says more than how it ended.
        reports = {failure.rank: failure for failure in read_failures(self._folder)}
        failures = list({**deaths, **reports}.values())
        gone = [rank for rank, process in enumerate(self._processes) if process.poll() == 0]
        if gone and failures and all(failure.waited_for_peer for failure in failures):
            return [self._left(gone[0], "while others still worked with it", sorted(each.rank for each in failures))]
        return failures

    def _kill(self) -> None:
        for process in self._processes:
            # The whole group, also of a rank that has ended: its own children may be there yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()


def _open_log(job: Job, rank: int) -> BinaryIO:
    path = job.log(rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    log.write(log_header(f"rank {rank} of {job.workers}: {job.title}").encode())
    log.flush()
    return log


def _threads_and_network(workers: int) -> dict[str, str]:
    """Returns the variables that a user may set, and that we set otherwise."""
    variables = {
        # Without it each of n ranks uses every core, and they slow each other down by far more than n.
        "OMP_NUM_THREADS": str(share_of_cores(workers)),
        # Where a rank crashes in native code, Python's own stack is in its output.
        "PYTHONFAULTHANDLER": "1",
    }
    loopback = loopback_interface()
    if loopback is not None:
        # gloo would resolve this machine's own name otherwise, which fails or takes long on many laptops.
        variables["GLOO_SOCKET_IFNAME"] = loopback
    return variables


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can read, removed at the end; folders of launchers that were killed go first."""
    _remove_stale_folders()
    folder = Path(tempfile.mkdtemp(prefix=FOLDER))
    try:
        # The kernel gives the lock up when this process ends, however it ends: that is how a stale folder is known.
        # It is taken before it bears its name, so that nobody else finds it free.
        with (folder / "lock.new").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "lock.new").rename(folder / LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale_folders() -> None:
    for lock_file in Path(tempfile.gettempdir()).glob(f"{FOLDER}*/{LOCK}"):
        try:
            with lock_file.open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.parent, ignore_errors=True)
        except OSError:  # another launcher holds it, or another user owns it, or it went just now
            continue
