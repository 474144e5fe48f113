"""Worker processes that make batches ahead of the training."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.data.fetcher import Fetched
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError, DistAIError

__all__ = ["Failure", "Workers", "default_num_workers", "num_cores"]

Task = TypeVar("Task")


def default_num_workers(world: World) -> int:
    """Returns how many processes load for each rank of a machine: its cores dealt out, less one for the training itself."""
    return max(0, min(16, num_cores() // world.local_world_size - 1))


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass
class Failure:
    """An error on its way from a worker to the process that it works for, without the worker's stack around it.

    Attributes:
        cause: the traceback of what the user's code raised, if that is what went wrong. Our own errors say enough.
    """

    kind: type[DistAIError]
    message: str
    cause: str = ""

    @classmethod
    def of(cls, error: DistAIError) -> Failure:
        """Returns an error as what can travel."""
        cause = error.__cause__
        theirs = cause is not None and not isinstance(cause, DistAIError)
        return cls(type(error), str(error), "".join(traceback.format_exception(cause)) if theirs else "")

    def as_error(self) -> DistAIError:
        """Returns the error again; what the user's code raised is in a note."""
        error = self.kind(self.message)
        if self.cause:
            error.add_note(f"raised in a worker process by:\n{self.cause.rstrip()}")
        return error


class _Feed(Generic[Task]):
    """The tasks that are sent to workers, and those `under_way`. Apart from `Workers`, which a loader's going then ends."""

    def __init__(self) -> None:
        self.begin(iter(()))

    def begin(self, tasks: Iterator[Task]) -> None:
        """Sends these from now on."""
        self.tasks = tasks
        self.under_way: deque[Task] = deque()

    def __iter__(self) -> Iterator[Task]:
        for task in self.tasks:
            self.under_way.append(task)
            yield task


class Workers(Generic[Task]):
    """Worker processes that live as long as the loader and are fed tasks: shares, or what else says what is in a batch.

    `ended` is True when one of them was killed; new ones must be made then.

    torch's `DataLoader` runs them: its sampler yields tasks, its data set makes a batch of one by `load`.
    """

    def __init__(self, load: Callable[[Task], Fetched], num_workers: int, *, seed: int, pin_memory: bool) -> None:
        self._feed: _Feed[Task] = _Feed()
        self._num_runs = 0
        self.ended = False
        self._loader = TorchDataLoader(
            _TaskDataset(load),
            batch_size=None,
            sampler=self._feed,  # any iterable of what the data set takes is a sampler
            num_workers=num_workers,
            collate_fn=_as_is,
            persistent_workers=True,
            pin_memory=pin_memory,
            worker_init_fn=_serve_to_the_end,
            # Each epoch draws a seed for the workers: from the global generator, it would change the model's dropout.
            generator=torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF),
        )

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Fetched]]:
        """Yields each task with what came of it, in order.

        Raises:
            ConfigError: another run was begun in the meantime; the workers serve one at a time.
            DataError: a worker was killed.
        """
        self._num_runs += 1
        number = self._num_runs
        self._feed.begin(tasks)
        batches: Iterator[Fetched | Failure] | None = None
        while True:
            if number != self._num_runs:
                raise ConfigError(
                    "another pass over this loader began while this one was under way, and its workers serve one at a time; "
                    "make a second loader, or give num_workers=0"
                )
            try:
                batches = iter(self._loader) if batches is None else batches
                fetched = next(batches)
            except StopIteration:
                if self._feed.under_way:
                    raise DataError(
                        f"the loader workers ended with {len(self._feed.under_way)} batches under way; num_workers=0 shows why"
                    ) from None
                return
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                self.ended = True
                raise DataError(
                    f"a loader process ended before its work was done: {str(error).strip()}. The system ends one when memory "
                    "runs out: use fewer num_workers or a smaller bs; num_workers=0 loads in the training process itself"
                ) from error
            if isinstance(fetched, Failure):
                raise fetched.as_error()
            yield self._feed.under_way.popleft(), fetched


@dataclass
class _TaskDataset(torch.utils.data.Dataset[Any]):
    load: Callable[[Any], Fetched]

    def __getitem__(self, task: Any) -> Fetched | Failure:
        try:
            return self.load(task)
        except DistAIError as error:
            return Failure.of(error)
        except StopIteration as error:  # torch would take it for the end of the epoch
            failure = DataError("the data set raised StopIteration where a batch was asked for; raise an error instead")
            failure.__cause__ = error
            return Failure.of(failure)


def _serve_to_the_end(_: int) -> None:
    """Has a worker obey the training process alone. Who asks all processes of a run to end, as a scheduler does, asks that one
    too, and it needs batches to finish its step and write a checkpoint; a worker ends when it is gone.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS: there workers end at once, as torch has it
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = {signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    threading.Thread(target=_obey, args=(asked, os.getppid()), name="obey", daemon=True).start()


def _obey(asked: set[signal.Signals], training: int) -> None:
    while signal.sigwaitinfo(asked).si_pid != training:
        pass
    os._exit(0)


def _as_is(fetched: Any) -> Any:
    return fetched
