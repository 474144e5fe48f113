"""What it costs a step that a run can be watched and told what to do.

```
python benchmarks/coordination.py [--quick] [--save]
```

The same Learner with and without its `RemoteControl`, in turns: one process, one thread, a tiny model. The mailbox is
files in a temporary folder, as in a run directory. The difference, in CPU time and so with the reporter's thread, is
compared with a step of 10 ms. What ranks pay for an exchange is in `benchmarks/distributed.py`.
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
from dist_ai.distributed.pulse import Pulse, Stage
from dist_ai.learner import Learner

STEP_US = 10_000.0
GOAL = 0.01
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


def beat_us() -> float:
    """Returns microseconds that a rank takes to write down where it is, for a launcher of its machine."""
    with tempfile.TemporaryDirectory() as folder:
        pulse, number = Pulse(Path(folder)), 100_000
        began = time.perf_counter()
        for step in range(number):
            pulse.beat(1, 0, step, Stage.FORWARD)
        return (time.perf_counter() - began) / number * 1e6


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
        controlled = [RemoteControl(mailbox_at(Path(folder)))]
        times = take_turns({WITHOUT: contender(task, []), WITH: contender(task, controlled)}, rounds=rounds)
    us = {name: statistics.median(each["cpu"]) * 1e6 / num_steps for name, each in times.items()}
    differences = [(w - wo) * 1e6 / num_steps for w, wo in zip(times[WITH]["cpu"], times[WITHOUT]["cpu"], strict=True)]
    extra = statistics.median(differences)
    Report(
        name="coordination",
        about=f"CPU time per training step, one process of one thread, {num_steps} steps, medians of {rounds} rounds.",
        versions=versions("dist_ai", "torch"),
        results=[
            Result(what=WITHOUT, value=us[WITHOUT], unit="us/step", note="tiny MLP; run_dir=None; bar and recorder on"),
            Result(what=WITH, value=us[WITH], unit="us/step", note="the same; mailbox of files, a post twice a second"),
            Result(
                what="watched and told what to do",
                value=extra,
                unit="us/step",
                against="a step of 10 ms",
                ratio=extra / STEP_US,
                goal=GOAL,
                note="the difference",
            ),
            Result(
                what="a beat of the pulse", value=beat_us(), unit="us", note="four a step; a file mapped into memory"
            ),
        ],
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
