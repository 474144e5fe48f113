"""Starting the processes of a run: on this machine (`local`), on a Ray cluster (`ray`), or by Slurm (`slurm`).

torchrun and a batch script's own srun need nothing from here: they start the script themselves, and it finds out who it
is (`dist_ai.distributed.current_world`). Nothing here imports torch before there is something to train, so that a
launcher is up at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dist_ai.distributed.environment import launch_settings
from dist_ai.distributed.launchers.job import Device, Engine, Job

__all__ = ["launch"]


def launch(
    script: str | Path,
    args: Sequence[str] = (),
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
    """Runs a training script on `workers` processes and returns when all have ended well.

    Each process runs the script as `python script args` would: the same `sys.argv`, the same working directory, as
    `__main__`. Rank 0 writes to this process's standard output and error, every other rank to
    ``<run_dir>/logs/rank<r>.log``. When one rank fails, the others are stopped; with `max_restarts` all are started again,
    and go on from their last checkpoint. The same end at the same step, again, is believed to be no chance and ends the run.

    Args:
        script: the Python file to run.
        args: what the script finds in ``sys.argv[1:]``.
        workers: number of processes; or the least and the most: the run begins with the most. On this machine it goes on with
            one fewer when a worker was lost twice in a row; a Ray cluster gives what it has, and Ray Train follows it.
        engine: "local" starts them on this machine, "ray" on a Ray cluster, "slurm" by srun.
        run_dir: where the run keeps its log and checkpoints; ``runs/<script's name>`` by default.
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
        ConfigError: the arguments cannot work; nothing was started.
        MissingDependencyError: the engine is not installed; nothing was started.
        RendezvousError: the Ray cluster does not answer.
        WorkerError: a worker failed; the message holds the first cause, with that worker's traceback.
        KeyboardInterrupt: Ctrl-C was pressed; the workers are stopped.
        SystemExit: this process was told to end (SIGTERM or SIGHUP); the workers are stopped, the code is 128 + signal.

    ```python
    from dist_ai.distributed.launchers import launch

    launch("train.py", ["--epochs", "3"], workers=2)
    ```
    """
    job = Job.checked(
        script,
        args,
        workers=workers,
        engine=engine,
        run_dir=run_dir,
        fresh=fresh or launch_settings().fresh,
        device=device,
        timeout_s=timeout_s,
        address=address,
        max_restarts=max_restarts,
        hang_s=hang_s,
    )
    if job.engine == "ray":
        from dist_ai.distributed.launchers import ray

        ray.run(job)
    elif job.engine == "slurm":
        from dist_ai.distributed.launchers import slurm

        slurm.run(job)
    else:
        from dist_ai.distributed.launchers import local

        local.run(job)
