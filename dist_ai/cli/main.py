"""`dist-ai`: the command, and where its sub-commands come from.

A sub-command is a file of this folder with a function of the file's name, written as typer wants it: `launch.py` holds
`launch`. It is imported only when it is asked for, and it imports what it needs (torch, say) inside that function, so
that `dist-ai --help` answers at once.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dist_ai import __version__, cli
from dist_ai.errors import ConfigError, DistAIError, WorkerError, did_you_mean

__all__ = ["main"]

# A function may ask typer for more than its signature says: options that typer does not know, for one.
SETTINGS = "COMMAND_SETTINGS"
INTERRUPTED = 130  # 128 + SIGINT's number, as a shell would report it


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line `argv` (by default this process's own) and ends the process with its exit code.

    Exit codes: 0 if all is well, 2 for arguments that cannot work, 130 for Ctrl-C, a failed worker's own code (128 +
    its number for a signal), and 1 for any other failure.
    """
    try:
        _app()(args=argv, prog_name="dist-ai")
    except DistAIError as error:
        print(f"dist-ai: error: {error}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _exit_code(error: DistAIError) -> int:
    if isinstance(error, WorkerError):
        return error.exit_code if error.exit_code >= 0 else 128 - error.exit_code
    return 2 if isinstance(error, ConfigError) else 1


class _Commands(TyperGroup):
    """Finds the sub-commands in this package's files."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names of the sub-commands."""
        return sorted(name for _, name, _ in pkgutil.iter_modules(cli.__path__) if name != "main")

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the sub-command `cmd_name`."""
        names = self.list_commands(ctx)
        if cmd_name not in names:
            raise ConfigError(
                f"{cmd_name!r} is not one of the commands {', '.join(names)}{did_you_mean(cmd_name, names)}"
            )
        module = importlib.import_module(f"{cli.__name__}.{cmd_name}")
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(name=cmd_name, **getattr(module, SETTINGS, {}))(getattr(module, cmd_name))
        return typer.main.get_command(alone)

    def invoke(self, ctx: Any) -> Any:
        """Runs the sub-command. Ctrl-C is no mistake that a traceback would help with: it ends with one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("dist-ai: interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


def _app() -> typer.Typer:
    app = typer.Typer(
        cls=_Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
    )

    @app.callback()
    def dist_ai(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
        ] = False,
    ) -> None:
        """Trains deep-learning models with one program on one process or many."""

    return app


def _show_version(asked: bool) -> None:
    if asked:
        print(f"dist-ai {__version__}")
        raise typer.Exit


if __name__ == "__main__":
    main()
