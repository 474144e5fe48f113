"""`dist-ai predict`: labels files with an exported model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from dist_ai.data.recipe import SampleRecipe
    from dist_ai.export import Prediction, Predictor

__all__ = ["predict"]


def predict(
    export: Annotated[Path, typer.Argument(help="The folder that learn.export made.", metavar="EXPORT_DIR")],
    files: Annotated[
        list[str],
        typer.Argument(
            help="Images, texts or folders of them, series (CSV, .npy) or tables (CSV, Parquet); of texts also one itself.",
            metavar="FILE...",
        ),
    ],
    picture: Annotated[Path | None, typer.Option(help="Also draw the predictions to this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a file instead of a table.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")] = None,
) -> None:
    """Prints a label and a confidence for each FILE, by the model in EXPORT_DIR; of a folder, for each image, text or
    series under it.

    A model of tables takes CSV and Parquet files, and predicts each of their rows. Of a mask, it prints which share of the
    pixels each class has; --json has the class of each pixel, and --picture draws it.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(
            f"--picture {picture}: expected the name of a PNG file, such as {picture.with_suffix('.png')}"
        )
    from dist_ai.export import Predictor

    predictor = Predictor(export, device=device)
    recipe = predictor.recipe
    reads = _what_it_reads(recipe)
    if picture is not None and reads != "images":
        raise ConfigError(f"--picture draws images, and this model takes {reads}; leave it out")
    if reads == "the rows of tables":
        for file in files:
            _print(*_of_table(predictor, _existing(file)), predictor, as_json=as_json)
        return
    items = _items(files, reads)
    predictions = predictor.predict_many(items)
    _print([{"file": str(item)} for item in items], predictions, predictor, as_json=as_json)
    if picture is not None:
        from dist_ai.vision.show import save_predictions

        try:
            save_predictions(picture, items, [(each.label, each.confidence) for each in predictions])
        except OSError as error:
            raise ConfigError(
                f"--picture {picture} cannot be written: {error.strerror}; choose another place"
            ) from error
        print(f"drawn in {picture}")


def _what_it_reads(recipe: SampleRecipe) -> str:
    if recipe.reads_tables is not None:
        return "the rows of tables"
    if recipe.reads_text:
        return "texts"
    return "series" if recipe.reads_series else "images"


def _items(given: list[str], reads: str) -> list[Path | str]:
    """Returns the files of what was given; for a model of texts, what is no file is the text itself."""
    items: list[Path | str] = []
    for each in given:
        if reads == "texts" and not _exists(Path(each)):
            items.append(each)
        else:
            path = _existing(each)
            items += _files_under(path, reads) if path.is_dir() else [path]
    return items


def _files_under(folder: Path, reads: str) -> list[Path]:
    if reads == "series":
        from dist_ai.timeseries.files import get_series_files

        return get_series_files(folder)
    from dist_ai.data import get_image_files, get_text_files

    return get_text_files(folder) if reads == "texts" else get_image_files(folder)


def _existing(file: str) -> Path:
    if not _exists(path := Path(file)):
        raise ConfigError(f"no file or folder at {path}: it is not there (looked from {Path.cwd()})")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a text may be longer than a file's name
        return False


def _of_table(predictor: Predictor, file: Path) -> tuple[list[dict[str, Any]], list[Prediction]]:
    """Returns where each row of a file is, and what is predicted for it."""
    from dist_ai.data import Table, as_frame
    from dist_ai.data.frames import read_csv

    reader = predictor.recipe.reads_tables
    is_csv = any(suffix.lower() in (".csv", ".tsv") for suffix in file.suffixes)
    if is_csv:
        tab = any(suffix.lower() == ".tsv" for suffix in file.suffixes)
        frame = read_csv(file, delimiter="\t" if tab else ",", text=reader.text_columns)
    else:
        frame = as_frame(Table.from_parquet(file))
    places = [{"file": str(file), "row": row} for row in range(len(frame))]
    return places, predictor.predict_many(frame, bs=1024)


def _print(places: list[dict[str, Any]], predictions: list[Prediction], predictor: Predictor, *, as_json: bool) -> None:
    names = [" ".join(map(str, place.values())) for place in places]
    width = min(_WIDEST, max(map(len, names)))
    for name, place, prediction in zip(names, places, predictions, strict=True):
        # A loss that an export cannot name gives neither classes nor probabilities: the label is the model's raw output.
        label = prediction.label.tolist() if hasattr(prediction.label, "tolist") else prediction.label
        known = not math.isnan(prediction.confidence)
        mask = _of_pixels(prediction) if not as_json else ""
        each = _of_each_label(prediction, predictor) if isinstance(label, list) and not mask else {}
        likeliest = _likeliest(prediction, predictor) if label == [] else ""
        if as_json:
            row = {**place, "label": label, "confidence": prediction.confidence if known else None}
            print(json.dumps(row | ({"confidences": each} if each else {})))
        elif mask:
            print(f"{name:<{width}}  {mask}")
        elif each:
            print(f"{name:<{width}}  " + "; ".join(f"{label} {share:.1%}" for label, share in each.items()))
        elif likeliest:
            print(f"{name:<{width}}  none (likeliest: {likeliest})")
        else:
            print(f"{name:<{width}}  {label}" + (f"  {prediction.confidence:.1%}" if known else ""))


def _of_pixels(prediction: Prediction) -> str:
    """Returns the size of a mask and the share of each class that is in it, the largest first; "" of what is no mask."""
    from dist_ai.core.types import plain
    from dist_ai.core.vision_types import TensorMask

    mask = prediction.label
    if not isinstance(mask, TensorMask):
        return ""
    classes, counts = plain(mask).unique(return_counts=True)
    shares = sorted(zip((counts / counts.sum()).tolist(), map(int, classes), strict=True), reverse=True)
    names = [mask.codes[place] if mask.codes is not None else f"class {place}" for _, place in shares]
    told = ", ".join(f"{name} {share:.1%}" for name, (share, _) in zip(names, shares, strict=True))
    return f"{' x '.join(map(str, mask.shape))} pixels: {told}"


def _of_each_label(prediction: Prediction, predictor: Predictor) -> dict[str, float]:
    """Returns the probability of each of several labels by its name; empty where the model gives none."""
    try:
        vocab = list(map(str, predictor.vocab))
    except ValueError:  # numbers have no names
        return {}
    if any(str(label) not in vocab for label in prediction.label):
        return {}
    return {str(label): float(prediction.output[vocab.index(str(label))]) for label in prediction.label}


def _likeliest(prediction: Prediction, predictor: Predictor) -> str:
    """Returns which label came nearest to being one, where none is probable enough; "" where the labels have no names."""
    try:
        vocab = predictor.vocab
    except ValueError:
        return ""
    share, index = prediction.output.flatten().max(0)
    return f"{vocab[int(index)]} {float(share):.1%}" if prediction.output.numel() == len(vocab) else ""


_WIDEST = 100  # characters of a text beside which its label stands
