"""`dist-ai launch`: runs a training script on several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from dist_ai.errors import ConfigError, WorkerError, did_you_mean

if TYPE_CHECKING:
    from dist_ai.distributed.launchers.job import Device, Engine

__all__ = ["launch"]

OPTIONS = (
    *("--workers", "--engine", "--run-dir", "--fresh", "--device", "--timeout", "--address"),
    *("--max-restarts", "--hang-timeout"),
)
EXIT_USAGE = 2  # what argparse, click and typer end with


class _Launch(TyperCommand):
    """Passes what is not ours on to the script, but for slips of the pen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the command line `args`.

        Raises:
            ConfigError: an option before the script is not ours, or one after it is nearly ours; `--` ends the search.
        """
        surely_the_scripts = args[args.index("--") + 1 :] if "--" in args else []
        rest: list[str] = super().parse_args(ctx, args)
        script: str = ctx.params["script"]
        if script.startswith("-"):  # what is not known goes to the first place that is free
            name = script.split("=", 1)[0]
            raise ConfigError(
                f"{name} is not an option of `dist-ai launch`, and the script's own options come after the script"
                f"{did_you_mean(name, OPTIONS)}"
            )
        for argument in ctx.args[: max(0, len(ctx.args) - len(surely_the_scripts))]:
            name = argument.split("=", 1)[0]
            if near := [option for option in OPTIONS if _is_slip(name, option)]:
                raise ConfigError(
                    f"{name} is not an option of `dist-ai launch`; did you mean {near[0]!r}? If it is one of {script}, put -- "
                    f"before the script's own arguments: {script} -- {argument}"
                )
        return rest


# What is not ours goes to the script as it is.
COMMAND_SETTINGS = {
    "cls": _Launch,
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True},
}


def launch(
    context: typer.Context,
    script: Annotated[str, typer.Argument(help="The Python file to run.", metavar="SCRIPT")],
    workers: Annotated[str, typer.Option(help="Number of processes, or MIN:MAX.")] = "1",
    engine: Annotated[str, typer.Option(help="Who starts them: local, ray or slurm.")] = "local",
    run_dir: Annotated[
        str | None, typer.Option(help="Where the run keeps its log and checkpoints.", show_default="runs/<script>")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing the run.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there are GPUs.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for a process that does not answer.", show_default="600")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster.", show_default="RAY_ADDRESS, the one here, or a new one")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(help="How often to start again, from the last checkpoint, after a failure.")
    ] = 0,
    hang_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds in a fit without progress after which a process counts as hanging.",
            show_default="as --timeout on several processes",
        ),
    ] = None,
) -> None:
    """Runs SCRIPT on several processes; what follows it and is not an option below goes to the script.

    dist-ai launch train.py --workers 2 --epochs 3

    Put -- before arguments of the script that look like ours: dist-ai launch train.py --workers 2 -- --device mps
    """
    from dist_ai.distributed.launchers import launch as start

    try:
        start(
            script,
            context.args,
            workers=_workers(workers),
            engine=cast("Engine", engine),  # checked there, with a better message than typer's
            run_dir=run_dir,
            fresh=fresh,
            device=cast("Device | None", device),
            timeout_s=timeout,
            address=address,
            max_restarts=max_restarts,
            hang_s=hang_timeout,
        )
    except WorkerError as error:
        raise _with_suggestion(error, script, context.args) from None


def _workers(text: str) -> int | tuple[int, int]:
    """Returns the number of workers, or the least and the most.

    >>> _workers("2:16")
    (2, 16)
    """
    least, colon, most = text.partition(":")
    try:
        return (int(least), int(most)) if colon else int(least)
    except ValueError:
        raise ConfigError(f"--workers {text}: expected a number, or the least and the most, as in 2:16") from None


def _is_slip(given: str, option: str) -> bool:
    """Returns whether `given` is `option` but for one letter too many, too few, wrong, or two that changed places.

    >>> _is_slip("--wrokers", "--workers"), _is_slip("--num-workers", "--workers")
    (True, False)
    """
    if len(given) == len(option):
        wrong = [i for i in range(len(option)) if given[i] != option[i]]
        return len(wrong) == 1 or (len(wrong) == 2 and sorted(given) == sorted(option))
    shorter, longer = sorted((given, option), key=len)
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))


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
