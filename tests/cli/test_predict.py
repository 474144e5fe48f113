"""`dist-ai predict`: a table, JSON or a picture from an export; and one clear line for what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import Lab
from pictures import HEIGHT, WIDTH, image_folder, small_learner, small_loaders
from PIL import Image
from texts import classifier, loaders

from dist_ai.cli.main import main
from dist_ai.core.vision_types import TensorMask
from dist_ai.data import DataBlock, MultiCategoryBlock, get_image_files
from dist_ai.vision import ImageBlock, MaskBlock, unet_learner


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def export(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    learn = small_learner(small_loaders(images))
    learn.fit_one_cycle(4, 1e-2)
    return learn.export(tmp_path_factory.mktemp("out") / "model")


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns `predict(*arguments)`: the exit code, and what went to standard output and to standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["predict", *map(str, arguments)])
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


def photos(images: Path) -> tuple[Path, Path]:
    return images / "valid" / "cat" / "0.png", images / "valid" / "dog" / "0.png"


def test_a_line_a_file_with_its_label_and_confidence(predict: Any, export: Path, images: Path) -> None:
    cat, dog = photos(images)
    code, out, err = predict(export, cat, dog)
    assert (code, err) == (0, "")
    rows = [line.rsplit(maxsplit=2) for line in out.splitlines()]
    assert [row[:2] for row in rows] == [[str(cat), "cat"], [str(dog), "dog"]]
    assert all(50 < float(row[2].rstrip("%")) <= 100 for row in rows)


def test_of_a_folder_every_image_under_it(predict: Any, export: Path, images: Path, tmp_path: Path) -> None:
    cat, _ = photos(images)
    code, out, err = predict(export, images / "valid", cat)
    assert (code, err) == (0, "")
    files = [*sorted((images / "valid").rglob("*.png")), cat]
    assert [line.rsplit(maxsplit=2)[:2] for line in out.splitlines()] == [
        [str(file), file.parent.name] for file in files
    ]
    (tmp_path / "empty").mkdir()
    code, _, err = predict(export, tmp_path / "empty")
    assert code == 1
    assert err.startswith(f"dist-ai: error: no image file under {tmp_path}/empty; looked for .apng, ")


def test_json_for_programs(predict: Any, export: Path, images: Path) -> None:
    cat, dog = photos(images)
    code, out, _ = predict(export, cat, dog, "--json")
    assert code == 0
    records = [json.loads(line) for line in out.splitlines()]
    assert [(each["file"], each["label"]) for each in records] == [(str(cat), "cat"), (str(dog), "dog")]
    assert all(0.5 < each["confidence"] <= 1 for each in records)


def test_a_picture_in_a_folder_that_is_made(predict: Any, export: Path, images: Path, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "p.png"
    code, out, _ = predict(export, *photos(images), "--picture", picture)
    assert code == 0
    assert out.splitlines()[-1] == f"drawn in {picture}"
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_several_labels_have_a_confidence_each_and_none_says_which_came_nearest(
    predict: Any, images: Path, tmp_path: Path
) -> None:
    block = DataBlock(
        (ImageBlock, MultiCategoryBlock), get_items=get_image_files, get_y=lambda file: list(file.parent.name)
    )
    learn = small_learner(block.dataloaders(images, bs=4, num_workers=0), bn_final=True)
    cat, _ = photos(images)
    *_, last = learn.model.modules()
    with torch.no_grad():  # whatever the image
        last.weight.zero_()
        last.bias.copy_(torch.tensor([3.0, -3.0, -2.0, 2.0, -1.0, 1.0]))
    assert list(learn.dls.vocab) == ["a", "c", "d", "g", "o", "t"]
    folder = tmp_path / "model"
    learn.export(folder)
    code, out, _ = predict(folder, cat)
    assert (code, out) == (0, f"{cat}  a 95.3%; g 88.1%; t 73.1%\n")
    record = json.loads(predict(folder, cat, "--json")[1])
    assert record["label"] == ["a", "g", "t"]
    assert record["confidences"] == pytest.approx({"a": 0.9526, "g": 0.8808, "t": 0.7311}, abs=1e-4)
    assert record["confidence"] == pytest.approx(0.7311, abs=1e-4)  # of the least certain
    with torch.no_grad():
        last.bias.sub_(5.0)
    learn.export(folder)
    assert predict(folder, cat)[1] == f"{cat}  none (likeliest: a 11.9%)\n"
    record = json.loads(predict(folder, cat, "--json")[1])
    assert (record["label"], record["confidence"]) == ([], None)


@pytest.mark.parametrize("codes", [["sky", "road"], None])
def test_of_a_mask_the_share_of_each_class_and_in_json_every_pixel(
    predict: Any, images: Path, tmp_path: Path, codes: list[str] | None
) -> None:
    def halves(file: Path) -> TensorMask:
        return TensorMask(torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH) >= HEIGHT * WIDTH // 4)

    block = DataBlock((ImageBlock, MaskBlock(codes)), get_items=get_image_files, get_y=halves)
    dls = block.dataloaders(images, bs=4, num_workers=0)
    learn = unet_learner(dls, "small_cnn", n_out=2, pretrained=False, run_dir=None, progress=False)
    with torch.no_grad():
        *_, last = (module for module in learn.model.modules() if hasattr(module, "bias") and module.bias is not None)
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 1.0]))  # all pixels are of the second class
    folder, (cat, _) = learn.export(tmp_path / "model"), photos(images)
    name = "road" if codes else "class 1"
    assert predict(folder, cat) == (0, f"{cat}  {HEIGHT} x {WIDTH} pixels: {name} 100.0%\n", "")
    assert json.loads(predict(folder, cat, "--json")[1])["label"] == [[1] * WIDTH] * HEIGHT


def test_without_a_nameable_loss_the_raw_output_is_the_label(predict: Any, images: Path, tmp_path: Path) -> None:
    learn = small_learner(small_loaders(images), loss_func=torch.nn.CrossEntropyLoss())
    folder, (cat, _) = learn.export(tmp_path / "model"), photos(images)
    _, out, _ = predict(folder, cat, "--json")
    record = json.loads(out)
    assert len(record["label"]) == 2
    assert record["confidence"] is None
    assert "nan" not in predict(folder, cat)[1]


def test_mistakes_get_one_line_and_no_traceback(predict: Any, export: Path, images: Path, tmp_path: Path) -> None:
    cat, _ = photos(images)
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    mistakes: list[tuple[list[Any], int, str]] = [
        (
            [export, cat.with_name("00.png")],
            2,
            f"no file or folder at {cat.parent}/00.png: it is not there (looked from {Path.cwd()})\n",
        ),
        ([tmp_path / "gone", cat], 1, f"no export at {tmp_path}/gone: it is not there"),
        ([images, cat], 1, f"{images} is not a complete export: manifest.json, which is written last, is missing"),
        ([cat, cat], 1, f"no export at {cat}: it is a file"),
        (
            [export, cat, text],
            1,
            f"{text} cannot be read as an image: it is of no known format; replace it or remove it",
        ),
        ([export, cat, "--picture", "p.jpg"], 2, "--picture p.jpg: expected the name of a PNG file, such as p.png"),
        ([export, cat, "--picture", text / "p.png"], 2, f"--picture {text}/p.png cannot be written: "),
        ([export, cat, "--device", "gpu"], 2, "device 'gpu' cannot be used here: "),
    ]
    for arguments, expected, said in mistakes:
        code, _, err = predict(*arguments)
        assert code == expected, err
        assert said in err
        assert err.startswith("dist-ai: error: ")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["manifest.json", "model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_export_is_named(
    predict: Any, export: Path, images: Path, tmp_path: Path, name: str, damage: str
) -> None:
    copy = shutil.copytree(export, tmp_path / "copy")
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if damage != "missing":
        (copy / name).write_bytes(content[:-1] + (b"" if damage == "cut" else bytes([content[-1] ^ 1])))
    code, out, err = predict(copy, photos(images)[0])
    assert (code, out) == (1, "")
    assert err.startswith("dist-ai: error: ")
    assert str(copy) in err
    assert name in err
    assert len(err.splitlines()) == 1


def test_the_command_itself_ends_with_the_code_and_finds_the_application(
    export: Path, images: Path, tmp_path: Path
) -> None:
    cat, dog = photos(images)
    with Lab(tmp_path) as lab:
        done = lab.python("-m", "dist_ai.cli.main", "predict", str(export), str(cat), str(dog))
        assert done.returncode == 0, done.stderr
        assert [line.split()[1] for line in done.stdout.splitlines()] == ["cat", "dog"]


def test_a_model_of_texts_labels_texts_and_files_of_them(predict: Any, tmp_path: Path) -> None:
    learn = classifier(loaders(160), "transformer", drop_mult=0.1)
    learn.fit_one_cycle(8, 5e-3)
    learn.export(tmp_path / "export")
    (tmp_path / "review.txt").write_text("The awful music in it")
    code, out, _ = predict(tmp_path / "export", "The film is a superb story", tmp_path / "review.txt")
    rows = [line.rsplit(maxsplit=2) for line in out.splitlines()]
    assert (code, [row[:2] for row in rows]) == (
        0,
        [["The film is a superb story", "pos"], [str(tmp_path / "review.txt"), "neg"]],
    )
    code, out, _ = predict(tmp_path / "export", "A good film/story " * 40, "--json")
    assert (code, json.loads(out)["label"]) == (0, "pos")
    code, _, err = predict(tmp_path / "export", "  ")
    assert code != 0
    assert "the text is empty; fill it, or leave such rows out" in err
    code, _, err = predict(tmp_path / "export", "A film", "--picture", "x.png")
    assert code != 0
    assert "--picture draws images, and this model takes texts; leave it out" in err
