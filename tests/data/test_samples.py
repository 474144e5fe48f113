"""The sample data: what is in the file that ships, and how it becomes a folder."""

from __future__ import annotations

import gzip
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dist_ai.data.samples as samples
from dist_ai.data.cache import cache_folder
from dist_ai.data.samples import sample_data
from dist_ai.data.samples.make_fashion_mnist import CLASS_NAMES, encode_png, first_of_each_class, make_fashion_mnist
from dist_ai.errors import ArtifactError, ConfigError, DataError

SHIPPED = Path(samples.__file__).with_name("fashion_mnist.parquet")


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pq.read_table(SHIPPED)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpack_in_another_process(dest: Path) -> subprocess.Popen[str]:
    code = f"from dist_ai.data.samples import sample_data; print(sample_data(dest={str(dest)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# ------------------------------------------------------------------------------------ the file that ships


def test_the_file_is_small_and_its_columns_are_the_documented_ones(table):
    assert SHIPPED.stat().st_size < 4e6
    schema = {"image": pa.binary(), "label": pa.string(), "split": pa.string(), "id": pa.int32()}
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == schema


def test_every_class_has_600_train_and_100_test_images(table):
    counts = Counter(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert counts == {(split, label): n for split, n in (("train", 600), ("test", 100)) for label in CLASS_NAMES}
    assert len(set(CLASS_NAMES)) == 10
    assert not any("/" in name for name in CLASS_NAMES)


def test_every_image_decodes_to_28_by_28_grey_pixels_and_none_comes_twice(table):
    pixels = []
    for content in table["image"].to_pylist():
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))
            pixels.append(np.asarray(image).tobytes())
    assert len(set(pixels)) >= 6995  # the original has a handful of twins
    mean = np.frombuffer(b"".join(pixels), np.uint8).mean() / 255
    assert mean == pytest.approx(0.286, abs=0.005)  # the published mean of all 60,000


def test_the_licence_stands_beside_the_file():
    text = SHIPPED.with_name("fashion_mnist.LICENSE.txt").read_text()
    assert "The MIT License" in text
    assert "Zalando SE" in text


# ------------------------------------------------------------------------------------ the script that made it


def test_the_rule_takes_the_first_of_each_class_in_their_order():
    labels = np.array([3, 3, 0, 3, 0, 0], np.uint8)
    assert first_of_each_class(labels, 2) == [0, 1, 2, 4]


def test_an_encoded_image_decodes_to_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(encode_png(pixels)))) == pixels).all()


def test_the_script_refuses_missing_and_foreign_originals(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is missing; give the folder that holds the four"):
        make_fashion_mnist(tmp_path, tmp_path / "out.parquet")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(
        DataError, match=r"is not the published file: the SHA-256 of its content is [0-9a-f]{64}, not c59f"
    ):
        make_fashion_mnist(tmp_path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


# ------------------------------------------------------------------------------------ the folder


def test_the_folder_holds_one_image_file_per_row_in_class_folders(tmp_path, table):
    folder = sample_data("fashion_mnist", tmp_path)
    assert folder == tmp_path / "fashion_mnist"
    assert {path.name for path in (folder / "train").iterdir()} == set(CLASS_NAMES)
    found = contents(folder)
    assert len(found) == 7000
    last = table.slice(len(table) - 1).to_pylist()[0]
    assert found[f"test/{last['label']}/{last['id']:05}.png"] == last["image"]
    assert os.listdir(tmp_path) == ["fashion_mnist"]


def test_asking_again_is_quick_and_leaves_the_files_alone(tmp_path):
    folder = sample_data(dest=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    start = time.perf_counter()
    assert sample_data(dest=tmp_path) == folder
    assert time.perf_counter() - start < 5  # 0.1 s where the machine is idle
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_processes_may_ask_at_once(tmp_path):
    processes = [unpack_in_another_process(tmp_path / "new") for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.strip() == str(tmp_path / "new" / "fashion_mnist")
    assert os.listdir(tmp_path / "new") == ["fashion_mnist"]
    assert contents(tmp_path / "new" / "fashion_mnist") == contents(sample_data(dest=tmp_path))


def test_missing_and_damaged_files_are_put_back(tmp_path):
    folder = sample_data(dest=tmp_path)
    whole = contents(folder)
    bags = sorted((folder / "train" / "Bag").iterdir())
    for path in (folder / "test" / "Coat").iterdir():
        path.unlink()
    (folder / "test" / "Coat").rmdir()
    bags[0].write_bytes(b"")
    flipped = bytearray(bags[1].read_bytes())
    flipped[-20] ^= 1  # same size, another content
    bags[1].write_bytes(flipped)
    assert sample_data(dest=tmp_path) == folder
    assert contents(folder) == whole
    assert os.listdir(tmp_path) == ["fashion_mnist"]


def test_a_killed_process_leaves_no_part_of_the_folder(tmp_path):
    process = unpack_in_another_process(tmp_path)
    deadline = time.monotonic() + 60
    while not (halves := list(tmp_path.glob(".fashion_mnist.partial-*"))):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "fashion_mnist").exists() or len(contents(tmp_path / "fashion_mnist")) == 7000
    old = time.time() - 2 * 3600
    for half in halves:
        if half.exists():
            os.utime(half, (old, old))
    assert len(contents(sample_data(dest=tmp_path))) == 7000
    assert os.listdir(tmp_path) == ["fashion_mnist"]


def test_files_of_somebody_else_are_neither_deleted_nor_taken_for_samples(tmp_path):
    folder = sample_data(dest=tmp_path)
    (folder / ".DS_Store").touch()
    assert sample_data(dest=tmp_path) == folder
    mine = folder / "train" / "Bag" / "mine.png"
    mine.write_bytes(b"precious")
    message = "holds 1 file(s) that are not of the sample, such as train/Bag/mine.png; move them away, or give another"
    with pytest.raises(DataError, match=re.escape(message)):
        sample_data(dest=tmp_path)
    assert mine.read_bytes() == b"precious"


def test_an_unknown_name_gets_a_suggestion(tmp_path):
    message = (
        "there is no sample named 'fashion_mnits'; did you mean 'fashion_mnist'?; dist_ai comes with: fashion_mnist"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        sample_data("fashion_mnits", tmp_path)


def test_a_place_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    message = r"cannot unpack the sample 'fashion_mnist' to .*/file/fashion_mnist: .*; give dest=, or set DIST_AI_CACHE"
    with pytest.raises(ConfigError, match=message):
        sample_data(dest=tmp_path / "file")


def test_a_damaged_installation_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ArtifactError, match=r"fashion_mnist\.parquet is missing: .*; install dist_ai again"):
        sample_data(dest=tmp_path)
    (tmp_path / "fashion_mnist.parquet").write_bytes(SHIPPED.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"fashion_mnist\.parquet is damaged: .*; install dist_ai again"):
        sample_data(dest=tmp_path)


def test_the_cache_is_the_chosen_folder_or_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DIST_AI_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "dist_ai"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG specification
    assert cache_folder() == tmp_path / "home" / ".cache" / "dist_ai"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "dist_ai"
    monkeypatch.setenv("DIST_AI_CACHE", str(tmp_path / "chosen"))
    assert sample_data() == tmp_path / "chosen" / "samples" / "fashion_mnist"
