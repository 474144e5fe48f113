"""What loading costs: our loaders beside torch's, fastai's and torchvision's, on one machine.

```
python benchmarks/loader.py            # about seven minutes
python benchmarks/loader.py --quick    # about a minute
```

Everybody gives the same batches of the same data, in turns, each in a process of its own. Timed is an epoch, from asking
for the first batch to having the last, divided by its samples.

- "tensors": rows of two tensors in memory, batch 64, no worker processes.
- "JPEG": a folder of photographs to float tensors of 3 x 128 x 128, batch 32, one worker process. "tuned torchvision"
  decodes with torchvision's own reader (which it has since deprecated) and resizes with its v2 transforms, in a torch
  `DataLoader` with persistent workers; "ImageFolder" is the same with its usual reader, Pillow. Pictures of 200 x 150 must
  be decoded whole; of medium ones (500 x 375) and large ones (1600 x 1200) dist_ai decodes a half and a quarter, by side,
  which is enough for the result.
- "second epoch": from asking for it to its first batch of one tiny sample, with two worker processes: what it costs to begin.
- "growth": how much more memory the training process holds after the last of 50 such epochs than after the fifth.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import INSTALL, Contender, Report, Result, interleave, median_ratio, versions
from PIL import Image
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, Subset, TensorDataset

BS, IMAGE_BS, SIZE, NUM_CLASSES = 64, 32, 128, 4
SHAPES = {"small": (150, 200), "medium": (375, 500), "large": (1200, 1600)}
NUMBERS = {"small": 1280, "medium": 320, "large": 96}  # so many that an epoch takes about a second

Epoch = Callable[[], Iterable[Any]]


# ------------------------------------------------------------------------------------ tensors


def tensors(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 20, generator=generator), torch.randint(0, 5, (num,), generator=generator)


def torch_tensors(num: int) -> Epoch:
    loader = TorchDataLoader(TensorDataset(*tensors(num)), batch_size=BS, shuffle=True)
    return lambda: loader


def our_tensors(num: int) -> Epoch:
    from dist_ai.data import DataLoader, TensorData

    loader = DataLoader(TensorData(*tensors(num)), bs=BS, shuffle=True)
    return lambda: loader


def fastai_tensors(num: int) -> Epoch:
    import fastai.basics as fa

    loader = fa.DataLoader(TensorDataset(*tensors(num)), bs=BS, shuffle=True)
    return lambda: loader


# ------------------------------------------------------------------------------------ a folder of photographs


def make_folder(folder: Path, shape: tuple[int, int], num: int) -> None:
    """Writes pictures with the detail of photographs: smooth shapes, some edges, a camera's noise."""
    random = np.random.default_rng(0)
    height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    for i in range(num):
        waves = [np.sin(x / random.uniform(20, 90) + y / random.uniform(20, 90)) for _ in range(3)]
        edges = 60 * ((x // random.integers(40, 120) + y // random.integers(40, 120)) % 2)
        pixels = 100 + 60 * np.stack(waves, -1) + edges[..., None] + random.normal(0, 6, (height, width, 3))
        place = folder / f"class {i % NUM_CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{i}.jpg", quality=90)


def our_images(folder: Path) -> Epoch:
    from dist_ai.vision import ImageDataLoaders, Resize

    dls = ImageDataLoaders.from_folder(folder, valid_pct=0.1, item_tfms=Resize(SIZE), bs=IMAGE_BS, num_workers=1)
    return lambda: dls.train


def fastai_images(folder: Path) -> Epoch:
    import fastai.vision.all as fa

    dls = fa.ImageDataLoaders.from_folder(
        folder, valid_pct=0.1, seed=0, item_tfms=fa.Resize(SIZE), bs=IMAGE_BS, num_workers=1, device=torch.device("cpu")
    )
    return lambda: dls.train


class _Photographs(Dataset[Any]):
    def __init__(self, folder: Path) -> None:
        self.files, self.tfms = sorted(folder.rglob("*.jpg")), _cut()
        self.classes = sorted({file.parent.name for file in self.files})

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        from torchvision.io import ImageReadMode, decode_image

        file = self.files[index]
        pixels = decode_image(str(file), mode=ImageReadMode.RGB)
        return self.tfms(pixels), self.classes.index(file.parent.name)


def _cut(*first: Any) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([*first, v2.Resize(SIZE, antialias=True), v2.RandomCrop(SIZE)])


def _torch_images(photographs: Any) -> Epoch:
    loader = TorchDataLoader(
        Subset(photographs, [i for i in range(len(photographs)) if i % 10]),
        batch_size=IMAGE_BS,
        shuffle=True,
        drop_last=True,
        num_workers=1,
        persistent_workers=True,
        prefetch_factor=4,
    )
    return lambda: ((pixels.float().div_(255), classes) for pixels, classes in loader)


def tuned_images(folder: Path) -> Epoch:
    return _torch_images(_Photographs(folder))


def image_folder(folder: Path) -> Epoch:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    return _torch_images(ImageFolder(str(folder), _cut(v2.ToImage())))


# ------------------------------------------------------------------------------------ the start of an epoch


class _Tiny(Dataset[Any]):
    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(8), index


def torch_start(_: None) -> Epoch:
    loader = TorchDataLoader(_Tiny(), batch_size=1, shuffle=True, num_workers=2, persistent_workers=True)
    return lambda: loader


def our_start(_: None) -> Epoch:
    from dist_ai.data import DataLoader

    loader = DataLoader(_Tiny(), bs=1, shuffle=True, num_workers=2)
    return lambda: loader


def fastai_start(_: None) -> Epoch:
    import fastai.basics as fa

    loader = fa.DataLoader(_Tiny(), bs=1, shuffle=True, num_workers=2, persistent_workers=True)
    return lambda: loader


# ------------------------------------------------------------------------------------ the benchmark

TENSORS: dict[str, Callable[[int], Epoch]] = {
    "torch DataLoader": torch_tensors,
    "dist_ai": our_tensors,
    "fastai": fastai_tensors,
}
IMAGES: dict[str, Callable[[Path], Epoch]] = {
    "tuned torchvision": tuned_images,
    "torchvision ImageFolder": image_folder,
    "dist_ai": our_images,
    "fastai": fastai_images,
}
STARTS: dict[str, Callable[[Any], Epoch]] = {
    "torch, persistent workers": torch_start,
    "dist_ai": our_start,
    "fastai, persistent workers": fastai_start,
}


def timed(name: str, contenders: dict[str, Callable[[Any], Epoch]], given: Any) -> Contender:
    """Returns what a contender's process runs: an epoch, timed, with the time to its first batch."""
    torch.set_num_threads(1)
    epoch = contenders[name](given)

    def run() -> dict[str, float]:
        began, first, num = time.perf_counter(), 0.0, 0
        for batch in epoch():
            first = first or time.perf_counter() - began
            num += len(batch[0])
        return {"per_sample": (time.perf_counter() - began) / num, "first": first, "num": float(num)}

    return run


def resident() -> int:
    """Returns the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growing(name: str, epochs: int) -> Contender:
    """Returns what measures how much the training process grows over many epochs with workers, after the first five."""
    epoch = STARTS[name](None)

    def run() -> dict[str, float]:
        after = []
        for _ in range(epochs):
            for _ in epoch():
                pass
            after.append(resident())
        return {"growth": float(after[-1] - after[4])}

    return run


def rows(
    what: str, times: dict[str, dict[str, list[float]]], names: Iterable[str], goals: dict[str, float]
) -> list[Result]:
    """Returns a line for each contender; the goals are of dist_ai's time, against each of the others."""
    results = []
    for name in names:
        if name not in times:
            results.append(Result(what=f"{what}: {name}", value=None, unit="us/sample", note=INSTALL))
        elif name.startswith("dist_ai"):
            ours = times[name]["per_sample"]
            for other, goal in goals.items():
                if other in times:
                    results.append(
                        Result(
                            what=f"{what}: {name}",
                            value=statistics.median(ours) * 1e6,
                            unit="us/sample",
                            against=other,
                            ratio=median_ratio(ours, times[other]["per_sample"]),
                            goal=goal,
                        )
                    )
        else:
            value = statistics.median(times[name]["per_sample"]) * 1e6
            results.append(Result(what=f"{what}: {name}", value=value, unit="us/sample"))
    return results


def tensor_lines(*, quick: bool, rounds: int) -> list[Result]:
    """Returns what an epoch over tensors in memory takes."""
    run = partial(timed, contenders=TENSORS, given=12_800 if quick else 32_000)
    times = interleave(run, list(TENSORS), rounds=rounds)
    return rows("tensors", times, TENSORS, {"torch DataLoader": 1 / 3, "fastai": 1 / 3})


def image_lines(size: str, *, quick: bool, rounds: int) -> list[Result]:
    """Returns what an epoch over photographs of one size takes."""
    goals = dict.fromkeys((each for each in IMAGES if each != "dist_ai"), 1.0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_folder(folder, SHAPES[size], 96 if quick else NUMBERS[size])
        times = interleave(partial(timed, contenders=IMAGES, given=folder), list(IMAGES), rounds=rounds)
    return rows(f"JPEG, {size}", times, IMAGES, goals)


def start_lines(*, quick: bool, rounds: int) -> list[Result]:
    """Returns what it costs to begin an epoch, in time and in memory that is not given back."""
    epochs = 10 if quick else 50
    times = interleave(partial(timed, contenders=STARTS, given=None), list(STARTS), rounds=rounds)
    firsts = {name: statistics.median(each["first"]) * 1e3 for name, each in times.items()}
    results = []
    for name, first in firsts.items():
        limits = {"against": "20 ms", "ratio": first / 20, "goal": 1.0} if name == "dist_ai" else {}
        results.append(Result(what=f"second epoch: {name}", value=first, unit="ms to its first batch", **limits))
    [grown] = interleave(partial(growing, epochs=epochs), ["dist_ai"], rounds=1)["dist_ai"]["growth"]
    grown /= 2**20
    limits = {"against": "1 MiB", "ratio": grown, "goal": 1.0}
    results.append(Result(what=f"growth over {epochs} epochs: dist_ai", value=grown, unit="MiB", **limits))
    return results


TASKS: dict[str, Callable[..., list[Result]]] = {
    "tensors": tensor_lines,
    **{size: partial(image_lines, size) for size in SHAPES},
    "start": start_lines,
}


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer samples")
    parser.add_argument("--only", choices=TASKS, help="measure one of them")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    rounds = 3 if args.quick else 9
    tasks = [args.only] if args.only else TASKS
    Report(
        name="loader",
        only=args.only,
        about=f"Time per sample of an epoch, medians of {rounds} interleaved rounds; one thread.",
        versions=versions("dist_ai", "torch", "torchvision", "pillow", "simplejpeg", "fastai"),
        results=[line for task in tasks for line in TASKS[task](quick=args.quick, rounds=rounds)],
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
