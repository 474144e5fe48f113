"""Hands the trials of a search to Ray Tune: it draws their parameters, finds place for them, and stops the hopeless."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ray

from dist_ai.distributed.launchers.job import Job
from dist_ai.distributed.launchers.ray import connected
from dist_ai.errors import ConfigError, DistAIError, RendezvousError, WorkerError
from dist_ai.tuning.results import Results, TrialResult
from dist_ai.tuning.space import Draw
from dist_ai.tuning.trial import Plan, error_of, read_rows, run_trial, state_of

__all__ = ["search"]

# Of the trials that have come so far, one in so many goes on.
REDUCTION = 3
# Above any number of epochs: nothing is stopped for having come far.
MOST_EPOCHS = 100_000


def search(
    job: Job,
    plan: Plan,
    space: Mapping[str, Any],
    *,
    trials: int,
    patience: int | None,
    at_once: int | None,
    seed: int,
) -> Results:
    """Runs the trials and returns what came of them.

    Args:
        job: what is asked of the cluster.
        plan: of the trials.
        space: what `read_space` returned.
        trials: how many.
        patience: epochs before a trial may be stopped; None for no stopping.
        at_once: how many may run at the same time.
        seed: of the draws.

    Raises:
        ConfigError: no trial reported the metric.
        RendezvousError: the cluster does not answer, or has no place for a trial.
        WorkerError: all trials failed.
    """
    with connected(job):
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of a failed trial it logs 30 lines of its own frames
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the search, as it ends a launch
        tuner = _tuner(plan, space, _place(job), trials=trials, patience=patience, at_once=at_once, seed=seed)
        with contextlib.redirect_stdout(io.StringIO()):  # Ray's banner; what there is to say, `_told` says
            results = _results(plan, tuner.fit())
    (plan.run_dir / "trials.csv").write_text(results.csv())
    return results


def _tuner(
    plan: Plan,
    space: Mapping[str, Any],
    need: dict[str, int],
    *,
    trials: int,
    patience: int | None,
    at_once: int | None,
    seed: int,
) -> Any:
    from ray import tune  # when the cluster is there: it takes a second

    scheduler = None
    if patience is not None:
        scheduler = tune.schedulers.ASHAScheduler(
            max_t=MOST_EPOCHS, grace_period=patience, reduction_factor=REDUCTION, stop_last_trials=False
        )
    return tune.Tuner(
        tune.with_resources(_trainable(plan), need),
        param_space={
            name: getattr(tune, each.kind)(*_of_ray(each)) if isinstance(each, Draw) else each
            for name, each in space.items()
        },
        tune_config=tune.TuneConfig(
            metric=plan.metric,
            mode="min" if plan.lower else "max",
            num_samples=trials,
            scheduler=scheduler,
            search_alg=tune.search.BasicVariantGenerator(random_state=seed, max_concurrent=at_once or 0),
        ),
        run_config=tune.RunConfig(
            name=time.strftime("tune-%Y%m%d-%H%M%S"),
            storage_path=str(plan.run_dir / "ray"),
            verbose=0,
            callbacks=[_told(plan)],
        ),
    )


def _of_ray(draw: Draw) -> tuple[Any, ...]:
    return (list(draw.args),) if draw.kind == "choice" else draw.args


def _place(job: Job) -> dict[str, int]:
    need, total = {"CPU": job.workers}, ray.cluster_resources()
    if job.device == "cuda" or (job.device is None and total.get("GPU", 0) > 0):
        need["GPU"] = job.workers
    for name, number in need.items():
        most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < number:
            raise RendezvousError(
                f"a trial on {job.workers} worker(s) needs {number} {name}s of one machine, and the largest of the Ray cluster "
                f"has {most:g}; use fewer workers, or a larger machine"
            )
    return need


def _trainable(plan: Plan) -> Callable[[dict[str, Any]], None]:
    """Returns what Ray Tune calls in a process of the cluster, once for each trial."""

    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        run_trial(plan, _name(tune.get_context().get_trial_id()), config, tune.report)

    return trial


def _told(plan: Plan) -> Any:
    """Returns what says in a line of each trial that it begins, and how it ended."""
    from ray import tune

    class Told(tune.Callback):
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._say(trial, f"begins with {', '.join(f'{name}={value}' for name, value in trial.config.items())}")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            folder = plan.run_dir / _name(trial.trial_id)
            state, rows = state_of(folder), read_rows(folder)
            # One that is stopped may come to further rows yet, before it hears of it.
            verb = "has ended" if state == "ended" else "is stopped"
            epochs = f"{len(rows)} epoch{'s' * (len(rows) != 1)}"
            self._say(trial, f"{verb} after {epochs}, its best {plan.metric} {_best(plan, rows):.6g}")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            folder = plan.run_dir / _name(trial.trial_id)
            why = error_of(folder).partition("\n")[0] or "its process ended"
            told = why.removeprefix(f"{folder.name} ")
            log = folder / "logs" / "launch.log"
            self._say(trial, (told if told != why else f"failed: {why}") + (f"; see {log}" if log.exists() else ""))

        def _say(self, trial: Any, text: str) -> None:
            print(f"dist-ai: {_name(trial.trial_id)} {text}", file=sys.stderr, flush=True)

    return Told()


def _name(trial_id: str) -> str:
    """Returns what we call a trial: by its number in the order of the draws, the same in the next search alike."""
    return f"trial-{trial_id.rpartition('_')[2]}"


def _best(plan: Plan, rows: Iterable[Mapping[str, float]]) -> float:
    """Returns the best value of the metric in some rows; NaN if there is none."""
    values = [row[plan.metric] for row in rows if not math.isnan(row.get(plan.metric, math.nan))]
    return (min if plan.lower else max)(values, default=math.nan)


def _results(plan: Plan, grid: Any) -> Results:
    found, errors = [], []
    for result in sorted(grid, key=lambda each: str(each.path)):  # as they were drawn
        error = None if result.error is None else _first(result.error)
        errors += [] if error is None else [error]
        name = f"trial-{Path(result.path).name.split('_')[2]}"
        rows = read_rows(plan.run_dir / name)
        state = state_of(plan.run_dir / name) if error is None else "failed"
        found.append(
            TrialResult(
                name=name,
                config=dict(result.config),
                state=state,
                epochs=len(rows),
                value=_best(plan, rows),
                run_dir=plan.run_dir / name,
                error=str(error or ""),
            )
        )
    if errors and len(errors) == len(found):
        kind = ConfigError if isinstance(errors[0], ConfigError) else WorkerError
        raise kind(f"all {len(found)} trials failed; the first: {errors[0]}")
    return Results(metric=plan.metric, lower=plan.lower, trials=found)


def _first(error: BaseException) -> BaseException:
    """Returns the error that a trial raised, out of what Ray put around it."""
    # Ray's own error is of the class of what it is about, too, and has its frames for a text.
    while isinstance(error, ray.exceptions.RayError) or not isinstance(error, DistAIError):
        if (inner := getattr(error, "cause", None) or error.__cause__) is None:
            break
        error = inner
    return error
