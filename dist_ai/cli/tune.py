"""`dist-ai tune`: searches for the hyper-parameters of a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from dist_ai.distributed.launchers.job import Device

__all__ = ["tune"]

COMMAND_SETTINGS = {"context_settings": {"ignore_unknown_options": True, "allow_extra_args": True}}


def tune(
    context: typer.Context,
    script: Annotated[str, typer.Argument(help="The Python file to run.", metavar="SCRIPT")],
    param: Annotated[
        list[str] | None,
        typer.Option(help="A parameter and what it is drawn from; SCRIPT gets --NAME VALUE.", metavar="NAME=DRAW"),
    ] = None,
    trials: Annotated[int, typer.Option(help="How many.")] = 8,
    metric: Annotated[str, typer.Option(help="The column of the epochs' rows to go by.")] = "valid_loss",
    workers: Annotated[int, typer.Option(help="Number of processes of each trial.")] = 1,
    run_dir: Annotated[
        str | None, typer.Option(help="Gets a folder for each trial.", show_default="runs/<script>-tune")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing what is there.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there are GPUs.")] = None,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster.", show_default="RAY_ADDRESS, the one here, or a new one")
    ] = None,
    early_stopping: Annotated[bool, typer.Option(help="Whether hopeless trials are stopped.")] = True,
    patience: Annotated[int, typer.Option(help="Epochs that each trial has at least.")] = 1,
    at_once: Annotated[int | None, typer.Option(help="How many trials may run at the same time.")] = None,
    max_restarts: Annotated[int, typer.Option(help="How often to start a trial again after a failure.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Runs SCRIPT with parameters drawn again and again, stops what is hopeless, and shows which are best.

    dist-ai tune train.py --param "lr=loguniform(1e-4,1e-1)" --param "bs=choice(32,64)" --trials 8 --metric accuracy
    """
    from dist_ai.tuning import tune as search

    space: dict[str, str] = {}
    for each in param or []:
        name, equals, draw = each.partition("=")
        if not (name and equals and draw):
            raise ConfigError(
                f"--param {each}: expected a name and what it is drawn from: --param 'lr=loguniform(1e-4,1e-1)'"
            )
        space[name] = draw
    results = search(
        script,
        space,
        args=context.args,
        trials=trials,
        metric=metric,
        workers=workers,
        run_dir=run_dir,
        fresh=fresh,
        device=cast("Device | None", device),  # checked there
        address=address,
        early_stopping=early_stopping,
        patience=patience,
        at_once=at_once,
        max_restarts=max_restarts,
        seed=seed,
    )
    print(results.table())
    print(f"the best: {results.best.run_dir}")
