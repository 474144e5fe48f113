"""Runs functions on ranks: real gloo processes on this machine, forked from a server that has torch loaded."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_ai.distributed.environment import DEVICE

TIMEOUT_S = 120.0


@dataclass
class _Task:
    file: str
    function: str
    kwargs: dict[str, Any]
    on_cpu: bool


def _rank_main(rank: int, world_size: int, folder: str, task: _Task, results: Any) -> None:
    """Runs one rank's part of a task and sends (rank, result, error)."""
    import torch

    from dist_ai.distributed import leave
    from dist_ai.distributed.environment import LaunchSettings, worker_environment

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # what a launched rank has; it would inherit "forkserver"
    # Ranks cannot share a GPU.
    few = 0 < torch.cuda.device_count() < world_size
    settings = LaunchSettings(timeout_s=60.0, device="cpu" if few or task.on_cpu else None)
    os.environ.update(
        worker_environment(settings, rank=rank, world_size=world_size, store=f"file://{folder}/store", inherited={})
    )
    os.environ.update(GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    try:
        result, error = _load(task)(**task.kwargs), ""
    except BaseException:
        result, error = None, traceback.format_exc()
    leave()
    results.send((rank, result, error))
    results.close()
    sys.stdout.flush()
    os._exit(0)  # torch sometimes aborts at interpreter exit after a correct run


def _load(task: _Task) -> Callable[..., Any]:
    name = "ranks_" + Path(task.file).stem
    spec = importlib.util.spec_from_file_location(name, task.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return getattr(module, task.function)


class RankError(AssertionError):
    """A rank raised, died or did not answer in time."""


def run_on_ranks(world_size: int, file: str, function: str, kwargs: dict[str, Any]) -> list[Any]:
    """Returns what `function` of the module `file` returned on each of `world_size` processes, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "torch._dynamo", "accelerate", "dist_ai.learner"])
    with tempfile.TemporaryDirectory() as folder:
        task = _Task(file, function, kwargs, on_cpu=os.environ.get(DEVICE) == "cpu")
        pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
        processes = [
            context.Process(target=_rank_main, args=(rank, world_size, folder, task, pipes[rank][1]))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for _, sending in pipes:
            sending.close()  # so that a dead rank reads as the end of its pipe
        try:
            got = [_receive(rank, receiving) for rank, (receiving, _) in enumerate(pipes)]
        finally:
            for process in processes:
                process.join(timeout=10)
                if process.is_alive():
                    process.kill()
                    process.join()
    if errors := [f"rank {rank}:\n{error}" for rank, _, error in got if error]:
        raise RankError("\n".join(errors))
    return [result for _, result, _ in got]


def _receive(rank: int, pipe: Any) -> tuple[int, Any, str]:
    if not pipe.poll(TIMEOUT_S):
        return rank, None, f"no answer within {TIMEOUT_S:.0f} s"
    try:
        return pipe.recv()
    except EOFError:
        return rank, None, "the process ended without an answer"
