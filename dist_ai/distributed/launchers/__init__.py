"""Starting the processes of a run: on this machine (`local`), on a Ray cluster (`ray`), or by Slurm (`slurm`).

torchrun and a batch script's own srun need nothing from here: they start the script themselves, and it finds out who it
is (`dist_ai.distributed.current_world`). Nothing here imports torch before there is something to train, so that a
launcher is up at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dist_ai.distributed.environment import launch_settings
from dist_ai.distributed.launchers import function
from dist_ai.distributed.launchers.function import Arguments
from dist_ai.distributed.launchers.job import Device, Engine, Job

__all__ = ["launch"]


def launch(
    program: str | Path | Callable[..., Any],
    args: Sequence[str] | Arguments = (),
    *,
    workers: int | tuple[int, int] = 1,
    engine: Engine = "local",
    run_dir: str | Path | None = None,
    fresh: bool = False,
    device: Device | None = None,
    timeout_s: float | None = None,
    address: str | None = None,
    max_restarts: int = 0,
    hang_s: float | None = None,
) -> None:
    """Runs a training script, or a function, on `workers` processes and returns when all have ended well.

    Each process runs the script as `python script args` would: the same `sys.argv`, the same working directory, as
    `__main__`; or calls the function, with the `sys.argv` of this process. What a function returns is not looked at: what it
    learns is in the run directory, or where it writes it. One that stands at the top of a file is found there by each
    process. One of a notebook, or made inside another, travels with what it uses from outside; so let it make its data and
    its Learner itself.

    Rank 0 writes to this process's standard output and error, every other rank to ``<run_dir>/logs/rank<r>.log``. When one
    rank fails, the others are stopped; with `max_restarts` all are started again, and go on from their last checkpoint. The
    same end at the same step, again, is believed to be no chance and ends the run.

    Args:
        program: the Python file to run, or a function. In a program of its own, the call of `launch` with a function is under
            ``if __name__ == "__main__":``.
        args: what a script finds in ``sys.argv[1:]``; a function's arguments, in order or (a dict) by name.
        workers: number of processes; or the least and the most: the run begins with the most. On this machine it goes on with
            one fewer when a worker was lost twice in a row; a Ray cluster gives what it has, and Ray Train follows it.
        engine: "local" starts them on this machine, "ray" on a Ray cluster, "slurm" by srun.
        run_dir: where the run keeps its log and checkpoints; ``runs/<program's name>`` by default.
        fresh: asks for a fresh run instead of continuing the one in `run_dir`; so does DIST_AI_FRESH=1 in the environment.
        device: "cpu" or "cuda"; by default a GPU for each worker where there are GPUs.
        timeout_s: seconds after which a rank gives up waiting for its peers; 600 by default.
        address: the Ray cluster, as `ray.init` takes it; by default ``RAY_ADDRESS``, then the cluster that runs on
            this machine, then one that is started for this run and ends with it.
        max_restarts: how often the run may be started again after a failure. One that was asked to end is not, nor after a
            `ConfigError`.
        hang_s: seconds in a fit without progress after which a rank counts as hanging: every rank's stack is written to
            ``<run_dir>/logs/stacks.log``, and the run is stopped, or started again. By default `timeout_s` on several
            workers, and never on one.

    Raises:
        ConfigError: the arguments cannot work, or the function cannot be sent to other processes; nothing was started.
        MissingDependencyError: the engine is not installed, or cloudpickle, where a function must travel; nothing was started.
        RendezvousError: the Ray cluster does not answer.
        WorkerError: a worker failed; the message holds the first cause, with that worker's traceback.
        KeyboardInterrupt: Ctrl-C was pressed; the workers are stopped.
        SystemExit: this process was told to end (SIGTERM or SIGHUP); the workers are stopped, the code is 128 + signal.

    ```python
    from dist_ai.distributed import launch

    launch("train.py", ["--epochs", "3"], workers=2)
    launch(train, {"epochs": 3}, workers=2)  # a function
    ```
    """
    function.refuse_in_its_processes("launch")
    job = Job.checked(
        program,
        args,
        workers=workers,
        engine=engine,
        run_dir=run_dir,
        fresh=fresh,
        device=device,
        timeout_s=timeout_s,
        address=address,
        max_restarts=max_restarts,
        hang_s=hang_s,
    )
    _run(replace(job, fresh=job.fresh or launch_settings().fresh))


def _run(job: Job) -> None:
    if job.engine == "ray":
        from dist_ai.distributed.launchers import ray

        ray.run(job)
    elif job.engine == "slurm":
        from dist_ai.distributed.launchers import slurm

        slurm.run(job)
    else:
        from dist_ai.distributed.launchers import local

        local.run(job)
