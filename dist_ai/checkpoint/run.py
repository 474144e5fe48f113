"""A run's directory: who trains in it, its checkpoints, which of them stay, and which to go on from.

```
runs/train/
  log.jsonl  metrics.csv   the logs
  results.json             what else the program found out (a learning rate)
  tensorboard/             events
  control/                 statuses of the ranks, commands and answers (`dist-ai watch`, `dist-ai control`)
  checkpoints/             here, or at a URI
    fit-0001-done/                       the end of the first fit
      rank-00000-of-00002.….safetensors  what rank 0 wrote
      rank-00001-of-00002.….safetensors
      manifest.json                      written last: without it, this is no checkpoint
    fit-0002-epoch-0003-step-00000812/   the second fit, under way
      pinned                             an empty file, made by a person: it stays
    history/                             the losses so far, which checkpoints share
```
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from dist_ai.checkpoint.checkpoint import PIN, Checkpoint
from dist_ai.checkpoint.manifest import Manifest
from dist_ai.checkpoint.storage import Storage, open_storage, read
from dist_ai.core.sealed import MANIFEST
from dist_ai.distributed.collectives import Collectives, SoloCollectives, gather_json, on_main
from dist_ai.distributed.environment import World, how_to_begin_anew
from dist_ai.errors import ArtifactError, ConfigError, StorageError, did_you_mean
from dist_ai.metrics import lower_is_better

__all__ = ["KeepBest", "Run"]

HISTORY = "history/"


@dataclass(frozen=True)
class KeepBest:
    """Keeps the checkpoints at the end of the epochs that were best by a metric, beside the last ones.

    Attributes:
        metric: the name of a column of the epoch's row, such as ``"accuracy"`` or ``"valid_loss"``.
        count: how many stay.
        lower: whether less is better; by default what the name tells (`lower_is_better`).
    """

    metric: str = "valid_loss"
    count: int = 1
    lower: bool | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"KeepBest(count={self.count}): expected 1 or more; to keep none, leave keep_best out")

    def of(self, metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
        """Returns the names of the best, the best first, of checkpoints and their metrics.

        >>> KeepBest("accuracy", count=1).of({"a": {"accuracy": 0.5}, "b": {"accuracy": 0.75}})
        ['b']
        """
        lower = lower_is_better(self.metric) if self.lower is None else self.lower
        values = {name: row[self.metric] for name, row in metrics.items() if self.metric in row}
        known = [name for name, value in values.items() if not math.isnan(value)]
        return sorted(known, key=lambda name: values[name] if lower else -values[name])[: self.count]


class Run:
    """The directory of one training run. Rank 0 opens it and removes from it; every rank writes its part of checkpoints.

    Args:
        directory: of the logs and the lock, on this machine; made when something is written.
        checkpoints: a folder, or a URI such as ``s3://bucket/run/checkpoints``; by default in `directory`.
        keep: how many checkpoints of an unfinished fit stay; older ones are removed once a newer one is complete.
        keep_best: others that stay.
    """

    def __init__(
        self,
        directory: Path,
        checkpoints: str | Path | None = None,
        *,
        keep: int = 2,
        keep_best: KeepBest | None = None,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"keep={keep}: a run needs at least 1 checkpoint to go on from")
        self.directory = Path(directory)
        self.storage: Storage = open_storage(self.directory / "checkpoints" if checkpoints is None else checkpoints)
        self.keep = keep
        self.keep_best = keep_best
        self._lock: _Lock | None = None
        self._facts: dict[str, _Facts] = {}

    def open(self, *, fresh: bool = False) -> None:
        """Takes the directory for this process and clears what a killed one left half-written.

        Args:
            fresh: remove what an earlier run left: its checkpoints, logs and events.

        Raises:
            ConfigError: another process of this machine trains in it, it has another program's logs, or what is to be removed
                was pinned.
            StorageError: the checkpoints' storage cannot be reached.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self._refuse_strangers()
        if fresh:
            self._remove_all()
        self._remove_half_written()

    def close(self) -> None:
        """Gives the directory free, unless another `Run` of this process has it too."""
        self._lock = None

    def name(self, *, fit: int, epoch: int, step: int, finished: bool) -> str:
        """Returns the name of the checkpoint before a batch, or of the end of a fit (numbered from 0)."""
        return f"fit-{fit + 1:04d}" + (_DONE if finished else f"-epoch-{epoch:04d}-step-{step:08d}")

    def names(self, *, complete: bool = True) -> list[str]:
        """Returns the names of the checkpoints, oldest first.

        Args:
            complete: without those that are not; they are being written, or were when their program was killed.
        """
        return [name for name, is_complete in self._found().items() if is_complete or not complete]

    def results(self) -> dict[str, Any]:
        """Returns the results that were kept, by name."""
        path = self.directory / _RESULTS
        return json.loads(path.read_text()) if path.exists() else {}

    def keep_result(self, name: str, value: Any) -> None:
        """Keeps a result, plain data, that a program run again shall find: complete or not at all."""
        temporary = self.directory / f".{_RESULTS}.partial"
        temporary.write_text(json.dumps({**self.results(), name: value}))
        temporary.replace(self.directory / _RESULTS)

    def checkpoint(self, name: str) -> Checkpoint:
        """Returns the checkpoint of that name; see `Checkpoint` for what it raises."""
        return Checkpoint(self.storage, name)

    def is_pinned(self, name: str) -> bool:
        """Returns whether somebody pinned the checkpoint of that name."""
        return f"{name}/{PIN}" in self.storage.sizes(name)

    def pin(self, name: str, *, stays: bool = True) -> None:
        """Keeps a checkpoint from being removed, or no longer.

        Raises:
            ConfigError: there is no complete checkpoint of that name.
        """
        if name not in (names := self.names()):
            raise ConfigError(
                f"{self.storage.place} has no checkpoint {name!r}{did_you_mean(name, names)}; it has {', '.join(names) or 'none'}"
            )
        if stays:
            self.storage.write(f"{name}/{PIN}", [])
        else:
            self.storage.remove(f"{name}/{PIN}")

    def latest(self, collectives: Collectives | None = None) -> Checkpoint | None:
        """Returns the newest checkpoint that is sound, or None if there is none. A damaged one is named in a warning. Collective.

        Args:
            collectives: the ranks, which share the verification; by default this process does it all.

        Raises:
            ArtifactError: there are checkpoints, and all are damaged: what they hold is not thrown away unasked.
            StorageError: the storage cannot be reached.
        """
        ranks = _alone() if collectives is None else collectives
        names: list[str] = on_main(ranks, self.names, what="looking for checkpoints")
        for name, before in zip(reversed(names), [*reversed(names[:-1]), ""], strict=False):
            then = f"Going on from the checkpoint before it, {before}" if before else ""
            if (found := self._sound(name, ranks, otherwise=then)) is not None:
                return found
        return None

    def finished(self, fit: int, collectives: Collectives | None = None) -> Checkpoint | None:
        """Returns the checkpoint at the end of a fit (numbered from 0), or None if it is not there or damaged. Collective.

        Args:
            fit: its number.
            collectives: see `latest`.
        """
        ranks = _alone() if collectives is None else collectives
        name = self.name(fit=fit, epoch=0, step=0, finished=True)
        there = on_main(ranks, lambda: name in self.names(), what="looking for a finished fit")
        return self._sound(name, ranks, otherwise="Going on from a later one") if there else None

    def check_shared(self, collectives: Collectives) -> None:
        """Checks that all ranks see the same storage, before any of them writes a part of a checkpoint. Collective.

        Raises:
            ConfigError: a rank does not see what rank 0 writes; the message names it.
        """
        world = collectives.world
        if world.world_size == 1:
            return
        token = collectives.broadcast_json(f".seen-by-all-{uuid.uuid4().hex[:8]}", what="run directory")
        problem = ""
        if world.is_main:
            try:
                self.storage.write(token, [memoryview(b"1")])
            except OSError as error:
                problem = str(error)
        problem = collectives.broadcast_json(problem, what="run directory")
        blind = [] if problem else gather_json(collectives, not self._sees(token), what="run directory")
        if world.is_main and not problem:
            self.storage.remove(token)
        if problem:
            raise ConfigError(f"checkpoints cannot be written to {self.storage.place}: {problem}")
        if missing := [str(rank) for rank, is_blind in enumerate(blind) if is_blind]:
            raise ConfigError(
                f"rank(s) {', '.join(missing)} do not see in {self.storage.place} what rank 0 writes there, and each rank "
                "writes its part of a checkpoint; use a run directory on storage that all machines share, or a URI such as "
                "s3://bucket/run, or run_dir=None"
            )

    def remove_if_incomplete(self, name: str) -> None:
        """Removes what there is of a checkpoint that was given up, unless a complete one has the name."""
        if not self._found().get(name, False):
            self.storage.remove_folder(name)

    def tidy(self, name: str, manifest: Manifest) -> None:
        """Removes what is not kept any more, now that the checkpoint `name` is complete.

        The end of every fit stays, and the best by `keep_best`; of the checkpoints on the way, the last `keep` do until
        their fit has ended. Pinned ones stay. What cannot be removed is told in a warning and tried again next time.
        """
        if not _NAME.fullmatch(name):  # no checkpoint of a fit: somebody's own
            return
        try:
            self._facts[name] = _Facts.of(manifest)
            files = self.storage.sizes()
            complete = [each for each, whole in self._found(files).items() if whole]
            on_the_way = [each for each in complete if not each.endswith(_DONE)]
            kept = {each for each in complete if each.endswith(_DONE) or f"{each}/{PIN}" in files}
            kept |= set() if name.endswith(_DONE) else set(on_the_way[-self.keep :])
            facts = {each: self._facts_of(each) for each in complete}
            if self.keep_best is not None:
                kept |= set(self.keep_best.of({each: facts[each].metrics for each in complete}))
            for each in complete:
                if each not in kept:
                    self._remove(each)
            needed = {file for each in kept for file in facts[each].history}
            for file in files:
                if file.startswith(HISTORY) and file not in needed:
                    self.storage.remove(file)
            # What an attempt that was killed left under the same name.
            for file in files:
                folder, _, own = file.partition("/")
                if folder == name and _OURS.fullmatch(own) and own not in self._facts[name].files:
                    self.storage.remove(file)
        except OSError as error:
            warnings.warn(f"old checkpoints in {self.storage.place} could not be removed: {error}", stacklevel=2)

    def _found(self, files: Mapping[str, int] | None = None) -> dict[str, bool]:
        """Returns the names that are taken, oldest first, and whether each is a complete checkpoint."""
        files = self.storage.sizes() if files is None else files
        taken = {path.partition("/")[0] for path in files if "/" in path}
        return {name: f"{name}/{MANIFEST}" in files for name in sorted(filter(_NAME.fullmatch, taken), key=_order)}

    def _sound(self, name: str, ranks: Collectives, *, otherwise: str) -> Checkpoint | None:
        """Returns a checkpoint; None if it is damaged, with a warning that says so, and what is done `otherwise`.

        Raises:
            ArtifactError: it is damaged and there is nothing to be done otherwise.
            StorageError: the storage cannot be reached.
        """
        checkpoint, problem, unreachable = None, "", False
        try:
            checkpoint = self.checkpoint(name)
            checkpoint.verify(ranks.world.rank, ranks.world.world_size)
        except ArtifactError as error:
            problem = str(error)
        except StorageError as error:
            problem, unreachable = str(error), True
        answers = gather_json(ranks, [problem, unreachable], what=f"checkpoint {name}")
        problems = {text: lost for text, lost in answers if text}
        if not problems:
            self._warn_of_strangers(checkpoint, ranks)
            return checkpoint
        problem, unreachable = next(iter(problems.items()))
        if unreachable:  # it may be whole: going on from an older one would be wrong
            raise StorageError(problem)
        if not otherwise:
            raise ArtifactError(f"{problem}. There is none before it to go on from. {how_to_begin_anew()}")
        if ranks.world.is_main:
            warnings.warn(f"{problem}. {otherwise}.", stacklevel=5)
        return None

    def _warn_of_strangers(self, checkpoint: Checkpoint | None, ranks: Collectives) -> None:
        if checkpoint is not None and ranks.world.is_main and (strangers := checkpoint.strangers()):
            warnings.warn(
                f"checkpoint {self.storage.place}/{checkpoint.name} has files that are not its own and are not read: "
                f"{', '.join(strangers[:3])}",
                stacklevel=6,
            )

    def _sees(self, path: str) -> bool:
        # A network file system may show a new file seconds later.
        deadline = time.monotonic() + _SHARED_WAIT_S
        while True:
            try:
                if read(self.storage, path, 1) == b"1":
                    return True
            except OSError:
                pass
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def _facts_of(self, name: str) -> _Facts:
        if name not in self._facts:
            try:
                self._facts[name] = _Facts.of(self.checkpoint(name).manifest)
            except ArtifactError:
                self._facts[name] = _Facts({}, frozenset(), frozenset())
        return self._facts[name]

    def _remove(self, name: str) -> None:
        # The manifest first: what a kill leaves of it then is no checkpoint.
        self.storage.remove(f"{name}/{MANIFEST}")
        self.storage.remove_folder(name)

    def _remove_all(self) -> None:
        files = self.storage.sizes()
        found = self._found(files)
        if pinned := [name for name in found if f"{name}/{PIN}" in files]:
            raise ConfigError(
                f"{self.directory} holds checkpoints that are pinned ({', '.join(pinned[:3])}), and beginning anew would remove "
                f"them; move them away, remove the file {PIN!r} in them, or use another run directory"
            )
        for name in found:
            self._remove(name)
        self.storage.remove_folder(HISTORY.rstrip("/"))
        for folder in ("tensorboard", "control"):
            shutil.rmtree(self.directory / folder, ignore_errors=True)
        for name in (*_LOGS, _RESULTS):
            (self.directory / name).unlink(missing_ok=True)

    def _refuse_strangers(self) -> None:
        """Raises ConfigError if a log would be written over, or removed, that no run of ours wrote."""
        for name, ours in _LOGS.items():
            if not (path := self.directory / name).is_file():
                continue
            with path.open("rb") as file:
                begins = file.read(len(ours))
            if not ours.startswith(begins):  # a kill may have cut the first line short
                raise ConfigError(
                    f"{path} is there, and no run of dist_ai wrote it: it begins with {begins.decode(errors='replace')!r}, "
                    f"expected {ours.decode()!r}; use another run directory, or move the file away"
                )

    def _remove_half_written(self) -> None:
        found = self._found()
        names = list(found)
        newest = max((i for i, name in enumerate(names) if found[name]), default=-1)
        for i, name in enumerate(names):
            if found[name]:
                continue
            # Older ones were being removed when the program was killed: nobody misses them.
            if i > newest:
                warnings.warn(
                    f"checkpoint {self.storage.place}/{name} is not complete: {MANIFEST}, which is written last, is missing; "
                    "it is removed",
                    stacklevel=4,
                )
            self.storage.remove_folder(name)

    def _take_lock(self) -> None:
        place = str(self.directory.resolve())
        self._lock = self._lock or _locks.get(place) or _Lock(self.directory)
        _locks[place] = self._lock


@dataclass(frozen=True)
class _Facts:
    """What there is to know of a checkpoint to decide whether it stays, and what else must."""

    metrics: Mapping[str, float]
    history: frozenset[str]
    files: frozenset[str]

    @classmethod
    def of(cls, manifest: Manifest) -> _Facts:
        files = frozenset(file.name for file in manifest.files)
        metrics = {key: value for key, value in manifest.state.get("metrics", {}).items() if value is not None}
        return cls(metrics, frozenset(name for name in files if name.startswith(HISTORY)), files)


class _Lock:
    """Keeps other processes out of a run's directory for as long as it lives.

    Raises:
        ConfigError: another process trains there.
    """

    def __init__(self, directory: Path) -> None:
        # A descriptor and no file object, about which Python would warn when a forgotten Learner is collected.
        self._descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(ImportError):  # Windows has no fcntl, and goes without
            import fcntl

            deadline = time.monotonic() + _LOCK_WAIT_S
            while True:
                try:
                    # lockf and not flock: forked loader workers would inherit the latter and hold it after a kill.
                    fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        owner = os.read(self._descriptor, 20).decode().strip() or "unknown"
                        raise ConfigError(
                            f"process {owner} is training in {directory}; wait for it, stop it, or use another run directory"
                        ) from None
                    time.sleep(0.1)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # not if the file could not be opened
            os.close(self._descriptor)


# One for each directory: with lockf a process loses its lock when it closes any descriptor of the file, so a Learner
# that is made again in a notebook would lose it to the one before, when that is collected.
_locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()


_NAME = re.compile(r"fit-(\d+)(?:-done|-epoch-(\d+)-step-(\d+))")
_OURS = re.compile(r"rank-\d+-of-\d+\..*\.safetensors|\..*\.partial-[0-9a-f]+")
_DONE = "-done"
_RESULTS = "results.json"
_LOGS = {"log.jsonl": b'{"kind": "', "metrics.csv": b"fit,"}
"""The logs of a run, which `RunLog` writes, and how they begin."""
_LOCK_WAIT_S = 5.0  # a process that was just killed may need a moment to be gone
_SHARED_WAIT_S = 5.0


def _alone() -> Collectives:
    return SoloCollectives(World())


def _order(name: str) -> tuple[int, float, int]:
    """Returns what puts checkpoints in the order of time: as text, epoch 10000 would come before epoch 9999."""
    match = _NAME.fullmatch(name)
    assert match is not None
    fit, epoch, step = match.groups()
    return int(fit), math.inf if epoch is None else int(epoch), int(step or 0)
