"""Keeps a Learner's fits in its run directory, and finds out there what is done already.

A program's fits are numbered in the order it calls them. Run again in the same directory, the program repeats the same
calls: a fit that was finished is not trained again but its result restored, and the one that was interrupted goes on
from its last checkpoint. So any script can be killed and started again.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from dist_ai.callbacks.callback import Callback, Callbacks
from dist_ai.checkpoint import Checkpoint, Run
from dist_ai.data.loaders import DataLoaders
from dist_ai.distributed.collectives import Collectives, on_main
from dist_ai.distributed.coordination import Decision
from dist_ai.distributed.environment import how_to_begin_anew, launch_settings
from dist_ai.distributed.strategies import Precision, Strategy
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.export.artifact import load_tensors
from dist_ai.learner.loop import Cursor
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = ["Beginning", "Keeper", "run_directory"]


@dataclass(frozen=True)
class Beginning:
    """Where a fit begins, or that it is done: then the cursor stands at its end."""

    cursor: Cursor
    done: bool = False


class Kept(Protocol):
    """What a keeper keeps: the parts of a Learner that change in training."""

    model: nn.Module
    opt: AnyOptimizer
    precision: Precision
    dls: DataLoaders
    callbacks: Callbacks
    collectives: Collectives
    strategy: Strategy


class Keeper:
    """Saves and restores a Learner's fits.

    Args:
        learn: the Learner.
        directory: its run directory.
        fresh: begin anew there.
    """

    def __init__(self, learn: Kept, directory: Path, *, fresh: bool) -> None:
        self.learn = learn
        self.run = Run(directory)
        self.fresh = fresh or launch_settings().fresh
        self._fits: list[dict[str, Any]] = []
        self._asked: Counter[str] = Counter()
        self._opened = self._begun = False
        self._latest: Checkpoint | None = None

    def begin(self, facts: dict[str, Any]) -> Beginning:
        """Returns where the next fit begins, with the Learner's state restored. Collective.

        Args:
            facts: what the fit is, as plain data; a kept fit of the same number must have had the same.

        Raises:
            ConfigError: the directory holds another program's run, or another process trains there.
        """
        number, facts = len(self._fits), json.loads(json.dumps(facts, default=str))  # as they will come back
        self._open()
        if self._latest is not None:
            start = self._resume(number, facts, self._latest)
        else:
            start = Beginning(Cursor())
            if number == 0 and self._begun:
                self._say("a fit began here before and came to no checkpoint; it begins anew")
        self._fits.append(facts)
        return start

    def result(self, name: str, facts: dict[str, Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns what `find` returned when this program came here before, or returns now. Collective.

        Args:
            name: what is looked for; a second one between the same two fits is another.
            facts: what the result depends on, as plain data.
            find: returns it, as plain data.
        """
        place = f"{name} after {len(self._fits)} fits"
        self._asked[place] += 1
        place, facts = f"{place}, {self._asked[place]}", json.loads(json.dumps(facts, default=str))
        self._open()
        ranks = self.learn.collectives
        kept = self.run.results().get(place) if ranks.world.is_main else None
        kept = ranks.broadcast_json(kept, what=name)
        if kept is not None and kept["facts"] == facts:
            self._say(f"{name} is done already; its result is remembered")
            return kept["value"]
        value = find()
        on_main(
            ranks, lambda: self.run.keep_result(place, {"facts": facts, "value": value}), what=f"the result of {name}"
        )
        return value

    def _resume(self, number: int, facts: dict[str, Any], latest: Checkpoint) -> Beginning:
        state = latest.state
        if number < len(state["fits"]) and state["fits"][number] != facts:
            raise ConfigError(
                f"{self.run.directory} holds another program's run: {_difference(number, state['fits'][number], facts)}. "
                f"{how_to_begin_anew()}"
            )
        done = number < state["fit"] or state["finished"]
        if done:
            state = self._restore_finished(number, latest)
            self._say(f"fit {number + 1} is done already; its result is restored")
        else:
            self._restore(latest)
            self._say(f"fit {number + 1} goes on at epoch {state['epoch']}, step {state['step']}")
        if number == latest.state["fit"]:
            self._latest = None  # no later fit needs it, and it is as large as the model and the optimizer together
        cursor = Cursor(state["epoch"], state["step"], state["progress"], Decision(state["cancel"]))
        return Beginning(cursor, done)

    def save(self, next_batch: Cursor, *, finished: bool = False) -> None:
        """Writes a checkpoint of the fit under way. Collective: all ranks hold the same, rank 0 writes."""
        learn, number = self.learn, len(self._fits) - 1
        learn.strategy.sync_buffers(learn.model)
        tensors, plain_opt = learn.opt.state()
        plain_cbs: dict[str, dict[str, Any]] = {}
        tensors_of_cbs: dict[str, torch.Tensor] = {}
        for name, callback in _named(learn.callbacks).items():
            plain_cbs[name] = {}
            for key, value in callback.state_dict().items():
                if isinstance(value, torch.Tensor):
                    tensors_of_cbs[f"{name}/{key}"] = value
                else:
                    plain_cbs[name][key] = value
        random = self._gather_random()

        def write() -> None:
            state = {
                "fit": number,
                "fits": self._fits,
                "finished": finished,
                "epoch": next_batch.epoch,
                "step": next_batch.step,
                "progress": next_batch.progress,
                "cancel": next_batch.cancel,
                "world_size": learn.collectives.world.world_size,
                "optimizer": plain_opt,
                "precision": learn.precision.state(),
                "callbacks": plain_cbs,
            }
            groups = {
                "model": learn.model.state_dict(),
                "optimizer": tensors,
                "random": random,
                "callbacks": tensors_of_cbs,
            }
            checkpoint = Checkpoint(groups, state)
            self.run.save(checkpoint, fit=number, epoch=next_batch.epoch, step=next_batch.step, finished=finished)

        on_main(learn.collectives, write, what=f"the checkpoint in {self.run.directory}")

    def _open(self) -> None:
        if self._opened:
            return
        name, problem = None, ""
        if self.learn.collectives.world.is_main:
            try:
                self.run.open(fresh=self.fresh)
                self._begun = (self.run.directory / "log.jsonl").exists()
                name = self.run.latest()
            except (ConfigError, OSError) as error:
                problem = str(error)
        name, problem = self.learn.collectives.broadcast_json([name, problem], what="run directory")
        if problem:
            raise ConfigError(problem)
        self._opened = True
        self._latest = self.run.read(name) if name else None

    def _restore_finished(self, number: int, latest: Checkpoint) -> dict[str, Any]:
        name = self.run.finished(number) if self.learn.collectives.world.is_main else None
        name = self.learn.collectives.broadcast_json(name, what="finished fit")
        # Without its own checkpoint (it was damaged), the state of a later fit is the nearest there is.
        checkpoint = self.run.read(name) if name else latest
        self._restore(checkpoint)
        return checkpoint.state

    def _restore(self, checkpoint: Checkpoint) -> None:
        learn, tensors, state = self.learn, checkpoint.tensors, checkpoint.state
        source = f"the checkpoint in {self.run.directory}"
        load_tensors(learn.model, tensors["model"], source, how_to_begin_anew())
        try:
            learn.opt.load_state(tensors["optimizer"], state["optimizer"])
        except ArtifactError as error:
            raise ArtifactError(f"{source}: {error}. {how_to_begin_anew()}") from error
        if state["precision"]:
            learn.precision.load_state(state["precision"])
        for name, callback in _named(learn.callbacks).items():
            own = {
                key.removeprefix(f"{name}/"): t for key, t in tensors["callbacks"].items() if key.startswith(f"{name}/")
            }
            if saved := {**state["callbacks"].get(name, {}), **own}:
                callback.load_state_dict(saved)
        self._set_random(tensors["random"])

    def _gather_random(self) -> dict[str, torch.Tensor]:
        ranks, device = self.learn.collectives, self.learn.dls.device
        states = {"cpu": ranks.all_gather_rows(torch.get_rng_state()[None], what="random state")}
        if device.type == "cuda":
            states["cuda"] = ranks.all_gather_rows(torch.cuda.get_rng_state(device)[None], what="random state")
        return states

    def _set_random(self, states: dict[str, torch.Tensor]) -> None:
        # Models that draw from torch's own generator repeat exactly on as many ranks as before; on another number the
        # extra ranks keep the state they have.
        rank, device = self.learn.collectives.world.rank, self.learn.dls.device
        if rank < len(states["cpu"]):
            torch.set_rng_state(states["cpu"][rank].clone())
            if "cuda" in states and device.type == "cuda":
                torch.cuda.set_rng_state(states["cuda"][rank].clone(), device)

    def _say(self, text: str) -> None:
        if self.learn.collectives.world.is_main:
            print(f"{self.run.directory}: {text}", flush=True)


def run_directory(given: str | Path | Literal["auto"] | None) -> Path | None:
    """Returns the run directory that a Learner's `run_dir` argument means; None for none.

    ``"auto"`` is what the launching command said, else ``runs/<script>`` if a script runs, else none. The second
    Learner of a program gets ``learner-2`` inside it, and so on: each has its own fits.
    """
    if given != "auto":
        return None if given is None else Path(given)
    directory = launch_settings().run_dir
    if directory is None:
        main = sys.modules.get("__main__")
        script = Path(getattr(main, "__file__", None) or "")
        # Not for `python -m tool` or an interactive session: what trains there is not named by its file.
        if script.suffix != ".py" or getattr(main, "__spec__", None) is not None:
            return None
        directory = Path("runs") / script.stem
    _auto.append(directory)
    return directory if len(_auto) == 1 else directory / f"learner-{len(_auto)}"


_auto: list[Path] = []  # the directories given out in this process


def _named(callbacks: Iterable[Callback]) -> dict[str, Callback]:
    """Returns the callbacks by class, in their order; a second one of a class is called ``Class-2``, and so on."""
    named: dict[str, Callback] = {}
    seen: Counter[str] = Counter()
    for callback in callbacks:
        kind = type(callback).__name__
        seen[kind] += 1
        named[kind if seen[kind] == 1 else f"{kind}-{seen[kind]}"] = callback
    return named


def _difference(number: int, then: dict[str, Any], now: dict[str, Any]) -> str:
    changed = [
        f"{key} was {then.get(key)} and is {now.get(key)}" for key in {**then, **now} if then.get(key) != now.get(key)
    ]
    return f"in fit {number + 1}, " + ", ".join(changed)
