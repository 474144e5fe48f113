"""`dist-ai predict`: labels files, or texts, with an exported model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from dist_ai.errors import ConfigError

__all__ = ["predict"]


def predict(
    export: Annotated[Path, typer.Argument(help="The folder that learn.export made.", metavar="EXPORT_DIR")],
    files: Annotated[
        list[str],
        typer.Argument(
            help="What to predict: files such as images, or folders of them; for a model of texts also a text itself.",
            metavar="FILE...",
        ),
    ],
    picture: Annotated[Path | None, typer.Option(help="Also draw the predictions to this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a file instead of a table.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")] = None,
) -> None:
    """Prints a label and a confidence for each FILE, by the model in EXPORT_DIR; of a folder, for each image or text under it."""
    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(
            f"--picture {picture}: expected the name of a PNG file, such as {picture.with_suffix('.png')}"
        )
    from dist_ai.export import Predictor

    predictor = Predictor(export, device=device)
    reads_text = predictor.recipe.reads_text
    if reads_text and picture is not None:
        raise ConfigError("--picture draws images, and this model reads texts; leave it out")
    items = _items(files, reads_text=reads_text)
    predictions = predictor.predict_many(items)
    width = min(_WIDEST, max(len(str(item)) for item in items))
    for file, prediction in zip(items, predictions, strict=True):
        # A loss that an export cannot name gives neither classes nor probabilities: the label is the model's raw output.
        label = prediction.label.tolist() if hasattr(prediction.label, "tolist") else prediction.label
        known = not math.isnan(prediction.confidence)
        if as_json:
            print(
                json.dumps({"file": str(file), "label": label, "confidence": prediction.confidence if known else None})
            )
        else:
            print(f"{file!s:<{width}}  {label}" + (f"  {prediction.confidence:.1%}" if known else ""))
    if picture is not None:
        from dist_ai.vision.show import save_predictions

        try:
            save_predictions(picture, items, [(each.label, each.confidence) for each in predictions])
        except OSError as error:
            raise ConfigError(
                f"--picture {picture} cannot be written: {error.strerror}; choose another place"
            ) from error
        print(f"drawn in {picture}")


_WIDEST = 100  # characters of a text beside which its label stands


def _items(given: list[str], *, reads_text: bool) -> list[Path | str]:
    """Returns the files of what was given; for a model of texts, what is no file is the text itself."""
    from dist_ai.data import get_image_files, get_text_files

    files_of = get_text_files if reads_text else get_image_files
    items: list[Path | str] = []
    for each in given:
        if not (there := _exists(path := Path(each))) and not reads_text:
            raise ConfigError(f"no file or folder at {path}: it is not there (looked from {Path.cwd()})")
        items += files_of(path) if there and path.is_dir() else [path if there else each]
    return items


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a text may be longer than a file's name
        return False
