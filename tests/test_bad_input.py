"""What users get wrong: each mistake ends in one clear error, within seconds, whoever starts the processes.

No process is left behind (the `Lab` sees to that), nobody hangs, and nothing half-written stays. What cannot work before
any process is started, and ports that are in use, are in `distributed/test_launchers.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Lab, wait_until
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


def main(images="images", arch="small_cnn", valid_pct="", cbs="", export=""):
    if export:
        Predictor(export)
    draw = float(valid_pct) if valid_pct else None
    dls = ImageDataLoaders.from_folder(images, valid_pct=draw, item_tfms=Resize(16), bs=4, num_workers=1)
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
            for file in [*images.glob("train/*/*.png")]:  # all of them, so that every rank finds one in its first batch
                file.unlink()
                file.with_suffix(".jpg").write_text("this is my pet")
        case "a truncated JPEG":
            with Image.open(images / CAT) as image:
                image.resize((200, 200)).save(images / "train" / "cat" / "half.jpg")
            whole = (images / "train" / "cat" / "half.jpg").read_bytes()
            (images / "train" / "cat" / "half.jpg").write_bytes(whole[: len(whole) // 2])
        case "more workers than samples":
            for file in [*images.glob("train/*/*.png")]:
                if file.name != "0.png":
                    file.unlink()
            return ["images=images/train", "valid_pct=0.5"]
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
    "one class only": (
        "DataError",
        r"the class 'dog' of images/valid/dog/0\.png is not one of|one class only \('cat'\)",
    ),
    "a text named .jpg": (
        "BadSampleError",
        r"sample \d+: images/train/\w+/\d\.jpg cannot be read as an image: it is of no known format; replace it or",
    ),
    "a truncated JPEG": (
        "BadSampleError",
        r"sample \d+: images/train/cat/half\.jpg cannot be read as an image: image file is truncated "
        r"\(\d+ bytes not processed\); replace it or",
    ),
    "more workers than samples": (
        "DataError",
        r"1 training sample\(s\) for 2 workers: a worker without a sample only waits for the others; start at most 1",
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


ON_ONE_RANK = ("a truncated JPEG", "an error on rank 1")


def assert_nothing_half_written(lab: Lab) -> None:
    assert not list(lab.folder.rglob("*.partial-*"))
    assert not (lab.folder / "model").exists()
    assert not list(lab.folder.glob("runs/*/checkpoints/*"))


def assert_fails_in_seconds(lab: Lab, began: float, done: subprocess.CompletedProcess[str]) -> None:
    assert time.monotonic() - began < 60
    assert done.returncode == 1, done.stdout + done.stderr
    assert not lab.left_behind(within_s=5)
    assert_nothing_half_written(lab)


# ------------------------------------------------------------------------------------------------ who starts them


def by_torchrun(lab: Lab, *program: str) -> subprocess.CompletedProcess[str]:
    return lab.python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program)


def by_launch(lab: Lab, *program: str) -> subprocess.CompletedProcess[str]:
    return lab.launch("--workers", "2", "--device", "cpu", "--", *program)


def by_ray(lab: Lab, *program: str) -> subprocess.CompletedProcess[str]:
    return lab.launch("--engine", "ray", "--workers", "2", "--device", "cpu", "--", *program)


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A Ray cluster for all tests of this file: to start one takes as long as to run into a mistake on it."""
    with Lab(tmp_path_factory.mktemp("ray")) as it:
        start = ("-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=2", "--port=0")
        started = it.python(*start, "--include-dashboard=false")
        try:
            assert started.returncode == 0, started.stderr
            yield it
        finally:
            for pid in it.marked():  # not `ray stop`: it ends every cluster of this machine
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def on_ray(lab: Lab, ray_cluster: Lab) -> Iterator[Lab]:
    """The lab, on that cluster, of whose workers none may be left at the end."""
    lab.environment["RAY_TMPDIR"] = str(ray_cluster.ray_folder)
    yield lab
    assert wait_until(lambda: not ranks_of(ray_cluster), within_s=10), ranks_of(ray_cluster)


def ranks_of(cluster: Lab) -> list[str]:
    """Returns the command lines of the cluster's processes that run a program, or that such a process started."""
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in cluster.marked()]
    return [line for line in lines if "RayTrainWorker" in line or "multiprocessing" in line]


# ------------------------------------------------------------------------------------------------ one after the other


EVERY = """
import json, sys, time
import train
from dist_ai.distributed import current_world

answers = open(f"answers{current_world().rank}", "w")
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


def run_into(
    lab: Lab, mistakes: list[str], start: Callable[..., subprocess.CompletedProcess[str]], *, workers: int
) -> None:
    """Makes each of the mistakes in one program, and checks that every rank gets the error of each."""
    lab.script("every.py", EVERY)
    arguments = {}
    for what in mistakes:
        folder = lab.folder / what
        image_folder(folder / "images")
        places = {"images": "images", **dict(argument.split("=") for argument in spoil(folder, what))}
        arguments[what] = [f"{k}={Path(what, v) if k in ('images', 'export') else v}" for k, v in places.items()]
    done = start(lab, "every.py", json.dumps(arguments))
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
    of_several_processes = ("more workers than samples", "an error on rank 1")
    run_into(lab, [what for what in SAID if what not in of_several_processes], Lab.python, workers=1)


ON_ALL_RANKS = [what for what in SAID if what not in ON_ONE_RANK]


@pytest.mark.parametrize("start", [by_launch, by_torchrun])
def test_what_every_rank_can_see_is_raised_on_every_rank(
    lab: Lab, start: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run_into(lab, ON_ALL_RANKS, start, workers=2)


@pytest.mark.ray
def test_what_every_rank_can_see_is_raised_on_every_rank_of_ray(on_ray: Lab) -> None:
    run_into(on_ray, ON_ALL_RANKS, by_ray, workers=2)


# ------------------------------------------------------------------------------------------------ what a person reads


@pytest.mark.parametrize("what", ["a missing folder", "a truncated JPEG"])
def test_run_by_python_itself_the_last_line_says_it(lab: Lab, what: str) -> None:
    arguments = spoil(lab.folder, what)
    began = time.monotonic()
    done = lab.python("train.py", *arguments)
    assert_fails_in_seconds(lab, began, done)
    kind, text = SAID[what]
    assert re.search(rf"^dist_ai\.errors\.{kind}: {text}", done.stderr.splitlines()[-1])


def assert_told_once(what: str, done: subprocess.CompletedProcess[str]) -> None:
    """Checks that the launcher tells of `what` in one headline, and then where, without the same words again."""
    kind, text = SAID[what]
    rank = "1" if what == "an error on rank 1" else "[01]"
    told = rf"^dist-ai: error: rank {rank} of 2 raised {kind}: {text}"
    assert len(re.findall(told, done.stderr, flags=re.MULTILINE)) == 1, done.stderr
    assert done.stderr.count("dist-ai: error:") == 1
    ours = kind != "ZeroDivisionError"
    assert len(re.findall(text, done.stderr)) == (1 if ours else 3)  # a traceback has it in the code and at its end
    assert done.stderr.count("Traceback") == (0 if ours else 1), done.stderr
    assert done.stderr.count("In your code") == (1 if ours else 0), done.stderr
    assert re.search(r'train\.py", line \d+, in main\n', done.stderr)


@pytest.mark.parametrize("what", ["a missing folder", *ON_ONE_RANK])
def test_on_several_processes_it_is_told_once_and_nobody_hangs(lab: Lab, what: str) -> None:
    arguments = spoil(lab.folder, what)
    began = time.monotonic()
    done = by_launch(lab, "train.py", *arguments)
    assert_fails_in_seconds(lab, began, done)
    assert_told_once(what, done)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("what", ON_ONE_RANK)
def test_on_ray_it_is_told_once_and_nobody_hangs(on_ray: Lab, what: str) -> None:
    arguments = spoil(on_ray.folder, what)
    began = time.monotonic()
    done = by_ray(on_ray, "train.py", *arguments)
    assert_fails_in_seconds(on_ray, began, done)
    assert_told_once(what, done)


@pytest.mark.parametrize("what", ON_ONE_RANK)
@pytest.mark.slow
def test_under_torchrun_the_rank_says_it_and_nobody_hangs(lab: Lab, what: str) -> None:
    arguments = spoil(lab.folder, what)
    began = time.monotonic()
    done = by_torchrun(lab, "train.py", *arguments)
    assert_fails_in_seconds(lab, began, done)
    kind, text = SAID[what]
    # Each rank's traceback goes to the terminal: torchrun adds a page about the one that it saw first.
    assert re.search(rf"^(\[rank\d\]: )?(dist_ai\.errors\.)?{kind}: {text}", done.stderr, flags=re.MULTILINE)
