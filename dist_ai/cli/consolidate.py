"""`dist-ai consolidate`: makes one file of the model in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dist_ai.errors import ConfigError

__all__ = ["consolidate"]


def consolidate(
    checkpoint: Annotated[
        str, typer.Argument(help="The checkpoint's folder or URI, as `dist-ai checkpoints` lists them.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.", metavar="OUT")],
) -> None:
    """Writes the model of CHECKPOINT to OUT/model.safetensors, whatever number of ranks and GPUs wrote it.

    Needs no GPU, and memory for one chunk of 64 MB. Where the program said how its model is built (spec), OUT is an
    export that `load_learner`, `Predictor` and `dist-ai predict` take.
    """
    from dist_ai.checkpoint import Checkpoint, Run, write_consolidated
    from dist_ai.core.sealed import seal
    from dist_ai.export.artifact import EXPORT_FILES, to_text

    if (Path(checkpoint) / "checkpoints").is_dir():
        names = Run(Path(checkpoint)).names() or ["NAME"]
        raise ConfigError(
            f"{checkpoint} is a run; give one of its checkpoints, such as {checkpoint}/checkpoints/{names[-1]}"
        )
    found = Checkpoint.open(checkpoint)
    description = found.state["export"]
    kind, files = ("weights", EXPORT_FILES[:1]) if description is None else ("export", EXPORT_FILES)
    with seal(out, kind, files) as folder:
        write_consolidated(found, folder / "model.safetensors")
        if description is not None:
            (folder / "model.json").write_text(to_text(description))
    what = "the weights" if description is None else "an export"
    print(f"{what} of {found.name} in {out}")
