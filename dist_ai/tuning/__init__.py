"""Searching for hyper-parameters: many runs of one program, on Ray Tune, of which the hopeless are stopped early.

`space` says from what is drawn, `trial` is one run, `ray` hands the trials to Ray Tune, `results` is what came of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dist_ai.distributed.launchers.arguments import LAUNCH, TRUE_OR_FALSE, check_arguments, or_none, whole
from dist_ai.distributed.launchers.function import FILE, check_call, name_of, reference, refuse_in_its_processes
from dist_ai.distributed.launchers.job import Device, Job
from dist_ai.errors import ConfigError
from dist_ai.tuning.results import Results, TrialResult
from dist_ai.tuning.space import Draw, read_space
from dist_ai.tuning.trial import Plan

__all__ = ["Draw", "Results", "TrialResult", "tune"]


def tune(
    program: str | Path | Callable[..., Any],
    space: Mapping[str, Any],
    *,
    args: Sequence[str] = (),
    trials: int = 8,
    metric: str = "valid_loss",
    lower: bool | None = None,
    workers: int = 1,
    run_dir: str | Path | None = None,
    fresh: bool = False,
    device: Device | None = None,
    address: str | None = None,
    early_stopping: bool = True,
    patience: int = 1,
    at_once: int | None = None,
    max_restarts: int = 0,
    seed: int = 0,
) -> Results:
    """Runs `program` with parameters drawn from `space`, as often as `trials` says, and returns what came of it.

    Each trial is a launch (`dist_ai.distributed.launchers.launch`) on one machine of the Ray cluster, in a run directory of
    its own, with the log and the checkpoints that any run has. Its metrics are what its Recorder writes after each epoch.
    Asynchronous successive halving (ASHA, https://arxiv.org/abs/1810.05934) compares the trials after `patience` epochs, 3,
    9, 27 times as many, and stops those that are not among the best third so far. Given the same arguments again, trials
    go on from their checkpoints, and those that have ended are not trained again.

    Args:
        program: a script, which gets each parameter as ``--name value`` after `args`; or a function, which gets them by name.
            Either trains a Learner with the run directory that it has by default. The function stands at the top of a file
            that all machines of the cluster have; in a program of its own, the call of `tune` is under
            ``if __name__ == "__main__":``.
        space: by name a text (``"loguniform(1e-4, 1e-1)"``, ``"uniform(0, 1)"``, ``"randint(1, 9)"``, ``"choice(16, 32)"``), a
            list to choose from, or a value for all trials.
        args: what a script finds in ``sys.argv`` before the parameters.
        trials: how many.
        metric: the column of the epochs' rows to go by.
        lower: whether less of it is better; by default what its name tells.
        workers: processes of each trial; each takes one of the cluster's CPUs, and a GPU where there are GPUs.
        run_dir: gets a folder a trial; ``runs/<program's name>-tune`` by default. All machines of the cluster must share it.
        fresh: begin anew instead of continuing what is there.
        device: "cpu" or "cuda"; by default a GPU for each worker where there are GPUs.
        address: the Ray cluster, as for `launch`; by default the one that is here, or one of this machine for this search.
        early_stopping: whether hopeless trials are stopped.
        patience: epochs, over all fits of the program, that each trial has at least.
        at_once: how many trials may run at the same time; by default as many as the cluster has place for.
        max_restarts: how often a trial may be started again after a failure.
        seed: of the draws.

    Raises:
        ConfigError: the arguments cannot work, or no trial reported the metric.
        MissingDependencyError: Ray is not installed.
        RendezvousError: the Ray cluster does not answer, or has no place for a trial.
        WorkerError: all trials failed; the message holds the first failure.

    ```python
    from dist_ai.tuning import tune

    results = tune("train.py", {"lr": "loguniform(1e-4, 1e-1)", "bs": [32, 64]}, trials=8, metric="accuracy")
    print(results.table(), results.best.run_dir)
    ```
    """
    from dist_ai.metrics import lower_is_better  # it needs torch, and the trials' own processes do not

    given = {
        "program": program,
        "trials": trials,
        "workers": workers,
        "early_stopping": early_stopping,
        "patience": patience,
        "at_once": at_once,
        "seed": seed,
    }
    check_arguments(given, _EXPECTED)
    draws = read_space(space)
    if not any(isinstance(each, Draw) for each in draws.values()) and trials > 1:
        raise ConfigError(
            f"nothing in the space varies, so {trials} trials would all be the same; use trials=1 or a range"
        )
    function = program if callable(program) else None
    refuse_in_its_processes("tune")
    if function is not None:
        check_call(function, draws)
    script = FILE if callable(program) else Path(program)
    name = script.stem if function is None else name_of(function)
    job = Job.checked(
        script,
        args,
        workers=workers,
        engine="ray",
        run_dir=run_dir if run_dir is not None else Path("runs", f"{name}-tune"),
        fresh=fresh,
        device=device,
        timeout_s=None,
        address=address,
        max_restarts=max_restarts,
    )
    plan = Plan.of(
        replace(job, script=str(script.absolute())),
        function=None if function is None else reference(function),
        metric=metric,
        lower=lower_is_better(metric) if lower is None else lower,
    )
    from dist_ai.tuning import ray  # the only part that needs it

    return ray.search(
        job,
        plan,
        draws,
        trials=trials,
        patience=patience if early_stopping else None,
        at_once=at_once,
        seed=seed,
    )


_EXPECTED = {
    "program": LAUNCH["program"],
    "trials": whole(1),
    "workers": whole(1),
    "early_stopping": TRUE_OR_FALSE,
    "patience": whole(1),
    "at_once": or_none(whole(1), "for as many as the cluster has place for"),
    "seed": whole(0),
}
