"""One worker process: runs the user's script as `python script args` would, and reports how it failed.

Started by `dist_ai.distributed.launchers.local` as ``python -m dist_ai.distributed.launchers.worker script args``.
`run_script` is also what a Ray worker runs.
"""

from __future__ import annotations

import atexit
import builtins
import faulthandler
import io
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader

from dist_ai.distributed.environment import (
    asked_who_it_is,
    launch_settings,
    launched_rank,
    launched_world_size,
    launcher_pid,
)
from dist_ai.distributed.launchers.failures import failure_of, write_failure
from dist_ai.distributed.launchers.function import FILE as FUNCTION

__all__ = ["STACKS_SIGNAL", "die_with", "main", "run_script", "tell_if_not_shared"]

STACKS_SIGNAL = signal.SIGUSR2
"""Has a rank write where all its threads are in their code, for the launcher; also one that hangs in native code."""

# Seconds that a failed worker has for its exit handlers; one of them may wait for a peer that will not come.
SECONDS_TO_END = 5.0


def run_script(script: str, args: Sequence[str]) -> None:
    """Runs `script` as the main program of this process: `__main__`, `sys.argv` and `sys.path[0]` are Python's own.

    Whatever the script raises is raised here, `SystemExit` included.
    """
    path = os.path.abspath(script)
    with io.open_code(path) as file:
        source = file.read()
    # As `runpy.run_path`, but the module stays `__main__` afterwards, as in any Python program: exit handlers and
    # threads that outlive the last line may still look it up.
    module = types.ModuleType("__main__")
    module.__dict__.update(
        __file__=path, __builtins__=builtins, __cached__=None, __loader__=SourceFileLoader("__main__", path)
    )
    sys.modules["__main__"] = module
    sys.argv[:] = [script, *args]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)


def tell_if_not_shared(script: str, rank: int, world_size: int) -> None:
    """Says on rank 0, after a script that shared nothing out, that each of the processes did all of its work."""
    if rank > 0 or world_size == 1 or asked_who_it_is():
        return
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return  # the processes met by torch alone
    what = "the function" if os.path.abspath(script) == str(FUNCTION) else script
    print(
        f"dist-ai: {what} used no Learner and no loader of dist_ai, which share the work out: unless it did so by itself, "
        f"each of the {world_size} processes did all of it",
        file=sys.stderr,
    )


def main() -> None:
    """Runs the script named by this process's arguments, then ends the process."""
    end = _End()
    # Registered before anything else, so that it runs last: after the script's own exit handlers, but instead of the
    # interpreter's teardown, in which torch's threads now and then abort a process that had done all its work.
    atexit.register(end.now)
    die_with(launcher_pid())
    _listen_for_stacks()
    script, *args = sys.argv[1:]
    path = os.path.abspath(script)  # before the script runs: it may change the folder
    try:
        run_script(script, args)
        tell_if_not_shared(script, launched_rank(), launched_world_size())
    except BaseException as error:
        failure = failure_of(error, rank=launched_rank(), script=path)
        if failure.exit_code == 0:
            return
        end.code = failure.exit_code
        folder = launch_settings().failure_dir
        if folder is not None:
            write_failure(failure, folder)
        threading.Thread(target=end.later, daemon=True).start()


class _End:
    """Ends this process with `code`, at once."""

    def __init__(self) -> None:
        self.code = 0

    def now(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # closed, a broken pipe, or None
                self.code = self.code or 120  # what Python itself answers when its last flush fails
        os._exit(self.code)

    def later(self) -> None:
        time.sleep(SECONDS_TO_END)
        self.now()


def die_with(launcher: int | None) -> None:
    """Sees to it that this process ends when its launcher does, even if that is killed outright."""
    if launcher is None:
        return
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != launcher:  # it ended before the line above
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(launcher,), name="watch-launcher", daemon=True).start()


def _listen_for_stacks() -> None:
    folder = launch_settings().failure_dir
    if folder is not None and folder.is_dir():
        # Open to the end: the handler writes to the descriptor, whatever state Python is in.
        file = (folder / f"stacks{launched_rank()}").open("w")
        faulthandler.register(STACKS_SIGNAL, file=file, all_threads=True)


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
