"""`dist-ai predict`: labels files with an exported model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from dist_ai.export import Prediction, Predictor

__all__ = ["predict"]


def predict(
    export: Annotated[Path, typer.Argument(help="The folder that learn.export made.", metavar="EXPORT_DIR")],
    files: Annotated[
        list[Path], typer.Argument(help="What to predict, such as images, or folders of images.", metavar="FILE...")
    ],
    picture: Annotated[Path | None, typer.Option(help="Also draw the predictions to this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a file instead of a table.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")] = None,
) -> None:
    """Prints a label and a confidence for each FILE, by the model in EXPORT_DIR; of a folder, for each image under it."""
    if missing := [file for file in files if not file.exists()]:
        raise ConfigError(f"no file or folder at {missing[0]}: it is not there (looked from {Path.cwd()})")
    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(
            f"--picture {picture}: expected the name of a PNG file, such as {picture.with_suffix('.png')}"
        )
    from dist_ai.data import get_image_files
    from dist_ai.export import Predictor

    files = [found for file in files for found in (get_image_files(file) if file.is_dir() else [file])]
    predictor = Predictor(export, device=device)
    predictions = predictor.predict_many(files)
    width = max(len(str(file)) for file in files)
    for file, prediction in zip(files, predictions, strict=True):
        # A loss that an export cannot name gives neither classes nor probabilities: the label is the model's raw output.
        label = prediction.label.tolist() if hasattr(prediction.label, "tolist") else prediction.label
        known = not math.isnan(prediction.confidence)
        each = _of_each_label(prediction, predictor) if isinstance(label, list) else {}
        if as_json:
            row = {"file": str(file), "label": label, "confidence": prediction.confidence if known else None}
            print(json.dumps(row | ({"confidences": each} if each else {})))
        elif each:
            print(f"{file!s:<{width}}  " + "; ".join(f"{name} {share:.1%}" for name, share in each.items()))
        else:
            print(f"{file!s:<{width}}  {label}" + (f"  {prediction.confidence:.1%}" if known else ""))
    if picture is not None:
        from dist_ai.vision.show import save_predictions

        try:
            save_predictions(picture, files, [(each.label, each.confidence) for each in predictions])
        except OSError as error:
            raise ConfigError(
                f"--picture {picture} cannot be written: {error.strerror}; choose another place"
            ) from error
        print(f"drawn in {picture}")


def _of_each_label(prediction: Prediction, predictor: Predictor) -> dict[str, float]:
    """Returns the probability of each of several labels by its name; empty where the model gives none."""
    try:
        vocab = list(map(str, predictor.vocab))
    except ValueError:  # numbers have no names
        return {}
    if any(str(label) not in vocab for label in prediction.label):
        return {}
    return {str(label): float(prediction.output[vocab.index(str(label))]) for label in prediction.label}
