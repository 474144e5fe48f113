"""How long a run takes to begin, and to go on after one of its ranks was killed; by engine, beside plain Ray Train.

```
python benchmarks/recovery.py            # each three times
python benchmarks/recovery.py --quick    # three minutes: each once
```

Two workers of one thread train a tiny model and begin a checkpoint every 20 steps. Timed are

- "start": from the command to the end of the first step;
- "recovery": from the SIGKILL of rank 1 to the end of the next step of rank 0, with the restart of all and the checkpoint read.

"plain Ray Train" is a loop written by hand in a `TorchTrainer`: `prepare_model`, AdamW, `report` with a checkpoint of
`torch.save`, `FailureConfig`. Each starts a Ray cluster of its own, as does the engine "ray".
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import contextlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import Report, Result, median_ratio, versions
from torch import nn

WORKERS, EVERY, PATIENCE_S = 2, 20, 180.0
ENGINES = ("local", "torchrun", "ray")
PLAIN = "plain Ray Train"
STEPS = 1_000_000


# ------------------------------------------------------------------------------------ what is trained


def stamp(folder: str, rank: int) -> None:
    """Writes down that this process has ended a step."""
    with Path(folder, f"rank{rank}").open("a") as file:
        file.write(f"{time.time()} {os.getpid()}\n")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns inputs and classes."""
    x = torch.randn(6400, 20, generator=torch.Generator().manual_seed(0))
    return x, x[:, :5].argmax(1)


def make_model() -> nn.Module:
    """Returns a tiny model."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))


def train(folder: str) -> None:
    """A user's program."""
    from dist_ai.callbacks import on
    from dist_ai.data import DataLoader, DataLoaders, TensorData
    from dist_ai.distributed import join
    from dist_ai.learner import Learner
    from dist_ai.losses import CrossEntropyLoss

    rank = join().world.rank
    dls = DataLoaders(DataLoader(TensorData(*data()), 64, shuffle=True), None)
    learn = Learner(dls, make_model(), CrossEntropyLoss(), lr=1e-3, checkpoint_every_steps=EVERY, progress=False)
    learn.fit(steps=STEPS, cbs=on("after_batch", lambda learn: stamp(folder, rank)))


def train_by_hand(config: dict[str, str]) -> None:
    """The loop of a user of Ray Train."""
    import ray.train
    from ray.train.torch import prepare_model

    rank = ray.train.get_context().get_world_rank()
    model = prepare_model(make_model())
    opt, step = torch.optim.AdamW(model.parameters(), 1e-3), 0
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as place:
            state = torch.load(Path(place, "state.pt"), weights_only=True)
        model.module.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        step = state["step"]
    x, y = data()
    while step < STEPS:
        here = torch.arange(step * 64 + rank * 32, step * 64 + rank * 32 + 32) % len(x)
        nn.functional.cross_entropy(model(x[here]), y[here]).backward()
        opt.step()
        opt.zero_grad()
        step += 1
        stamp(config["folder"], rank)
        if step % EVERY == 0:
            with tempfile.TemporaryDirectory() as place:
                kept = None
                if rank == 0:
                    state = {"model": model.module.state_dict(), "opt": opt.state_dict(), "step": step}
                    torch.save(state, Path(place, "state.pt"))
                    kept = ray.train.Checkpoint.from_directory(place)
                ray.train.report({"step": step}, checkpoint=kept)


def plain_ray_train(folder: str) -> None:
    """A program of a user of Ray Train."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    kept = RunConfig(
        name="run", storage_path=folder, failure_config=FailureConfig(max_failures=3),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
    )  # fmt: skip
    scaling = ScalingConfig(num_workers=WORKERS)
    TorchTrainer(
        train_by_hand, train_loop_config={"folder": folder}, scaling_config=scaling, run_config=kept
    ).fit()  # fmt: skip


# ------------------------------------------------------------------------------------ what is timed


def command(name: str, folder: Path) -> list[str]:
    """Returns how the program is started."""
    program = [__file__, "--trains", str(folder)]
    match name:
        case "plain Ray Train":
            return [*program, "--plain"]
        case "torchrun":
            run = ["--standalone", "--nproc-per-node", str(WORKERS), "--max-restarts", "3"]
            return ["-m", "torch.distributed.run", *run, *program]
    options = ["--engine", name, "--workers", str(WORKERS), "--max-restarts", "3", "--run-dir", str(folder / "run")]
    return ["-m", "dist_ai.cli.main", "launch", program[0], *options, *program[1:]]


def begun_and_killed(name: str) -> dict[str, float]:
    """Returns the seconds to the first step, and from a kill to the next one."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        environment = {
            **os.environ, "DIST_AI_RUN_DIR": str(folder / "run"), "RAY_ADDRESS": "local", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        began = time.time()
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command(name, folder)], env=environment, stdout=log, stderr=log, start_new_session=True,
                cwd=folder,
            )  # fmt: skip
        try:
            first = awaited(folder, after=began, process=process)
            awaited(folder, after=first + 3.0, process=process)  # checkpoints are there
            pid = int((folder / "rank1").read_text().split()[-1])
            killed = time.time()
            os.kill(pid, signal.SIGKILL)
            # Rank 0 may end the step that it is in: what counts are the steps of the process that comes in its place.
            again = awaited(folder, after=killed, process=process, not_by=(folder / "rank0").read_text().split()[-1])
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return {"start": first - began, "recovery": again - killed}


def awaited(folder: Path, *, after: float, process: Any, not_by: str = "") -> float:
    """Returns when rank 0 first ended a step after a time; of another process than `not_by`, if that is given."""
    deadline = time.time() + PATIENCE_S
    while time.time() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the run has ended:\n{(folder / 'log').read_text()[-3000:]}")
        if (file := folder / "rank0").exists():
            stamps = [line.split() for line in file.read_text().splitlines() if line.count(" ") == 1]
            found = [float(when) for when, pid in stamps if float(when) > after and pid != not_by]
            if found:
                return found[0]
        time.sleep(0.05)
    raise RuntimeError(f"no step within {PATIENCE_S:g} s:\n{(folder / 'log').read_text()[-3000:]}")


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="each once")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--trains", help=argparse.SUPPRESS)  # this process is a rank, or starts some by Ray Train
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trains:
        (plain_ray_train if args.plain else train)(args.trains)
        return
    names, rounds = [*ENGINES, PLAIN], 1 if args.quick else 3
    times: dict[str, dict[str, list[float]]] = {name: {"start": [], "recovery": []} for name in names}
    for _ in range(rounds):
        for name in names:
            for what, seconds in begun_and_killed(name).items():
                times[name][what].append(seconds)
    Report(
        name="recovery",
        about=f"Seconds, {WORKERS} workers, medians of {rounds} round(s).",
        versions=versions("dist_ai", "torch", "ray"),
        results=[line(name, what, times) for what in ("start", "recovery") for name in names],
    ).publish(save=args.save)


def line(name: str, what: str, times: dict[str, dict[str, list[float]]]) -> Result:
    """Returns an engine's seconds beside those of plain Ray Train."""
    here, there = times[name][what], times[PLAIN][what]
    compared: dict[str, Any] = {}
    if name != PLAIN:
        compared = {"against": f"{what}: {PLAIN}", "ratio": median_ratio(here, there)}
    return Result(what=f"{what}: {name}", value=statistics.median(here), unit="s", **compared)


if __name__ == "__main__":
    main()
