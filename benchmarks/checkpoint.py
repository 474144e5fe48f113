"""What a checkpoint costs the training, and how fast it is written and read, beside `torch.save` and torch's DCP.

```
python benchmarks/checkpoint.py            # about two minutes
python benchmarks/checkpoint.py --quick    # half a minute
```

One process, one thread of computation, a model with the two moments of Adam, in a folder of this machine. Every writer
flushes to the disk: what is only in memory is no checkpoint. Reading comes from the page cache. dist_ai's numbers
include checksums of every byte, written and read; the others have none.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from harness import Report, Result, median_ratio, take_turns, versions

from dist_ai.checkpoint import Checkpoint, Run, Saver
from dist_ai.distributed import join

NUM_LAYERS = 12


def make_state(num_mb: int) -> dict[str, dict[str, torch.Tensor]]:
    """Returns parameters and Adam's moments, `num_mb` MB in all, in layers of a large and a small tensor."""
    width = int((num_mb * 1e6 / 4 / 3 / NUM_LAYERS) ** 0.5)
    shapes = {f"layers.{i}.{name}": shape for i in range(NUM_LAYERS) for name, shape in _layer(width).items()}
    torch.manual_seed(0)
    model = {name: torch.randn(shape) for name, shape in shapes.items()}
    moments = {f"{moment}.{name}": value.square() for moment in ("avg", "sqr_avg") for name, value in model.items()}
    return {"model": model, "optimizer": moments}


def _layer(width: int) -> dict[str, tuple[int, ...]]:
    return {"weight": (width, width), "bias": (width,)}


def flat(state: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {f"{group}/{name}": tensor for group, tensors in state.items() for name, tensor in tensors.items()}


def to_disk(folder: Path) -> None:
    """Waits until the files of a folder are on the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


class Contenders:
    """Each writes and reads the same state in a folder of its own."""

    def __init__(self, state: dict[str, dict[str, torch.Tensor]], folder: Path, steps: int) -> None:
        self.state = state
        self.folder = folder
        self.run = Run(folder / "dist_ai")
        self.saver = Saver(self.run, join())
        self.count = 0
        self.step = _step_of_training(steps)

    def dist_ai(self) -> dict[str, float]:
        """An asynchronous save as the loop sees it, and as it is when one waits for it."""
        self.count += 1
        name = self.run.name(fit=0, epoch=0, step=self.count, finished=False)
        began = time.perf_counter()
        self.saver.save(name, self.state, {"metrics": {}})
        stalled = time.perf_counter()
        self.saver.wait()
        written = time.perf_counter()
        found = Checkpoint(self.run.storage, name)
        got = {group: found.read(group) for group in self.state}
        done = time.perf_counter()
        _check(flat(got), flat(self.state))
        return {"stall": stalled - began, "write": written - began, "read": done - written}

    def torch_save(self) -> dict[str, float]:
        """`torch.save` of the same, flushed to the disk; `torch.load` with weights_only, as it is by default."""
        folder = self._next("torch")
        began = time.perf_counter()
        torch.save(flat(self.state), folder / "state.pt")
        to_disk(folder)
        self._keep_two("torch")
        written = time.perf_counter()
        got = torch.load(folder / "state.pt")
        done = time.perf_counter()
        _check(got, flat(self.state))
        return {"write": written - began, "read": done - written}

    def dcp(self) -> dict[str, float]:
        """`torch.distributed.checkpoint`, which flushes to the disk by itself."""
        folder = self._next("dcp")
        began = time.perf_counter()
        dcp.save(flat(self.state), checkpoint_id=folder, no_dist=True)
        self._keep_two("dcp")
        written = time.perf_counter()
        got = {name: torch.empty_like(tensor) for name, tensor in flat(self.state).items()}
        allocated = time.perf_counter()
        dcp.load(got, checkpoint_id=folder, no_dist=True)
        done = time.perf_counter()
        _check(got, flat(self.state))
        return {"write": written - began, "read": done - allocated}

    def _next(self, name: str) -> Path:
        """Returns a new folder: as in a run, the two before it stay until it is written."""
        self.count += 1
        folder = self.folder / name / f"{self.count:04d}"
        folder.mkdir(parents=True)
        return folder

    def _keep_two(self, name: str) -> None:
        for old in sorted((self.folder / name).iterdir())[:-2]:
            shutil.rmtree(old)

    def loop_alone(self) -> dict[str, float]:
        """A training that writes nothing."""
        began = time.perf_counter()
        self.step()
        return {"loop": time.perf_counter() - began}

    def loop_with_a_save(self) -> dict[str, float]:
        """The same training with a save at its beginning, which is done before its end."""
        self.count += 1
        name = self.run.name(fit=0, epoch=0, step=self.count, finished=False)
        began = time.perf_counter()
        self.saver.save(name, self.state, {"metrics": {}})
        self.step()
        self.saver.wait()
        return {"loop": time.perf_counter() - began}


def _step_of_training(steps: int) -> Callable[[], None]:
    a, b = torch.randn(512, 512), torch.randn(512, 512)

    def run() -> None:
        for _ in range(steps):
            torch.mm(a, b)

    return run


def _check(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    if got.keys() != expected.keys() or not all(torch.equal(got[name], tensor) for name, tensor in expected.items()):
        raise SystemExit("what was read is not what was written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a smaller state")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    options = parser.parse_args()
    num_mb, rounds = (100, 3) if options.quick else (400, 7)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        state = make_state(num_mb)
        size = sum(tensor.nbytes for tensor in flat(state).values())
        steps = num_mb * 2  # so that the training lasts longer than the writing
        each = Contenders(state, Path(folder), steps)
        measured = take_turns(
            {
                "dist_ai": each.dist_ai,
                "torch.save": each.torch_save,
                "DCP": each.dcp,
                "loop": each.loop_alone,
                "loop with a save": each.loop_with_a_save,
            },
            rounds=rounds,
        )
    ours = measured["dist_ai"]
    results = [
        Result(
            what="synchronous save",
            value=1e3 * statistics.median(ours["write"]),
            unit="ms",
            note=f"{size / 1e6:.0f} MB",
        ),
        Result(
            what="asynchronous save, stall of the loop",
            value=1e3 * statistics.median(ours["stall"]),
            unit="ms",
            against="synchronous save",
            ratio=median_ratio(ours["stall"], ours["write"]),
            goal=0.1,
            note="the copy to host memory that is taken already",
        ),
    ]
    extra = [
        with_save - alone
        for with_save, alone in zip(measured["loop with a save"]["loop"], measured["loop"]["loop"], strict=True)
    ]
    results.append(
        Result(
            what="asynchronous save, all that the loop loses",
            value=1e3 * statistics.median(extra),
            unit="ms",
            against="synchronous save",
            ratio=median_ratio(extra, ours["write"]),
            note="with what the writing thread takes from the computation, on so few cores",
        )
    )
    for kind, doing in (("write", "written"), ("read", "read")):
        for name in ("dist_ai", "torch.save", "DCP"):
            seconds = measured[name][kind]
            results.append(
                Result(
                    what=f"{doing} by {name}",
                    value=size / 1e6 / statistics.median(seconds),
                    unit="MB/s",
                    against=None if name == "torch.save" else "torch.save's time",
                    ratio=None if name == "torch.save" else median_ratio(seconds, measured["torch.save"][kind]),
                )
            )
    Report(
        name="checkpoint",
        about="What a checkpoint costs the training, and how fast it is written and read.",
        versions=versions("torch", "safetensors"),
        results=results,
    ).publish(save=options.save)


if __name__ == "__main__":
    main()
