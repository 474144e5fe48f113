"""The examples of vision, on real images from the kit, each with a figure that it must reach."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples" / "vision"


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns `figure(name, *arguments)`: the number that an example prints last."""

    def run(name: str, *arguments: Any) -> float:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        found = re.findall(r"^\w+ ([\d.]+)", capsys.readouterr().out, re.MULTILINE)
        return float(found[-1])

    return run


def tiles(part: str, size: int, step: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Returns squares of the left or the right half of the micrograph, and the nuclei in them."""
    image, mask = (each[:, :256] if part == "left" else each[:, 256:] for each in kit.nuclei())
    return [
        (f"{part}_{y}_{x}.png", image[y : y + size, x : x + size], mask[y : y + size, x : x + size])
        for y in range(0, 512 - size + 1, step)
        for x in range(0, 256 - size + 1, step)
    ]


def digits(folder: Path, num: int) -> list[int]:
    """Writes handwritten digits and returns their classes."""
    images, classes = kit.mnist_5k()
    chosen = np.random.default_rng(0).permutation(len(images))[:num]
    for i, k in enumerate(chosen):
        Image.fromarray(images[k]).save(folder / f"{i}.png")
    return [int(classes[k]) for k in chosen]


def test_each_is_under_30_lines() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert [file.stem for file in files] == [
        "detection", "fine_tuning", "gan", "multi_label", "points", "segmentation", "super_resolution"
    ]  # fmt: skip
    assert all(len(file.read_text().splitlines()) < 30 for file in files)


@pytest.mark.slow
def test_fine_tuning_tells_animals_from_things(figure: Any, tmp_path: Path) -> None:
    for number, (photo, label) in enumerate(kit.imagenet_photos()):
        place = tmp_path / "photos" / ("animal" if label < 398 else "thing") / f"{number}.png"  # ImageNet's first 398
        place.parent.mkdir(parents=True, exist_ok=True)
        photo.resize((128, 128)).save(place)
    torch.save(kit.mobilenet_v2_weights(), tmp_path / "mobilenet_v2.pth")
    assert (
        figure("fine_tuning", tmp_path / "photos", tmp_path / "mobilenet_v2.pth") >= 0.9
    )  # of 12; the other 8 are too few to tell


@pytest.mark.slow
def test_multi_label_finds_both_digits(figure: Any, tmp_path: Path) -> None:
    images, classes = kit.mnist_5k()
    pairs = np.random.default_rng(0).integers(0, len(images), (1000, 2))
    rows = ["name,labels"]
    for i, (a, b) in enumerate(pairs):
        Image.fromarray(np.concatenate([images[a], images[b]], 1)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{' '.join(map(str, sorted({int(classes[a]), int(classes[b])})))}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert figure("multi_label", tmp_path, 3) >= 0.85  # none at all would be right for 0.81


@pytest.mark.slow
def test_segmentation_separates_nuclei(figure: Any, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, image, mask in [*tiles("left", 160, 32), *tiles("right", 128, 128)]:
        Image.fromarray(image).save(tmp_path / "images" / name)
        Image.fromarray((mask > 0).astype(np.uint8)).save(tmp_path / "masks" / name)
    assert figure("segmentation", tmp_path, 33) >= 0.94


@pytest.mark.slow
def test_points_are_the_ends_of_nuclei(figure: Any, tmp_path: Path) -> None:
    image, mask = kit.nuclei()
    image, mask = np.pad(image, 24), np.pad(mask, 24)
    points = {}
    for number in range(1, int(mask.max()) + 1):
        rows, columns = np.nonzero(mask == number)
        if not len(rows) or max(np.ptp(rows), np.ptp(columns)) >= 47:
            continue
        y, x = round((rows.min() + rows.max()) / 2) - 24, round((columns.min() + columns.max()) / 2) - 24
        for shift_y, shift_x in ((0, 0), (-5, 3), (4, -4), (2, 6)):
            top, left = (
                min(max(0, place), side - 48)
                for place, side in zip((y + shift_y, x + shift_x), image.shape, strict=True)
            )
            ends = (columns.argmin(), rows.argmin(), columns.argmax(), rows.argmax())
            name = f"{number}_{shift_y}.png"
            points[name] = [(int(columns[i] - left), int(rows[i] - top)) for i in ends]
            Image.fromarray(image[top : top + 48, left : left + 48]).save(tmp_path / name)
    (tmp_path / "points.json").write_text(json.dumps(points))
    assert figure("points", tmp_path, 20) < 0.125  # of half the picture's side: 3 pixels


@pytest.mark.slow
def test_detection_finds_nuclei(figure: Any, tmp_path: Path) -> None:
    images, annotations = [], []
    for number, (name, image, mask) in enumerate([*tiles("left", 128, 64), *tiles("right", 128, 64)]):
        Image.fromarray(image).save(tmp_path / name)
        images.append({"id": number, "file_name": name})
        for nucleus in np.unique(mask[mask > 0]):
            rows, columns = np.nonzero(mask == nucleus)
            box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
            annotations.append({"image_id": number, "category_id": 1, "bbox": box})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus"}]}
    (tmp_path / "coco.json").write_text(json.dumps(data))
    assert figure("detection", tmp_path, 12) >= 0.5


@pytest.mark.slow
def test_a_gan_draws_on_black(figure: Any, tmp_path: Path) -> None:
    digits(tmp_path, 1000)
    assert figure("gan", tmp_path, 12) < 0.3  # digits are 0.13, and untrained images 0.5
    assert (tmp_path / "fakes.png").exists()


@pytest.mark.slow
def test_super_resolution_is_sharper_than_what_it_is_given(figure: Any, tmp_path: Path) -> None:
    for number, (photo, _) in enumerate(kit.imagenet_photos()):
        photo.resize((192, 192)).save(tmp_path / f"{number}.png")
    assert figure("super_resolution", tmp_path, 40) < 0.96
