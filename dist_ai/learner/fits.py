"""The fits of a Learner, one after the other: each is checked, trained from where it begins, and kept in the run directory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from dist_ai.callbacks import AutoMicrobatch, Callback, GradientAccumulation, ParamScheduler
from dist_ai.callbacks.callback import Callbacks
from dist_ai.data.loader import known_length
from dist_ai.distributed.collectives import require_same
from dist_ai.distributed.coordination import Decision
from dist_ai.errors import ConfigError
from dist_ai.learner.batch import Collaborators
from dist_ai.learner.dealing import deal_out
from dist_ai.learner.host_memory import kept_memory
from dist_ai.learner.keeper import Beginning, Keeper
from dist_ai.learner.length import Length, Steps
from dist_ai.learner.loop import Cursor, Loop
from dist_ai.learner.parts import LearnerParts
from dist_ai.learner.policies import Policy

__all__ = ["Fit", "Fits"]


@dataclass(frozen=True)
class Fit:
    """What is to be trained.

    Attributes:
        method: the Learner's, by name, for messages and the run directory.
        length: of the fit.
        rates: the learning rate of each parameter group, or its peak.
        policy: how they go on from there.
        wd: weight decay; None for the Learner's, or else the optimizer's.
        cbs: callbacks of this fit only.
        valid_every: steps from one validation to the next; None for an epoch's.
    """

    method: str
    length: Length
    rates: list[float]
    policy: Policy = field(default_factory=Policy)
    wd: float | None = None
    cbs: list[Callback] = field(default_factory=list)
    valid_every: int | None = None


class Fits:
    """Trains a Learner, fit after fit.

    Args:
        learn: the Learner.
        keeper: of its run directory; None without one.

    Attributes:
        num_fits: those that were begun.
        num_epochs: epochs of those that have ended: each epoch of a program has an order and draws of its own.
        running: whether one is under way.
    """

    def __init__(self, learn: LearnerParts, keeper: Keeper | None) -> None:
        self.learn, self.keeper = learn, keeper
        self.num_fits = self.num_epochs = 0
        self.running = False

    # ------------------------------------------------------------------------------------------------ one fit

    def run(self, fit: Fit) -> None:
        """Trains a fit, or what is left of it; one that this run directory has is restored. Collective.

        Raises:
            ConfigError: it cannot work, or is another than the run directory has.
        """
        learn = self.learn
        self._check(fit)
        learn.opt.set_hyper("lr", fit.rates)
        if (decay := learn.wd if fit.wd is None else fit.wd) is not None:
            learn.opt.set_hyper("wd", decay)
        scheduled = [ParamScheduler(fit.policy.schedules)] if fit.policy.schedules else []
        with learn.added_cbs([*scheduled, *fit.cbs]), kept_memory(learn.device):
            steps = self.steps()
            n_epoch = fit.length.in_epochs(steps)[0]
            facts = self._facts_of(fit, steps)
            self._require_same_fit(facts)
            self.num_fits += 1
            learn.recorder.fit = self.num_fits
            begin = Beginning(Cursor()) if self.keeper is None else self.keeper.begin(facts)
            if begin.done:
                self.num_epochs += begin.cursor.epoch if n_epoch is None else n_epoch
                return
            n_epoch = self._train(self.loop(steps, fit.valid_every), fit.length, begin.cursor, n_epoch)
            if self.keeper is not None:
                self.keeper.save(Cursor(n_epoch), finished=True)

    def _check(self, fit: Fit) -> None:
        learn, every = self.learn, fit.valid_every
        if every is not None and (every < 1 or learn.dls.valid is None):
            raise ConfigError(
                f"valid_every={every}: expected 1 step or more"
                if every < 1
                else f"valid_every={every}, and there is no validation data; give DataLoaders(train, valid)"
            )
        if not any(p.requires_grad for p in learn.model.parameters()):
            raise ConfigError(f"{fit.method}: all parameters of the model are frozen; learn.unfreeze() lets them learn")

    def _train(self, loop: Loop, length: Length, begin: Cursor, n_epoch: int | None) -> int:
        """Runs the loop; returns how many epochs that were: where the clock decides, every one that was begun counts."""
        self.running = True
        try:
            loop.fit(length, begin)
        except BaseException as error:
            if self.keeper is not None:
                self.keeper.failed(error)
            if isinstance(error, KeyboardInterrupt) and self.learn.state.leave:
                # The ranks left together, with a checkpoint: where in the loop that was is of no interest to anybody.
                raise error.with_traceback(None) from None
            raise
        finally:
            self.running = False
            self.num_epochs += (n_epoch := self.learn.state.epoch + 1 if n_epoch is None else n_epoch)
        return n_epoch

    # ------------------------------------------------------------------------------------------------ what it works with

    def loop(self, steps: Steps | None = None, valid_every: int | None = None, events: Callbacks | None = None) -> Loop:
        """Returns a loop over what the Learner has now.

        Args:
            steps, valid_every: see `Loop`.
            events: other callbacks than the Learner's.
        """
        learn = self.learn
        for loader in learn.dls if learn.dls.has_data else ():
            deal_out(loader, learn.strategy)
        given = Collaborators(
            model=learn.model,
            dls=learn.dls,
            loss_func=learn.loss_func,
            opt=learn.own_optimizer.now,  # type: ignore[arg-type]  # validation needs none
            strategy=learn.strategy,
            precision=learn.precision,
            state=learn.state,
            events=learn.callbacks if events is None else events,
            decisions=learn.decisions,
            seed=learn.dls.seed if learn.dls.has_data else 0,  # without data nothing is drawn
            auto_microbatch=learn.callbacks.find(AutoMicrobatch),
        )
        return Loop(given, epochs_before=self.num_epochs, steps=steps, valid_every=valid_every)

    def steps(self) -> Steps:
        """Returns how the training batches make up steps."""
        accumulation: GradientAccumulation | None = self.learn.callbacks.find(GradientAccumulation)
        train = self.learn.dls.train
        batches = accumulation.batches_of(train.bs) if accumulation else 1
        return Steps(known_length(train), train.num_samples, train.bs, batches)

    def facts(self, steps: Steps) -> dict[str, Any]:
        """Returns what training's numbers depend on beside a fit's own arguments: a run that goes on must have the same."""
        learn, train = self.learn, self.learn.dls.train
        hypers = learn.opt.state()[1]["hypers"]
        return {
            "num_samples": train.num_samples,
            "bs": train.bs,
            "seed": learn.dls.seed,
            "item_tfms": _without_address(repr(train.fetcher.item_tfms)),
            "batch_tfms": _without_address(repr(train.stage.pipeline)),
            "loss": getattr(learn.loss_func, "__name__", type(learn.loss_func).__name__),
            "optimizer": learn.opt.kind,
            **{name: [group[name] for group in hypers] for name in hypers[0] if name != "lr"},
            "precision": learn.precision.name,
            "batches a step": steps.batches,
            "frozen parameters": sum(not p.requires_grad for p in learn.model.parameters()),
        }

    def _facts_of(self, fit: Fit, steps: Steps) -> dict[str, Any]:
        own = {"method": fit.method, **fit.length.plain(), "lr": fit.rates, **fit.policy.facts}
        return {**own, **self.facts(steps), **({"valid_every": fit.valid_every} if fit.valid_every else {})}

    def require_same_data(self) -> None:
        """Checks that all ranks have the same data: else they would wait for each other, or learn as one does not. Collective."""
        ranks = self.learn.collectives
        if ranks.world.world_size > 1:
            require_same(ranks, self.learn.dls.facts(), what="the data", remedy=_SAME_PROGRAM)

    def _require_same_fit(self, facts: dict[str, Any]) -> None:
        """Checks that all ranks do the same, on the same data. Collective."""
        self.require_same_data()
        train, metrics = self.learn.dls.train, [metric.name for metric in self.learn.recorder.metrics]
        # Of transforms their names: what else their `repr` says, a file's place or a set's order, may differ between processes.
        pipelines = {"item_tfms": train.fetcher.item_tfms, "batch_tfms": train.stage.pipeline}
        names = {each: [type(tfm).__name__ for tfm in pipeline.tfms] for each, pipeline in pipelines.items()}
        require_same(
            self.learn.collectives, {**facts, **names, "metrics": metrics}, what="the fit", remedy=_SAME_PROGRAM
        )

    # ------------------------------------------------------------------------------------------------ beside one

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Lends the model, with the weights to evaluate with, and in the middle of a fit puts it and the state back."""
        learn, opt = self.learn, self.learn.own_optimizer.now
        opt_trains = opt is not None and opt.training
        if opt is not None:
            opt.eval()
        if not self.running:
            yield
            return
        state = learn.state.copy()
        modes = [(module, module.training) for module in learn.model.modules()]
        try:
            with learn.decisions.set_aside():
                yield
        finally:
            if opt_trains:
                learn.opt.train()
            learn.state.become(state)
            for module, training in modes:
                module.training = training

    def remembered(self, name: str, facts: dict[str, Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns what `find` returns; in a run directory, what it did when the program came here before. Collective.

        Args:
            name: of what is looked for.
            facts: what it depends on beside `facts`, as plain data.
            find: returns it, as plain data.
        """
        facts |= self.facts(self.steps())
        return find() if self.keeper is None else self.keeper.result(name, facts, find)

    def save_checkpoint(self, *, epoch_ended: bool) -> None:
        """Begins to write a checkpoint of this moment; see `Learner.save_checkpoint`. Collective."""
        state = self.learn.state
        if self.keeper is None:
            raise ConfigError("there is no run directory to write a checkpoint to; give Learner(run_dir=...)")
        if epoch_ended:
            self.keeper.save(Cursor(state.epoch + 1, 0, state.progress))
            return
        if not self.running or state.share is None or not state.last_microbatch:
            raise ConfigError(
                "a checkpoint stands between two training steps; write it in after_batch, when state.training and "
                "state.last_microbatch"
            )
        cancel = self._cancelled_now() if state.training else Decision.NOTHING
        self.keeper.save(Cursor(state.epoch, state.next_step, state.progress, cancel))

    def _cancelled_now(self) -> Decision:
        """Returns what callbacks have cancelled in this very event, on any rank, beyond the batch itself. Collective."""
        voted = torch.tensor([int(self.learn.decisions.voted)])
        decision = Decision(int(self.learn.collectives.all_reduce(voted, "max", what="cancels")))
        return decision if decision > Decision.CANCEL_BATCH else Decision.NOTHING


_SAME_PROGRAM = "every rank runs the same program on the same files, and it is the loaders that give each its share"


def _without_address(text: str) -> str:
    """Leaves out of a `repr` what is different in each process: where an object lies in memory, and on which device."""
    return re.sub(r" at 0x[0-9a-fA-F]+|, device='[^']*'", "", text)
