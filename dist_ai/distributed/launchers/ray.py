"""Runs the ranks of a run on a Ray cluster, with Ray Train's `TorchTrainer`. Only this file and `dist_ai.tuning.ray` import Ray.

Ray owns where the workers are, that they live, are replaced after a failure or become more or fewer, and their process
group, which `dist_ai.distributed.join` adopts. What the workers and this process tell each other goes through a small
actor, the mailbox: rank 0's output as it is written, the report of a rank that failed, statuses, commands and answers,
which this process copies from and to the run directory's mailbox. So the machines of a cluster need no folder in common
for that, and nothing of Ray's own log reaches the terminal.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import logging
import math
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dist_ai.distributed.environment import begin_attempt, settings_environment
from dist_ai.distributed.launchers.failures import (
    Failure,
    failure_of,
    first_cause,
    headline,
    log_header,
    was_asked_to_leave,
    worker_error,
)
from dist_ai.distributed.launchers.function import Parcel
from dist_ai.distributed.launchers.job import Job
from dist_ai.distributed.launchers.machine import allowed_cores, loopback_interface, require_gpus, share_of_cores
from dist_ai.distributed.launchers.restarts import Restarts, furthest
from dist_ai.distributed.launchers.signals import Interruption, noting_signals
from dist_ai.distributed.launchers.worker import run_script, tell_if_not_shared
from dist_ai.distributed.mailbox import Answer, Command, Mailbox, MemoryMailbox, Status, mailbox_at, provide
from dist_ai.distributed.pulse import Beat
from dist_ai.errors import ConfigError, RendezvousError

__all__ = ["cluster_here", "connected", "run"]

# What `_address` answers where that is not HOST:PORT.
LOCAL, HERE = "local", "here"

# Seconds for a cluster's port to answer. Ray itself would try for two minutes.
ANSWER_S = 3.0
# Seconds from the request to end until Ray has to have ended the workers.
GRACE_S = 15.0

TUNING = {
    # How often the controller looks after the workers, so also how late the end is noticed: 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    # A rank that waits for a dead one cannot leave the process group: do not wait 30 s for it.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
    # A script's own prints and log lines, as they are.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
}
# In a cluster of our own nobody takes a machine away or reads metrics: save the process and the time.
OWN_TUNING = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}


def run(job: Job) -> None:
    """Runs `job` on a Ray cluster.

    Raises:
        ConfigError: the address, the devices or the cluster cannot be.
        RendezvousError: the cluster does not answer, or has no place for the workers.
        WorkerError: a rank failed.
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM or SIGHUP.
    """
    address = _address(job)
    error: Exception | None = None
    tuning = {**TUNING, **(OWN_TUNING if address == LOCAL else {})}
    with (
        noting_signals() as interruption,
        _variables(tuning),
        contextlib.redirect_stdout(_WithoutRaysNotes(sys.stdout)),
        _connection(job, address) as own,
    ):
        interruption.listen()  # `ray.init` takes SIGTERM for itself
        if interruption.signal is None:
            error = _Run(job, own, interruption).outcome()
    interruption.obey()
    if error is not None:
        raise error


@contextmanager
def connected(job: Job) -> Iterator[None]:
    """Connects this process, inside the block, to the Ray cluster that `job` asks for; without one it starts one.

    Raises:
        ConfigError: the address cannot be.
        RendezvousError: the cluster does not answer.
    """
    with _connection(job, _address(job)):
        yield


def cluster_here() -> str | None:
    """Returns the address of the Ray cluster that `ray start` began on this machine and that answers, or None."""
    # Ray keeps it in this file, also when the cluster was killed: hence the question whether it answers.
    folders = (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR") if sys.platform == "linux" else None, "/tmp")
    try:
        address = Path(next(folder for folder in folders if folder), "ray", "ray_current_cluster").read_text().strip()
    except OSError:
        return None
    return address if address and _silence(address) is None else None


# ------------------------------------------------------------------------------------ the cluster


def _address(job: Job) -> str:
    """Returns HOST:PORT of the cluster to connect to, HERE for the one of this machine, or LOCAL to start one."""
    asked, source = (job.address, "--address") if job.address else (os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS")
    if ray.is_initialized() or asked == "local":
        return LOCAL
    here = cluster_here()
    if asked in ("", "auto") or _names(asked, here):
        if here is None and asked:
            raise RendezvousError(
                f"{source}={asked}: no Ray cluster answers on this machine; start one with `ray start --head`, "
                "or leave the address out to start one for this run"
            )
        return LOCAL if here is None else HERE
    if "://" in asked:
        raise ConfigError(
            f"{source}={asked} is for a Ray client or for jobs; give the cluster's own HOST:PORT (port 6379) "
            "or submit the command: ray job submit -- dist-ai launch ..."
        )
    silence = _silence(asked)
    if silence is not None:
        raise RendezvousError(f"{source}={asked}: no Ray cluster answers there ({silence}); see `ray status`")
    return asked


def _names(asked: str, here: str | None) -> bool:
    """Returns True if the address `asked` is that of the cluster on this machine, by whatever name of the machine."""
    if here is None:
        return False
    host, _, port = asked.rpartition(":")
    return asked == here or (host in ("localhost", "127.0.0.1") and port == here.rpartition(":")[2])


def _silence(address: str) -> str | None:
    """Returns why no Ray cluster answers at HOST:PORT, in a few words; None if one does."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return "it is not HOST:PORT"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return None
            # Ray's port speaks gRPC, and so HTTP/2: its first answer is a SETTINGS frame, type 4. Another program's
            # port would keep `ray.init` waiting for minutes.
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
            frame = connection.recv(9)
            return None if len(frame) >= 4 and frame[3] == 4 else "another program listens there"
    except TimeoutError:
        return f"no answer within {ANSWER_S:g} s"
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)


_LEFT = "; if it is gone and has left its address here, take it away with `ray stop`, or give --address local"


@contextmanager
def _connection(job: Job, address: str) -> Iterator[bool]:
    """Connects this process to Ray inside the block; gives True if the cluster was started for this run."""
    if ray.is_initialized():  # by whoever called `launch`, and theirs to end
        yield False
        return
    own = address == LOCAL
    if own:
        require_gpus(job.workers, job.device)
    _say_what_takes_long(job, address)
    try:
        try:
            ray.init(
                # By its address, Ray would not give the token that the cluster on this machine asks for (Ray 2.60).
                address=None if address == HERE else address,
                num_cpus=max(int(allowed_cores()), job.workers) if own else None,
                include_dashboard=False if own else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except SystemExit:  # from Ray's own handler, which is in place until `listen` takes the signal back
            raise SystemExit(128 + signal.SIGTERM) from None
        except Exception as error:
            reason = str(error).strip()
            if own:
                raise RendezvousError(f"a Ray cluster could not be started here: {reason}") from error
            raise RendezvousError(
                f"{_named(address)} answers, but lets us not in: "
                f"{reason}; see that Ray and Python have its versions, and, if it asks for a token, set "
                f"RAY_AUTH_MODE=token and RAY_AUTH_TOKEN{_LEFT if address == HERE else ''}"
            ) from error
        yield own
    finally:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it held back of its notes
            ray.shutdown()


def _named(address: str) -> str:
    return "the Ray cluster on this machine" if address == HERE else f"the Ray cluster at {address}"


def _say_what_takes_long(job: Job, address: str) -> None:
    does = "starting Ray on this machine" if address == LOCAL else f"connecting to {_named(address)}"
    workers = f"{job.workers} worker{'s' if job.workers > 1 else ''}"
    print(f"dist-ai: {does} ({workers}) ...", file=sys.stderr, flush=True)


@contextmanager
def _variables(defaults: dict[str, str]) -> Iterator[None]:
    """Sets variables that the user has not set, inside the block: Ray Train takes its settings from there."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


# ------------------------------------------------------------------------------------ the launching process


class _Run:
    """One run on the cluster that this process is connected to."""

    def __init__(self, job: Job, own: bool, interruption: Interruption) -> None:
        self._job = job
        self._own = own
        self._interruption = interruption
        self._failures: list[Failure] = []
        self._restarts = Restarts(limit=job.max_restarts, workers=job.workers, min_workers=job.min_workers)
        self._given_up: Exception | None = None  # where starting it again would not help
        self._copies = _Copies(job)
        self._ended_with: BaseException | None = None
        self._text = {name: codecs.getincrementaldecoder("utf-8")(errors="replace") for name in ("stdout", "stderr")}

    def outcome(self) -> Exception | None:
        """Runs until all ranks have ended well (None), one has failed (the error to raise), or an interruption."""
        need = self._resources()
        self._say_what_is_missing(need)
        mailbox = self._open_mailbox()
        # In a thread: Ray Train would take Ctrl-C for itself, and this thread has the ranks' output to write.
        training = threading.Thread(target=self._train, args=(mailbox, "GPU" in need), name="ray-train", daemon=True)
        training.start()
        try:
            self._copies.begin(mailbox)
            while training.is_alive() and self._interruption.signal is None and self._given_up is None:
                self._read(mailbox, wait_s=0.2)
                self._copies.copy(mailbox)
            if self._interruption.signal is not None or self._given_up is not None:
                ray.kill(mailbox)  # the ranks end themselves when it is gone
                deadline = time.monotonic() + GRACE_S
                while training.is_alive() and time.monotonic() < deadline and not self._interruption.again:
                    training.join(0.1)
                return self._given_up
            self._copies.copy(mailbox)
            self._read(mailbox, wait_s=0.0)
            ray.kill(mailbox)
            return self._error(need)
        except ray.exceptions.RayError as error:
            return RendezvousError(f"the Ray cluster went away during the run: {str(error).strip().splitlines()[0]}")

    def _resources(self) -> dict[str, int]:
        need = {"CPU": self._job.workers}
        if self._job.device == "cuda" or (self._job.device is None and ray.cluster_resources().get("GPU", 0) > 0):
            need["GPU"] = self._job.workers
        return need

    def _say_what_is_missing(self, need: dict[str, int]) -> None:
        limit_s = float(os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"])
        total, free = ray.cluster_resources(), ray.available_resources()
        if any(total.get(name, 0) < number for name, number in need.items()):
            until = "for it to grow"
        elif any(free.get(name, 0) < number for name, number in need.items()):
            until = "for other work on it to end"
        else:
            return
        print(f"dist-ai: {self._lack(need)}; waiting up to {limit_s:g} s {until} (Ctrl-C to stop)", file=sys.stderr)

    def _lack(self, need: dict[str, int]) -> str:
        total, free = ray.cluster_resources(), ray.available_resources()
        needs = " and ".join(f"{number} {name}s" for name, number in need.items())
        has = " and ".join(f"{total.get(name, 0):g} {name}s ({free.get(name, 0):g} free)" for name in need)
        return f"{self._job.workers} worker(s) need {needs}, and the Ray cluster has {has}"

    def _open_mailbox(self) -> Any:
        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
        try:
            ray.get(mailbox.take.remote(0.0))
        except ray.exceptions.RayError as error:
            raise RendezvousError(
                "the Ray cluster's processes could not load dist_ai; see that it is installed on every machine of the "
                f"cluster, in the version that is here. Ray said: {str(error).strip().splitlines()[-1]}"
            ) from error
        return mailbox

    def _train(self, mailbox: Any, use_gpu: bool) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        job = self._job
        variables = settings_environment(job.settings())
        loopback = loopback_interface()
        if self._own and loopback is not None and "GLOO_SOCKET_IFNAME" not in os.environ:
            variables["GLOO_SOCKET_IFNAME"] = loopback
        try:
            TorchTrainer(
                _run_rank,
                train_loop_config={
                    "mailbox": mailbox,
                    "title": job.title,
                    "script": job.script,
                    "args": list(job.args),
                    "parcel": job.parcel,
                    "folder": str(job.folder),
                    "log": str(job.log(0).parent),
                    "threads": os.environ.get("OMP_NUM_THREADS"),
                },
                torch_config=TorchConfig(
                    backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=math.ceil(job.timeout_s)
                ),
                scaling_config=ScalingConfig(
                    num_workers=job.workers if job.min_workers == job.workers else (job.min_workers, job.workers),
                    use_gpu=use_gpu,
                ),
                run_config=RunConfig(
                    # Under the same name, Ray would give a script that reports to it its last checkpoint back.
                    name=time.strftime("train-%Y%m%d-%H%M%S") if job.fresh else "train",
                    storage_path=str(job.run_dir / "ray"),
                    failure_config=FailureConfig(max_failures=job.max_restarts, controller_failure_limit=0),
                    worker_runtime_env={"env_vars": variables},
                ),
            ).fit()
        except BaseException as error:
            self._ended_with = error

    def _read(self, mailbox: Any, wait_s: float) -> None:
        for kind, content in ray.get(mailbox.take.remote(wait_s)):
            if kind == "failure":
                self._failures.append(Failure(**content))
            elif kind == "attempt":
                self._begin_attempt(content)
            else:
                stream: TextIO = sys.stdout if kind == "stdout" else sys.stderr
                stream.write(self._text[kind].decode(content))
                stream.flush()

    def _begin_attempt(self, number: int) -> None:
        """Says what Ray has started again, and why; or ends it, if that will not help."""
        if number == 0:
            return
        job, failures = self._job, self._failures
        self._failures = []
        # Ray tells of a killed process at the end only; its peers have told that they missed one.
        told = [failure for failure in failures if not failure.waited_for_peer]
        cause = first_cause(told) if told else replace(_death(0), message="or another lost its process")
        verdict = self._restarts.after(cause, self._copies.place)
        if not verdict.workers:
            log = job.log(cause.rank) if cause.rank > 0 else None
            self._given_up = worker_error(cause, world_size=job.workers, log=log, note=verdict.why)
            return
        what = headline(cause, job.workers)
        print(
            f"dist-ai: {what}, {self._copies.place}; restart {number} of {job.max_restarts}",
            file=sys.stderr,
            flush=True,
        )

    def _error(self, need: dict[str, int]) -> Exception | None:
        from ray.train import ControllerError, WorkerGroupError

        ended_with, job = self._ended_with, self._job
        if ended_with is None and not self._failures:
            return None
        if isinstance(ended_with, WorkerGroupError):
            for rank, failure in ended_with.worker_failures.items():
                if isinstance(_cause(failure), ray.exceptions.RayActorError):
                    self._failures.append(_death(rank))
        if self._failures:
            cause = first_cause(self._failures)
            return worker_error(cause, world_size=job.workers, log=job.log(cause.rank) if cause.rank > 0 else None)
        if isinstance(ended_with, ControllerError) and "StartupTimeout" in type(ended_with.controller_failure).__name__:
            return RendezvousError(f"{self._lack(need)}; use fewer workers, --device cpu, or a larger cluster")
        return RendezvousError(f"Ray could not run the workers: {str(ended_with).strip()}")


def _cause(failure: BaseException) -> BaseException:
    return getattr(failure, "health_check_failure", failure)


def _death(rank: int) -> Failure:
    # Ray does not tell the signal or the exit code.
    return Failure(
        rank=rank,
        time=time.time(),
        exit_code=1,
        message="lost its process (killed, out of memory, os._exit, or a crash in native code)",
    )


class _Copies:
    """Copies statuses and answers from the ranks' mailbox to that in the run directory, and commands the other way."""

    def __init__(self, job: Job) -> None:
        self._files = mailbox_at(job.run_dir)
        if job.fresh:
            shutil.rmtree(self._files.folder, ignore_errors=True)
        self._passed_on, self._answered = 0, set(self._files.answers())
        self._due = 0.0
        self.place = Beat()

    def begin(self, mailbox: Any) -> None:
        """Tells the ranks what became of earlier commands."""
        for answer in self._files.answers().values():
            ray.get(mailbox.call.remote("answer", answer))
        self.copy(mailbox)

    def copy(self, mailbox: Any) -> None:
        """Copies what is new; a few times a second at most."""
        with contextlib.suppress(OSError):
            for command in self._files.commands(after=self._passed_on):
                self._passed_on = command.number
                ray.get(mailbox.call.remote("take", command))
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + 0.4
            statuses, answers = ray.get([mailbox.call.remote("statuses"), mailbox.call.remote("answers")])
            for number, answer in answers.items():
                if number not in self._answered:
                    self._answered.add(number)
                    self._files.answer(answer)
            for status in statuses:
                self._files.post(status)
            if statuses:
                self._files.keep_ranks(statuses[0].world_size)
                self.place = furthest(statuses)


class _WithoutRaysNotes(io.TextIOBase):
    """Standard output, less what Ray's own thread prints there beside its log: a page when a worker is killed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name != "ray_listen_error_messages":
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


# ------------------------------------------------------------------------------------ between them


class _Mailbox:
    """What the workers tell the launching process, in the order in which it arrives. A Ray actor."""

    def __init__(self) -> None:
        self._items: list[tuple[str, Any]] = []
        self._arrived = asyncio.Event()
        self._box = MemoryMailbox()
        self._attempts: Counter[int] = Counter()

    async def call(self, method: str, *args: Any) -> Any:
        """Calls a method of the ranks' mailbox (`dist_ai.distributed.mailbox.MemoryMailbox`)."""
        return getattr(self._box, method)(*args)

    async def begin_attempt(self, rank: int) -> int:
        """Returns how often this rank was started before; each asks once."""
        number = self._attempts[rank]
        self._attempts[rank] += 1
        if rank == 0:
            await self.put("attempt", number)
        return number

    async def put(self, kind: str, content: Any) -> None:
        """Adds an item: ("stdout" or "stderr", bytes) of rank 0, or ("failure", the report as a dict)."""
        self._items.append((kind, content))
        self._arrived.set()

    async def take(self, wait_s: float) -> list[tuple[str, Any]]:
        """Returns what has arrived, and waits up to `wait_s` seconds for something to arrive."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), wait_s)
        items, self._items = self._items, []
        self._arrived.clear()
        return items

    async def stay(self) -> None:
        """Never returns: who waits for it learns that this actor, or the launching process, has ended."""
        await asyncio.Event().wait()


# ------------------------------------------------------------------------------------ the workers


def _run_rank(config: dict[str, Any]) -> None:
    """Runs the script as one rank, in a worker of Ray Train."""
    from dist_ai.distributed.collectives import leave

    context = ray.train.get_context()
    rank, mailbox = context.get_world_rank(), config["mailbox"]
    threading.Thread(target=_end_with, args=(mailbox,), name="watch-launcher", daemon=True).start()
    _set_threads(config["threads"], context.get_local_world_size())
    attempt = ray.get(mailbox.begin_attempt.remote(rank))
    begin_attempt(attempt)
    run_dir = Path(config["log"]).parent
    provide(lambda asked: _RankMailbox(mailbox) if asked.absolute() == run_dir else mailbox_at(asked))
    with _output(rank, config, mailbox):
        try:
            if not os.path.isdir(config["folder"]):
                raise ConfigError(
                    f"folder {config['folder']!r}, where the command was given, is not on {socket.gethostname()}; "
                    "keep the script on storage that all machines of the cluster share"
                )
            os.chdir(config["folder"])  # Ray has changed to a folder of its own
            sys.path.insert(0, "")  # the place that the script's folder takes
            with _delivered(config) as args:
                run_script(config["script"], args)
            tell_if_not_shared(config["script"], rank, context.get_world_size())
            leave()
            return
        except BaseException as error:
            failure = failure_of(
                error, rank=rank, script=os.path.abspath(os.path.join(config["folder"], config["script"]))
            )
    if failure.exit_code != 0:
        ray.get(mailbox.put.remote("failure", asdict(failure)))
        if was_asked_to_leave(failure):
            return  # all ranks do, with a checkpoint: Ray must not start them again
        raise RuntimeError(f"rank {rank} failed")  # for Ray Train alone; the report above is what a person reads


@contextmanager
def _delivered(config: dict[str, Any]) -> Iterator[list[str]]:
    """Gives the arguments of the script; a function comes with them, and lies in a folder of this machine inside the block."""
    with contextlib.ExitStack() as closing:
        parcel: Parcel | None = config["parcel"]
        if parcel is None:
            yield config["args"]
        else:
            yield parcel.put(Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="dist-ai-function-"))))


class _RankMailbox(Mailbox):
    """The mailbox of a rank: each call is one to the actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def post(self, status: Status) -> None:
        """Replaces what a rank told of itself; does not wait."""
        self._actor.call.remote("post", status)

    def statuses(self) -> list[Status]:
        """Returns what each rank told last, by rank."""
        return self._ask("statuses")

    def send(self, verb: str, args: Mapping[str, Any] | None = None) -> Command:
        """Adds a command, under the next number."""
        return self._ask("send", verb, args)

    def commands(self, after: int = 0) -> list[Command]:
        """Returns the commands with larger numbers than `after`, in order."""
        return self._ask("commands", after)

    def answer(self, answer: Answer) -> None:
        """Tells what became of a command."""
        self._ask("answer", answer)

    def answers(self) -> dict[int, Answer]:
        """Returns what became of the commands that were answered, by number."""
        return self._ask("answers")

    def keep_ranks(self, world_size: int) -> None:
        """Forgets the statuses of ranks that a world of this size does not have."""
        self._ask("keep_ranks", world_size)

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return ray.get(self._actor.call.remote(method, *args))
        except ray.exceptions.RayError as error:
            raise OSError(f"the mailbox of the run is gone: {error}") from error


def _end_with(mailbox: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(mailbox.stay.remote())
    os._exit(1)


def _set_threads(asked: str | None, local_world_size: int) -> None:
    # Ray gives each worker one thread, its number of logical CPUs; the `local` engine shares out the cores.
    import torch

    threads = int(asked) if asked and asked.isdigit() else share_of_cores(local_world_size)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


@contextmanager
def _output(rank: int, config: dict[str, Any], mailbox: Any) -> Iterator[None]:
    """Sends what this process and its children print to the launching process (rank 0) or to a log (the others)."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {1: os.dup(1), 2: os.dup(2)}
    with contextlib.ExitStack() as closing:
        if rank == 0:
            closing.enter_context(_sent(mailbox))
        else:
            folder = Path(config["log"])
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"rank{rank}.log").open("ab") as log:
                log.write(log_header(f"rank {rank}: {config['title']}").encode())
                log.flush()
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


@contextmanager
def _sent(mailbox: Any) -> Iterator[None]:
    """Makes this process's standard output and error pipes, and sends what comes out of them to the mailbox."""
    ends = selectors.DefaultSelector()
    for number, kind in ((1, "stdout"), (2, "stderr")):
        reading, writing = os.pipe()
        os.dup2(writing, number)
        os.close(writing)
        ends.register(reading, selectors.EVENT_READ, kind)

    def send() -> None:
        while ends.get_map():
            for key, _ in ends.select():
                content = os.read(key.fd, 65536)
                if content:
                    ray.get(mailbox.put.remote(key.data, content))
                else:
                    ends.unregister(key.fd)
                    os.close(key.fd)

    sending = threading.Thread(target=send, name="send-output", daemon=True)
    sending.start()
    try:
        yield
    finally:
        sending.join(2.0)  # not for ever: a process that the script left behind may hold the pipe open
