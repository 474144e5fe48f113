"""`dist-ai demo`: trains, exports, predicts in a fresh process, names what it wrote; and goes on when it is run again."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import Lab
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
    monkeypatch.setattr(sys, "argv", ["dist-ai", "demo"])

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["demo", *arguments])
        said = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


def predicted(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """Stands in for the predictions in a fresh process, which take seconds."""
    return subprocess.CompletedProcess(command, 0)


def test_it_goes_from_images_to_predictions_and_again_without_training(demo: Any) -> None:
    code, out, err = demo("--epochs", "1")
    assert code == 0, err
    assert Path("runs/demo/export/model.safetensors").is_file()
    for title in ("the model", "the predictions", "the log", "the program"):
        [named] = re.findall(rf"^{title} +(.*)$", out, flags=re.MULTILINE)
        for path in named.split(", "):
            assert Path(path).exists(), path
    [score] = re.findall(r"test accuracy ([\d.]+) after \d+ s", out)
    predictions = re.findall(r"^.*/test/(.+?)/\d+\.png +(Bag|Ankle boot)  [\d.]+%$", out, flags=re.MULTILINE)
    assert len(predictions) == 12
    assert re.search(r"^watch it +tensorboard --logdir runs/demo$", out, flags=re.MULTILINE)
    assert list(Path("runs/demo/tensorboard").iterdir())

    code, again, _ = demo("--epochs", "1")
    assert code == 0
    assert "runs/demo: fit 1 is done already; its result is restored. To begin anew there use --fresh" in again
    assert f"test accuracy {score} after" in again
    assert len(Path("runs/demo/metrics.csv").read_text().splitlines()) == 2

    code, _, err = demo("--epochs", "2")
    assert code == 2
    said = "dist-ai: error: runs/demo holds another program's run: in fit 1, n_epoch was 1 and is 2. To begin anew there use "
    assert re.fullmatch(f"{said}--fresh.*; or use another run directory\n", err)


def test_the_next_commands_work_when_they_are_pasted(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dist_ai.cli.demo.subprocess.run", predicted)
    _, out, _ = demo("--epochs", "1")
    [use] = re.findall(r"^use it +(.*)$", out, flags=re.MULTILINE)
    [own] = re.findall(r"^train on yours +(.*)$", out, flags=re.MULTILINE)
    program = Path("runs/demo/train.py")
    assert own == f"dist-ai launch {program} --workers {1 if torch.cuda.device_count() == 1 else 2}"
    # The folder of images is the one thing that a user changes; here it also saves to train on 6,000.
    text = program.read_text().replace('sample_data("fashion_mnist")', repr(str(tmp_path / "images of clothes")))
    program.write_text(text)
    with Lab(tmp_path) as lab:
        lab.folder = tmp_path / "here"
        (dist_ai := lab.folder / "dist-ai").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dist_ai.cli.main "$@"\n')
        dist_ai.chmod(0o755)
        pasted = f"PATH={shlex.quote(str(lab.folder))}:$PATH\n{use}\n{own}\n"
        done = lab.start("-c", f"import os; os.execlp('sh', 'sh', '-ec', {pasted!r})")
        out, err = done.communicate(timeout=100)
    assert (done.returncode, err) == (0, "")
    assert re.search(r"/test/.*\.png  +(Bag|Ankle boot)  [\d.]+%\n", out)
    assert Path("runs/train/export/model.safetensors").is_file()

    demo("--epochs", "1")
    assert program.read_text() == text  # what a user changed stays


def test_fresh_begins_anew_in_a_directory_of_ones_choice(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_ai.cli.demo.subprocess.run", predicted)  # seen above

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
