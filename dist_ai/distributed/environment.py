"""The facts of the process world, and the only file that reads or writes them in the environment.

A process learns who it is from, in this order: an explicit `World`, an initialised process group (a Ray Train
worker has one), our own launchers, torchrun's variables, Slurm's, and otherwise it is the world of one. Nothing is
started here: `dist_ai.distributed.collectives.join` connects the processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dist_ai.errors import ConfigError

# torch is imported inside the functions that need it: a launcher, which only starts processes, must not wait for it.
if TYPE_CHECKING:
    import torch

__all__ = [
    "LaunchSettings",
    "World",
    "begin_attempt",
    "current_world",
    "how_to_begin_anew",
    "launch_settings",
    "launched_rank",
    "launcher_pid",
    "settings_environment",
    "slurm_environment",
    "told_to_libraries",
    "worker_environment",
]

# Rank variables carry torchrun's names, so that Accelerate and users' own code read them too. What only our
# launchers say carries our prefix.
STORE = "DIST_AI_STORE"
ATTEMPT = "DIST_AI_ATTEMPT"
DEVICE = "DIST_AI_DEVICE"
RUN_DIR = "DIST_AI_RUN_DIR"
FRESH = "DIST_AI_FRESH"
FAILURE_DIR = "DIST_AI_FAILURE_DIR"
TIMEOUT = "DIST_AI_TIMEOUT_S"
HANG = "DIST_AI_HANG_S"
WORKERS = "DIST_AI_WORKERS"
LAUNCHER = "DIST_AI_LAUNCHER_PID"

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
OWN_VARIABLES = (STORE, ATTEMPT, DEVICE, RUN_DIR, FRESH, FAILURE_DIR, TIMEOUT, HANG, WORKERS, LAUNCHER)


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class World:
    """Who this process is among the processes of a run.

    Attributes:
        rank: 0 to world_size - 1, over all machines.
        world_size: number of processes.
        local_rank: 0 to local_world_size - 1, on this machine; it picks the GPU.
        local_world_size: number of processes on this machine.
        node_rank: number of this machine.
        device: where this rank's model and batches live.
        store: where the processes meet: ``file:///path`` or ``tcp://host:port``; None when they have met already.
        hosts_store: True if this rank opens the ``tcp://`` store rather than connecting to it.
        attempt: how often the run was restarted by its launcher; keeps one attempt's keys from another's.
        keeps_store: False if each attempt has a store of its own. Then its keys do not hold the attempt, of which a machine that
            came back later has another number.
        source: where these facts come from, for messages.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node_rank: int = 0
    device: torch.device = field(default_factory=_cpu)
    store: str | None = None
    hosts_store: bool = False
    attempt: int = 0
    keeps_store: bool = True
    source: str = "single process"

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ConfigError(f"world_size={self.world_size}: a world has at least 1 process")
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank={self.rank} is outside 0..{self.world_size - 1} (world_size={self.world_size})")
        if not 0 <= self.local_rank < self.local_world_size:
            raise ConfigError(
                f"local_rank={self.local_rank} is outside 0..{self.local_world_size - 1} "
                f"(local_world_size={self.local_world_size})"
            )

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and prints."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size} on {self.device} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """What the command that started this process asked for.

    Attributes:
        run_dir: the run directory given by ``--run-dir``; None if none was.
        fresh: True if a fresh run was asked for.
        device: the kind of device asked for; None to use a GPU where there is one.
        failure_dir: where a failing worker leaves its report for the launcher; None without a launcher.
        timeout_s: seconds after which an exchange between processes is given up.
        hang_s: seconds without progress after which a rank counts as hanging; None for `timeout_s` on several ranks, and
            for ever on one, where nobody waits.
        workers: the least and the most workers with which the launcher can start the run again when it is told to; None if
            nobody can.
    """

    run_dir: Path | None = None
    fresh: bool = False
    device: Literal["cpu", "cuda"] | None = None
    failure_dir: Path | None = None
    timeout_s: float = 600.0
    hang_s: float | None = None
    workers: tuple[int, int] | None = None

    def hang_limit_s(self, world_size: int) -> float | None:
        """Returns seconds without progress after which a rank of so many counts as hanging; None for never."""
        if self.hang_s is not None:
            return self.hang_s
        return self.timeout_s if world_size > 1 else None


def current_world(world: World | None = None) -> World:
    """Returns who this process is; `world`, if given, is the answer.

    Raises:
        ConfigError: the environment names a rank, a size or a GPU that cannot be.

    >>> current_world().world_size
    1
    """
    global _asked
    _asked = True
    if world is not None:
        return world
    import torch.distributed as dist  # here, because `import dist_ai` must not load its backends

    if dist.is_available() and dist.is_initialized():
        return _from_process_group(dist.get_rank(), dist.get_world_size())
    # Slurm's variables of a step, and not of the job: in a batch script the latter are set, but nobody else runs it.
    if not os.environ.get("WORLD_SIZE") and STORE not in os.environ and _integer("SLURM_STEP_NUM_TASKS", default=1) > 1:
        return _from_slurm()
    if os.environ.get("WORLD_SIZE", "") in ("", "1") and STORE not in os.environ:
        return World(device=_device(local_rank=0, local_world_size=1))
    return _from_variables()


def launch_settings() -> LaunchSettings:
    """Returns what the launching command asked for, or the defaults if nobody launched us.

    Raises:
        ConfigError: a variable holds what cannot be.
    """
    run_dir, failure_dir = os.environ.get(RUN_DIR), os.environ.get(FAILURE_DIR)
    return LaunchSettings(
        run_dir=Path(run_dir) if run_dir else None,
        fresh=_yes_or_no(FRESH),
        device=_device_kind(),
        failure_dir=Path(failure_dir) if failure_dir else None,
        timeout_s=_seconds(TIMEOUT, default=LaunchSettings.timeout_s),
        hang_s=_seconds(HANG, default=0.0) if os.environ.get(HANG) else None,
        workers=_range(WORKERS),
    )


def how_to_begin_anew() -> str:
    """Returns the sentence that tells how to begin a run anew, for the way in which this process was started.

    >>> how_to_begin_anew()
    'To begin anew there use DIST_AI_FRESH=1 before the command, or Learner(fresh=True); or use another run directory'
    """
    command, main = Path(sys.argv[0]), Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    by_us = launch_settings().run_dir is not None  # every launch of ours names one
    if by_us and main.parts[-2:] == ("launchers", "function.py"):
        way = "launch(..., fresh=True)"
    elif by_us or command.stem == "dist-ai" or command.parts[-3:] == ("dist_ai", "cli", "main.py"):
        way = "--fresh"
    else:
        way = f"{FRESH}=1 before the command, or Learner(fresh=True)"
    return f"To begin anew there use {way}; or use another run directory"


_asked = False


def asked_who_it_is() -> bool:
    """Returns whether anything in this process has asked for its world: what never did is the same work on every rank."""
    return _asked


def launched_world_size() -> int:
    """Returns the number of processes that a launcher started; 1 if nobody launched us. Does not wait for torch."""
    return _integer("WORLD_SIZE", default=_integer("SLURM_STEP_NUM_TASKS", default=1))


def launched_rank() -> int:
    """Returns the rank that a launcher gave this process; 0 if nobody launched us. Does not wait for torch."""
    return _integer("RANK", default=_integer("SLURM_PROCID", default=0))


def launcher_pid() -> int | None:
    """Returns the process that started this one and that it must not outlive; None if nobody launched us."""
    return _integer(LAUNCHER) if os.environ.get(LAUNCHER) else None


def is_a_rank() -> bool:
    """Returns whether this process itself is one of several ranks, and not what a rank has started, as far as can be told."""
    launcher = launcher_pid()
    return launched_world_size() > 1 and (launcher is None or os.getppid() == launcher)


def pulse_folder(world: World) -> Path | None:
    """Returns where our own launcher reads this rank's pulse, which ends all ranks together; None if there is none."""
    return launch_settings().failure_dir if world.source == "dist-ai launch" else None


def begin_attempt(number: int) -> None:
    """Notes in this process how often its run was restarted: only the first attempt begins anew where that was asked for."""
    os.environ[ATTEMPT] = str(number)
    if number:
        os.environ.pop(FRESH, None)


def settings_environment(settings: LaunchSettings) -> dict[str, str]:
    """Returns the variables that carry `settings` to a process: what `launch_settings` reads back there."""
    variables = {TIMEOUT: str(settings.timeout_s)}
    if settings.hang_s is not None:
        variables[HANG] = str(settings.hang_s)
    if settings.workers is not None:
        variables[WORKERS] = "{}:{}".format(*settings.workers)
    if settings.run_dir is not None:
        variables[RUN_DIR] = str(settings.run_dir)
    if settings.fresh:
        variables[FRESH] = "1"
    if settings.device is not None:
        variables[DEVICE] = settings.device
    if settings.failure_dir is not None:
        variables[FAILURE_DIR] = str(settings.failure_dir)
    return variables


def worker_environment(
    settings: LaunchSettings,
    *,
    rank: int,
    world_size: int,
    store: str,
    attempt: int = 0,
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """Returns the whole environment of a worker process on this machine: what `current_world` reads back there.

    Args:
        settings: what the launching command asked for.
        rank: which process of the run it is.
        world_size: number of processes, all on this machine.
        store: where the processes meet, as in `World`.
        attempt: how often the run was restarted.
        inherited: the launcher's own environment; what it says of ranks and runs is left out, so that a launch
            inside a launched process does not take over the outer one's rank or run directory.
    """
    dropped = {*RANK_VARIABLES, *OWN_VARIABLES}
    return {
        **{name: value for name, value in inherited.items() if name not in dropped},
        **settings_environment(settings),
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        STORE: store,
        ATTEMPT: str(attempt),
        LAUNCHER: str(os.getpid()),
    }


def slurm_environment(settings: LaunchSettings, *, attempt: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """Returns the whole environment of srun: what `launch_settings` reads back in its tasks, to which it adds their ranks.

    Args:
        settings: what the launching command asked for.
        attempt: how often the run was restarted.
        inherited: the launcher's own environment, less what it says of ranks and runs.
    """
    dropped = {*RANK_VARIABLES, *OWN_VARIABLES}
    kept = {name: value for name, value in inherited.items() if name not in dropped}
    return {**kept, **settings_environment(settings), ATTEMPT: str(attempt)}


@contextlib.contextmanager
def told_to_libraries(world: World, **others: str) -> Iterator[None]:
    """Sets torchrun's variables for the block, for libraries that look there alone; srun, for one, has others.

    Args:
        world: who this process is.
        others: more variables.
    """
    said = {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.world_size),
        "LOCAL_RANK": str(world.local_rank),
        "LOCAL_WORLD_SIZE": str(world.local_world_size),
        # Asked for, and of no use to ranks that have met.
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "localhost"),
        "MASTER_PORT": os.environ.get("MASTER_PORT", "0"),
        **others,
    }
    before = {name: os.environ.get(name) for name in said}
    os.environ.update(said)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _from_process_group(rank: int, world_size: int) -> World:
    local_rank = _integer("LOCAL_RANK", default=rank)
    local_world_size = _integer("LOCAL_WORLD_SIZE", default=world_size)
    return World(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        # NODE_RANK is what Ray Train calls torchrun's GROUP_RANK.
        node_rank=_integer("GROUP_RANK", default=_integer("NODE_RANK", default=rank // max(local_world_size, 1))),
        device=_device(local_rank, local_world_size),
        attempt=_integer(ATTEMPT, default=0),
        source="process group",
    )


def _from_variables() -> World:
    own = STORE in os.environ
    rank, world_size = _integer("RANK"), _integer("WORLD_SIZE")
    local_rank = _integer("LOCAL_RANK", default=rank)
    local_world_size = _integer("LOCAL_WORLD_SIZE", default=world_size)
    if own:
        store, hosts_store = os.environ[STORE], rank == 0
    else:
        store = _tcp_store()
        # torchrun's agent holds the store open between restarts; other starters leave that to rank 0.
        hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return World(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        node_rank=_integer("GROUP_RANK", default=rank // max(local_world_size, 1)),
        device=_device(local_rank, local_world_size),
        store=store,
        hosts_store=hosts_store,
        attempt=_integer(ATTEMPT if own else "TORCHELASTIC_RESTART_COUNT", default=0),
        keeps_store=own or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        source="dist-ai launch" if own else "torchrun",
    )


def _from_slurm() -> World:
    rank, local_rank, node = _integer("SLURM_PROCID"), _integer("SLURM_LOCALID"), _integer("SLURM_NODEID", default=0)
    local_world_size = _tasks_on_node(_text("SLURM_STEP_TASKS_PER_NODE"), node)
    host = os.environ.get("MASTER_ADDR") or _first_host(_text("SLURM_STEP_NODELIST"))
    # The same on all tasks, and another for each step of each job: two of them may share a machine.
    job, step = _integer("SLURM_JOB_ID"), _integer("SLURM_STEP_ID", default=0)
    port = _integer("MASTER_PORT", default=20_000 + (7919 * step + job) % 10_000)
    own_gpu = bool(os.environ.get("SLURM_GPUS_PER_TASK"))  # each task sees its own alone, as the first
    return World(
        rank=rank,
        world_size=_integer("SLURM_STEP_NUM_TASKS"),
        local_rank=local_rank,
        local_world_size=local_world_size,
        node_rank=node,
        device=_device(0, 1) if own_gpu else _device(local_rank, local_world_size),
        store=f"tcp://{host}:{port}",
        hosts_store=rank == 0,
        attempt=_integer(ATTEMPT, default=_integer("SLURM_RESTART_COUNT", default=0)),
        source="srun",
    )


def _first_host(nodes: str) -> str:
    """Returns the first of Slurm's list of machines.

    >>> _first_host("gpu[07-09,12],login1"), _first_host("n1,n2"), _first_host("rack[2,4]-n[01-04]")
    ('gpu07', 'n1', 'rack2-n01')
    """
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes)
    return first.partition(",")[0]


def _tasks_on_node(tasks: str, node: int) -> int:
    """Returns how many tasks Slurm runs on the machine of that number.

    >>> [_tasks_on_node("4(x2),3", node) for node in range(3)]
    [4, 4, 3]
    """
    counts: list[int] = []
    for part in tasks.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts[node]


def _tcp_store() -> str:
    host, port = _text("MASTER_ADDR"), _integer("MASTER_PORT")
    if not 0 < port < 65536:
        raise ConfigError(f"MASTER_PORT={port} is not a port; use a free one between 1024 and 65535")
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _device_kind() -> Literal["cpu", "cuda"] | None:
    match os.environ.get(DEVICE, ""):
        case "":
            return None
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case other:
            raise ConfigError(f"{DEVICE}={other!r} is not a device kind; use 'cpu' or 'cuda', or unset it")


def _device(local_rank: int, local_world_size: int) -> torch.device:
    import torch

    wanted = _device_kind()
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "cuda":
            raise ConfigError(f"{DEVICE}=cuda, but torch sees no GPU here; `dist-ai doctor` tells what it sees")
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"local rank {local_rank} needs GPU {local_rank}, but this machine shows {count} GPU(s) to "
            f"{local_world_size} processes; start at most {count} per machine, or use --device cpu"
        )
    return torch.device("cuda", local_rank)


def _text(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(
            f"{_who_says_so()} says that there are several processes, but {name} is not set; "
            f"start them with `dist-ai launch` or torchrun, or unset {_who_says_so().partition('=')[0]}"
        )
    return value


def _who_says_so() -> str:
    name = "WORLD_SIZE" if os.environ.get("WORLD_SIZE") else "SLURM_STEP_NUM_TASKS"
    return f"{name}={os.environ.get(name)}"


def _integer(name: str, default: int | None = None) -> int:
    if default is not None and not os.environ.get(name):
        return default
    text = _text(name)
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a whole number") from None


def _range(name: str) -> tuple[int, int] | None:
    text = os.environ.get(name, "")
    least, _, most = text.partition(":")
    if text and not (least.isdigit() and most.isdigit()):
        raise ConfigError(f"{name}={text!r} is not the least and the most workers, as in 2:16")
    return (int(least), int(most)) if text else None


def _yes_or_no(name: str) -> bool:
    given = os.environ.get(name, "")
    if (text := given.lower()) not in _YES | _NO:
        raise ConfigError(f"{name}={given!r} is neither yes nor no; give 1 or 0")
    return text in _YES


_YES, _NO = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{name}={text!r} is not a number of seconds above 0")
    return seconds
