"""Keeps a Learner's fits in its run directory, and finds out there what is done already.

A program's fits are numbered in the order it calls them. Run again in the same directory, the program repeats the same
calls: a fit that was finished is not trained again but its result restored, and the one that was interrupted goes on
from its last checkpoint. So any script can be killed and started again. A fit that ended with an error, which the program
caught, was not finished: it is tried again, and raises again, before the fits after it are restored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from dist_ai.callbacks.callback import Callback
from dist_ai.checkpoint import Checkpoint, Growing, Part, Run, Saver, ranks_for_saving
from dist_ai.distributed.collectives import on_main
from dist_ai.distributed.coordination import Decision
from dist_ai.distributed.environment import how_to_begin_anew, launch_settings
from dist_ai.distributed.sharded import is_sharded
from dist_ai.errors import ArtifactError, ConfigError, DistAIError
from dist_ai.export.artifact import describe, load_tensors
from dist_ai.learner.loop import Cursor
from dist_ai.learner.parts import LearnerParts
from dist_ai.learner.run_places import give_back, take_again
from dist_ai.optimizer.optimizer import AnyOptimizer

__all__ = ["Beginning", "Keeper", "layout_of_state"]


@dataclass(frozen=True)
class Beginning:
    """Where a fit begins, or that it is done: then the cursor stands at its end."""

    cursor: Cursor
    done: bool = False


class Keeper:
    """Saves and restores a Learner's fits.

    Args:
        learn: the Learner.
        run: its run.
        fresh: begin anew there.
    """

    def __init__(self, learn: LearnerParts, run: Run, *, fresh: bool) -> None:
        self.learn = learn
        self.run = run
        self.fresh = fresh or launch_settings().fresh
        self._fits: list[dict[str, Any]] = []
        self._asked: Counter[str] = Counter()
        self._begun = self._tries_again = self._closed = self._given_back = False
        self._latest: Checkpoint | None = None
        self._saver: Saver | None = None

    def close(self) -> None:
        """Gives the directory free, for another process or another Learner of this one."""
        self.wait()
        self.run.close()
        self._closed = True
        if not self._given_back:  # else another may have it by now
            give_back(self.run.directory)

    def begin(self, facts: dict[str, Any]) -> Beginning:
        """Returns where the next fit begins, with the Learner's state restored. Collective.

        Args:
            facts: what the fit is, as plain data; a kept fit of the same number must have had the same.

        Raises:
            ConfigError: the directory holds another program's run, or another process trains there.
        """
        number, facts = len(self._fits), json.loads(json.dumps(facts, default=str))  # as they will come back
        self._open()
        self._tries_again = False
        if self._latest is not None:
            start = self._resume(number, facts, self._latest)
        else:
            start = Beginning(Cursor())
            if number == 0 and self._begun:
                self._say("a fit began here before, and there is no checkpoint to go on from; it begins anew")
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
        kept = on_main(ranks, lambda: self.run.results().get(place), what=f"looking for the result of {name}")
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
        then = dict(state["fits"][number]) if number < len(state["fits"]) else facts
        error = then.pop(_ERROR, None)
        if difference := self._difference(number, state["fits"], then, facts):
            raise ConfigError(f"{self.run.directory} holds another program's run: {difference}. {how_to_begin_anew()}")
        if number < state["fit"] and error is not None:
            self._say(f"fit {number + 1} ended with {error} when this program ran before; it is tried again")
            self._tries_again = True
            return Beginning(Cursor())
        done = number < state["fit"] or state["finished"]
        if done:
            state = self._restore_finished(number, latest)
            how = f". {how_to_begin_anew()}" if number == 0 else ""
            self._say(f"fit {number + 1} is done already; its result is restored{how}")
        else:
            self._restore(latest)
            self._say(f"fit {number + 1} goes on at epoch {state['epoch']}, step {state['step']}")
        if number == latest.state["fit"]:
            self._latest = None  # no later fit needs it
        cursor = Cursor(state["epoch"], state["step"], state["progress"], Decision(state["cancel"]))
        return Beginning(cursor, done)

    def _difference(self, number: int, fits: list[dict[str, Any]], then: dict[str, Any], now: dict[str, Any]) -> str:
        """Returns what is otherwise than when the program ran before; "" if nothing is."""
        for i, (kept, own) in enumerate(zip(fits, self._fits, strict=False)):
            if _ERROR in kept and _ERROR not in own:
                return f"fit {i + 1} ended with {kept[_ERROR]}, and now it ended well"
        changed = [
            f"{key} was {then.get(key)} and is {now.get(key)}"
            for key in {**then, **now}
            if then.get(key) != now.get(key)
        ]
        return f"in fit {number + 1}, " + ", ".join(changed) if changed else ""

    def failed(self, error: BaseException) -> None:
        """Notes that the fit under way ended with an error, for the checkpoints of those that may come after it.

        An interrupt gives the directory back: whoever runs a notebook's cell again wants its new Learner to go on there.
        """
        self._fits[-1][_ERROR] = f"a {type(error).__name__}"
        if not isinstance(error, Exception):
            self._given_back = True
            give_back(self.run.directory)

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._saver is not None and self._saver.busy

    def wait(self) -> None:
        """Waits until the checkpoint under way is complete on all ranks, or given up."""
        if self._saver is not None:
            self._saver.wait()

    def save(self, next_batch: Cursor, *, finished: bool = False) -> None:
        """Begins to write a checkpoint of the fit under way; one of its end is complete when this returns. Collective.

        Not while a fit is tried again that ended with an error: the run is further than that.
        """
        assert self._saver is not None, "a fit begins before it is saved"
        if self._tries_again:
            if finished:
                self._say(
                    f"fit {len(self._fits)} ended well this time, which is not kept: the run has what was trained after its "
                    f"error. {how_to_begin_anew()}"
                )
            return
        learn, number = self.learn, len(self._fits) - 1
        learn.strategy.sync_buffers(learn.model)
        tensors, plain_opt = learn.opt.state()
        plain_cbs: dict[str, dict[str, Any]] = {}
        of_cbs: dict[str, torch.Tensor | Growing] = {}
        for name, callback in _named(learn.callbacks).items():
            plain_cbs[name] = {}
            for key, value in callback.state_dict().items():
                if isinstance(value, torch.Tensor | Growing):
                    of_cbs[f"{name}/{key}"] = value
                else:
                    plain_cbs[name][key] = value
        state = {
            "fit": number,
            "fits": self._fits,
            "finished": finished,
            "epoch": next_batch.epoch,
            "step": next_batch.step,
            "progress": next_batch.progress,
            "cancel": next_batch.cancel,
            "optimizer": plain_opt,
            "precision": learn.precision.state(),
            "callbacks": plain_cbs,
            "metrics": self._metrics(next_batch),
            "export": self._description,
        }
        groups = {
            "model": learn.model.state_dict(),
            "optimizer": tensors,
            "random": self._random(),
            "callbacks": of_cbs,
        }
        name = self.run.name(fit=number, epoch=next_batch.epoch, step=next_batch.step, finished=finished)
        self._saver.save(name, groups, state)
        if finished:
            self._saver.wait()

    def _metrics(self, next_batch: Cursor) -> dict[str, Any]:
        """Returns the row of the epoch that has just ended; {} in the middle of one."""
        rows = self.learn.recorder.epochs
        ended = next_batch.step == 0 and rows and rows[-1]["fit"] == self.learn.recorder.fit
        return dict(rows[-1]) if ended and rows[-1]["epoch"] == next_batch.epoch - 1 else {}

    @cached_property
    def _description(self) -> dict[str, Any] | None:
        """What an export of the model would say of it, so that one can be made of a checkpoint; None if it cannot be."""
        try:
            return describe(spec=self.learn.spec, recipe=self.learn.dls.recipe, loss_func=self.learn.loss_func)
        except DistAIError:
            return None

    def _open(self) -> None:
        if self._closed:
            raise ConfigError(f"learn.close() gave {self.run.directory} free; make another Learner to train")
        if self._given_back:
            take_again(self.run.directory)
            self._given_back = False
        if self._saver is not None:
            return
        ranks, problem = self.learn.collectives, ""
        if ranks.world.is_main:
            try:
                self.run.open(fresh=self.fresh)
                self._begun = (self.run.directory / "log.jsonl").exists()
            except (ConfigError, OSError) as error:
                problem = str(error)
        if problem := ranks.broadcast_json(problem, what="run directory"):
            raise ConfigError(problem)
        self.run.check_shared(ranks)
        self._latest = self.run.latest(ranks)
        self._saver = Saver(self.run, ranks_for_saving(ranks))

    def _restore_finished(self, number: int, latest: Checkpoint) -> dict[str, Any]:
        # Without its own checkpoint (it was damaged), the state of a later fit is the nearest there is.
        checkpoint = self.run.finished(number, self.learn.collectives) or latest
        self._restore(checkpoint)
        return checkpoint.state

    def _restore(self, checkpoint: Checkpoint) -> None:
        learn, state = self.learn, checkpoint.state
        source = f"the checkpoint in {self.run.directory}"
        # All is read before anything is changed: a damaged file must not leave a half-restored Learner.
        live = learn.model.state_dict()
        model = checkpoint.read("model", {name: tensor for name, tensor in live.items() if is_sharded(tensor)})
        optimizer = checkpoint.read("optimizer", layout_of_state(checkpoint, learn.opt))
        layouts = {
            f"{name}/{key}": tensor
            for name, callback in _named(learn.callbacks).items()
            for key, tensor in callback.state_layout().items()
        }
        of_cbs = checkpoint.read("callbacks", layouts)
        random = self._read_random(checkpoint)
        load_tensors(learn.model, model, source, how_to_begin_anew())
        try:
            learn.opt.load_state(optimizer, state["optimizer"])
        except ArtifactError as error:
            raise ArtifactError(f"{source}: {error}. {how_to_begin_anew()}") from error
        if state["precision"]:
            learn.precision.load_state(state["precision"])
        for name, callback in _named(learn.callbacks).items():
            own = {key.removeprefix(f"{name}/"): t for key, t in of_cbs.items() if key.startswith(f"{name}/")}
            if saved := {**state["callbacks"].get(name, {}), **own}:
                callback.load_state_dict(saved)
        self._set_random(random)
        assert self._saver is not None
        self._saver.go_on_from(checkpoint)

    def _random(self) -> dict[str, Part]:
        world, device = self.learn.collectives.world, self.learn.dls.device
        states = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        return {
            name: Part(state[None], offsets=(world.rank, 0), shape=(world.world_size, len(state)))
            for name, state in states.items()
        }

    def _read_random(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        """Returns this rank's random states. Models that draw from torch's own generator repeat exactly on as many ranks as
        before; on another number the extra ranks keep the state they have.
        """
        rank, mine = self.learn.collectives.world.rank, {}
        for name in checkpoint.names("random"):
            num_ranks, size = checkpoint.shape("random", name)
            if rank < num_ranks:
                row = torch.empty((1, size), dtype=torch.uint8)
                mine[name] = Part(row, offsets=(rank, 0), shape=(num_ranks, size))
        return {name: row[0] for name, row in checkpoint.read("random", mine, only=mine).items()}

    def _set_random(self, states: dict[str, torch.Tensor]) -> None:
        device = self.learn.dls.device
        if "cpu" in states:
            torch.set_rng_state(states["cpu"])
        if "cuda" in states and device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)

    def _say(self, text: str) -> None:
        if self.learn.collectives.world.is_main:
            print(f"{self.run.directory}: {text}", flush=True)


def layout_of_state(checkpoint: Checkpoint, opt: AnyOptimizer) -> dict[str, torch.Tensor]:
    """Returns for each sharded parameter's optimizer state, by name, the parameter: they lie alike."""
    named = (pair for group in opt.groups for pair in zip(group.names, group.params, strict=True))
    sharded = {name: parameter for name, parameter in named if is_sharded(parameter)}
    layout: dict[str, torch.Tensor] = {}
    for name in checkpoint.names("optimizer"):
        parameter = sharded.get(name.split(".", 1)[1])
        if parameter is not None and checkpoint.shape("optimizer", name) == tuple(parameter.shape):
            layout[name] = parameter
    return layout


def _named(callbacks: Iterable[Callback]) -> dict[str, Callback]:
    """Returns the callbacks by class, in their order; a second one of a class is called ``Class-2``, and so on."""
    named: dict[str, Callback] = {}
    seen: Counter[str] = Counter()
    for callback in callbacks:
        kind = type(callback).__name__
        seen[kind] += 1
        named[kind if seen[kind] == 1 else f"{kind}-{seen[kind]}"] = callback
    return named


_ERROR = "ended with"
"""In what is kept of a fit: the error that ended it, if one did."""
