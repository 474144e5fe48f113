"""What a training step costs: `Learner.fit` beside the plain PyTorch loop and its peers, on one process.

```
python benchmarks/loop.py            # about four minutes
python benchmarks/loop.py --quick    # about a minute
```

A model so small that the loop around it is most of the time, and one thread. Everybody trains the same model on the
same data, in turns, each in a process of its own; progress bars draw on a terminal that drops what it is sent. Timed is
the training part of an epoch, from before its first batch is fetched until after its last step (and, of Learners and
Trainers, what they do at the end of it), divided by the number of steps. Set-up and validation are outside; "whole
call" is with them. "CPU" is the process's CPU time for the same part: on a machine with other work it is steadier.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from harness import INSTALL, Contender, Report, Result, interleave, median_ratio, versions
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

NUM_FEATURES, NUM_CLASSES, BS, LR = 20, 5, 64, 1e-3

Fit = Callable[[], None]


class Clock:
    """Times the training part of a fit: wall time, and CPU time of this process with all its threads; in seconds."""

    def start(self) -> None:
        """Right before the first batch is fetched."""
        self._began = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """After the last step."""
        self.wall, self.cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]


def accuracy(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (pred.argmax(1) == target).float().mean()


def make_model() -> nn.Module:
    """Returns the model, with the same weights for everybody."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(NUM_FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES)
    )


@dataclass
class Task:
    """The data: noise, and which of five random directions it points to most."""

    num_steps: int

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(NUM_FEATURES, NUM_CLASSES, generator=generator)
        self.x, self.x_valid = (
            torch.randn(n, NUM_FEATURES, generator=generator) for n in (self.num_steps * BS, 4 * BS)
        )
        self.y, self.y_valid = ((x @ directions).argmax(1) for x in (self.x, self.x_valid))

    def accuracy(self, model: nn.Module) -> float:
        """Returns the share of validation samples that the model has right."""
        with torch.no_grad():
            return accuracy(model(self.x_valid), self.y_valid).item()

    def torch_loaders(self) -> tuple[TorchDataLoader[Any], TorchDataLoader[Any]]:
        """Returns what every torch tutorial has."""
        return (
            TorchDataLoader(TensorDataset(self.x, self.y), batch_size=BS, shuffle=True),
            TorchDataLoader(TensorDataset(self.x_valid, self.y_valid), batch_size=BS),
        )


# ------------------------------------------------------------------------------------ hand-written loops


def plain(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The plain PyTorch loop: `DataLoader` over `TensorDataset`, AdamW."""
    train, valid = task.torch_loaders()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)

    def fit() -> None:
        model.train()
        clock.start()
        for xb, yb in train:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        clock.stop()
        hand_validate(model, valid)

    return fit


def plain_with_bar(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The plain loop with what a Learner shows and keeps: a bar, and the loss of each step."""
    from tqdm import tqdm

    train, valid = task.torch_loaders()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)

    def fit() -> None:
        losses = []
        model.train()
        clock.start()
        for xb, yb in (bar := tqdm(train)):
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.set_postfix(loss=losses[-1], refresh=False)
        clock.stop()
        hand_validate(model, valid)

    return fit


def slices(task: Task, model: nn.Module, clock: Clock, *, fused: bool | None = None) -> Fit:
    """The loop of who knows that the data fit into memory: no loader, rows of the tensors themselves."""
    _, valid = task.torch_loaders()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=fused)

    def fit() -> None:
        model.train()
        clock.start()
        order = torch.randperm(len(task.x))
        for i in range(0, len(order), BS):
            rows = order[i : i + BS]
            xb, yb = task.x[rows], task.y[rows]
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        clock.stop()
        hand_validate(model, valid)

    return fit


def hand_validate(model: nn.Module, valid: TorchDataLoader[Any]) -> None:
    model.eval()
    with torch.no_grad():
        for xb, yb in valid:
            pred = model(xb)
            F.cross_entropy(pred, yb)
            accuracy(pred, yb)


# ------------------------------------------------------------------------------------ dist_ai


def ours(task: Task, model: nn.Module, clock: Clock, **options: Any) -> Fit:
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
    learn = Learner(dls, model, F.cross_entropy, metrics=accuracy, run_dir=None, cbs=[Began(), Ended()], **options)

    def fit() -> None:
        learn.fit(1, LR)

    return fit


def ours_with_adamw(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """The same with torch's optimizer, as in the plain loop."""
    return ours(task, model, clock, opt_func=torch.optim.AdamW)


# ------------------------------------------------------------------------------------ peers


def fastai(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """fastai's Learner with its defaults: its Adam, its loader, progress bar and recorder."""
    import fastai.basics as fa
    from fastai.callback.progress import ProgressCallback

    assert ProgressCallback in fa.defaults.callbacks

    class Began(fa.Callback):
        order = -100

        def before_train(self) -> None:
            clock.start()

    class Ended(fa.Callback):
        order = 100

        def after_train(self) -> None:
            clock.stop()

    dls = fa.DataLoaders(
        fa.DataLoader(TensorDataset(task.x, task.y), bs=BS, shuffle=True),
        fa.DataLoader(TensorDataset(task.x_valid, task.y_valid), bs=BS),
    )
    learn = fa.Learner(dls, model, loss_func=F.cross_entropy, metrics=fa.accuracy, cbs=[Began(), Ended()])

    def fit() -> None:
        learn.fit(1, LR)

    return fit


def lightning(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """Lightning's Trainer: progress bar that shows the loss; logger and checkpoints off."""
    import lightning as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Timed(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            clock.start()

        def on_validation_start(self, *_: Any) -> None:  # Lightning validates before it ends the training epoch
            clock.stop()

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            xb, yb = batch
            loss = F.cross_entropy(self.model(xb), yb)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            xb, yb = batch
            pred = self.model(xb)
            self.log_dict({"valid_loss": F.cross_entropy(pred, yb), "accuracy": accuracy(pred, yb)})

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LR)

    train, valid = task.torch_loaders()
    module = Module()

    def fit() -> None:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[Timed()],
        )
        trainer.fit(module, train, valid)

    return fit


def accelerate(task: Task, model: nn.Module, clock: Clock) -> Fit:
    """Accelerate's loop: model, optimizer and loaders prepared; no bar, nothing recorded."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    prepared, optimizer, train, valid = accelerator.prepare(model, optimizer, *task.torch_loaders())

    def fit() -> None:
        prepared.train()
        clock.start()
        for xb, yb in train:
            loss = F.cross_entropy(prepared(xb), yb)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        clock.stop()
        hand_validate(prepared, valid)

    return fit


# ------------------------------------------------------------------------------------ the benchmark

PLAIN = "plain PyTorch loop"
CONTENDERS: dict[str, tuple[Callable[[Task, nn.Module, Clock], Fit], str]] = {
    PLAIN: (plain, "torch DataLoader over TensorDataset, AdamW; no bar, nothing recorded"),
    "plain loop, sliced tensors": (slices, "no loader; AdamW; no bar, nothing recorded"),
    "plain loop, sliced, fused": (
        partial(slices, fused=True),
        "no loader; AdamW(fused=True); no bar, nothing recorded; the fastest known here",
    ),
    "plain loop with tqdm": (plain_with_bar, "as plain, with a bar and loss.item() at each step"),
    "dist_ai": (ours, "its Adam; bar and recorder on; run_dir=None"),
    "dist_ai, torch AdamW": (ours_with_adamw, "opt_func=torch.optim.AdamW; bar and recorder on; run_dir=None"),
    "fastai": (fastai, "its Adam; bar and recorder on"),
    "Lightning": (lightning, "AdamW; bar on, loss logged to it; logger and checkpoints off"),
    "Accelerate": (accelerate, "model, AdamW and loaders prepared; no bar, nothing recorded"),
}
GOALS = {"dist_ai": 1.05, "dist_ai, torch AdamW": 1.05}


def contender(name: str, num_steps: int) -> Contender:
    """Returns what a contender's process runs: an epoch, timed, and a look at what the model has learned."""
    torch.set_num_threads(1)
    task, model, clock = Task(num_steps), make_model(), Clock()
    fit = CONTENDERS[name][0](task, model, clock)

    def run() -> dict[str, float]:
        began = time.perf_counter()
        fit()
        call = time.perf_counter() - began
        return {"wall": clock.wall, "cpu": clock.cpu, "call": call, "accuracy": task.accuracy(model)}

    return run


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer steps")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    num_steps, rounds = (200, 7) if args.quick else (500, 25)
    times = interleave(partial(contender, num_steps=num_steps), list(CONTENDERS), rounds=rounds)
    wrong = [name for name, each in times.items() if each["accuracy"][-1] < 0.8]
    assert not wrong, f"these did not learn, so their times mean nothing: {wrong}"
    Report(
        name="loop",
        about=(
            f"Time per training step on one process and one thread: MLP {NUM_FEATURES}-64-64-{NUM_CLASSES}, batch {BS}, "
            f"{num_steps} steps an epoch, medians of {rounds} interleaved rounds."
        ),
        versions=versions("dist_ai", "torch", "numpy", "rich", "fastai", "lightning", "accelerate", "tqdm"),
        results=[result(name, how, times.get(name), times[PLAIN], num_steps) for name, (_, how) in CONTENDERS.items()],
    ).publish(save=args.save)


def result(name: str, how: str, times: Any, plain_times: Any, num_steps: int) -> Result:
    """Returns one contender's line."""
    if times is None:
        return Result(what=name, value=None, unit="us/step", note=INSTALL)
    wall, plain_wall = times["wall"], plain_times["wall"]
    per_step = 1e6 / num_steps
    cpu, call = (statistics.median(times[key]) * per_step for key in ("cpu", "call"))
    note = f"{how}; CPU {cpu:.0f}"
    if name != PLAIN:
        note += f" ({median_ratio(times['cpu'], plain_times['cpu']):.3f} of plain's)"
    return Result(
        what=name,
        value=statistics.median(wall) * per_step,
        unit="us/step",
        against=None if name == PLAIN else PLAIN,
        ratio=None if name == PLAIN else median_ratio(wall, plain_wall),
        goal=GOALS.get(name),
        note=f"{note}, whole call {call:.0f}",
    )


if __name__ == "__main__":
    main()
