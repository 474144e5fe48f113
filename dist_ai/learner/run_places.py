"""Where the Learners of a program write: each has a run directory of its own, and what they hand on lies in the first's."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from dist_ai.distributed.environment import launch_settings
from dist_ai.errors import ConfigError

__all__ = ["RunDir", "RunPlace", "checkpoints_at", "claimed", "give_back", "program_directory", "take_again"]

RunDir: TypeAlias = str | Path | Literal["auto"] | None
"""What a Learner's `run_dir` may be."""


class RunPlace(NamedTuple):
    """Where a Learner writes.

    Attributes:
        directory: of its logs, on this machine.
        checkpoints: the URI of its checkpoints, if they are not in there.
    """

    directory: Path
    checkpoints: str | None = None


@contextlib.contextmanager
def claimed(given: RunDir) -> Iterator[RunPlace | None]:
    """Gives out the place that a Learner's `run_dir` argument means; None for none. An error in the block gives it back.

    ``"auto"`` is what the launching command said, else ``runs/<script>`` if a script runs, else none. The second Learner of a
    program on the same directory gets ``learner-2`` inside it, and so on: each has its own fits, also when the program runs
    again.
    """
    directory = _directory(given)
    if directory is None:
        yield None
        return
    number = next(n for n in itertools.count(1) if _of(n, directory).resolve() not in _in_use)
    place = RunPlace(_of(number, directory), checkpoints_at(given, number))
    _in_use.add(place.directory.resolve())
    try:
        yield place
    except BaseException:
        give_back(place.directory)
        raise


def take_again(directory: Path) -> None:
    """Takes a directory that was given back.

    Raises:
        ConfigError: another Learner has it since.
    """
    if directory.resolve() in _in_use:
        raise ConfigError(
            f"another Learner of this program has gone on in {directory} since this one's fit was interrupted; train that one, "
            "or make another Learner"
        )
    _in_use.add(directory.resolve())


def give_back(directory: Path) -> None:
    """Lets the next Learner of this program have a directory that was given out."""
    _in_use.discard(directory.resolve())


def program_directory(run_dir: Path | None) -> Path | None:
    """Returns where the Learners of a program leave what is for one another: the directory of the first of them."""
    if run_dir is None or not re.fullmatch(r"learner-\d+", run_dir.name) or run_dir.parent.resolve() not in _in_use:
        return run_dir
    return run_dir.parent


def checkpoints_at(given: str | Path | None, number: int = 1) -> str | None:
    """Returns the URI for checkpoints that a Learner's `run_dir` argument means; None if it is no URI.

    Args:
        given: the argument.
        number: of the Learner among those of the program that were given it, from 1.

    >>> checkpoints_at("s3://bucket/cats"), checkpoints_at("s3://bucket/cats", 2)
    ('s3://bucket/cats/checkpoints', 's3://bucket/cats/learner-2/checkpoints')
    """
    uri, _, options = str(given).partition("?")
    own = "" if number == 1 else f"/learner-{number}"
    return f"{uri.rstrip('/')}{own}/checkpoints{'?' * bool(options)}{options}" if "://" in uri else None


def _directory(given: RunDir) -> Path | None:
    if given is not None and checkpoints_at(given):
        return Path("runs") / str(given).partition("?")[0].rstrip("/").rpartition("/")[-1]
    if given != "auto":
        return None if given is None else Path(given)
    if (launched := launch_settings().run_dir) is not None:
        return launched
    main = sys.modules.get("__main__")
    script = Path(getattr(main, "__file__", None) or "")
    # Not for `python -m tool` or an interactive session: what trains there is not named by its file.
    return Path("runs") / script.stem if script.suffix == ".py" and getattr(main, "__spec__", None) is None else None


def _of(number: int, directory: Path) -> Path:
    return directory if number == 1 else directory / f"learner-{number}"


_in_use: set[Path] = set()  # the directories that Learners of this process have
