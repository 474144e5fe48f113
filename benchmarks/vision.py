"""Training on photographs end to end: from a folder of JPEGs to a trained batch, beside fastai and a tuned torchvision.

```
python benchmarks/vision.py            # about a quarter of an hour on two cores
python benchmarks/vision.py --quick    # less than two minutes: it shows that all runs, and no more
```

All train the same small ResNet from the same weights on the same files, batch 32, one loader process beside a training
process of one thread, with the augmentations that each library's users list: flip, turn, zoom, tilt, brightness, contrast. The
images are those that ship with dist_ai, enlarged on coloured grounds with a camera's noise. Each contender lives in a process of
its own and takes turns with the others.

- "images/s": training images of an epoch by the time from asking for the first batch to the last step.
- "epoch": seconds of an epoch with its validation, of a new model's fit.
- "error": of the validation images after that fit, the mean over rounds: who is faster must not have learned less.

"tuned torchvision" is a loop written by hand: torchvision's own JPEG reader and v2 transforms on uint8 in a torch
`DataLoader` with a persistent worker, normalisation on the batch, `torch.optim.AdamW` (fused) and `OneCycleLR`.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import INSTALL, Contender, Report, Result, interleave, median_ratio, versions
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset

OURS, FASTAI, TORCHVISION = "dist_ai", "fastai", "tuned torchvision"
BS, SIZE, SHAPE, LR = 32, 64, (150, 200), 4e-3
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Fit = Callable[[int], tuple[float, float]]
"""Of a seed, trains a new model and returns the seconds that training steps took, without validation, and the accuracy."""


class Residual(nn.Module):
    """Two convolutions beside a shortcut, half the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the sum, rectified."""
        return torch.relu(self.convs(x) + self.shortcut(x))


def small_resnet(seed: int) -> nn.Module:
    """Returns a ResNet of eight layers for ten classes, the same for a seed."""
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    blocks = [Residual(16, 32), Residual(32, 64), Residual(64, 128)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def make_folder(folder: Path, num_train: int, num_valid: int) -> None:
    """Writes photographs of clothes: train/<class>/*.jpg and valid/<class>/*.jpg."""
    from dist_ai.data import sample_data

    random, (height, width) = np.random.default_rng(0), SHAPE
    for part, of, num in (("train", "train", num_train), ("valid", "test", num_valid)):
        for place in sorted((sample_data("fashion_mnist") / of).iterdir()):
            (folder / part / place.name).mkdir(parents=True)
            for file in sorted(place.glob("*.png"))[: num // 10]:
                thing = Image.open(file).convert("L").resize((width, height), Image.Resampling.BICUBIC)
                opacity = np.asarray(thing)[..., None] / 255
                colour, ground = random.integers(120, 255, 3), random.integers(0, 110, 3)
                pixels = opacity * colour + (1 - opacity) * ground + random.normal(0, 6, (height, width, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                    folder / part / place.name / f"{file.stem}.jpg", quality=90
                )


def ours(folder: Path, epochs: int) -> Fit:
    """Returns what dist_ai's users write."""
    from dist_ai.callbacks import Callback
    from dist_ai.learner import Learner
    from dist_ai.metrics import accuracy
    from dist_ai.vision import ImageDataLoaders, Normalize, Resize, aug_transforms

    class Clock(Callback):
        """Adds up what training takes."""

        def before_train(self) -> None:
            """Starts."""
            self.began = time.perf_counter()

        def after_train(self) -> None:
            """Stops."""
            spent.append(time.perf_counter() - self.began)

    spent: list[float] = []
    dls = ImageDataLoaders.from_folder(
        folder, item_tfms=Resize(SIZE), batch_tfms=[*aug_transforms(), Normalize(MEAN, STD)], bs=BS, num_workers=1
    )

    def fit(seed: int) -> tuple[float, float]:
        spent.clear()
        learn = Learner(dls, small_resnet(seed), metrics=accuracy, run_dir=None)
        learn.fit_one_cycle(epochs, LR, cbs=Clock())
        return sum(spent), learn.recorder.final[1]

    return fit


def fastai(folder: Path, epochs: int) -> Fit:
    """Returns what fastai's users write."""
    import fastai.vision.all as fa

    class Clock(fa.Callback):  # type: ignore[misc]  # fastai has no types
        """Adds up what training takes."""

        def before_train(self) -> None:
            """Starts."""
            self.began = time.perf_counter()

        def after_train(self) -> None:
            """Stops."""
            spent.append(time.perf_counter() - self.began)

    spent: list[float] = []
    dls = fa.ImageDataLoaders.from_folder(
        folder, item_tfms=fa.Resize(SIZE), bs=BS, num_workers=1, device=torch.device("cpu"),
        batch_tfms=[*fa.aug_transforms(), fa.Normalize.from_stats(MEAN, STD, cuda=False)],
    )  # fmt: skip

    def fit(seed: int) -> tuple[float, float]:
        spent.clear()
        fa.set_seed(seed)
        learn = fa.Learner(dls, small_resnet(seed), loss_func=fa.CrossEntropyLossFlat(), metrics=fa.accuracy)
        learn.fit_one_cycle(epochs, LR, cbs=Clock())
        return sum(spent), float(learn.recorder.values[-1][-1])

    return fit


class _Photographs(Dataset[Any]):
    def __init__(self, folder: Path, *, augment: bool) -> None:
        from torchvision.transforms import v2

        self.files = sorted(folder.rglob("*.jpg"))
        self.classes = sorted({file.parent.name for file in self.files})
        cropped = [v2.Resize(SIZE, antialias=True), v2.RandomCrop(SIZE) if augment else v2.CenterCrop(SIZE)]
        moved = [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.RandomAffine(10, scale=(1.0, 1.1), interpolation=v2.InterpolationMode.BILINEAR)], 0.75),
            v2.RandomPerspective(0.2, 0.75),
            v2.RandomApply([v2.ColorJitter(0.2, 0.2)], 0.75),
        ]
        self.tfms = v2.Compose([*cropped, *(moved if augment else [])])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from torchvision.io import ImageReadMode, decode_image

        file = self.files[index]
        pixels = decode_image(str(file), mode=ImageReadMode.RGB)
        return self.tfms(pixels), self.classes.index(file.parent.name)


def torchvision(folder: Path, epochs: int) -> Fit:
    """Returns a loop written by hand."""

    def loader(part: str, **options: Any) -> TorchDataLoader[Any]:
        photographs = _Photographs(folder / part, augment=part == "train")
        return TorchDataLoader(photographs, num_workers=1, persistent_workers=True, prefetch_factor=4, **options)

    train = loader("train", batch_size=BS, shuffle=True, drop_last=True)
    valid = loader("valid", batch_size=2 * BS)
    mean, std = torch.tensor([MEAN, STD]).mul(255)[..., None, None]
    loss_func = nn.CrossEntropyLoss()

    def fit(seed: int) -> tuple[float, float]:
        model = small_resnet(seed)
        opt = torch.optim.AdamW(model.parameters(), LR, betas=(0.95, 0.99), weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(opt, LR, total_steps=epochs * len(train))
        spent, right = 0.0, 0
        for _ in range(epochs):
            began = time.perf_counter()
            model.train()
            for pixels, classes in train:
                loss_func(model(pixels.float().sub_(mean).div_(std)), classes).backward()
                opt.step()
                schedule.step()
                opt.zero_grad()
            spent += time.perf_counter() - began
            model.eval()
            with torch.no_grad():
                right = sum(
                    int((model(pixels.float().sub_(mean).div_(std)).argmax(1) == classes).sum())
                    for pixels, classes in valid
                )
        return spent, right / len(valid.dataset)  # type: ignore[arg-type]  # torch does not say that it has a length

    return fit


MAKERS: dict[str, Callable[[Path, int], Fit]] = {OURS: ours, FASTAI: fastai, TORCHVISION: torchvision}
HOW = {
    OURS: "ImageDataLoaders, Resize, aug_transforms and Normalize by batch, fit_one_cycle",
    FASTAI: "the same lines, on the CPU",
    TORCHVISION: "a loop written by hand; transforms by sample, in the worker",
}


def contender(name: str, *, folder: Path, epochs: int, num_train: int) -> Contender:
    """Returns what trains a new model, timed."""
    torch.set_num_threads(1)
    fit, seeds = MAKERS[name](folder, epochs), iter(range(1_000))

    def run() -> dict[str, float]:
        began = time.perf_counter()
        training, accuracy = fit(next(seeds))
        epoch = (time.perf_counter() - began) / epochs
        return {"epoch": epoch, "images/s": num_train * epochs / training, "error": 1 - accuracy}

    return run


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer images")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    num_train, num_valid, epochs, rounds = (480, 100, 1, 2) if args.quick else (2_000, 500, 3, 3)
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), num_train, num_valid)
        make = partial(contender, folder=Path(folder), epochs=epochs, num_train=num_train)
        measured = interleave(make, list(MAKERS), rounds=rounds)
    height, width = SHAPE
    Report(
        name="vision",
        about=f"{num_train} training images of {width} x {height} to {SIZE} x {SIZE}, {num_valid} to validate; fits of {epochs} "
        f"epoch(s), medians of {rounds} interleaved rounds, errors their means.",
        versions=versions("dist_ai", "torch", "torchvision", "pillow", "fastai"),
        results=[line for name in MAKERS for line in lines(name, measured, learned=not args.quick)],
    ).publish(save=args.save)


def lines(name: str, measured: dict[str, dict[str, list[float]]], *, learned: bool) -> list[Result]:
    """Returns a contender's speed, its time and what it learned, if that was long enough; ours beside the others'."""
    if name not in measured:
        return [Result(what=f"epoch: {name}", value=None, unit="s", note=INSTALL)]
    others = [other for other in MAKERS if other in measured and other != name] if name == OURS else [None]
    goals = {"epoch": 0.9, "error": 1.1} if learned else {"epoch": 0.9}
    results = []
    for key, unit in (("images/s", "images/s"), ("epoch", "s"), ("error", "")):
        middle = statistics.mean if key == "error" else statistics.median
        values = measured[name][key]
        for other in others:
            ratio = None
            if other:
                theirs = measured[other][key]
                ratio = middle(values) / middle(theirs) if key == "error" else median_ratio(values, theirs)
            results.append(
                Result(
                    what=f"{key}: {name}", value=middle(values), unit=unit, against=other, ratio=ratio,
                    goal=goals.get(key) if other == FASTAI else None, note=HOW[name],
                )
            )  # fmt: skip
    return results


if __name__ == "__main__":
    main()
