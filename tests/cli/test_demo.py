"""`dist-ai demo`: trains, exports, predicts in a fresh process, names what it wrote; and goes on when it is run again."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import image_folder

import dist_ai.data
from dist_ai.cli.main import main


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Returns `demo(*arguments)` in an empty folder and on a few images: the exit code and what it wrote."""
    images = image_folder(tmp_path / "images of clothes", classes=("Bag", "Ankle boot"), parts=("train", "test"))
    monkeypatch.setattr(dist_ai.data, "sample_data", lambda name: images)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one core: images are loaded in this process
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["demo", *arguments])
        said = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


def test_it_goes_from_images_to_predictions_and_again_without_training(demo: Any) -> None:
    code, out, err = demo("--epochs", "1")
    assert code == 0, err
    assert Path("runs/demo/export/model.safetensors").is_file()
    for title in ("the model", "the predictions", "the log"):
        [named] = re.findall(rf"^{title} +(.*)$", out, flags=re.MULTILINE)
        for path in named.split(", "):
            assert Path(path).exists(), path
    [score] = re.findall(r"test accuracy ([\d.]+) after \d+ s", out)
    predictions = re.findall(r"^.*/test/(.+?)/\d+\.png +(Bag|Ankle boot)  [\d.]+%$", out, flags=re.MULTILINE)
    assert len(predictions) == 12
    [use] = re.findall(r"^use it +(.*)$", out, flags=re.MULTILINE)
    command = shlex.split(use)  # paths with spaces are quoted
    assert command[:3] == ["dist-ai", "predict", "runs/demo/export"]
    assert Path(command[3]).is_file()
    assert re.search(r"^watch it +tensorboard --logdir runs/demo$", out, flags=re.MULTILINE)
    assert list(Path("runs/demo/tensorboard").iterdir())

    code, again, _ = demo("--epochs", "1")
    assert code == 0
    assert "runs/demo: fit 1 is done already; its result is restored\n" in again
    assert f"test accuracy {score} after" in again
    assert len(Path("runs/demo/metrics.csv").read_text().splitlines()) == 2

    code, _, err = demo("--epochs", "2")
    assert code == 2
    assert err == (
        "dist-ai: error: runs/demo holds another program's run: in fit 1, n_epoch was 1 and is 2. To begin anew there use "
        "--fresh, DIST_AI_FRESH=1 or Learner(fresh=True); or use another run directory\n"
    )


def test_fresh_begins_anew_in_a_directory_of_ones_choice(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_ai.cli.demo.subprocess.run", lambda command, check: None)  # the predictions, seen above

    def weights() -> bytes:
        return Path("a b/export/model.safetensors").read_bytes()

    assert demo("--epochs", "1", "--run-dir", "a b")[0] == 0
    first = weights()
    code, out, err = demo("--epochs", "2", "--run-dir", "a b", "--fresh")
    assert code == 0, err
    assert weights() != first
    assert "tensorboard --logdir 'a b'\n" in out
    assert "dist-ai predict 'a b/export' '" in out


def test_no_epochs_is_a_mistake(demo: Any) -> None:
    assert demo("--epochs", "0") == (2, "", "dist-ai: error: --epochs 0: expected 1 or more\n")


@pytest.mark.slow
def test_in_full_it_knows_most_clothes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as end:
        main(["demo"])
    assert end.value.code == 0
    assert torch.get_num_threads() == threads
    [score] = re.findall(r"test accuracy ([\d.]+) after", capfd.readouterr().out)
    assert float(score) > 0.86
