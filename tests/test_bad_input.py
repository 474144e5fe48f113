"""What users get wrong: each mistake ends in one clear error, within seconds, on one process and on several.

No process is left behind (the `Lab` sees to that), nobody hangs, and nothing half-written stays.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab
from pictures import image_folder, small_learner, small_loaders
from PIL import Image

PROGRAM = """
import sys

from dist_ai.callbacks import Callback
from dist_ai.export import Predictor
from dist_ai.vision import ImageDataLoaders, Resize, vision_learner


class Broken(Callback):
    def after_pred(self):
        if self.learn.collectives.world.rank == 1 and self.state.step == 1:
            raise ZeroDivisionError("the teapot is empty")


def main(images="images", arch="small_cnn", bs="4", cbs="", export=""):
    if export:
        Predictor(export)
    dls = ImageDataLoaders.from_folder(images, item_tfms=Resize(16), bs=int(bs), num_workers=1)
    learn = vision_learner(dls, arch, pretrained=False, cbs=[Broken()] if cbs else [])
    learn.fit(1)
    learn.export("model")


if __name__ == "__main__":
    main(**dict(argument.split("=") for argument in sys.argv[1:]))
"""

CAT = "train/cat/0.png"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        it.script("train.py", PROGRAM)
        image_folder(tmp_path / "images")
        yield it


def spoil(folder: Path, what: str) -> list[str]:
    """Makes the mistake `what` with the images in `folder`; returns the arguments of the program that run into it."""
    images = folder / "images"
    match what:
        case "a missing folder":
            return ["images=imgaes"]
        case "an empty folder":
            (folder / "empty").mkdir()
            return ["images=empty"]
        case "one class only":
            shutil.rmtree(images / "train" / "dog")
        case "a text named .jpg":
            (images / "train" / "cat" / "notes.jpg").write_text("these are my cats")
        case "a truncated JPEG":
            with Image.open(images / CAT) as image:
                image.resize((200, 200)).save(images / "train" / "cat" / "half.jpg")
            whole = (images / "train" / "cat" / "half.jpg").read_bytes()
            (images / "train" / "cat" / "half.jpg").write_bytes(whole[: len(whole) // 2])
        case "more workers than samples":
            for file in [*images.rglob("train/*/*.png")]:
                if file.name != "0.png":
                    file.unlink()
            return ["bs=2"]
        case "an unknown architecture":
            return ["arch=small_cn"]
        case "an error on rank 1":
            return ["cbs=broken"]
        case "a changed byte in an export" | "a missing file in an export":
            weights = small_learner(small_loaders(images)).export(folder / "theirs") / "model.safetensors"
            content = weights.read_bytes()
            weights.unlink()
            if "byte" in what:
                weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            return ["export=theirs"]
    return []


# The class of the error, and what it says: what was given, where, and what to do.
SAID = {
    "a missing folder": ("DataError", "no folder at imgaes: it is not there"),
    "an empty folder": (
        "DataError",
        r"empty has no folder 'train', but none at all; name its folders with train= and valid=",
    ),
    "one class only": ("DataError", r"the class 'dog' of images/valid/dog/0\.png is not one of|one class only \(cat\)"),
    "a text named .jpg": (
        "BadSampleError",
        r"sample \d+ \(images/train/cat/notes\.jpg\): .*cannot be read as an image: it is of no known format; replace it or",
    ),
    "a truncated JPEG": (
        "BadSampleError",
        r"sample \d+ \(images/train/cat/half\.jpg\): .*image file is truncated \(\d+ bytes not processed\); replace it or",
    ),
    "more workers than samples": (
        "DataError",
        r"2 training sample\(s\) for 3 workers: a worker without a sample only waits for the others; start at most 2",
    ),
    "an unknown architecture": ("ConfigError", "no architecture named 'small_cn'; did you mean 'small_cnn'"),
    "an error on rank 1": ("ZeroDivisionError", "the teapot is empty"),
    "a changed byte in an export": (
        "ArtifactError",
        r"export theirs is damaged: the content of model\.safetensors is not",
    ),
    "a missing file in an export": (
        "ArtifactError",
        r"export theirs is incomplete: model\.safetensors is missing; copy or",
    ),
}


def assert_nothing_half_written(lab: Lab) -> None:
    assert not list(lab.folder.rglob("*.partial-*"))
    assert not (lab.folder / "model").exists()
    assert not list(lab.folder.glob("runs/*/checkpoints/*"))


def assert_fails_in_seconds(lab: Lab, began: float, done: subprocess.CompletedProcess[str]) -> None:
    assert time.monotonic() - began < 60
    assert done.returncode == 1, done.stdout + done.stderr
    assert not lab.left_behind(within_s=5)
    assert_nothing_half_written(lab)


# ------------------------------------------------------------------------------------------------ one process


EVERY = """
import json, os, sys, time
import train

answers = open(f"answers{os.environ.get('RANK', '0')}", "w")
for name, arguments in json.loads(sys.argv[1]).items():
    began = time.monotonic()
    try:
        train.main(**dict(argument.split("=") for argument in arguments))
        said = None
    except Exception as error:
        said = [type(error).__name__, str(error)]
    answers.write(json.dumps([name, said, time.monotonic() - began]) + "\\n")
answers.close()
"""


def run_into(lab: Lab, mistakes: list[str], *, workers: int) -> None:
    """Makes each of the mistakes in one program, and checks that every rank gets the error of each."""
    lab.script("every.py", EVERY)
    arguments = {}
    for what in mistakes:
        folder = lab.folder / what
        image_folder(folder / "images")
        places = {"images": "images", **dict(argument.split("=") for argument in spoil(folder, what))}
        arguments[what] = [f"{k}={Path(what, v) if k in ('images', 'export') else v}" for k, v in places.items()]
    program = ("every.py", json.dumps(arguments))
    done = lab.python(*program) if workers == 1 else lab.launch("--workers", str(workers), "--device", "cpu", *program)
    assert done.returncode == 0, done.stderr
    for rank in range(workers):
        answers = [json.loads(line) for line in (lab.folder / f"answers{rank}").read_text().splitlines()]
        assert [name for name, *_ in answers] == mistakes
        for name, said, seconds in answers:
            kind, text = SAID[name]
            assert said is not None, name
            assert said[0] == kind
            assert re.search(text, said[1].replace(f"{name}/", "")), said[1]
            assert seconds < 20
    assert_nothing_half_written(lab)


def test_on_one_process_each_mistake_is_one_clear_error(lab: Lab) -> None:
    run_into(lab, [what for what in SAID if what not in ("more workers than samples", "an error on rank 1")], workers=1)


@pytest.mark.parametrize("what", ["a missing folder", "a truncated JPEG"])
def test_run_by_python_itself_the_last_line_says_it(lab: Lab, what: str) -> None:
    arguments = spoil(lab.folder, what)
    began = time.monotonic()
    done = lab.python("train.py", *arguments)
    assert_fails_in_seconds(lab, began, done)
    kind, text = SAID[what]
    assert re.search(rf"^dist_ai\.errors\.{kind}: {text}", done.stderr.splitlines()[-1])


# ------------------------------------------------------------------------------------------------ several processes


@pytest.mark.parametrize(
    ("what", "ranks"),
    [
        ("a missing folder", "[01]"),  # on all ranks alike, and told once
        ("a truncated JPEG", "[01]"),  # in a loader's process of one rank; the other waits for its gradients
        ("more workers than samples", "[012]"),
        ("an error on rank 1", "1"),
    ],
)
def test_on_several_processes_it_is_told_once_and_nobody_hangs(lab: Lab, what: str, ranks: str) -> None:
    arguments = spoil(lab.folder, what)
    workers = 3 if what == "more workers than samples" else 2
    began = time.monotonic()
    done = lab.launch("train.py", "--workers", str(workers), "--device", "cpu", "--", *arguments)
    assert_fails_in_seconds(lab, began, done)
    kind, text = SAID[what]
    # The headline, then one traceback, which ends in the same words.
    told = re.findall(
        rf"^dist-ai: error: rank {ranks} of {workers} raised {kind}: {text}", done.stderr, flags=re.MULTILINE
    )
    assert len(told) == 1, done.stderr
    assert done.stderr.count("dist-ai: error:") == 1
    assert done.stderr.count("Traceback") == 1, done.stderr


def test_what_every_rank_can_see_is_raised_on_every_rank(lab: Lab) -> None:
    of_one_rank = ("a text named .jpg", "a truncated JPEG", "more workers than samples", "an error on rank 1")
    run_into(lab, [what for what in SAID if what not in of_one_rank], workers=2)
