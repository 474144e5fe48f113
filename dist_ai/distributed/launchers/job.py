"""What to run: the arguments of a launch, checked before anything is started."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dist_ai.distributed.environment import LaunchSettings
from dist_ai.distributed.launchers.arguments import LAUNCH, check_arguments
from dist_ai.distributed.launchers.function import FILE, Arguments, Parcel, name_of
from dist_ai.distributed.launchers.machine import require_gpus
from dist_ai.errors import ConfigError, MissingDependencyError, did_you_mean

__all__ = ["Device", "Engine", "Job"]

Engine = Literal["local", "ray", "slurm"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One launch, with nothing left to default. Build it with `Job.checked`.

    Attributes:
        script: the Python file, as it was given: it becomes ``sys.argv[0]``.
        args: what follows it in ``sys.argv``.
        workers: number of processes, to begin with.
        min_workers: with how many it may go on if workers are lost again and again, or a command says so.
        max_workers: with how many it may go on if a command says so.
        max_restarts: how often it may be started again after a failure.
        engine: who starts them.
        folder: the working directory of every process.
        run_dir: absolute path of the run directory.
        fresh: True to ask for a fresh run.
        device: the kind of device asked for; None to use GPUs where there are some.
        timeout_s: seconds after which a rank gives up waiting for its peers.
        hang_s: seconds without progress after which a rank counts as hanging; see `LaunchSettings`.
        address: the Ray cluster asked for; None to find or start one.
        parcel: the function that is the program, and its arguments; None of a script.
    """

    script: str
    args: tuple[str, ...]
    workers: int
    engine: Engine
    folder: Path
    run_dir: Path
    fresh: bool
    device: Device | None
    timeout_s: float
    address: str | None
    min_workers: int = 1
    max_workers: int = 1
    max_restarts: int = 0
    hang_s: float | None = None
    parcel: Parcel | None = None

    @classmethod
    def checked(
        cls,
        program: str | Path | Callable[..., Any],
        args: Arguments,
        *,
        workers: int | tuple[int, int],
        engine: str,
        run_dir: str | Path | None,
        fresh: bool,
        device: str | None,
        timeout_s: float | None,
        address: str | None,
        max_restarts: int = 0,
        hang_s: float | None = None,
    ) -> Job:
        """Returns the job for these arguments of `launch`.

        Raises:
            ConfigError: an argument cannot work.
            MissingDependencyError: the engine is not installed.
        """
        options = {
            "workers": workers,
            "engine": engine,
            "run_dir": run_dir,
            "fresh": fresh,
            "device": device,
            "timeout_s": timeout_s,
            "address": address,
            "max_restarts": max_restarts,
            "hang_s": hang_s,
        }
        check_arguments({"program": program, "args": args, **options}, LAUNCH)
        if address is not None and engine != "ray":
            raise ConfigError(
                f"address {address!r} names a Ray cluster, but the engine is {engine!r}; use --engine ray"
            )
        least, most = workers if isinstance(workers, tuple) else (workers, workers)
        function = program if callable(program) else None
        script = FILE if callable(program) else _existing_script(program)
        name = script.stem if function is None else name_of(function)
        job = cls(
            script=os.fspath(script),
            args=_words(args, engine) if function is None else (),
            workers=int(most),
            min_workers=int(least),
            max_workers=int(most),
            max_restarts=int(max_restarts),
            hang_s=hang_s,
            engine="ray" if engine == "ray" else "slurm" if engine == "slurm" else "local",
            folder=Path.cwd(),
            run_dir=_usable_run_dir(run_dir if run_dir is not None else Path("runs", name)),
            fresh=fresh,
            device="cpu" if device == "cpu" else "cuda" if device == "cuda" else None,
            timeout_s=timeout_s if timeout_s is not None else LaunchSettings.timeout_s,
            address=address,
        )
        if engine == "ray":
            _require_ray()
        elif engine == "slurm":
            _require_srun()
        else:
            require_gpus(most, device)
        return job if function is None else replace(job, parcel=Parcel.of(function, args))

    def delivered(self, folder: Path) -> Job:
        """Returns the job for ranks that find its function in `folder`, where this puts it; of a script, as it is."""
        return self if self.parcel is None else replace(self, args=tuple(self.parcel.put(folder)))

    def settings(self, failure_dir: Path | None = None) -> LaunchSettings:
        """Returns what the workers are told beside their rank."""
        return LaunchSettings(
            run_dir=self.run_dir,
            fresh=self.fresh,
            device=self.device,
            failure_dir=failure_dir,
            timeout_s=self.timeout_s,
            hang_s=self.hang_s,
            # Ray Train makes them more or fewer by itself, as its cluster does.
            workers=None if self.engine == "ray" else (self.min_workers, self.max_workers),
        )

    @property
    def title(self) -> str:
        """What runs, in a line."""
        return " ".join([self.script, *self.args]) if self.parcel is None else f"{self.parcel.name}()"

    def log(self, rank: int) -> Path:
        """Returns the file that takes the output of a rank other than 0."""
        return self.run_dir / "logs" / f"rank{rank}.log"


def _existing_script(script: str | Path) -> Path:
    path = Path(script)
    if path.is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"script {os.fspath(script)!r} is a folder; give the Python file to run")
    neighbours = path.parent.glob("*.py") if path.parent.is_dir() else ()
    # By what their names differ in: the folder and the ending that they share make strangers look alike.
    near = [str(each) for each in neighbours if did_you_mean(path.stem, [each.stem])]
    hint = did_you_mean(os.fspath(script), near)
    raise ConfigError(f"script {os.fspath(script)!r} does not exist in {Path.cwd()}{hint}")


def _words(args: Arguments, engine: str) -> tuple[str, ...]:
    """Returns what a script finds in ``sys.argv[1:]``."""
    if isinstance(args, Mapping):
        options = [word for name, value in args.items() for word in (f"--{name}", str(value))]
        raise ConfigError(f"args={dict(args)!r} are a function's; give a script words, as in {options!r}")
    words = tuple(str(argument) for argument in args)
    if engine != "ray":  # where they come with the run's configuration
        _require_command_line(words)
    return words


def _require_command_line(words: tuple[str, ...]) -> None:
    """Refuses what the system takes on no command line.

    Raises:
        ConfigError: a word is too long or holds a zero byte, or all of them and the environment together are too long.
    """
    told = [*words, *(f"{name}={value}" for name, value in os.environ.items())]
    size = sum(len(os.fsencode(each)) + 16 for each in told) + 4096  # and what a rank is told
    if size > (most := os.sysconf("SC_ARG_MAX")):
        raise ConfigError(
            f"args and the environment have {size:,} bytes, and a process is started with {most:,} at most; write them to a file "
            "and give the script its name, or launch a function"
        )
    for word in words:
        if (size := len(os.fsencode(word))) > _LONGEST_WORD:
            raise ConfigError(
                f"args has a word of {size:,} bytes, {word[:20]!r}..., and a command line takes {_LONGEST_WORD:,} at most; write "
                "it to a file and give the script its name, or launch a function"
            )
        if "\0" in word:
            raise ConfigError(f"args has {word!r:.100}, and a command line takes no \\0")


_LONGEST_WORD = 128 * 1024 - 1  # Linux's limit


def _usable_run_dir(run_dir: str | Path) -> Path:
    if re.match(r"[A-Za-z][\w+.-]+:/", given := os.fspath(run_dir)):
        raise ConfigError(
            f"run_dir={given!r} is an address: what all ranks of a launch write must be in a folder that they share; give one, "
            "and have the checkpoints there by Learner(run_dir=...), which takes a store such as s3://bucket/run"
        )
    path, nearest = Path(run_dir), Path()
    try:
        path = path.expanduser().absolute()
        nearest = next(part for part in (path, *path.parents) if part.exists())
        with tempfile.TemporaryDirectory(prefix=".dist-ai-", dir=nearest):
            pass  # only this shows that something can be made there: /proc says that it may be written to
    except (OSError, RuntimeError) as error:
        why = f"{str(nearest)!r} is a file" if nearest.is_file() else getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"run directory {str(path)!r} cannot be written ({why}); choose another --run-dir") from None
    return path


def _require_srun() -> None:
    if shutil.which("srun") is None:
        raise ConfigError(
            "engine 'slurm' starts the workers with srun, which is not here; give the command on a machine of a Slurm cluster "
            "(in an allocation: salloc, or a batch script), or use --engine local"
        )


def _require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise MissingDependencyError("engine 'ray' needs Ray, which is not installed: pip install 'ray[train]>=2.54'")
