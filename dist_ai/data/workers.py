"""Worker processes that make batches ahead of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.data.fetcher import Fetched, Fetcher
from dist_ai.data.plan import Share
from dist_ai.errors import ConfigError, DataError, DistAIError

__all__ = ["Workers"]


@dataclass
class _Failure:
    """An error on its way from a worker to the training process, without the worker's stack around it."""

    kind: type[DistAIError]
    message: str


class _Feed:
    """The shares that are sent to workers, and those `under_way`. Apart from `Workers`, which a loader's going then ends."""

    def __init__(self) -> None:
        self.begin(iter(()))

    def begin(self, shares: Iterator[Share]) -> None:
        """Sends these from now on."""
        self.shares = shares
        self.under_way: deque[Share] = deque()

    def __iter__(self) -> Iterator[Share]:
        for share in self.shares:
            self.under_way.append(share)
            yield share


class Workers:
    """Worker processes that live as long as the loader and are fed shares.

    `ended` is True when one of them was killed; new ones must be made then.

    torch's `DataLoader` runs them: its sampler yields shares, its data set makes a batch of one.
    """

    def __init__(self, fetcher: Fetcher, num_workers: int, *, pin_memory: bool) -> None:
        self._feed = _Feed()
        self._num_runs = 0
        self.ended = False
        self._loader = TorchDataLoader(
            _ShareDataset(fetcher),
            batch_size=None,
            sampler=self._feed,  # any iterable of what the data set takes is a sampler
            num_workers=num_workers,
            collate_fn=_as_is,
            persistent_workers=True,
            pin_memory=pin_memory,
            # Each epoch draws a seed for the workers: from the global generator, it would change the model's dropout.
            generator=torch.Generator().manual_seed(fetcher.seed & 0x7FFF_FFFF_FFFF_FFFF),
        )

    def run(self, shares: Iterator[Share]) -> Iterator[tuple[Share, Fetched]]:
        """Yields each share with what came of it, in order.

        Raises:
            ConfigError: another run was begun in the meantime; the workers serve one at a time.
            DataError: a worker was killed.
        """
        self._num_runs += 1
        number = self._num_runs
        self._feed.begin(shares)
        batches: Iterator[Fetched | _Failure] | None = None
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
                return
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                self.ended = True
                raise DataError(
                    f"a loader process ended before its work was done: {str(error).strip()}. The system ends one when memory "
                    "runs out: use fewer num_workers or a smaller bs; num_workers=0 loads in the training process itself"
                ) from error
            if isinstance(fetched, _Failure):
                raise fetched.kind(fetched.message)
            yield self._feed.under_way.popleft(), fetched


@dataclass
class _ShareDataset(torch.utils.data.Dataset[Any]):
    fetcher: Fetcher

    def __getitem__(self, share: Share) -> Fetched | _Failure:
        try:
            return self.fetcher.load(share)
        except DistAIError as error:
            return _Failure(type(error), str(error))


def _as_is(fetched: Any) -> Any:
    return fetched
