"""What augmentation on the device costs: a batch turned, zoomed, tilted, lit and normalised, beside fastai and a bare resampling.

```
python benchmarks/augment.py            # about a minute
python benchmarks/augment.py --quick    # a few seconds
```

64 images of 128 x 128 become 112 x 112: flip, rotate, zoom, warp, brightness, contrast, normalise, with draws for each sample,
on one core (threads that wait for each other measure what else the machine does). The measure is one bare
`torch.nn.functional.grid_sample` from a grid that is ready. Each contender lives in a process of its own. Goals: at most 3
times the bare one, and at most a third of fastai's time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from harness import INSTALL, Contender, Report, Result, interleave, median_ratio, versions

BARE, OURS, FASTAI, TORCHVISION = "one grid_sample", "dist_ai", "fastai", "torchvision v2, sample by sample"
BATCH, BEFORE, AFTER = 64, 128, 112
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HOW = {
    BARE: "bilinear, reflection, a grid that is ready",
    OURS: "draws, matrices, one grid_sample, one pass over the colours, Normalize",
    FASTAI: "aug_transforms(size=112) and Normalize on the CPU",
    TORCHVISION: "flip, perspective, affine, resize, colour jitter, normalise",
}


def images() -> torch.Tensor:
    """Returns smooth images, the same in every process."""
    small = torch.rand(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return F.interpolate(small, BEFORE, mode="bilinear")


def bare() -> Callable[[int], torch.Tensor]:
    """Returns the resampling alone, by small turns."""
    x = images()
    turn = torch.eye(3)[:2] + 0.05 * torch.randn(BATCH, 2, 3, generator=torch.Generator().manual_seed(0))
    grid = F.affine_grid(turn, [BATCH, 3, AFTER, AFTER], align_corners=False)
    return lambda _: F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def ours() -> Callable[[int], torch.Tensor]:
    """Returns dist_ai's pipeline as the device stage runs it."""
    from dist_ai.core import Draw, Pipeline
    from dist_ai.core.vision_types import TensorImage
    from dist_ai.vision import Normalize, aug_transforms

    x = TensorImage(images())
    pipeline = Pipeline([*aug_transforms(size=AFTER), Normalize(MEAN, STD)])
    samples = list(range(BATCH))
    return lambda epoch: pipeline(x, Draw(seed=0, epoch=epoch, samples=samples).at("batch_tfms"), split_idx=0)


def fastai() -> Callable[[int], torch.Tensor]:
    """Returns fastai's pipeline of the same transforms."""
    from fastai.vision.all import Normalize, Pipeline, TensorImage, aug_transforms

    x = TensorImage(images())
    pipeline = Pipeline([*aug_transforms(size=AFTER), Normalize.from_stats(MEAN, STD, cuda=False)])
    return lambda _: pipeline(x)


def torchvision() -> Callable[[int], torch.Tensor]:
    """Returns torchvision's transforms, which draw once a call, for one sample after the other."""
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomPerspective(0.2, 0.75),
            v2.RandomAffine(10, scale=(1.0, 1.1), interpolation=v2.InterpolationMode.BILINEAR),
            v2.Resize(AFTER),
            v2.ColorJitter(0.2, 0.2),
            v2.Normalize(MEAN, STD),
        ]
    )
    x = images()
    return lambda _: torch.stack([steps(each) for each in x])


MAKERS: dict[str, Callable[[], Callable[[int], Any]]] = {
    BARE: bare,
    OURS: ours,
    FASTAI: fastai,
    TORCHVISION: torchvision,
}


def contender(name: str, *, num_batches: int) -> Contender:
    """Returns what augments batches, and its time for one in milliseconds; checks what came of the first."""
    torch.set_num_threads(1)
    augment = MAKERS[name]()
    result = augment(0)
    if tuple(result.shape) != (BATCH, 3, AFTER, AFTER) or not torch.isfinite(torch.as_tensor(result)).all():
        raise AssertionError(f"{name} made {tuple(result.shape)}, or numbers that are none")

    num_batches = 1 if name == TORCHVISION else num_batches  # it takes as long as dozens of the others'

    def run() -> dict[str, float]:
        began = time.perf_counter()
        for epoch in range(num_batches):
            augment(epoch)
        return {"ms": (time.perf_counter() - began) / num_batches * 1e3}

    return run


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer batches")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    num_batches, rounds = (3, 5) if args.quick else (10, 25)
    measured = interleave(partial(contender, num_batches=num_batches), list(MAKERS), rounds=rounds)
    Report(
        name="augment",
        about=f"Time per batch of {BATCH} images, {BEFORE} to {AFTER} pixels, medians of {rounds} interleaved rounds.",
        versions=versions("dist_ai", "torch", "torchvision", "fastai"),
        results=[*(result(name, measured) for name in MAKERS), beside_fastai(measured)],
    ).publish(save=args.save)


def result(name: str, measured: dict[str, dict[str, list[float]]]) -> Result:
    """Returns the time of a contender, beside the bare resampling's."""
    if name not in measured:
        return Result(what=name, value=None, unit="ms", note=INSTALL)
    times = measured[name]["ms"]
    return Result(
        what=name,
        value=statistics.median(times),
        unit="ms",
        against=BARE,
        ratio=median_ratio(times, measured[BARE]["ms"]),
        goal=3.0 if name == OURS else None,
        note=HOW[name],
    )


def beside_fastai(measured: dict[str, dict[str, list[float]]]) -> Result:
    """Returns dist_ai's time beside fastai's."""
    if FASTAI not in measured:
        return Result(what=f"{OURS} beside {FASTAI}", value=None, unit="ms", note=INSTALL)
    ours, theirs = measured[OURS]["ms"], measured[FASTAI]["ms"]
    return Result(
        what=f"{OURS} beside {FASTAI}",
        value=statistics.median(ours),
        unit="ms",
        against=FASTAI,
        ratio=median_ratio(ours, theirs),
        goal=1 / 3,
        note="the same transforms",
    )


if __name__ == "__main__":
    main()
