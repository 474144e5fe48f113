"""Image loaders: which images and labels they hold, and what a folder must look like."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import HEIGHT, WIDTH, image_folder, small_loaders
from PIL import Image

from dist_ai.core import TensorCategory
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import DataLoaders
from dist_ai.errors import BadSampleError, ConfigError, DataError
from dist_ai.vision import Flip, ImageDataLoaders, Normalize, Resize, aug_transforms


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
    expect(DataError, f"no image file under {tmp_path}; looked for .bmp", tmp_path, valid_pct=0.2)
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
        f"the training images under {folder} have one class only (cat); a classifier needs at least 2 folders of images",
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
