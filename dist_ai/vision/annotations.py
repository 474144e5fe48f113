"""Boxes from the files in which people keep them: COCO's JSON, Pascal VOC's XML, tables with a row for each box."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

from dist_ai.errors import BadSampleError, DataError, did_you_mean

__all__ = ["boxes_of_table", "get_annotations", "read_voc"]

Labelled: TypeAlias = tuple[list[list[float]], list[str]]
"""Boxes, (left, top, right, bottom) in pixels, and the label of each."""


def get_annotations(file: str | Path, prefix: str = "") -> tuple[list[str], list[Labelled]]:
    """Returns the image files that a COCO JSON file annotates, and the boxes and labels of each.

    Args:
        file: with ``images``, ``annotations`` (``bbox`` as left, top, width, height) and ``categories``.
        prefix: put before each file's name.

    Images without an annotation come with none; boxes of crowds (``iscrowd``) are left out.

    Raises:
        DataError: the file is not such a one.
    """
    try:
        data = json.loads(Path(file).read_text())
        names = {each["id"]: str(each["name"]) for each in data["categories"]}
        found: dict[Any, tuple[str, Labelled]] = {
            each["id"]: (prefix + each["file_name"], ([], [])) for each in data["images"]
        }
        for each in data["annotations"]:
            if each.get("iscrowd"):
                continue
            left, top, width, height = map(float, each["bbox"])
            boxes, labels = found[each["image_id"]][1]
            boxes.append([left, top, left + width, top + height])
            labels.append(names[each["category_id"]])
    except FileNotFoundError as error:
        raise DataError(f"no file of annotations at {file}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no COCO file of boxes: {type(error).__name__}: {error}; expected JSON with images, annotations (bbox, "
            "image_id, category_id) and categories"
        ) from error
    return [name for name, _ in found.values()], [labelled for _, labelled in found.values()]


def read_voc(file: str | Path) -> Labelled:
    """Returns the boxes and labels in a Pascal VOC XML file: ``object`` elements with a ``name`` and a ``bndbox``.

    Raises:
        BadSampleError: the file is not such a one.
    """
    try:
        objects = ElementTree.parse(file).getroot().findall("object")
        corners = ("xmin", "ymin", "xmax", "ymax")
        boxes = [[float(_text(each, f"bndbox/{name}")) for name in corners] for each in objects]
        return boxes, [_text(each, "name") for each in objects]
    except FileNotFoundError as error:
        raise BadSampleError(f"{file} is not there") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise BadSampleError(f"{file} is no Pascal VOC file of boxes: {error}") from error


def boxes_of_table(rows: Any, fn_col: str, box_cols: Sequence[str], label_col: str) -> dict[str, Labelled]:
    """Returns the boxes and labels of each image of a table with a row for each box.

    Args:
        rows: rows that are mappings, or have attributes.
        fn_col, box_cols, label_col: the columns.

    Raises:
        DataError: a column is not there.
    """
    found: dict[str, Labelled] = {}
    for i in range(len(rows)):
        row = rows[i]
        boxes, labels = found.setdefault(str(_cell(row, fn_col)), ([], []))
        numbers = [float("nan") if (cell := _cell(row, name)) is None else float(cell) for name in box_cols]
        if not any(map(math.isnan, numbers)):  # else the image's only row, without a box
            boxes.append(numbers)
            labels.append(str(_cell(row, label_col)))
    return found


def _text(element: Any, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise ValueError(f"an object without {path}")
    return found


def _cell(row: Any, column: str) -> Any:
    if isinstance(row, Mapping):
        columns: Any = row
        if column in row:
            return row[column]
    else:
        columns = getattr(row, "_fields", ())
        if hasattr(row, column):
            return getattr(row, column)
    raise DataError(
        f"no column {column!r}{did_you_mean(column, map(str, columns))}; there are {', '.join(map(str, columns))}"
    )
