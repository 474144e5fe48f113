"""`dist-ai checkpoints`: lists a run's checkpoints and verifies each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dist_ai.errors import ArtifactError, ConfigError

__all__ = ["checkpoints"]


def checkpoints(
    run: Annotated[str, typer.Argument(help="The run directory, or the URI that was given as one.", metavar="RUN")],
    pin: Annotated[str | None, typer.Option(help="Keep the checkpoint of this name whatever comes.")] = None,
    unpin: Annotated[str | None, typer.Option(help="Let the checkpoint of this name go when its time comes.")] = None,
    verify: Annotated[bool, typer.Option(help="Read every byte of each.")] = True,
) -> None:
    """Lists the checkpoints of RUN, oldest first, and verifies each. Ends with 1 if one is damaged."""
    from dist_ai.checkpoint import Run
    from dist_ai.cli.control import runs_near
    from dist_ai.learner.run_places import checkpoints_at

    directory = Path(run)
    if checkpoints_at(run) is None and not (directory / "checkpoints").is_dir():
        raise ConfigError(f"{run} is no run directory: there is no folder of checkpoints in it{runs_near(run)}")
    of_run = Run(directory, checkpoints_at(run))
    for name, stays in ((pin, True), (unpin, False)):
        if name is not None:
            of_run.pin(name, stays=stays)
    names = of_run.names(complete=False)
    if not names:
        print(f"{run} has no checkpoints yet")
    rows = [_HEAD, *(_row(of_run, name, verify=verify) for name in names)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    for row in rows if names else []:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if any(row[-1].startswith(_DAMAGED) for row in rows):
        raise typer.Exit(1)


_HEAD = ["checkpoint", "fit", "epoch", "step", "MB", "ranks", "written", "metrics", "verified"]
_DAMAGED = "DAMAGED: "


def _row(run: Any, name: str, *, verify: bool) -> list[str]:
    try:
        found = run.checkpoint(name)
    except ArtifactError as error:
        return [name, *["?"] * 7, f"{_DAMAGED}{error}"]
    state, manifest = found.state, found.manifest
    verdict = "sound" if verify else "not looked at"
    try:
        if verify:
            found.verify()
    except ArtifactError as error:
        verdict = f"{_DAMAGED}{error}"
    if strangers := found.strangers():
        verdict += f" (not its own, not read: {', '.join(strangers[:3])})"
    metrics = {key: value for key, value in state["metrics"].items() if key not in _NO_METRICS}
    return [
        name + (" (pinned)" if run.is_pinned(name) else ""),
        str(state["fit"] + 1),
        str(state["epoch"]),
        str(state["step"]),
        f"{manifest.num_bytes / 1e6:,.1f}",
        str(manifest.world_size),
        manifest.written.replace("+00:00", "Z"),
        ", ".join(f"{key} {value:.4g}" for key, value in metrics.items()) or "-",
        verdict,
    ]


_NO_METRICS = ("fit", "epoch", "samples_per_s", "time")
