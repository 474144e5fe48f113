"""`dist-ai demo`: trains, watches, exports and uses a small image classifier, on the images that ship with dist_ai."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dist_ai.errors import ConfigError

__all__ = ["demo"]

_SHOWN = 12  # test images that are predicted at the end

# What a user begins a program of their own with. It stands in the run directory, so that the command which runs it works.
_PROGRAM = """# What `dist-ai demo` did, to make your own program of: put the folder of your images in place of the sample.
from dist_ai.data import sample_data
from dist_ai.metrics import accuracy
from dist_ai.vision import Flip, ImageDataLoaders, vision_learner

path = sample_data("fashion_mnist")  # train/<class>/*.png to train on, test/<class>/*.png to validate with

dls = ImageDataLoaders.from_folder(path, valid="test", batch_tfms=Flip(), bs=64, seed=42)
learn = vision_learner(dls, "small_cnn", pretrained=False, metrics=accuracy)
learn.fit_one_cycle({epochs}, 1e-2)
learn.export(learn.run_dir / "export")
"""


def demo(
    run_dir: Annotated[Path, typer.Option(help="Where the run keeps its log, events, checkpoints and model.")] = Path(
        "runs/demo"
    ),
    epochs: Annotated[int, typer.Option(help="How often to go through the 6,000 training images.")] = 8,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing the run.")] = False,
) -> None:
    """Trains a classifier of clothes in about a minute, exports it, and predicts with it in a fresh process.

    Run again, it continues where it was stopped, and does not train again what is done.
    """
    if epochs < 1:
        raise ConfigError(f"--epochs {epochs}: expected 1 or more")
    import torch

    from dist_ai.data import sample_data
    from dist_ai.metrics import accuracy
    from dist_ai.vision import Flip, ImageDataLoaders, vision_learner

    images = sample_data("fashion_mnist")
    print(f"images: {images} (Fashion-MNIST, 6,000 to train on and 1,000 to test with)")
    began = time.perf_counter()
    # Clothes in 28 x 28 pixels stand upright and in one light: turned and tilted ones would take more epochs to learn.
    dls = ImageDataLoaders.from_folder(images, valid="test", batch_tfms=Flip(), bs=64, seed=42)
    learn = vision_learner(dls, "small_cnn", pretrained=False, metrics=accuracy, run_dir=run_dir, fresh=fresh)
    learn.fit_one_cycle(epochs, 1e-2)
    score = learn.validate()[1]
    export = learn.export(run_dir / "export")
    learn.close()
    print(f"test accuracy {score:.3f} after {time.perf_counter() - began:.0f} s")

    print("\nin a fresh process, from the export alone:")
    files = sorted((images / "test").rglob("*.png"))
    shown = files[:: max(1, len(files) // _SHOWN)][:_SHOWN]
    picture = run_dir / "predictions.png"
    use = ["-m", "dist_ai.cli.main", "predict", str(export), *map(str, shown), "--picture", str(picture)]
    # In a group of its own: Ctrl-C reaches this process alone, which ends the other one and says so once.
    code = subprocess.run([sys.executable, *use], check=False, process_group=0).returncode
    if code:
        raise typer.Exit(code)  # it has said why
    program = run_dir / "train.py"
    if not program.exists():  # else it may be the user's by now
        program.write_text(_PROGRAM.format(epochs=epochs))
    workers = 1 if torch.cuda.device_count() == 1 else 2  # each takes a GPU where there are some
    print(
        f"""
the model         {export}
the predictions   {picture}
the log           {run_dir / "log.jsonl"}, {run_dir / "metrics.csv"}
the program       {program}

watch it          tensorboard --logdir {shlex.quote(str(run_dir))}
use it            dist-ai predict {shlex.quote(str(export))} {shlex.quote(str(shown[0]))}
train on yours    dist-ai launch {shlex.quote(str(program))} --workers {workers}"""
    )
