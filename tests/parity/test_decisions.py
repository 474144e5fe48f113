"""What one rank decides all ranks do at the same step: about a thousand times, with the rank, the step and the event drawn."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import Lab, wait_until
from toy import NUM_STEPS, give_back_run_directories, make_learner, weights_of

from dist_ai.callbacks import Callback, Phase, RemoteControl, SkipNaN, TerminateOnNaN
from dist_ai.callbacks.event import CANCELS
from dist_ai.distributed.coordination import Decision
from dist_ai.distributed.environment import LaunchSettings, settings_environment
from dist_ai.distributed.mailbox import mailbox_at

RANKS, N_EPOCH = 3, 2
TO_BACKWARD = ("before_batch", "after_pred", "after_loss", "before_backward")
TO_STEP = (*TO_BACKWARD, "after_backward", "before_step")
TO_END = (*TO_STEP, "after_step", "after_batch")
# Where each cancel may come from, beside what is drawn: the events of a batch, and whether it is one of a validation.
PLACES: dict[str, tuple[tuple[str, ...], bool]] = {
    "CANCEL_BACKWARD": (TO_BACKWARD, False),
    "CANCEL_STEP": (TO_STEP, False),
    "CANCEL_BATCH": (TO_STEP, False),
    "CANCEL_TRAIN": (TO_END, False),
    "CANCEL_VALIDATE": (("before_batch", "after_pred", "after_loss", "after_batch"), True),
    "CANCEL_EPOCH": (TO_END, False),
    "CANCEL_FIT": (TO_END, False),
}


class Watch(Callback):
    """Writes down every training step and every cancelled stage, with the place."""

    phase = Phase.PREPARE
    may_cancel = False

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int]] = []
        for name in ("after_step", "before_epoch", "before_validate"):
            setattr(self, name, lambda name=name: self._note(name))
        for decision in CANCELS:
            name = "after_" + decision.name.lower()
            setattr(self, name, lambda name=name: self._note(name))

    def before_batch(self) -> None:
        self._note("train" if self.state.training else "valid")

    def _note(self, what: str) -> None:
        self.log.append((what, self.state.epoch, self.state.step))


class Once(Callback):
    """Does something on one rank, in one event of one batch."""

    may_cancel = True

    def __init__(
        self, what: Callable[[Callback], None], event: str, rank: int, epoch: int, step: int, valid: bool
    ) -> None:
        self.what, self.rank, self.place, self.valid = what, rank, (epoch, step), valid
        setattr(self, event, self._look)

    def _look(self) -> None:
        state = self.state
        here = (state.epoch, state.step) == self.place and state.training != self.valid and state.fitting
        if here and self.learn.collectives.world.rank == self.rank:
            self.rank = -1
            self.what(self)


def fit(folder: str | None, *cbs: Callback) -> dict[str, Any]:
    """Returns what a fit did on this rank, and how it ended."""
    watch = Watch()
    learn = make_learner(cbs=[watch, *cbs], run_dir=folder, **({} if folder is None else {"checkpoint_every_s": None}))
    ended = ""
    try:
        learn.fit(N_EPOCH, 0.1)
    except (SystemExit, KeyboardInterrupt) as error:
        ended = f"{type(error).__name__} {error}"
    give_back_run_directories()
    lr = learn.opt.get_hyper("lr")
    return {"log": watch.log, "ended": ended, "lr": lr, "weights": weights_of(learn.model).nan_to_num(7.0).tolist()}


def raises(cancel: type[Exception]) -> Callable[[Callback], None]:
    def what(_: Callback) -> None:
        raise cancel

    return what


def makes_nan(callback: Callback) -> None:
    callback.state.loss = callback.state.loss * torch.nan


def draw(
    chance: random.Random, events: tuple[str, ...], *, valid: bool = False, last: int = NUM_STEPS
) -> dict[str, Any]:
    where = {"event": chance.choice(events), "rank": chance.randrange(RANKS), "valid": valid}
    return {**where, "epoch": chance.randrange(N_EPOCH), "step": chance.randrange(last)}


# ------------------------------------------------------------------------ the decisions, on each rank


def cancels(chance: random.Random, folder: Path, decision: str) -> tuple[dict[str, Any], dict[str, Any]]:
    events, valid = PLACES[decision]
    where = draw(chance, events, valid=valid)
    return where, fit(None, Once(raises(CANCELS[Decision[decision]]), **where))


def early_stop(chance: random.Random, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """One rank wants no more, after an epoch that it alone looked at."""
    rank, epoch = chance.randrange(RANKS), chance.randrange(N_EPOCH)

    class Stops(Callback):
        def after_epoch(self) -> None:
            if self.state.epoch == epoch and self.learn.collectives.world.rank == rank:
                raise CANCELS[Decision.CANCEL_FIT]

    return {"epoch": epoch}, fit(None, Stops())


def nan(chance: random.Random, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    where = draw(chance, ("after_loss",), last=NUM_STEPS - 1)  # in the last batch a rank may have no sample
    guard = chance.choice([TerminateOnNaN, SkipNaN])
    return {**where, "skips": guard is SkipNaN}, fit(None, guard(), Once(makes_nan, **where))


def signals(chance: random.Random, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    where = draw(chance, ("before_batch", "after_pred"))
    return where, fit(str(folder), Once(lambda _: os.kill(os.getpid(), number), **where))


def commands(chance: random.Random, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    os.environ.update(settings_environment(LaunchSettings(run_dir=folder, workers=(1, 9))))
    verb, args = chance.choice(
        [
            ("stop", {}),
            ("checkpoint", {}),
            ("set", {"lr": 0.5}),
            ("workers", {"count": 2}),
            ("workers", {"count": RANKS}),
        ]
    )

    def tell(callback: Callback) -> None:
        number = mailbox_at(folder).send(verb, args).number
        reporter = callback.learn.callbacks.find(RemoteControl)._reporter
        assert wait_until(lambda: reporter.newest >= number, within_s=20)

    where = {**draw(chance, ("before_batch",)), "rank": 0}  # the one that listens
    return {**where, "verb": verb, **args}, fit(str(folder), Once(tell, **where))


KINDS: dict[str, Any] = {"early_stop": early_stop, "nan": nan, "signals": signals, "commands": commands}


def decide(kinds: list[str], seed: int, folder: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Returns for each of these kinds where something was decided, and what this rank did."""
    chance = random.Random(seed)  # the same on all ranks
    done = []
    for number, kind in enumerate(kinds):
        own = Path(folder) / str(number)
        done.append((kind, *(KINDS[kind](chance, own) if kind in KINDS else cancels(chance, own, kind))))
    return done


def check(kind: str, where: dict[str, Any], did: dict[str, Any]) -> None:
    """Checks that what was decided was done, on one rank, and there."""
    log = did["log"]
    names = [name for name, _, _ in log]
    trained = [(epoch, step) for name, epoch, step in log if name == "train"]
    if kind in PLACES:
        cancelled = "after_" + kind.lower()
        late = where["event"] in ("after_step", "after_batch")
        assert cancelled in names or late or kind in ("CANCEL_BACKWARD", "CANCEL_STEP", "CANCEL_BATCH"), where
    if kind in ("CANCEL_FIT", "CANCEL_EPOCH", "CANCEL_TRAIN", "signals"):
        last = max(each for each in trained if each[0] == where["epoch"])
        assert last == (where["epoch"], where["step"]), where
    if kind in ("CANCEL_FIT", "signals", "early_stop"):
        assert trained[-1][0] == where["epoch"]
    if kind == "signals":
        assert did["ended"].split()[0] in ("SystemExit", "KeyboardInterrupt")
    if kind == "commands":
        ends = where["verb"] == "stop" or where.get("count", RANKS) != RANKS
        assert bool(did["ended"]) == ends
        assert did["lr"] == [0.5 if where["verb"] == "set" else 0.1]
        assert trained[-1] == ((where["epoch"], where["step"]) if ends else (N_EPOCH - 1, NUM_STEPS - 1))
    if kind == "nan":
        skipped = [(epoch, step) for name, epoch, step in log if name == "after_cancel_step"]
        assert skipped == ([(where["epoch"], where["step"])] if where["skips"] else []), where
        assert trained[-1][0] == (N_EPOCH - 1 if where["skips"] else where["epoch"])
        assert (7.0 in did["weights"]) != where["skips"]  # what was not a number


def check_all(spawn: Any, folder: Path, kinds: list[str], seed: int) -> None:
    ranks = spawn(RANKS, decide, kinds=kinds, seed=seed, folder=str(folder))
    for of_ranks in zip(*ranks, strict=True):
        kind, where, did = of_ranks[0]
        for others in of_ranks[1:]:
            assert others == of_ranks[0], (kind, where)
        check(kind, where, did)


def test_what_one_rank_decides_all_do_at_the_same_step(spawn: Any, tmp_path: Path) -> None:
    check_all(spawn, tmp_path, [*PLACES, *KINDS], seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_ninety_nine_times_and_ten_times_that_without_a_hang(spawn: Any, tmp_path: Path, seed: int) -> None:
    check_all(spawn, tmp_path, [*PLACES, *KINDS] * 9, seed=seed)


FAILS = """
    import sys
    from toy import make_learner
    from dist_ai.callbacks import Callback

    rank, step = int(sys.argv[1]), int(sys.argv[2])

    class Fails(Callback):
        def after_pred(self):
            if self.state.training and (self.learn.collectives.world.rank, self.state.train_step) == (rank, step):
                raise ZeroDivisionError(f"in step {step}")

    make_learner(cbs=Fails()).fit(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "step"), [(0, 0), (1, 2), (2, 4), (1, 5)])
def test_an_exception_on_one_rank_ends_all_with_that_cause(tmp_path: Path, rank: int, step: int) -> None:
    with Lab(tmp_path) as lab:
        lab.script("fails.py", FAILS)
        path = f"{lab.environment['PYTHONPATH']}:{Path(__file__).parents[1]}"
        done = lab.launch("fails.py", "--workers", "3", str(rank), str(step), PYTHONPATH=path)
    assert done.returncode == 1
    assert f"dist-ai: error: rank {rank} of 3 raised ZeroDivisionError: in step {step}\n" in done.stderr
