"""A program that is a function: named in one process, found by its name in the ranks of a trial. Nothing is pickled.

The ranks run this file: ``function.py REFERENCE PARAMETERS``, both JSON.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from dist_ai.errors import ConfigError

__all__ = ["find", "main", "reference"]

# What `multiprocessing` does with the main program, too: under another name, so that its last part does not run again.
MAIN = "__mp_main__"


def reference(function: Callable[..., Any]) -> str:
    """Returns by which another process finds a function, as JSON.

    Raises:
        ConfigError: it stands in no file, or not at the top of one.

    >>> find(reference(reference)) is reference
    True
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None) if module == "__main__" else None
    if not inspect.isfunction(function) or not name.isidentifier() or (module == "__main__" and file is None):
        raise ConfigError(
            f"{name or repr(function)} cannot be found by the processes of a trial: give a function that stands at the top of a "
            "Python file, with `def`, or a script"
        )
    path = [os.path.abspath(each) for each in sys.path]
    return json.dumps({"module": module, "file": file and os.path.abspath(file), "name": name, "path": path})


def find(told: str) -> Callable[..., Any]:
    """Returns the function that `reference` told of."""
    where = json.loads(told)
    sys.path += [each for each in where["path"] if each not in sys.path]
    if where["file"] is None:
        module = importlib.import_module(where["module"])
    else:
        spec = importlib.util.spec_from_file_location(MAIN, where["file"])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[MAIN] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, where["name"])
    return found


def main() -> None:
    """Calls the function that this process's arguments name."""
    told, config = sys.argv[1:]
    find(told)(**json.loads(config))


if __name__ == "__main__":
    main()
