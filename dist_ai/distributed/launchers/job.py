"""What to run: the arguments of a launch, checked before anything is started."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dist_ai.distributed.environment import LaunchSettings
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
        function: the name of the function that is the program; None of a script.
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
    function: str | None = None

    @classmethod
    def checked(
        cls,
        script: str | Path,
        args: Sequence[str],
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
        least, most = workers if isinstance(workers, tuple) and len(workers) == 2 else (workers, workers)
        if not isinstance(least, int) or not isinstance(most, int):
            raise ConfigError(f"workers={workers!r}: expected a whole number, or the least and the most, as in (2, 4)")
        if least < 1:
            raise ConfigError(f"workers={workers}: a run has at least 1 worker; use --workers 1 or more")
        if least > most:
            raise ConfigError(f"workers={workers}: the first is the smallest number; use --workers {most}:{least}")
        if max_restarts < 0:
            raise ConfigError(f"max_restarts={max_restarts}: expected 0 or more")
        if hang_s is not None and not 0 < hang_s < math.inf:
            raise ConfigError(f"hang timeout of {hang_s:g} s: give a number of seconds above 0, or none")
        if engine not in get_args(Engine):
            raise ConfigError(
                f"engine {engine!r} is not 'local', 'ray' or 'slurm'{did_you_mean(engine, get_args(Engine))}"
            )
        if device is not None and device not in get_args(Device):
            raise ConfigError(f"device {device!r} is not 'cpu' or 'cuda'{did_you_mean(device, get_args(Device))}")
        if timeout_s is not None and not 0 < timeout_s < math.inf:
            raise ConfigError(f"timeout of {timeout_s:g} s: give a number of seconds above 0, or none for 600")
        if address is not None and engine != "ray":
            raise ConfigError(
                f"address {address!r} names a Ray cluster, but the engine is {engine!r}; use --engine ray"
            )
        if isinstance(args, str):
            raise ConfigError(f"args={args!r} is one text; give a list of arguments, as in {args.split()!r}")
        path = _existing_script(script)
        job = cls(
            script=os.fspath(script),
            args=tuple(str(argument) for argument in args),
            workers=most,
            min_workers=least,
            max_workers=most,
            max_restarts=max_restarts,
            hang_s=hang_s,
            engine="ray" if engine == "ray" else "slurm" if engine == "slurm" else "local",
            folder=Path.cwd(),
            run_dir=_usable_run_dir(run_dir if run_dir is not None else Path("runs", path.stem)),
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
        return job

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
        return " ".join([self.script, *self.args]) if self.function is None else f"{self.function}()"

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


def _usable_run_dir(run_dir: str | Path) -> Path:
    path = Path(run_dir).expanduser().absolute()
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise ConfigError(
                    f"run directory {str(path)!r} cannot be: {str(part)!r} is a file; choose another --run-dir"
                )
            if not os.access(part, os.W_OK):
                raise ConfigError(f"run directory {str(path)!r} cannot be written: no permission in {str(part)!r}")
            break
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
