"""What it costs a step that a run can be watched and told what to do.

```
python benchmarks/coordination.py [--quick] [--save]
```

The parts are timed by themselves, in CPU time: what `RemoteControl` does in a step, and what its thread does in a second, of
which a step of 10 ms has its share. The mailbox is files in a temporary folder, as in a run directory. Beside it, the same
Learner with and without it, in turns: one process, one thread, a tiny model. What ranks pay for an exchange is in
`benchmarks/distributed.py`.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Report, Result, take_turns, terminal, versions
from loop import BS, LR, Clock, Task, make_model
from torch.nn import functional as F

from dist_ai.callbacks import Callback, RemoteControl
from dist_ai.callbacks.callback import Phase
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.distributed.mailbox import mailbox_at
from dist_ai.learner import Learner

STEP_US = 10_000.0
GOAL = 0.01
POSTS_A_S, LISTENS_A_S = 2.0, 5.0
WITHOUT, WITH = "step without RemoteControl", "step with RemoteControl"


def contender(task: Task, cbs: list[Callback]) -> Callable[[], dict[str, float]]:
    """Returns what trains an epoch and answers with its seconds."""
    clock = Clock()

    class Began(Callback):
        phase, may_cancel = Phase.PREPARE, False

        def before_train(self) -> None:
            clock.start()

    class Ended(Callback):
        phase, may_cancel = Phase.SAVE, False

        def after_train(self) -> None:
            clock.stop()

    dls = DataLoaders(DataLoader(TensorData(task.x, task.y), bs=BS, shuffle=True, num_workers=0))
    learn = Learner(dls, make_model(), F.cross_entropy, run_dir=None, cbs=[Began(), *cbs, Ended()])

    def run() -> dict[str, float]:
        learn.fit(1, LR)
        return {"wall": clock.wall, "cpu": clock.cpu}

    return run


class Parts(Callback):
    """Times what a `RemoteControl` does, in the middle of a fit; in microseconds."""

    may_cancel = False

    def __init__(self, control: RemoteControl) -> None:
        self.control = control
        self.us: dict[str, float] = {}

    def after_batch(self) -> None:
        """Times each part, once."""
        reporter = self.control._reporter
        if self.us or reporter is None or not self.state.training or self.state.step != 2:
            return
        mailbox, control = self.control.mailbox, self.control
        self.us = {
            "step": cpu_us(lambda: (control.before_batch(), control.after_loss(), control.after_batch()), 10_000),
            "post": cpu_us(lambda: mailbox.post(control._status()), 300),
            "listen": cpu_us(lambda: mailbox.commands(after=0), 300),
        }


def cpu_us(action: Callable[[], object], number: int) -> float:
    """Returns microseconds of this thread's CPU time that `action` takes, the median of five turns."""
    turns = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(number):
            action()
        turns.append((time.thread_time() - began) / number * 1e6)
    return statistics.median(turns)


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer steps")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    num_steps, rounds = (500, 7) if args.quick else (2000, 21)
    torch.set_num_threads(1)
    task = Task(num_steps)
    with tempfile.TemporaryDirectory() as folder, terminal():
        control = RemoteControl(mailbox_at(Path(folder)))
        parts = Parts(control)
        contender(task, [control, parts])()
        times = take_turns(
            {WITHOUT: contender(task, []), WITH: contender(task, [RemoteControl(mailbox_at(Path(folder)))])},
            rounds=rounds,
        )
    us, part = {name: statistics.median(each["cpu"]) * 1e6 / num_steps for name, each in times.items()}, parts.us
    total = part["step"] + (POSTS_A_S * part["post"] + LISTENS_A_S * part["listen"]) * STEP_US / 1e6
    Report(
        name="coordination",
        about="CPU time of what lets a run be watched and told what to do; one process of one thread.",
        versions=versions("dist_ai", "torch"),
        results=[
            Result(what="in a step", value=part["step"], unit="us", note="three events; two beats of the pulse"),
            Result(what="a post", value=part["post"], unit="us", note=f"{POSTS_A_S:g} a second, in a thread beside"),
            Result(
                what="a look for commands", value=part["listen"], unit="us", note=f"{LISTENS_A_S:g} a second, there too"
            ),
            Result(
                what="all, for a step of 10 ms",
                value=total,
                unit="us/step",
                against="a step of 10 ms",
                ratio=total / STEP_US,
                goal=GOAL,
                note="the step's, and its share of the thread's",
            ),
            Result(what=WITHOUT, value=us[WITHOUT], unit="us/step", note="tiny MLP; run_dir=None; bar and recorder on"),
            Result(what=WITH, value=us[WITH], unit="us/step", note=f"the same; {num_steps} steps, {rounds} rounds"),
        ],
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
