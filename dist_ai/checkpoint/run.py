"""A run's directory: who trains in it, its checkpoints, and which of them to go on from.

```
runs/train/
  log.jsonl  metrics.csv   the logs
  results.json             what else the program found out (a learning rate)
  tensorboard/             events
  checkpoints/
    fit-0001-done/         the end of the first fit: model.safetensors  optimizer.safetensors  random.safetensors
                           state.json  manifest.json
    fit-0002-epoch-0003-step-00000812/   the second, under way
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
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors.torch import load_file, save_file

from dist_ai.core.sealed import open_sealed, remove_sealed, remove_unsealed, seal
from dist_ai.errors import ArtifactError, ConfigError

__all__ = ["Checkpoint", "Run"]


@dataclass
class Checkpoint:
    """Everything that a fit needs to go on: tensors in named groups, and plain data."""

    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]

    def write(self, directory: Path) -> None:
        """Writes the checkpoint as a sealed directory: complete or absent."""
        with seal(directory, "checkpoint") as folder:
            for name, tensors in self.tensors.items():
                save_file(_own_memory(tensors), folder / f"{name}.safetensors")
            (folder / "state.json").write_text(json.dumps(self.state))

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """Reads a checkpoint after verifying every byte of it.

        Raises:
            ArtifactError: it is damaged or incomplete.
        """
        open_sealed(directory, "checkpoint")
        tensors = {path.stem: load_file(path) for path in sorted(directory.glob("*.safetensors"))}
        return cls(tensors, json.loads((directory / "state.json").read_text()))


class Run:
    """The directory of one training run. One process writes to it: rank 0.

    Args:
        directory: where; made when something is written.
        keep: how many checkpoints stay; older ones are removed once a newer is complete.
    """

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise ConfigError(f"keep={keep}: a run needs at least 1 checkpoint to go on from")
        self.directory = Path(directory)
        self.checkpoints = self.directory / "checkpoints"
        self.keep = keep
        self._lock: _Lock | None = None

    def open(self, *, fresh: bool = False) -> None:
        """Takes the directory for this process and clears what a killed one left half-written.

        Args:
            fresh: remove what an earlier run left: its checkpoints, logs and events.

        Raises:
            ConfigError: another process trains in it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if fresh:
            for name in ("checkpoints", "tensorboard"):
                shutil.rmtree(self.directory / name, ignore_errors=True)
            for name in ("log.jsonl", "metrics.csv", _RESULTS):
                (self.directory / name).unlink(missing_ok=True)
        remove_unsealed(self.checkpoints)

    def close(self) -> None:
        """Gives the directory free, unless another `Run` of this process has it too."""
        self._lock = None

    def save(self, checkpoint: Checkpoint, *, fit: int, epoch: int, step: int, finished: bool) -> Path:
        """Writes a checkpoint, then removes those that are no longer needed.

        The end of every fit stays; of the checkpoints on the way, the last `keep` do until their fit has ended.

        Args:
            checkpoint: what to write.
            fit: number of the fit, from 0.
            epoch, step: the next batch.
            finished: whether this is the fit's end.
        """
        name = f"fit-{fit + 1:04d}" + ("-done" if finished else f"-epoch-{epoch:04d}-step-{step:08d}")
        checkpoint.write(self.checkpoints / name)
        on_the_way = [old for old in self.names() if not old.endswith(_DONE)]
        for old in on_the_way if finished else on_the_way[: -self.keep]:
            remove_sealed(self.checkpoints / old)
        return self.checkpoints / name

    def results(self) -> dict[str, Any]:
        """Returns the results that were kept, by name."""
        path = self.directory / _RESULTS
        return json.loads(path.read_text()) if path.exists() else {}

    def keep_result(self, name: str, value: Any) -> None:
        """Keeps a result, plain data, that a program run again shall find: complete or not at all."""
        temporary = self.directory / f".{_RESULTS}.partial"
        temporary.write_text(json.dumps({**self.results(), name: value}))
        temporary.replace(self.directory / _RESULTS)

    def names(self) -> list[str]:
        """Returns the names of the checkpoints there are, oldest first."""
        found = [path.name for path in self.checkpoints.iterdir()] if self.checkpoints.is_dir() else []
        return sorted((name for name in found if _NAME.fullmatch(name)), key=_order)

    def latest(self) -> str | None:
        """Returns the name of the newest undamaged checkpoint, or None. A damaged one is named in a warning."""
        return next((name for name in reversed(self.names()) if self._is_sound(name)), None)

    def finished(self, fit: int) -> str | None:
        """Returns the name of the checkpoint at the end of a fit (numbered from 0), or None if it is not sound."""
        name = f"fit-{fit + 1:04d}{_DONE}"
        return name if name in self.names() and self._is_sound(name) else None

    def _is_sound(self, name: str) -> bool:
        try:
            open_sealed(self.checkpoints / name, "checkpoint")
        except ArtifactError as error:
            warnings.warn(f"{error}. Going on from the checkpoint before it.", stacklevel=4)
            return False
        return True

    def read(self, name: str) -> Checkpoint:
        """Returns the checkpoint of that name.

        Raises:
            ArtifactError: it is not there (on this machine), or damaged.
        """
        if not (self.checkpoints / name).is_dir():
            raise ArtifactError(
                f"checkpoint {self.checkpoints / name} is not on this machine; the run directory must be on storage "
                "that all ranks share"
            )
        return Checkpoint.read(self.checkpoints / name)

    def _take_lock(self) -> None:
        place = str(self.directory.resolve())
        self._lock = self._lock or _locks.get(place) or _Lock(self.directory)
        _locks[place] = self._lock


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
_DONE = "-done"
_RESULTS = "results.json"
_LOCK_WAIT_S = 5.0  # a process that was just killed may need a moment to be gone


def _order(name: str) -> tuple[int, float, int]:
    """Returns what puts checkpoints in the order of time: as text, epoch 10000 would come before epoch 9999."""
    match = _NAME.fullmatch(name)
    assert match is not None
    fit, epoch, step = match.groups()
    return int(fit), math.inf if epoch is None else int(epoch), int(step or 0)


def _own_memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors on the CPU, contiguous and apart from each other, as safetensors wants them (tied weights)."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if (
            tensor.untyped_storage().data_ptr() in seen
            or tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes()
        ):
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor
    return result
