"""What a training step costs on two processes: `Learner.fit` beside hand-written DDP and FSDP, and Accelerate.

```
python benchmarks/distributed.py            # more than eight minutes
python benchmarks/distributed.py --quick    # about a minute
python benchmarks/distributed.py --width 512  # a model whose step is not the loop alone
```

Two gloo processes on this machine, one thread each, by default a tiny model: nearly all of a step is the loop, the exchange of
gradients and what a library adds to them. The contenders take turns in the same pair of processes; rank 0's times of
the training part of an epoch are compared, divided by the number of steps.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from harness import Contender, Report, Result, median_ratio, take_turns, terminal, versions
from loop import BS, LR, NUM_CLASSES, NUM_FEATURES, Clock, Fit, Task
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import DistributedSampler, TensorDataset

Wrap = Callable[[nn.Module], nn.Module]

NUM_RANKS = 2
SHARE = BS // NUM_RANKS

# ------------------------------------------------------------------------------------ hand-written loops


def hand_written(task: Task, model: nn.Module, clock: Clock, wrap: Wrap = DistributedDataParallel) -> Fit:
    """The loop of every tutorial: `DistributedSampler`, `DataLoader`, `DistributedDataParallel`, AdamW."""
    data = TensorDataset(task.x, task.y)
    sampler: DistributedSampler[Any] = DistributedSampler(data)
    loader = TorchDataLoader(data, batch_size=SHARE, sampler=sampler)
    module = wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    epochs = iter(range(1_000_000))

    def fit() -> None:
        sampler.set_epoch(next(epochs))
        clock.start()
        for xb, yb in loader:
            F.cross_entropy(module(xb), yb).backward()
            optimizer.step()
            optimizer.zero_grad()
        clock.stop()

    return fit


def hand_written_fsdp(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The same with `fully_shard`, layer by layer."""

    def wrap(model: nn.Module) -> nn.Module:
        for layer in model:  # type: ignore[attr-defined]  # a Sequential
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        return fully_shard(model)

    return hand_written(task, model, clock, wrap)


def sliced(wrap: Wrap, task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The same without a loader, which leaves the model's wrapper to compare."""
    module = wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    rank = dist.get_rank()

    def fit() -> None:
        clock.start()
        order = torch.randperm(len(task.x))
        for i in range(0, len(order), BS):
            rows = order[i + rank : i + BS : NUM_RANKS]
            F.cross_entropy(module(task.x[rows]), task.y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
        clock.stop()

    return fit


def raw(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """torch's `DistributedDataParallel` with its defaults."""
    return sliced(DistributedDataParallel, task, model, clock)


def raw_with_options(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """torch's `DistributedDataParallel` with the options that our strategy sets."""

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    return sliced(wrap, task, model, clock)


def prepared(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The model as our strategy has Accelerate prepare it."""
    from dist_ai.distributed.environment import current_world
    from dist_ai.distributed.strategies.accelerate import prepare_data_parallel

    return sliced(lambda model: prepare_data_parallel(model, current_world()), task, model, clock)


# ------------------------------------------------------------------------------------ libraries


def ours(
    task: Task, model: nn.Module, clock: Clock, loss: Callable[..., torch.Tensor] = F.cross_entropy, **options: Any
) -> Fit:
    """`Learner.fit` with its defaults: progress bar and recorder on."""
    from dist_ai.callbacks import Callback
    from dist_ai.callbacks.callback import Phase
    from dist_ai.data import DataLoader, DataLoaders, TensorData
    from dist_ai.learner import Learner

    class Began(Callback):
        phase, may_cancel = Phase.PREPARE, False

        def before_train(self) -> None:
            clock.start()

    class Ended(Callback):
        phase, may_cancel = Phase.SAVE, False

        def after_train(self) -> None:
            clock.stop()

    dls = DataLoaders(
        DataLoader(TensorData(task.x, task.y), bs=BS, shuffle=True),
        DataLoader(TensorData(task.x_valid, task.y_valid), bs=BS),
    )
    learn = Learner(dls, model, loss, run_dir=None, cbs=[Began(), Ended()], **options)
    return lambda: learn.fit(1, LR)


def ours_with_its_loss(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The same with the loss that loaders of classes bring, which ignores no target and so is a mean over samples."""
    from dist_ai.losses import CrossEntropyLoss

    return ours(task, model, clock, CrossEntropyLoss())


def ours_with_adamw(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The same with torch's optimizer."""
    return ours(task, model, clock, opt_func=torch.optim.AdamW)


def ours_with_fsdp(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The same with the model shared by the ranks, layer by layer."""
    from dist_ai.distributed.strategies import FSDP

    return ours(task, model, clock, strategy=FSDP(blocks=[nn.Linear]))


def accelerate(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """Accelerate's loop: model, optimizer and loader prepared."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    module, optimizer, loader = accelerator.prepare(
        model,
        torch.optim.AdamW(model.parameters(), lr=LR),
        TorchDataLoader(TensorDataset(task.x, task.y), batch_size=SHARE, shuffle=True),
    )

    def fit() -> None:
        clock.start()
        for xb, yb in loader:
            accelerator.backward(F.cross_entropy(module(xb), yb))
            optimizer.step()
            optimizer.zero_grad()
        clock.stop()

    return fit


# ------------------------------------------------------------------------------------ the benchmark

HAND, HAND_FSDP, RAW, RAW_OPTIONS = "hand-written DDP", "hand-written FSDP", "raw DDP", "raw DDP, our options"
CONTENDERS: dict[str, tuple[Callable[[Task, nn.Module, Clock], Fit], str | None, str]] = {
    HAND: (hand_written, None, "DistributedSampler, DataLoader over TensorDataset, DDP, AdamW; no bar"),
    "dist_ai": (
        ours,
        HAND,
        "its Adam; bar and recorder on; run_dir=None; ranks add up how many targets are not ignored",
    ),
    "dist_ai, its loss": (ours_with_its_loss, HAND, "the same with its CrossEntropyLoss, which ignores none"),
    "dist_ai, torch AdamW": (ours_with_adamw, HAND, "opt_func=torch.optim.AdamW; bar and recorder on; run_dir=None"),
    "Accelerate": (accelerate, HAND, "model, AdamW and loader prepared; no bar"),
    HAND_FSDP: (hand_written_fsdp, None, "the hand-written loop with fully_shard on each layer; no bar"),
    "dist_ai, FSDP": (ours_with_fsdp, HAND_FSDP, "its Adam, strategy=FSDP(blocks=[nn.Linear]); bar and recorder on"),
    RAW: (raw, HAND, "no loader: sliced tensors; DDP with torch's defaults, AdamW"),
    RAW_OPTIONS: (raw_with_options, RAW, "the same with gradient_as_bucket_view"),
    "Accelerate-prepared model": (prepared, RAW_OPTIONS, "the same, wrapped as dist_ai's strategy does it"),
}
# The goal of the loop on many processes.
GOALS = {
    "dist_ai": 1.05,
    "dist_ai, its loss": 1.05,
    "dist_ai, torch AdamW": 1.05,
    "dist_ai, FSDP": 1.05,
    "Accelerate-prepared model": 1.05,
}


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer steps")
    parser.add_argument("--width", type=int, default=64, help="features of the hidden layers")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--rank-writes", type=Path, help=argparse.SUPPRESS)  # this process is a rank
    args = parser.parse_args()
    num_steps, rounds = (200, 5) if args.quick else (500, 15)
    if args.rank_writes:
        run_rank(args.rank_writes, num_steps, rounds, args.width)
        return
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "times.json"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NUM_RANKS)]
        quick = ["--width", str(args.width), *(["--quick"] if args.quick else [])]
        subprocess.run([*launch, __file__, *quick, "--rank-writes", str(answer)], check=True)
        times = json.loads(answer.read_text())
    Report(
        name="distributed",
        about=(
            f"Time per training step on {NUM_RANKS} gloo processes of one thread: MLP 20-{args.width}-{args.width}-5, "
            f"global batch {BS}, {num_steps} steps an epoch, medians of {rounds} interleaved rounds."
        ),
        versions=versions("dist_ai", "torch", "numpy", "rich", "accelerate"),
        results=[result(name, times, num_steps) for name in CONTENDERS],
    ).publish(save=args.save)


def make_model(width: int) -> nn.Module:
    """Returns the model, with the same weights for everybody."""
    torch.manual_seed(0)
    sizes = (NUM_FEATURES, width, width, NUM_CLASSES)
    layers = [each for i in range(3) for each in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def run_rank(answer: Path, num_steps: int, rounds: int, width: int) -> None:
    """What each rank does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    task = Task(num_steps)
    models = {name: make_model(width) for name in CONTENDERS}

    def contender(name: str) -> Contender:
        clock = Clock()
        fit = CONTENDERS[name][0](task, models[name], clock)

        def run() -> dict[str, float]:
            dist.barrier()
            fit()
            return {"wall": clock.wall, "cpu": clock.cpu}

        return run

    with terminal():
        times = take_turns({name: contender(name) for name in CONTENDERS}, rounds=rounds)
    wrong = [name for name, model in models.items() if task.accuracy(model) < 0.8]
    assert not wrong, f"these did not learn, so their times mean nothing: {wrong}"
    if dist.get_rank() == 0:
        answer.write_text(json.dumps(times))


def result(name: str, times: dict[str, dict[str, list[float]]], num_steps: int) -> Result:
    """Returns one contender's line."""
    _, against, how = CONTENDERS[name]
    per_step = 1e6 / num_steps
    note = f"{how}; CPU {statistics.median(times[name]['cpu']) * per_step:.0f}"
    if against:
        note += f" ({median_ratio(times[name]['cpu'], times[against]['cpu']):.3f})"
    return Result(
        what=name,
        value=statistics.median(times[name]["wall"]) * per_step,
        unit="us/step",
        against=against,
        ratio=median_ratio(times[name]["wall"], times[against]["wall"]) if against else None,
        goal=GOALS.get(name),
        note=note,
    )


if __name__ == "__main__":
    main()
