"""Blocks of images, masks and points: what users of data blocks write, on small made-up data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import image_folder, small_learner
from PIL import Image

from dist_ai import vision
from dist_ai.core.types import TensorMultiCategory, TensorRegression
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorMask, TensorPoint
from dist_ai.data import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    EndSplitter,
    GrandparentSplitter,
    IndexSplitter,
    ItemGetter,
    MultiCategoryBlock,
    RandomSplitter,
    RegexLabeller,
    RegressionBlock,
    Table,
    get_image_files,
    parent_label,
)
from dist_ai.errors import BadSampleError, ConfigError, DataError
from dist_ai.export import Predictor
from dist_ai.learner import Learner, load_learner
from dist_ai.losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from dist_ai.vision import Flip, ImageBlock, MaskBlock, PointBlock, Resize, aug_transforms
from dist_ai.vision.masks import OpenMask

LOADING: dict[str, Any] = {"bs": 4, "num_workers": 0}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Images named as those of the Oxford-IIIT pets: great_dane_7.jpg."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("great_dane", "Birman"):
        for i in range(8):
            Image.fromarray(np.full((20 + i, 24, 3), 100 * (name == "Birman") + i, np.uint8)).save(
                folder / f"{name}_{i}.jpg"
            )
    return folder


# ------------------------------------------------------------------------------------ what users write


def test_pets_by_the_pattern_of_their_names(pets: Path):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=42),
        get_y=RegexLabeller(r"/([^/]+)_\d+.jpg$"),
        item_tfms=Resize(16),
        batch_tfms=aug_transforms(),
    )
    dls = block.dataloaders(pets, **LOADING)
    assert dls.vocab == ["Birman", "great_dane"]
    x, y = dls.one_batch()
    assert (type(x), tuple(x.shape)) == (TensorImage, (4, 3, 16, 16))
    assert torch.equal(x.mean((1, 2, 3)) < 0.2, y.bool())  # the great danes are the dark ones


def test_digits_in_folders_in_grey(tmp_path: Path):
    folder = image_folder(tmp_path, classes=("3", "7"))
    block = DataBlock(
        blocks=(ImageBlock("L"), CategoryBlock),
        get_items=get_image_files,
        splitter=GrandparentSplitter(),
        get_y=parent_label,
    )
    x, _ = block.dataloaders(folder, **LOADING).one_batch()
    assert tuple(x.shape) == (4, 1, 20, 24)


@pytest.fixture
def planet(tmp_path: Path) -> Path:
    """Satellite images as `train/<name>.jpg`, and a CSV file with several labels of each."""
    (tmp_path / "train").mkdir()
    tags = ["clear water", "haze", "clear road water", "", "haze road", "clear"]
    for i in range(6):
        Image.new("RGB", (24, 20), (40 * i, 0, 0)).save(tmp_path / "train" / f"train_{i}.jpg")
    frame = pd.DataFrame({"image_name": [f"train_{i}" for i in range(6)], "tags": tags, "is_valid": [0, 0, 0, 0, 1, 1]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def test_planet_several_labels_from_a_csv_file_trained_exported_and_predicted(planet: Path, tmp_path: Path):
    block = DataBlock(
        blocks=(ImageBlock, MultiCategoryBlock),
        get_items=Table.from_csv,
        splitter=ColSplitter(),
        get_x=ColReader("image_name", pref=planet / "train", suff=".jpg"),
        get_y=ColReader("tags", label_delim=" "),
        batch_tfms=aug_transforms(flip_vert=True),
    )
    dls = block.dataloaders(planet / "labels.csv", **LOADING)
    assert dls.vocab == ["clear", "haze", "road", "water"]
    assert type(dls.one_batch()[1]) is TensorMultiCategory
    assert dls.show_batch().axes[0].get_title() in ("clear; water", "haze", "clear; road; water", "")
    learn = small_learner(dls)
    assert type(learn.loss_func) is BCEWithLogitsLoss
    learn.fit(1, 1e-3)
    labels, decoded, probabilities = learn.predict(planet / "train" / "train_0.jpg")
    assert labels == [dls.vocab[i] for i in decoded.nonzero().flatten()]
    assert tuple(probabilities.shape) == (4,)
    learn.export(tmp_path / "export")
    prediction = Predictor(tmp_path / "export").predict(planet / "train" / "train_0.jpg")
    assert prediction.label == labels
    torch.testing.assert_close(prediction.output, probabilities)


def test_a_data_frame_with_functions_of_its_rows(planet: Path, tmp_path: Path):
    frame = pd.read_csv(planet / "labels.csv", keep_default_na=False)

    def splitter(df: pd.DataFrame) -> tuple[list[int], list[int]]:
        return df.index[df["is_valid"] == 0].tolist(), df.index[df["is_valid"] == 1].tolist()

    block = DataBlock(
        blocks=(ImageBlock, MultiCategoryBlock),
        splitter=splitter,
        get_x=lambda r: planet / "train" / f"{r['image_name']}.jpg",
        get_y=lambda r: r.tags.split(),
    )
    learn = small_learner(block.dataloaders(frame, **LOADING))
    by_row = learn.predict(Table.from_frame(frame)[0])
    by_file = learn.predict(planet / "train" / "train_0.jpg")
    assert torch.equal(by_row[2], by_file[2])
    learn.export(tmp_path / "export")  # the functions are left out: the model takes the path of an image
    assert torch.equal(Predictor(tmp_path / "export").predict(planet / "train" / "train_0.jpg").output, by_file[2])


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Images and, beside them, masks whose left part is a road, as wide as the image is bright there."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(5):
        mask = np.zeros((20 + i, 24), np.uint8)
        mask[:, : 4 + 2 * i] = 1
        Image.fromarray(mask).save(tmp_path / "labels" / f"{i}_P.png")
        Image.fromarray(np.repeat(mask[:, :, None] * 255, 3, 2)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def camvid_block(folder: Path, **options: Any) -> DataBlock:
    defaults: dict[str, Any] = {
        "get_items": get_image_files,
        "splitter": EndSplitter(),
        "get_y": lambda file: folder / "labels" / f"{file.stem}_P.png",
        "item_tfms": Resize((8, 12)),
        "batch_tfms": aug_transforms(flip_vert=True),
    }
    return DataBlock((ImageBlock, MaskBlock(["sky", "road"])), **{**defaults, **options})


@pytest.mark.parametrize("method", ["crop", "squish"])
def test_camvid_masks_are_cut_resized_and_mirrored_as_their_images_are(camvid: Path, method: Any):
    dls = camvid_block(camvid, item_tfms=Resize((8, 12), method)).dataloaders(camvid / "images", **LOADING)
    mirrored = 0
    for _ in range(4):
        for x, y in dls.train:
            assert (type(y), y.dtype, tuple(y.shape)) == (TensorMask, torch.int64, (4, 8, 12))
            # The image is resized smoothly and the mask is not: they differ at the border alone.
            assert ((x[:, 0] > 0.5) != y.bool()).float().mean() < 0.1
            mirrored += int((y[:, 0, -1] == 1).sum())
    assert mirrored > 2
    assert dls.vocab == ["sky", "road"]
    assert len(dls.show_batch().axes) == 4


def test_a_model_of_pixels_learns_from_masks(camvid: Path):
    dls = camvid_block(camvid).dataloaders(camvid / "images", **LOADING)
    learn = Learner(dls, torch.nn.Conv2d(3, 2, 1), run_dir=None, progress=False)
    assert type(learn.loss_func) is CrossEntropyLoss
    before = learn.validate()[0]
    learn.fit(3, 0.1)
    assert learn.validate()[0] < before


def test_points_follow_the_image_through_cropping_and_mirroring(tmp_path: Path):
    """The brightest pixel is the nose; after all transforms it is still where the point says."""
    rng = np.random.default_rng(0)
    files, noses = [], []
    for i in range(6):
        x, y = int(rng.integers(12, 28)), int(rng.integers(8, 22))
        pixels = np.zeros((30, 40, 3), np.uint8)
        pixels[y - 2 : y + 3, x - 2 : x + 3] = 255
        files.append(tmp_path / f"{i}.png")
        noses.append([(x + 0.5, y + 0.5)])
        Image.fromarray(pixels).save(files[-1])
    block = DataBlock(
        blocks=(ImageBlock, PointBlock),
        getters=[ItemGetter(0), ItemGetter(1)],
        splitter=EndSplitter(0.34),
        item_tfms=Resize(30),
        batch_tfms=aug_transforms(flip_vert=True, max_lighting=0),
    )
    dls = block.dataloaders(list(zip(files, noses, strict=True)), **LOADING)
    for _ in range(4):
        for x, y in dls.train:
            assert (type(y), tuple(y.shape)) == (TensorPoint, (4, 1, 2))
            light = x.mean(1).as_subclass(torch.Tensor)
            light = light / light.sum((1, 2), keepdim=True)
            at = torch.arange(30) + 0.5
            centre = torch.stack([(light * at).sum((1, 2)), (light * at[:, None]).sum((1, 2))], 1)
            assert torch.allclose((y[:, 0].as_subclass(torch.Tensor) + 1) * 15, centre, atol=0.6)
    assert len(dls.show_batch().axes) == 4
    learn = small_learner(dls)
    assert type(learn.loss_func) is MSELoss
    learn.fit(1, 1e-3)


def test_points_in_padded_and_squished_images(tmp_path: Path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    for method, expected in (("pad", [[10.0, 10.0]]), ("squish", [[10.0, 10.0]]), ("crop", [[10.0, 10.0]])):
        point = TensorPoint([[20, 10]], canvas_size=(20, 40))
        assert Resize(20, method)(point).tolist() == expected  # the middle stays the middle
    corner = TensorPoint([[0, 0]], canvas_size=(20, 40))
    assert Resize(20, "pad")(corner).tolist() == [[0.0, 5.0]]
    assert Resize(20, "crop")(corner).tolist() == [[-10.0, 0.0]]


def test_the_age_of_a_face_is_a_number(pets: Path, tmp_path: Path):
    block = DataBlock(
        (ImageBlock, RegressionBlock),
        get_items=get_image_files,
        splitter=EndSplitter(),
        get_y=lambda file: float(file.stem.split("_")[-1]),
        item_tfms=Resize(16),
    )
    dls = block.dataloaders(pets, **LOADING)
    assert type(dls.one_batch()[1]) is TensorRegression
    learn = small_learner(dls)
    assert type(learn.loss_func) is MSELoss
    learn.fit(1, 1e-3)
    number, _, output = learn.predict(get_image_files(pets)[0])
    assert number == output.item()
    assert float(dls.show_batch().axes[0].get_title()) in range(8)


def test_a_pair_of_images_is_two_inputs(pets: Path):
    files = get_image_files(pets)
    block = DataBlock(
        (ImageBlock, ImageBlock("L"), CategoryBlock),
        getters=[ItemGetter(0), ItemGetter(1), ItemGetter(2)],
        splitter=IndexSplitter([0, 1]),
        item_tfms=Resize(16),
    )
    dls = block.dataloaders([(a, b, a.stem[0] == b.stem[0]) for a, b in zip(files, files[3:], strict=False)], **LOADING)
    first, second, _ = dls.one_batch()
    assert (first.shape[1], second.shape[1], dls.n_inp) == (3, 1, 2)
    assert dls.vocab == [False, True]


# ------------------------------------------------------------------------------------ what goes wrong


def test_a_summary_says_which_images_are_of_another_size(pets: Path, capsys: pytest.CaptureFixture[str]):
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=IndexSplitter([7, 15]),
        get_y=lambda file: file.stem[0],
    )
    block.summary(pets)
    text = capsys.readouterr().out
    assert "OpenImage(mode='RGB'" in text
    assert "-> RGB image of 24 x 2" in text
    assert "collate -> FAILED: samples of different shapes do not stack into a batch: (3, 20, 24)" in text
    assert re.search(r"\(TensorImage uint8 \(3, 21, 24\), TensorCategory 0\) from PosixPath\('.*Birman_1.jpg'\)", text)
    block.new(item_tfms=Resize(16), batch_tfms=aug_transforms()).summary(pets)
    text = capsys.readouterr().out
    assert "collate -> (TensorImage uint8 (4, 3, 16, 16), TensorCategory int64 (4,))" in text
    assert (
        text.rstrip()
        .splitlines()[-1]
        .startswith("  Contrast(max_lighting=0.2, p=0.75) -> (TensorImage float32 (4, 3, 16, 16)")
    )


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bits", "bits"])
def test_masks_are_class_numbers_whatever_they_are_stored_as(kind: str, tmp_path: Path):
    numbers = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(numbers)
    if kind == "palette":
        image.putpalette([255, 0, 0, 0, 255, 0])
    elif kind == "16 bits":
        image = Image.fromarray(numbers.astype(np.uint16))
    elif kind == "bits":
        image = Image.fromarray(numbers.astype(bool))
    image.save(tmp_path / "mask.png")
    mask = OpenMask(["sky", "road"])(tmp_path / "mask.png")
    assert mask.int().tolist() == numbers.tolist()
    assert mask.codes == ["sky", "road"]
    assert Resize(2)(mask).int().tolist() == numbers.tolist()


def test_masks_that_do_not_fit_their_classes_are_named(tmp_path: Path):
    file = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(file)
    message = (
        f"{file} cannot be read as a mask: class 255 in a mask of 2 classes, 0 to 1; name all in codes, or say what"
    )
    with pytest.raises(BadSampleError, match=re.escape(message)):
        OpenMask(["sky", "road"])(file)
    assert OpenMask(["sky", "road"], void=255)(file).tolist() == [[0, 255]]
    assert OpenMask()(file).tolist() == [[0, 255]]
    Image.new("RGB", (4, 4)).save(file)
    with pytest.raises(
        BadSampleError, match=r"expected one class number a pixel \(height, width\): turn colours into numbers"
    ):
        OpenMask()(file)
    file.write_bytes(b"")
    with pytest.raises(BadSampleError, match=f"{file} cannot be read as a mask"):
        OpenMask()(file)
    with pytest.raises(BadSampleError, match=f"{file}x is not there"):
        OpenMask()(f"{file}x")
    with pytest.raises(
        ConfigError,
        match="has no class for what it fills up with; give it pad_mode='reflection'",
    ):
        Resize(4, "pad")(TensorMask(torch.zeros(2, 3, dtype=torch.uint8)))


@pytest.mark.parametrize("kind", [torch.Tensor, TensorMask])
def test_a_mask_may_be_a_tensor_whose_classes_are_looked_at_too(kind: type):
    numbers = torch.tensor([[0, 1], [1, 0]])
    mask = OpenMask(["sky", "road"])(numbers.as_subclass(kind))
    assert (type(mask), mask.tolist(), mask.codes) == (TensorMask, numbers.tolist(), ["sky", "road"])
    assert Resize(4)(mask).tolist() == numbers.repeat_interleave(2, 0).repeat_interleave(2, 1).tolist()
    with pytest.raises(DataError, match="class 2 in a mask of 2 classes"):
        OpenMask(["sky", "road"])((numbers * 2).as_subclass(kind))
    with pytest.raises(DataError, match=r"pixels of float32 with shape \(2, 2\); expected one class number a pixel"):
        OpenMask()(numbers.float())


@pytest.mark.parametrize("codes", ["codes.txt", 3])
def test_codes_are_names_and_neither_a_file_nor_their_number(codes: object):
    with pytest.raises(ConfigError, match=f"codes={codes!r}: expected the name of each class, such as"):
        MaskBlock(codes)


@pytest.mark.parametrize("codes", [["sky", "road"], None])
def test_a_class_below_zero_needs_to_be_the_void(codes: list[str] | None):
    mask = np.array([[0, -1]], np.int32)
    with pytest.raises(DataError, match=r"^class -1 in a mask.*say what stands for none: void=-1$"):
        OpenMask(codes)(mask)
    with pytest.raises(DataError, match="class -1 in a mask"):
        OpenMask(codes, void=255)(mask)
    assert OpenMask(codes, void=-1)(mask).tolist() == [[0, -1]]


@pytest.mark.parametrize("shape", [(5, 7), (30, 20), (19, 30)])
def test_a_mask_that_is_not_of_its_image_is_named_and_not_resized_to_it(shape: tuple[int, int]):
    block = DataBlock(
        (ImageBlock, MaskBlock(["sky", "road"])),
        get_x=lambda i: np.zeros((20, 30, 3), np.uint8),
        get_y=lambda i: np.zeros(shape, np.uint8),
        item_tfms=Resize(8),
    )
    with pytest.raises(
        DataError,
        match=rf"a mask of {shape[0]} x {shape[1]} pixels \(height x width\) beside an image of 20 x 30; it must",
    ):
        block.dataloaders(list(range(5)), **LOADING).one_batch()


def test_a_photograph_that_is_read_at_a_part_of_its_size_keeps_its_mask_and_its_points(tmp_path: Path):
    pixels = np.zeros((430, 650, 3), np.uint8)
    pixels[100:200, 300:400] = 255
    Image.fromarray(pixels).save(tmp_path / "sky.jpg", quality=95)
    block = DataBlock(
        (ImageBlock, MaskBlock(["sky", "road"]), PointBlock()),
        n_inp=1,
        get_x=lambda i: tmp_path / "sky.jpg",
        get_y=[lambda i: pixels[:, :, 0] // 255, lambda i: [(350, 150)]],
        item_tfms=Resize((43, 65)),
    )
    images, masks, points = block.dataloaders(list(range(5)), **LOADING).one_batch()
    white = images[0].mean(0) > 0.5
    assert tuple(masks.shape) == (4, 43, 65)
    assert (white != masks[0].bool()).sum() == 0
    assert white.sum() == 100
    np.testing.assert_allclose(points[0].as_subclass(torch.Tensor), [[35 / 65 * 2 - 1, 15 / 43 * 2 - 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ("nose", "target 'nose': expected points, a list of (x, y)"),
        ([[1, float("nan")]], "expected points, a list of (x, y) of finite numbers"),
        ([1, 2, 3], "expected points, a list of (x, y) of finite numbers"),
        ([[1, 2], [3, 4]], "has 2 point(s), and others have 1"),
    ],
)
def test_points_that_are_none_are_refused(points: Any, text: str):
    tfm = PointBlock(1).type_tfms[0]
    with pytest.raises(DataError, match=re.escape(text)):
        tfm(points)  # type: ignore[operator]


def test_points_may_be_given_with_y_first():
    assert PointBlock(y_first=True).type_tfms[0]([[1, 2]]).tolist() == [[2.0, 1.0]]  # type: ignore[operator]


def test_flip_is_for_batches_of_masks_too():
    with pytest.raises(ConfigError, match="Flip draws for each sample of a batch; use it in batch_tfms"):
        Flip()(TensorMask(torch.zeros(2, 2, dtype=torch.uint8)))


# ------------------------------------------------------------------------------------ streams


def image_stream(root: Path, part: str) -> Callable[[], Iterator[dict[str, Any]]]:
    """Rows of bytes and a class name, as a streamed data set gives them."""

    def rows() -> Iterator[dict[str, Any]]:
        for file in sorted((root / part).rglob("*.png")):
            yield {"image": file, "label": file.parent.name}

    return rows


def stream_block(vocab: list[str] | None) -> DataBlock:
    return DataBlock(
        (ImageBlock, CategoryBlock(vocab)),
        get_x=ColReader("image"),
        get_y=ColReader("label"),
        item_tfms=Resize(24),
        batch_tfms=aug_transforms(),
    )


def test_a_stream_goes_through_a_block_to_a_model_that_is_exported(tmp_path: Path):
    image_folder(tmp_path / "data")
    streams = [image_stream(tmp_path / "data", part) for part in ("train", "valid")]
    classes = sorted({row["label"] for row in streams[0]()})
    dls = stream_block(classes).stream_dataloaders(*streams, bs=8, num_samples=16, num_workers=0)
    assert dls.vocab == classes
    assert (len(dls.train), dls.train.shuffle, dls.valid.shuffle) == (2, True, False)
    learn = small_learner(dls)
    learn.fit_one_cycle(1)
    file = next(streams[1]())["image"]
    label, _, probabilities = learn.predict(file)
    again = load_learner(learn.export(tmp_path / "export")).predict(file)
    assert again[0] == label
    assert torch.allclose(again[2], probabilities, atol=1e-6)
    assert len(learn.get_preds()[0]) == sum(1 for _ in streams[1]())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_that_is_read_by_a_block_is_skipped_where_it_is_bad(tmp_path: Path, num_workers: int):
    image_folder(tmp_path / "data")
    rows = image_stream(tmp_path / "data", "train")
    next(rows())["image"].write_bytes(b"no image")
    dls = stream_block(["cat", "dog"]).stream_dataloaders(rows, rows, bs=8, bad_samples="skip", num_workers=num_workers)
    with pytest.warns(UserWarning, match="skipped: sample 0: "):
        num = sum(share.num_local for share, _ in dls.valid.batches())
    assert num == sum(1 for _ in rows()) - 1
    with pytest.raises(BadSampleError, match=r"sample 0: .*png"):
        list(dls.valid.new(bad_samples="raise"))


def test_a_block_cannot_learn_classes_from_a_stream(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"a block learns its classes .* give them: CategoryBlock\(vocab=\[...\]\)"):
        stream_block(None).stream_dataloaders(lambda: iter([{"image": "a", "label": "b"}]), lambda: iter(()))


# ------------------------------------------------------------------------------------ large JPEGs


def test_names_that_messages_use_can_be_imported_from_the_room():
    assert isinstance(
        vision.ImageToFloat()(vision.ImageToTensor()(vision.OpenImage()(np.zeros((2, 2), np.uint8)))), TensorImage
    )
    assert {vision.TensorImage, vision.TensorMask, vision.TensorPoint, vision.TensorBBox} == {
        TensorImage, TensorMask, TensorPoint, TensorBBox
    }  # fmt: skip
