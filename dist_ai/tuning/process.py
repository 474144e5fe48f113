"""The process of a trial's launch: ``python -m dist_ai.tuning.process JSON``. It ends when the one that started it does."""

from __future__ import annotations

import json
import sys

from dist_ai.distributed.launchers import launch
from dist_ai.distributed.launchers.worker import die_with
from dist_ai.errors import DistAIError
from dist_ai.tuning.trial import ERROR

__all__ = ["main"]


def main() -> None:
    """Runs the launch that this process's argument describes: what `launch` takes, and ``parent``, the process to end with."""
    told = json.loads(sys.argv[1])
    die_with(told.pop("parent"))
    try:
        launch(**told)
    except DistAIError as error:
        print(f"{ERROR}{error}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
