"""Odd and bad images in real folders: read right, named, or skipped and counted; alike on any number of processes."""

from __future__ import annotations

import json
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import image_folder, small_learner
from PIL import Image

from dist_ai.data import CategoryBlock, ColReader, DataBlock, IndexSplitter, RegressionBlock, Table
from dist_ai.distributed.environment import World
from dist_ai.errors import BadSampleError, DataError
from dist_ai.learner import Learner
from dist_ai.vision import ImageBlock, ImageDataLoaders, Resize, aug_transforms

# ------------------------------------------------------------------------------------ those that are read right


def left_half(mode: str = "RGB", left: Any = (200, 30, 40), right: Any = (20, 60, 220)) -> Image.Image:
    """32 x 16: one colour on the left, another on the right."""
    image = Image.new(mode, (32, 16), right)
    image.paste(left, (0, 0, 16, 16))
    return image


def indexed_with_holes(file: Path) -> None:
    left_half().quantize(4).save(file, transparency=bytes([0, 128, 255, 255]))


def held_sideways(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that this must be turned right by 90 degrees
    left_half().transpose(Image.Transpose.ROTATE_90).save(file, exif=exif, quality=95)


def deep(file: Path) -> None:
    grey = np.full((16, 32), 20_000, np.uint16)
    grey[:, :16] = 60_000
    Image.fromarray(grey).save(file)


def deep_and_big_endian(file: Path) -> None:
    grey = np.full((16, 32), 20_000, ">u2")
    grey[:, :16] = 60_000
    Image.frombytes("I;16B", (32, 16), grey.tobytes()).save(file)


BLACK = Image.new("RGB", (32, 16))
COLOURS = ((200, 30, 40), (20, 60, 220))
GREYS = ((60_000 / 257,) * 3, (20_000 / 257,) * 3)
READ: dict[str, tuple[Callable[[Path], None], tuple[Any, Any]]] = {
    "plain.png": (lambda file: left_half().save(file), COLOURS),
    "cmyk.jpg": (lambda file: left_half().convert("CMYK").save(file, quality=95), COLOURS),
    "cmyk.tiff": (lambda file: left_half().convert("CMYK").save(file), COLOURS),
    "first of three.gif": (
        lambda file: left_half().save(file, save_all=True, append_images=[BLACK, BLACK]),
        COLOURS,
    ),
    "first of two.png": (lambda file: left_half().save(file, save_all=True, append_images=[BLACK]), COLOURS),
    "palette and transparency.png": (indexed_with_holes, COLOURS),
    "alpha.png": (lambda file: left_half("RGBA", (200, 30, 40, 0), (20, 60, 220, 255)).save(file), COLOURS),
    "sideways.jpg": (held_sideways, COLOURS),
    "sixteen bits.png": (deep, GREYS),
    "sixteen bits.tiff": (deep_and_big_endian, GREYS),
    "one bit.png": (lambda file: left_half("1", 1, 0).save(file), ((255,) * 3, (0,) * 3)),
    "grey and alpha.png": (lambda file: left_half("LA", (90, 0), (30, 255)).save(file), ((90,) * 3, (30,) * 3)),
    "grey.jpg": (lambda file: left_half("L", 90, 30).save(file, quality=95), ((90,) * 3, (30,) * 3)),
    "lossless.webp": (lambda file: left_half().save(file, lossless=True), COLOURS),
}  # fmt: skip


@pytest.mark.parametrize("num_workers", [0, 2])
def test_odd_images_have_the_pixels_that_a_viewer_shows(tmp_path: Path, num_workers: int) -> None:
    files = [tmp_path / name for name in READ]
    for file in files:
        READ[file.name][0](file)
    labels = [file.name for file in files]
    dls = ImageDataLoaders.from_lists("", files, labels, bs=4, num_workers=num_workers, valid_pct=0.5)
    found: dict[str, Any] = {}
    for loader in (dls.train, dls.valid):
        for x, y in loader:
            for image, label in zip(x, y, strict=True):
                found[dls.vocab[int(label)]] = image.as_subclass(torch.Tensor) * 255
    assert sorted(found) == sorted(READ)
    for name, (_, (left, right)) in READ.items():
        assert found[name].shape == (3, 16, 32), name
        for half, colour in ((found[name][:, :, 2:14], left), (found[name][:, :, 18:30], right)):
            wanted = torch.tensor(colour).float()
            assert (half - wanted[:, None, None]).abs().max() <= (10 if name.endswith(".jpg") else 3), name


@pytest.mark.parametrize(("width", "height"), [(2000, 1), (1, 2000), (1, 1), (3, 900)])
@pytest.mark.parametrize("method", ["crop", "pad", "squish"])
def test_images_of_any_shape_are_resized_and_not_lost(tmp_path: Path, width: int, height: int, method: Any) -> None:
    for i in range(4):
        Image.new("RGB", (width, height), (250, 250, 250)).save(tmp_path / f"{i}.png")
    files = sorted(tmp_path.iterdir())
    dls = ImageDataLoaders.from_lists(
        "", files, list("abab"), item_tfms=Resize(16, method), bs=2, num_workers=0, valid_pct=0.25
    )
    x, _ = dls.one_batch()
    assert tuple(x.shape[1:]) == (3, 16, 16)
    assert (x.amax((1, 2, 3)) > 0.9).all()


# ------------------------------------------------------------------------------------ those that are not


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))


def cut_short(file: Path) -> None:
    noise().save(file)
    file.write_bytes(file.read_bytes()[:-900])


def bomb(file: Path) -> None:
    noise().save(file)
    png = file.read_bytes()
    size = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    file.write_bytes(png[:16] + size + struct.pack(">I", zlib.crc32(b"IHDR" + size)) + png[33:])


def of_floats(file: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(file)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short.jpg": (cut_short, r"cannot be read as an image: image file is truncated .*; replace it or remove it"),
    "cut short.png": (cut_short, r"cannot be read as an image: .*; replace it or remove it"),
    "nothing.png": (
        lambda file: file.write_bytes(b""),
        r"cannot be read as an image: it is empty; replace it or remove it",
    ),
    "text.jpg": (lambda file: file.write_text("<html>404"), r"cannot be read as an image: it is of no known format"),
    "bomb.png": (bomb, r"cannot be read as an image: Image size \(1600000000 pixels\) exceeds limit of \d+ pixels"),
    "floats.tiff": (of_floats, r"an image of float pixels, whose range is not known; save it with 8 or 16 bits"),
    "folder.png": (lambda file: file.mkdir(), r"cannot be read as an image: .*directory"),
    "gone.png": (lambda file: None, r"is not there"),
    "no picture at all.png": (lambda file: file.symlink_to(file.parent / "nowhere"), r"is not there"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_is_named_with_what_to_do(tmp_path: Path, name: str, num_workers: int) -> None:
    files = sorted((image_folder(tmp_path / "good", parts=("",)) / "cat").iterdir())
    bad = tmp_path / name
    make, said = BAD[name]
    make(bad)
    dls = ImageDataLoaders.from_lists("", [bad, *files], list("abababaab"), bs=4, num_workers=num_workers)
    with pytest.raises(BadSampleError, match=rf"^sample \d+.*{re.escape(str(bad))}:? {said}"):
        [list(loader) for loader in (dls.train, dls.valid)]


def mixed(folder: Path, *, per_part: int = 20, bad: int = 5) -> list[Path]:
    """Writes images of two classes, `bad` of each part damaged in different ways; returns the files, training first."""
    files = []
    kinds = [name for name in BAD if name not in ("folder.png", "gone.png")]
    for part in ("train", "valid"):
        (folder / part).mkdir(parents=True)
        for i in range(per_part):
            if i % 4 == 1 and i < 4 * bad:
                file = folder / part / f"{i:02}{kinds[(i // 4) % len(kinds)]}"
                BAD[file.name[2:]][0](file)
            else:
                file = folder / part / f"{i:02}.png"
                pixels = np.full((20, 24, 3), 10 * i + (part == "train"), np.uint8)
                pixels[:, :12, i % 2] = 200
                Image.fromarray(pixels).save(file)
            files.append(file)
    return files


def loaders(files: list[Path], **options: Any) -> Any:
    block = DataBlock(
        (ImageBlock, CategoryBlock(["even", "odd"])),
        splitter=IndexSplitter(range(len(files) // 2, len(files))),
        get_y=lambda file: ("even", "odd")[int(file.name[:2]) % 2],
        item_tfms=Resize(16),
        batch_tfms=aug_transforms(),
    )
    return block.dataloaders(files, **{"bs": 6, "num_workers": 0, "seed": 4, "bad_samples": "skip", **options})


def dealt(loader: Any, world_size: int, num_workers: int, epoch: int) -> tuple[dict[int, Any], set[str], int]:
    """Returns the pixels and label at each position of an epoch, over all ranks, what was skipped, and how often."""
    found: dict[int, Any] = {}
    skipped: list[str] = []
    for rank in range(world_size):
        world = World(rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size)
        part = loader.new(world=world, num_workers=num_workers)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            for share, (x, y) in part.batches(epoch):
                for i, position in enumerate(share.positions[: share.num_local].tolist()):
                    assert position not in found
                    found[position] = (x[i].tolist(), int(y[i]))
        skipped += part.skipped.elements()
    return found, set(skipped), len(skipped)


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (2, 0), (3, 0), (2, 2), (4, 0)])
def test_skipped_images_are_the_same_on_every_number_of_ranks_and_workers(
    tmp_path: Path, world_size: int, num_workers: int
) -> None:
    dls = loaders(mixed(tmp_path))
    for loader, num in ((dls.train, 20), (dls.valid, 15)):
        alone, skipped, times = dealt(loader, 1, 0, 0)
        assert len(alone) == num  # in training others took their place
        assert (len(skipped), times) == (5, 5)
        assert dealt(loader, world_size, num_workers, 0) == (alone, skipped, times)


def train(files: list[str], run_dir: str | None, num_workers: int) -> dict[str, Any]:
    dls = loaders([Path(file) for file in files], num_workers=num_workers)
    dls.add_batch_tfms([lambda batch: (batch[0].double(), batch[1])])
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2)).double()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        learn = Learner(dls, model, lr=1e-3, run_dir=run_dir, progress=False, checkpoint_every_s=None)
        learn.fit(2)
        predictions, _ = learn.get_preds()
    said = [str(each.message) for each in told if "skipped bad samples" in str(each.message)]
    rows = [row["skipped"] for row in learn.recorder.epochs]
    return {
        "losses": learn.recorder.losses,
        "final": learn.recorder.final,
        "said": said,
        "rows": rows,
        "n": len(predictions),
    }


def test_training_goes_on_without_them_on_1_2_and_3_processes_and_tells_how_many(spawn: Any, tmp_path: Path) -> None:
    files = [str(file) for file in mixed(tmp_path / "images")]
    alone = train(files, str(tmp_path / "run"), 0)
    assert all(math.isfinite(loss) for loss in alone["losses"])
    assert alone["rows"] == [10, 10]
    [said] = alone["said"]
    assert re.match(
        r"this fit skipped bad samples: 10 times in training, where others took their place, and 10 times in", said
    )
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["skipped"] for entry in log if entry["kind"] == "epoch"] == [10, 10]
    assert alone["n"] == 15
    for world_size, num_workers in ((2, 1), (3, 0)):
        for rank, result in enumerate(spawn(world_size, train, files=files, run_dir=None, num_workers=num_workers)):
            assert result["said"] == (alone["said"] if rank == 0 else [])
            assert (result["rows"], result["n"]) == (alone["rows"], alone["n"])
            assert result["losses"] == pytest.approx(alone["losses"], rel=1e-9)
            assert result["final"] == pytest.approx(alone["final"], rel=1e-9)


def test_without_bad_samples_or_the_policy_nothing_is_said_and_no_column_is_added(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    for policy in ("raise", "skip"):
        dls = ImageDataLoaders.from_folder(folder, bs=4, num_workers=0, bad_samples=policy)
        learn = small_learner(dls)
        learn.fit(1)  # a warning would be an error
        assert learn.recorder.epochs[0].get("skipped") == (0 if policy == "skip" else None)


# ------------------------------------------------------------------------------------ of another shape


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_images_of_another_shape_than_most_are_named_or_skipped_alike_on_any_number_of_ranks(
    tmp_path: Path, world_size: int
) -> None:
    files = []
    for i in range(24):
        size = (24, 20) if i % 4 else (30, 30)
        files.append(tmp_path / f"{i:02}.png")
        Image.new("RGB", size, (i, i, i)).save(files[-1])
    labels = ["even", "odd"] * 12

    def make(policy: Any) -> Any:
        return ImageDataLoaders.from_lists("", files, labels, bs=6, num_workers=0, valid_pct=0.5, bad_samples=policy)

    with pytest.raises(DataError, match=r"do not stack into a batch: \(3, 20, 24\), \(3, 30, 30\); give them one size"):
        list(make("raise").train)
    dls = make("skip")
    for loader in (dls.train, dls.valid):
        odd = [i for i in range(len(loader.dataset)) if int(Path(loader.dataset.item(i)["file"]).stem) % 4 == 0]
        alone, skipped, times = dealt(loader, 1, 0, 0)
        assert times == len(skipped) == len(odd) > 0
        said = (
            r"its structure \('TensorImage uint8 \(3, 30, 30\)', .*is not that of most samples, such as sample \d+ \(.*"
            r"\('TensorImage uint8 \(3, 20, 24\)'.*; give them one size with an item transform such as Resize"
        )
        assert all(re.search(said, message) for message in skipped)
        assert dealt(loader, world_size, 0, 0) == (alone, skipped, times)


# ------------------------------------------------------------------------------------ labels


def with_labels(tmp_path: Path, labels: list[Any], block: Any, policy: Any) -> Any:
    files = []
    for i in range(len(labels)):
        files.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (8, 8), (i, i, i)).save(files[-1])
    table = Table({"file": files, "label": labels})
    made = DataBlock(
        (ImageBlock, block), splitter=IndexSplitter([6, 7]), get_x=ColReader("file"), get_y=ColReader("label")
    )
    return made.dataloaders(table, bs=3, num_workers=0, bad_samples=policy)


NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "block", "said"),
    [
        (
            [1.0, 2, 3, NAN, 5, 6, 7, 8],
            RegressionBlock,
            r"the target of training item 3 .* is (nan, which is not finite|missing \(None, or NaN in a table\)): a model",
        ),
        (
            ["a", "b", None, "a", "b", "a", "b", "a"],
            CategoryBlock,
            r"the label of training item 2 .* is missing \(None\)",
        ),
        (
            ["a", "b", "a", "a", "b", "a", "b", "c"],
            CategoryBlock,
            r"validation item 1 .*: label 'c' is not one of the 2",
        ),
    ],
)
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_a_label_that_cannot_be_is_found_and_named_when_the_loaders_are_made(
    tmp_path: Path, labels: list[Any], block: Any, said: str, policy: str
) -> None:
    with pytest.raises(DataError, match=said):
        with_labels(tmp_path, labels, block, policy)


@pytest.mark.parametrize(
    ("labels", "block", "said"),
    [
        (
            [1.0, 2, 3, 4, 5, 6, 7, NAN],
            RegressionBlock,
            r"^sample 1 .*the target is (nan, which is|missing \(None, or NaN)",
        ),
        (
            ["a", "b", "a", "a", "b", "a", "b", "c"],
            CategoryBlock(["a", "b"]),
            r"^sample 1 .*label 'c' is not one of the 2",
        ),
        (
            ["a", "b", "a", "a", "b", "a", "b", None],
            CategoryBlock(["a", "b"]),
            r"^sample 1 .*the label is missing \(None\)",
        ),
    ],
)
def test_what_is_found_when_a_sample_is_loaded_is_named_or_skipped(
    tmp_path: Path, labels: list[Any], block: Any, said: str
) -> None:
    with pytest.raises(BadSampleError, match=said):
        list(with_labels(tmp_path, labels, block, "raise").valid)
    dls = with_labels(tmp_path, labels, block, "skip")
    with pytest.warns(UserWarning, match="skipped: sample 1"):
        assert [len(y) for _, y in dls.valid] == [1]
    [message] = dls.valid.skipped
    assert re.search(said, message)
