"""Sources: which files there are, in the same order on every machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dist_ai.data import FileGetter, ImageGetter, get_files, get_image_files, get_text_files
from dist_ai.data.sources import IMAGE_SUFFIXES
from dist_ai.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "train/dog/2.jpg",
        "train/dog/10.PNG",
        "train/cat/1.jpeg",
        "valid/cat/1.jpg",
        "top.gif",
        "notes.txt",
        ".hidden.jpg",
        "train/.DS_Store",
        ".cache/train/1.jpg",
        "train/.thumbs/1.jpg",
        "no_suffix",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(files: list[Path], folder: Path) -> list[str]:
    assert all(isinstance(file, Path) for file in files)
    return [file.relative_to(folder).as_posix() for file in files]


IMAGES = ["top.gif", "train/cat/1.jpeg", "train/dog/10.PNG", "train/dog/2.jpg", "valid/cat/1.jpg"]


def test_images_are_found_sorted_in_any_case_of_their_suffix_and_hidden_ones_are_not(folder: Path):
    assert names(get_image_files(folder), folder) == IMAGES
    assert names(get_image_files(str(folder)), folder) == IMAGES


def test_the_order_is_not_the_file_systems(folder: Path, monkeypatch: pytest.MonkeyPatch):
    walk = os.walk

    def backwards(*args: Any, **kwargs: Any) -> Any:
        for root, folders, files in walk(*args, **kwargs):
            folders.sort(reverse=True)
            yield root, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert names(get_image_files(folder), folder) == IMAGES


def test_all_files_or_those_of_some_extensions(folder: Path):
    assert names(get_files(folder), folder) == sorted([*IMAGES, "notes.txt", "no_suffix"])
    assert names(get_files(folder, [".TXT", ".gif"]), folder) == ["notes.txt", "top.gif"]
    assert get_files(folder, []) == []


def test_only_this_folder_or_only_some_under_it(folder: Path):
    assert names(get_image_files(folder, recurse=False), folder) == ["top.gif"]
    assert names(get_image_files(folder, folders=["valid"]), folder) == ["valid/cat/1.jpg"]
    assert names(get_image_files(folder, folders=("valid", "train")), folder) == IMAGES[1:]


def test_links_are_followed_unless_they_lead_back(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "3.jpg").touch()
    (folder / "train" / "linked").symlink_to(elsewhere)
    (folder / "train" / "twin").symlink_to(elsewhere)
    (folder / "train" / "up").symlink_to(folder)
    (folder / "train" / "self").symlink_to(folder / "train")
    (folder / "train" / "broken").symlink_to(folder / "nowhere")
    found = names(get_image_files(folder), folder)
    assert found == sorted([*IMAGES, "train/linked/3.jpg", "train/twin/3.jpg"])
    assert names(get_files(folder, [".jpg"], followlinks=False), folder) == ["train/dog/2.jpg", "valid/cat/1.jpg"]


def test_a_missing_folder_and_a_file_are_told_apart(folder: Path):
    for get in (get_files, get_image_files):
        with pytest.raises(DataError, match=re.escape(f"no folder at {folder / 'nowhere'}: it is not there")):
            get(folder / "nowhere")
        with pytest.raises(DataError, match=re.escape(f"no folder at {folder / 'top.gif'}: it is a file")):
            get(folder / "top.gif")


def test_a_folder_without_images_says_what_was_looked_for_and_where(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=re.escape(f"no image file under {tmp_path / 'empty'}; looked for .apng, .avif")
    ):
        get_image_files(tmp_path / "empty")
    with pytest.raises(DataError, match=r"\.xpm in trian, test$"):
        get_image_files(folder, folders=["trian", "test"])


def test_a_folder_that_cannot_be_read_is_an_error_and_not_a_smaller_data_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    scandir: Callable[..., Any] = os.scandir

    def forbidden(path: Any) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    message = f"cannot read the folder {folder / 'train' / 'dog'}: Permission denied"
    with pytest.raises(DataError, match=re.escape(message)):
        get_files(folder)


def test_an_extension_without_its_dot_is_refused(folder: Path):
    message = "extensions without a dot: 'jpg', 'png'; expected such as ('.jpg',)"
    with pytest.raises(ConfigError, match=re.escape(message)):
        get_files(folder, ["png", ".gif", "jpg"])


def test_one_extension_and_one_folder_are_not_taken_for_letters(folder: Path):
    assert get_files(folder, ".gif") == get_files(folder, [".gif"]) == [folder / "top.gif"]
    assert get_image_files(folder, folders="valid") == [folder / "valid/cat/1.jpg"]
    assert ImageGetter(folders="valid")(folder) == FileGetter(extensions=".jpg", folders="valid")(folder)
    with pytest.raises(DataError, match=r"\.xpm in test$"):
        get_image_files(folder, folders="test")
    with pytest.raises(ConfigError, match="extensions without a dot: 'jpg'; expected"):
        get_files(folder, "jpg")


def test_every_image_format_that_pillow_reads_is_an_image():
    Image.init()
    read = {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and Image.MIME.get(name, "").startswith("image/")
    }
    assert read <= IMAGE_SUFFIXES
    assert {".avif", ".ico", ".jpe", ".webp"} <= IMAGE_SUFFIXES
    assert not IMAGE_SUFFIXES & {".pdf", ".svg", ".mpg", ".h5"}  # no image, or none that can be opened


def test_text_files_and_getters_with_their_options_chosen(folder: Path):
    assert names(get_text_files(folder), folder) == ["notes.txt"]
    with pytest.raises(DataError, match=re.escape(f"no .txt file under {folder} in train")):
        get_text_files(folder, folders=["train"])
    assert names(ImageGetter("train", recurse=True)(folder), folder) == [each for each in IMAGES if "train" in each]
    assert names(FileGetter(extensions=(".txt", ".gif"))(folder), folder) == ["notes.txt", "top.gif"]
    assert repr(ImageGetter("train")) == "ImageGetter(suf='train', recurse=True, folders=())"
