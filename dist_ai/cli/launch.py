"""`dist-ai launch`: runs a training script on several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dist_ai.errors import ConfigError, WorkerError, did_you_mean

if TYPE_CHECKING:
    from dist_ai.distributed.launchers.job import Device, Engine

__all__ = ["launch"]

# What is not ours goes to the script as it is.
COMMAND_SETTINGS = {"context_settings": {"ignore_unknown_options": True, "allow_extra_args": True}}

OPTIONS = ("--workers", "--engine", "--run-dir", "--fresh", "--device", "--timeout", "--address")
EXIT_USAGE = 2  # what argparse, click and typer end with


def launch(
    context: typer.Context,
    script: Annotated[str, typer.Argument(help="The Python file to run.", metavar="SCRIPT")],
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 1,
    engine: Annotated[str, typer.Option(help="Who starts them: local or ray.")] = "local",
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run keeps its log and checkpoints.", show_default="runs/<script>")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing the run.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there are GPUs.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for a process that does not answer.", show_default="600")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster.", show_default="RAY_ADDRESS, the one here, or a new one")
    ] = None,
) -> None:
    """Runs SCRIPT on several processes; what follows it and is not an option below goes to the script.

    dist-ai launch train.py --workers 2 --epochs 3

    Put -- before arguments of the script that look like ours: dist-ai launch train.py --workers 2 -- --device mps
    """
    if script.startswith("-"):
        name = script.split("=", 1)[0]
        raise ConfigError(
            f"{name} is not an option of `dist-ai launch`, and the script's own options come after the script"
            f"{did_you_mean(name, OPTIONS)}"
        )
    from dist_ai.distributed.launchers import launch as start

    try:
        start(
            script,
            context.args,
            workers=workers,
            engine=cast("Engine", engine),  # checked there, with a better message than typer's
            run_dir=run_dir,
            fresh=fresh,
            device=cast("Device | None", device),
            timeout_s=timeout,
            address=address,
        )
    except WorkerError as error:
        raise _with_suggestion(error, script, context.args) from None
    except KeyboardInterrupt:
        print("dist-ai: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None


def _with_suggestion(error: WorkerError, script: str, args: list[str]) -> WorkerError:
    """Adds to a script's complaint about its arguments which of them may have been meant for us."""
    names = [argument.split("=", 1)[0] for argument in args if argument.startswith("--")]
    hints = [f"{name} went to {script}{hint}" for name in names if (hint := did_you_mean(name, OPTIONS))]
    if error.exit_code != EXIT_USAGE or not hints:
        return error
    return WorkerError(
        "\n\n".join([str(error), *hints]),
        rank=error.rank,
        exit_code=error.exit_code,
        worker_traceback=error.worker_traceback,
    )
