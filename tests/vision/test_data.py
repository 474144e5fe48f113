"""Image loaders: which images and labels they hold, and what a folder must look like."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import HEIGHT, WIDTH, image_folder, small_learner, small_loaders
from PIL import Image

from dist_ai.core import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.core.vision_types import TensorImage, TensorMask
from dist_ai.data import DataLoaders, MultiCategoryBlock, get_image_files, parent_label
from dist_ai.errors import BadSampleError, ConfigError, DataError
from dist_ai.vision import Flip, ImageDataLoaders, Normalize, Resize, SegmentationDataLoaders, aug_transforms


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def names(dls: DataLoaders) -> tuple[list[str], list[str]]:
    """Returns the files of the training and the validation part, as <part>/<class>/<name>."""
    return tuple(
        sorted("/".join(loader.dataset.item(i).parts[-3:]) for i in range(len(loader.dataset))) for loader in dls
    )  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------ what is in them


def test_the_folders_train_and_valid_are_the_two_parts_and_their_folders_the_labels(folder: Path) -> None:
    dls = small_loaders(folder)
    assert dls.vocab == ["cat", "dog"]
    train, valid = names(dls)
    assert train == sorted(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(8))
    assert valid == sorted(f"valid/{name}/{i}.png" for name in ("cat", "dog") for i in range(8))


def test_the_two_folders_may_have_other_names(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, parts=("fit", "check", "later"))
    train, valid = names(small_loaders(folder, train="fit", valid="check"))
    assert {name.split("/")[0] for name in train} == {"fit"}
    assert {name.split("/")[0] for name in valid} == {"check"}


def test_names_may_begin_with_the_folder_as_those_of_get_image_files_do_or_be_seen_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image_folder(tmp_path / "images").parent)
    found = get_image_files("images")
    seen = [name.relative_to("images") for name in found]
    labels = [name.parent.name for name in found]
    for fnames in (found, [str(name) for name in found], seen):
        by_func = ImageDataLoaders.from_path_func("images", fnames, parent_label, bs=4, num_workers=0)
        of_lists = ImageDataLoaders.from_lists("images", fnames, labels, bs=4, num_workers=0)
        assert by_func.one_batch()[0].shape == of_lists.one_batch()[0].shape == (4, 3, HEIGHT, WIDTH)
    shutil.copytree("images", "images/images")  # a folder of the same name in it: what is there counts
    loaders = ImageDataLoaders.from_path_func("images", found, parent_label, bs=4)
    assert {loaders.train_ds.item(i).parts[:2] for i in range(4)} == {("images", "images")}


def test_valid_pct_draws_the_same_share_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, parts=("",), per_class=10)
    train, valid = names(small_loaders(folder, valid_pct=0.25, seed=1))
    assert (len(train), len(valid)) == (15, 5)
    assert not set(train) & set(valid)
    assert names(small_loaders(folder, valid_pct=0.25, seed=1)) == (train, valid)
    assert names(small_loaders(folder, valid_pct=0.25, seed=2)) != (train, valid)


def test_a_batch_holds_typed_images_in_0_to_1_and_class_indices(folder: Path) -> None:
    x, y = small_loaders(folder, bs=6).one_batch()
    assert (type(x), x.dtype, tuple(x.shape)) == (TensorImage, torch.float32, (6, 3, HEIGHT, WIDTH))
    assert (type(y), y.dtype, tuple(y.shape)) == (TensorCategory, torch.int64, (6,))
    assert 0 <= x.min() < x.max() <= 1
    # The images of class 0 are redder and those of class 1 greener: pixels and labels belong together.
    assert torch.equal(x[:, 1].mean((1, 2)) > x[:, 0].mean((1, 2)), y.bool())


def test_the_vocabulary_can_be_given_in_an_order_of_ones_own(folder: Path) -> None:
    dls = small_loaders(folder, vocab=["dog", "emu", "cat"])
    assert dls.vocab == ["dog", "emu", "cat"]
    x, y = dls.one_batch()
    assert torch.equal(x[:, 1].mean((1, 2)) > x[:, 0].mean((1, 2)), y == 0)


def test_in_grey_mode_images_have_one_channel(folder: Path) -> None:
    assert tuple(small_loaders(folder, mode="L").one_batch()[0].shape) == (4, 1, HEIGHT, WIDTH)


@pytest.mark.parametrize("item_tfms", [Resize(12), [Resize(12)], (Resize(12),)])
@pytest.mark.parametrize("batch_tfms", [Flip, Flip(), [Flip()], aug_transforms()])
def test_transforms_may_be_given_one_by_one_or_as_a_list(folder: Path, item_tfms: Any, batch_tfms: Any) -> None:
    dls = small_loaders(folder, item_tfms=item_tfms, batch_tfms=batch_tfms)
    assert tuple(dls.one_batch()[0].shape) == (4, 3, 12, 12)
    assert any(isinstance(tfm, Flip) for tfm in dls.train.stage.pipeline.tfms)


def test_a_plain_function_is_a_transform_too(folder: Path) -> None:
    dls = small_loaders(folder, item_tfms=lambda sample: (sample[0].resize((7, 5)), sample[1]))
    assert tuple(dls.one_batch()[0].shape) == (4, 3, 5, 7)


def test_images_of_several_sizes_load_with_resize(folder: Path) -> None:
    Image.new("RGB", (50, 60)).save(folder / "train" / "cat" / "0.png")
    assert {tuple(x.shape[1:]) for x, _ in small_loaders(folder, item_tfms=Resize(12)).train} == {(3, 12, 12)}


def test_an_epoch_shows_every_training_image_once_and_the_next_one_in_another_order(folder: Path) -> None:
    dls = small_loaders(folder, bs=5)
    first, second = (torch.cat([x.flatten(1).sum(1) for x, _ in dls.train]) for _ in range(2))
    assert len(first) == 16 - 1  # 16 = 3 * 5 + 1: a last batch of one image is left out, BatchNorm could not take it
    assert len(set(first.tolist())) == 15
    assert not torch.equal(first, second)
    assert sum(len(x) for x, _ in dls.valid) == 16


def test_worker_processes_load_the_same_batches(folder: Path) -> None:
    here, there = (
        small_loaders(folder, item_tfms=Resize(12), batch_tfms=aug_transforms(), num_workers=n) for n in (0, 2)
    )
    for (x, y), (x_there, y_there) in zip(here.train, there.train, strict=True):
        assert torch.equal(x, x_there)
        assert torch.equal(y, y_there)


# ------------------------------------------------------------------------------------------------ what is refused


def expect(error: type[Exception], text: str, path: Path, **options: Any) -> None:
    with pytest.raises(error, match=re.escape(text)):
        small_loaders(path, **options)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    expect(DataError, f"no folder at {tmp_path}/nope: it is not there", tmp_path / "nope")
    expect(DataError, f"no folder at {tmp_path}/nope: it is not there", tmp_path / "nope", valid_pct=0.2)


def test_a_file_instead_of_a_folder_is_named(folder: Path) -> None:
    file = folder / "train" / "cat" / "0.png"
    expect(DataError, f"no folder at {file}: it is a file", file, valid_pct=0.2)


def test_an_empty_folder_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    expect(DataError, f"no image file under {tmp_path}; looked for .apng", tmp_path, valid_pct=0.2)
    expect(DataError, f"{tmp_path} has no folder 'train', but none at all; name its folders with train=", tmp_path)


def test_folders_of_classes_without_train_and_valid_are_explained(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, parts=("",))
    expect(
        DataError,
        f"{folder} has no folder 'train', but cat, dog; name its folders with train= and valid=, or give valid_pct=0.2 "
        "to draw the validation images at random",
        folder,
    )


def test_a_missing_validation_folder_is_explained(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, parts=("train", "val"))
    expect(DataError, f"{folder} has no folder 'valid', but train, val; name its folders with", folder)


def test_an_empty_validation_folder_is_explained(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, parts=("train",))
    (folder / "valid").mkdir()
    expect(DataError, "no file in a folder named 'valid'; the grandparent folders are ['train']", folder)


@pytest.mark.parametrize("options", [{}, {"valid_pct": 0.25}])
def test_a_single_class_is_no_task(tmp_path: Path, options: Any) -> None:
    folder = image_folder(tmp_path, classes=("cat",), parts=("",) if options else ("train", "valid"))
    expect(
        DataError,
        "one class only ('cat'); a classifier needs at least 2: see what get_y makes of an item",
        folder,
        **options,
    )


def test_an_image_beside_the_folders_of_classes_has_no_label(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pets", parts=("",))
    shutil.copy(folder / "cat" / "0.png", folder / "stray.png")
    expect(
        DataError,
        f"{folder}/stray.png does not lie in the folder of a class, so it has no label; expected "
        f"{folder}/<class>/stray.png. Move it, or take it away",
        folder,
        valid_pct=0.25,
    )


@pytest.mark.parametrize("place", ["train/stray.png", "train/animals/cat/stray.png"])
def test_no_image_under_train_is_left_out_silently(folder: Path, place: str) -> None:
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "train" / "cat" / "0.png", folder / place)
    expect(DataError, f"{folder}/{place} does not lie in the folder of a class, so it has no label; expected", folder)


def test_files_that_are_no_images_and_hidden_ones_do_not_matter(folder: Path) -> None:
    (folder / "README.txt").write_text("cats and dogs")
    (folder / "train" / "Thumbs.db").write_text("")
    (folder / "train" / "cat" / ".hidden.png").write_text("")
    train, _ = names(small_loaders(folder))
    assert len(train) == 16


def test_a_class_that_only_validation_images_have_is_found_before_training(folder: Path) -> None:
    image_folder(folder, classes=("emu",), per_class=1, parts=("valid",))
    expect(
        DataError,
        f"the class 'emu' of {folder}/valid/emu/0.png is not one of the 2 classes of the training images; add training "
        "images of it, or take its images away",
        folder,
    )


def test_a_class_whose_only_image_is_drawn_for_validation_is_no_surprise(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, parts=("",))
    image_folder(folder, classes=("emu",), per_class=1, parts=("",))
    for seed in range(12):
        dls = small_loaders(folder, valid_pct=0.3, seed=seed)
        assert dls.vocab == ["cat", "dog", "emu"]
        assert sum(len(y) for _, y in dls.valid) == 5


def test_a_vocabulary_that_lacks_a_class_is_found_before_training(folder: Path) -> None:
    expect(
        DataError,
        f"the class 'dog' of {folder}/train/dog/0.png is not one of the 2 classes of vocab; did you mean 'dogs'?; add it "
        "there, or take its images away",
        folder,
        vocab=["cat", "dogs"],
    )


def test_images_of_several_sizes_without_resize_are_explained_with_the_files(folder: Path) -> None:
    Image.new("RGB", (50, 60)).save(folder / "train" / "cat" / "0.png")
    with pytest.raises(
        DataError, match=r"do not stack into a batch: \(3, 20, 24\), \(3, 60, 50\); give them one size"
    ) as e:
        list(small_loaders(folder, bs=16).train)
    assert "such as Resize" in str(e.value)
    assert f"{folder}/train/" in str(e.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_named_when_it_is_read(folder: Path, num_workers: int) -> None:
    bad = folder / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(BadSampleError, match=rf"{bad} cannot be read as an image: .*; replace it or remove it"):
        list(small_loaders(folder, num_workers=num_workers).train)


def test_arguments_that_cannot_be_are_refused(folder: Path) -> None:
    expect(ConfigError, "bs=0: a batch has at least 1 sample", folder, bs=0)
    expect(
        ConfigError, "valid_pct=20 is a share of the items: expected more than 0 and less than 1", folder, valid_pct=20
    )
    expect(ConfigError, "OpenImage(mode='BGR'): expected 'RGB' or 'L' (grey)", folder, mode="BGR")
    expect(ConfigError, "num_workers=-1: expected 0", folder, num_workers=-1)


def test_the_class_method_makes_its_own_kind(folder: Path) -> None:
    assert type(small_loaders(folder)) is ImageDataLoaders
    assert not any(isinstance(tfm, Normalize) for tfm in small_loaders(folder).train.stage.pipeline.tfms)


# ------------------------------------------------------------------------------------------------ other ways to make them

LOADING: dict[str, Any] = {"bs": 4, "num_workers": 0, "valid_pct": 0.25, "seed": 3}


def samples_of(dls: DataLoaders) -> list[tuple[float, Any]]:
    """Returns the first pixel and the label of every sample, training and validation."""
    return sorted(
        (round(float(x[0, 0, 0]), 5), label)
        for loader in dls
        for xs, ys in loader
        for x, (label,) in zip(xs, dls.recipe.decode_targets((xs, ys)), strict=True)
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """8 + 8 images named cat_3.png."""
    folder = image_folder(tmp_path / "pets", parts=("",))
    return [file.rename(folder / f"{file.parent.name}_{file.name}") for file in get_image_files(folder)]


def test_functions_patterns_lists_and_tables_of_the_same_files_give_the_same_loaders(files: list[Path]) -> None:
    path = files[0].parent
    fnames, labels = [file.name for file in files], [file.name[:3] for file in files]
    frame = pd.DataFrame({"name": [file.stem for file in files], "label": labels})
    frame.to_csv(path / "labels.csv", index=False)
    frame.to_csv(path / "labels.tsv", index=False, header=False, sep="\t")
    made = {
        "path_func": ImageDataLoaders.from_path_func(path, files, lambda file: file.name[:3], **LOADING),
        "name_func": ImageDataLoaders.from_name_func(path, fnames, lambda name: name[:3], **LOADING),
        "path_re": ImageDataLoaders.from_path_re(path, files, r"/([^/]+)_\d+.png$", **LOADING),
        "name_re": ImageDataLoaders.from_name_re(path, fnames, r"^(.+)_\d+.png$", **LOADING),
        "df": ImageDataLoaders.from_df(frame, path, suff=".png", **LOADING),
        "csv": ImageDataLoaders.from_csv(path, suff=".png", fn_col="name", label_col="label", **LOADING),
        "tsv": ImageDataLoaders.from_csv(path, "labels.tsv", header=False, delimiter="\t", suff=".png", **LOADING),
        "lists": ImageDataLoaders.from_lists(path, fnames, labels, **LOADING),
    }
    expected = samples_of(made["path_func"])
    assert len(expected) == 16
    for way, dls in made.items():
        assert type(dls) is ImageDataLoaders
        assert dls.vocab == ["cat", "dog"], way
        assert samples_of(dls) == expected, way
        assert len(dls.valid.dataset) == 4, way
        assert dls.test_dl([files[3]], num_workers=0).one_batch()[0].shape == (1, 3, HEIGHT, WIDTH), way


def test_a_rare_class_whose_images_are_all_drawn_for_validation_is_no_surprise(files: list[Path]) -> None:
    labels = ["rare", *["often"] * 15]
    for seed in range(8):
        dls = ImageDataLoaders.from_lists("", files, labels, bs=4, num_workers=0, seed=seed)
        assert dls.vocab == ["often", "rare"]
        assert sum(len(y) for _, y in dls.valid) == 3


def test_a_column_says_which_images_are_for_validation(files: list[Path]) -> None:
    frame = pd.DataFrame({"file": files, "label": ["cat", "dog"] * 8, "is_valid": [False] * 10 + [True] * 6})
    dls = ImageDataLoaders.from_df(frame, valid_col="is_valid", bs=4, num_workers=0)
    assert (len(dls.train.dataset), len(dls.valid.dataset)) == (10, 6)


def test_images_are_weighted_counted_and_collated_as_other_data_is(files: list[Path]) -> None:
    labels = ["cat"] * 12 + ["dog"] * 4
    dls = ImageDataLoaders.from_lists(
        "", files, labels, **{**LOADING, "weights": "balanced", "num_samples": 40, "drop_last": True, "bs": 32}
    )
    assert (len(dls.train), dls.train.num_samples) == (1, 32)
    assert 8 <= int(dls.one_batch()[1].sum()) <= 24
    with pytest.raises(TypeError, match="has no argument 'num_worker'; did you mean 'num_workers'"):
        ImageDataLoaders.from_lists("", files, labels, num_worker=2)


def test_the_kind_of_target_is_that_of_the_labels(files: list[Path]) -> None:
    frame = pd.DataFrame({"file": files, "tags": ["a b", "b", "", "a"] * 4, "x": [0.5, 1.5] * 8, "y": [1.0, 2.5] * 8})
    frame = frame.assign(sea=[0, 1] * 8, sky=[1, 1] * 8)

    def target(**options: Any) -> tuple[type, tuple[int, ...], Any]:
        dls = ImageDataLoaders.from_df(frame, fn_col="file", **LOADING, **options)
        y = dls.one_batch()[1]
        return type(y), tuple(y.shape[1:]), dls.recipe.num_outputs

    assert target(label_col="tags") == (TensorCategory, (), 4)
    assert target(label_col="tags", label_delim=" ") == (TensorMultiCategory, (2,), 2)
    assert target(label_col=["sea", "sky"]) == (TensorMultiCategory, (2,), 2)
    assert target(label_col="x") == (TensorRegression, (), 1)
    assert target(label_col=["x", "y"]) == (TensorRegression, (2,), 2)
    assert target(label_col="sea") == (TensorCategory, (), 2)
    block = MultiCategoryBlock(encoded=True, vocab=["s", "t"])
    assert target(label_col=["sea", "sky"], y_block=block) == (TensorMultiCategory, (2,), 2)


def test_several_labels_of_a_list_and_numbers(files: list[Path]) -> None:
    several = ImageDataLoaders.from_lists("", files, [["a"], ["b", "a"]] * 8, **LOADING)
    assert several.vocab == ["a", "b"]
    numbers = ImageDataLoaders.from_lists("", files, [0.5, 2.5] * 8, **LOADING)
    assert set(torch.cat([y for _, y in numbers.train]).tolist()) == {0.5, 2.5}


def test_an_image_without_a_label_is_named(files: list[Path]) -> None:
    labels: list[Any] = ["a"] * 16
    labels[2] = None
    with pytest.raises(
        DataError, match=r"no label for Row\(file='.*cat_2.png', label=None\); fill it, or leave it out"
    ):
        ImageDataLoaders.from_lists("", files, labels, **LOADING)
    with pytest.raises(DataError, match="a table needs columns of one length, and these have file: 16, label: 15"):
        ImageDataLoaders.from_lists("", files, labels[:15], **LOADING)
    with pytest.raises(BadSampleError, match=r"cat_0.png' does not fit the pattern '\^\(dog\)', so it has no label"):
        ImageDataLoaders.from_name_re("", files, "^(dog)", **LOADING)


def test_a_table_without_rows_is_named() -> None:
    for make in (ImageDataLoaders.from_df, lambda rows: ImageDataLoaders.from_lists("", rows.file, rows.label)):
        with pytest.raises(DataError, match="there are no rows; there is nothing to learn from"):
            make(pd.DataFrame({"file": [], "label": []}))


def test_images_and_masks_that_a_function_finds(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(4):
        Image.new("RGB", (12, 8)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(np.full((8, 12), i % 2, np.uint8)).save(tmp_path / "labels" / f"{i}_P.png")
    dls = SegmentationDataLoaders.from_label_func(
        tmp_path,
        get_image_files(tmp_path / "images"),
        lambda o: tmp_path / "labels" / f"{o.stem}_P{o.suffix}",
        codes=np.array(["sky", "road"]),
        valid_pct=0.5,
        bs=2,
        num_workers=0,
    )
    _, y = dls.one_batch()
    assert (type(y), tuple(y.shape), dls.vocab) == (TensorMask, (2, 8, 12), ["sky", "road"])
    assert dls.recipe.num_outputs == 2


def test_a_learner_of_labels_from_a_function_exports(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one class only \('pets'\); a classifier needs at least 2"):
        ImageDataLoaders.from_path_func("", files, parent_label, **LOADING)
    dls = ImageDataLoaders.from_name_func("", files, lambda name: name[:3], **LOADING)
    assert small_learner(dls).export(tmp_path / "export").is_dir()


# ------------------------------------------------------------------------------------------------ odd and bad images


def one(file: Path, **options: Any) -> torch.Tensor:
    """Returns the pixels, 0 to 1, of the image in a file as a loader gives them."""
    dls = ImageDataLoaders.from_lists("", [file] * 5, list("abaab"), bs=2, num_workers=0, **options)
    return dls.valid.one_batch()[0][0].as_subclass(torch.Tensor)


def test_cmyk_grey_alpha_palette_and_moving_images_become_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    for name, image in {
        "cmyk.jpg": red.convert("CMYK"),
        "alpha.png": red.convert("RGBA"),
        "palette.gif": red.convert("P"),
        "cmyk.tiff": red.convert("CMYK"),
    }.items():
        image.save(tmp_path / name)
        pixels = one(tmp_path / name)
        assert pixels.shape == (3, 4, 6), name
        assert torch.allclose(pixels.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.02), name
    Image.new("L", (6, 4), 51).save(tmp_path / "grey.png")
    assert torch.allclose(one(tmp_path / "grey.png"), torch.tensor(0.2))
    red.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (6, 4), (0, 255, 0))])
    assert one(tmp_path / "moving.gif")[0].min() == 1  # the first picture


def test_16_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 65535 // 4, np.uint16)).save(tmp_path / "deep.png")
    assert torch.allclose(one(tmp_path / "deep.png"), torch.tensor(0.25), atol=0.01)


def test_a_photo_is_upright_as_its_camera_noted(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4))
    image.paste((255, 255, 255), (0, 0, 6, 1))  # a white line on top of what the sensor saw
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    image.save(tmp_path / "held.png", exif=exif)
    pixels = one(tmp_path / "held.png")
    assert pixels.shape == (3, 6, 4)
    assert torch.equal(pixels[0, :, -1], torch.ones(6))
    assert pixels[0, :, :-1].max() == 0


@pytest.mark.parametrize("damage", ["cut short", "empty", "text", "bomb"])
def test_an_image_that_cannot_be_read_is_named_with_the_reason(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
    whole = file.read_bytes()
    file.write_bytes({"cut short": whole[:-500], "empty": b"", "text": b"<html>404</html>", "bomb": whole}[damage])
    if damage == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses twice as many and more
    with pytest.raises(BadSampleError) as error:
        one(file)
    reason = {
        "cut short": "image file is truncated",
        "empty": "it is empty",
        "text": "it is of no known format",
        "bomb": r"Image size \(1600 pixels\) exceeds limit of 1000 pixels, could be decompression bomb DOS attack",
    }[damage]
    assert re.search(f"{file} cannot be read as an image: {reason}", str(error.value))
    assert str(error.value).endswith("; replace it or remove it")


def test_an_image_is_not_read_to_learn_the_labels(files: list[Path]) -> None:
    files[0].write_bytes(b"")  # found when it is loaded, and named then
    dls = ImageDataLoaders.from_name_re("", files, r"^(.+)_\d+.png$", **LOADING)
    with pytest.raises(BadSampleError, match=r"cat_0\.png cannot be read as an image: it is empty"):
        samples_of(dls)


def test_no_seed_is_a_fixed_one(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, parts=("",), per_class=10)
    unseeded, seeded = (small_loaders(folder, valid_pct=0.25, seed=seed) for seed in (None, 0))
    assert names(unseeded) == names(seeded)
    assert torch.equal(unseeded.one_batch()[0], seeded.one_batch()[0])
