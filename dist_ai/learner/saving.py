"""What a Learner writes by name, and reads again: weights with the optimizer's state, and exports."""

from __future__ import annotations

from pathlib import Path

from dist_ai.checkpoint import Checkpoint, write_checkpoint
from dist_ai.core.sealed import check_replaceable
from dist_ai.distributed.collectives import on_main
from dist_ai.distributed.sharded import gather, is_sharded
from dist_ai.export import save_export
from dist_ai.export.artifact import EXPORT_FILES, load_tensors
from dist_ai.learner.fits import Fits
from dist_ai.learner.keeper import layout_of_state
from dist_ai.learner.parts import LearnerParts

__all__ = ["export", "load", "place_of", "save"]


def place_of(name: str | Path, root: Path | None) -> Path:
    """Returns the directory that a name means: a path itself, and a bare name one in ``models`` in `root`, or here."""
    path = Path(name)
    return path if path.parent != Path() else (root or Path()) / "models" / path


def save(learn: LearnerParts, directory: Path, *, with_opt: bool) -> None:
    """Writes the weights, and the optimizer's state if wanted. Collective."""
    learn.strategy.sync_buffers(learn.model)
    groups, state = {"model": learn.model.state_dict()}, {}
    if with_opt:
        groups["optimizer"], state["optimizer"] = learn.opt.state()
    write_checkpoint(directory, groups, state, learn.collectives)


def load(learn: LearnerParts, directory: Path, *, with_opt: bool) -> None:
    """Reads the weights, and the optimizer's state if it was saved and is wanted.

    Raises:
        ArtifactError: it is not there, damaged, or of another model or optimizer.
    """
    saved = Checkpoint.open(directory)
    weights = saved.read("model", {name: t for name, t in learn.model.state_dict().items() if is_sharded(t)})
    load_tensors(learn.model, weights, str(directory), "Load it into the model that it was saved of")
    if with_opt and "optimizer" in saved.state:
        learn.own_optimizer.drop()  # a fresh one has no state beside what is loaded
        learn.opt.load_state(saved.read("optimizer", layout_of_state(saved, learn.opt)), saved.state["optimizer"])


def export(learn: LearnerParts, fits: Fits, directory: Path) -> None:
    """Writes the model and all that is needed to predict with it, on rank 0; all wait, and fail if it fails. Collective."""
    what = f"the export to {directory}"
    on_main(learn.collectives, lambda: check_replaceable(directory, "export", EXPORT_FILES), what=what)
    learn.strategy.sync_buffers(learn.model)
    state = gather(learn.model.state_dict(), keep=learn.collectives.world.is_main)

    def write() -> None:
        save_export(
            directory,
            model=learn.model,
            state=state,
            spec=learn.spec,
            recipe=learn.dls.recipe,
            loss_func=learn.loss_func,
        )

    with fits.set_aside():  # in a fit too, with the weights to evaluate with
        on_main(learn.collectives, write, what=what)
