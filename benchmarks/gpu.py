"""What training costs on a GPU: a step beside a loop written by hand, what augmentation adds to it, images/s, tokens/s and MFU.

```
python benchmarks/gpu.py             # on one GPU
python benchmarks/gpu.py --quick     # a minute, also without a GPU: it shows that all runs, and no more
python benchmarks/gpu.py --only resnet50 --profile where.txt
```

- "resnet50": torchvision's ResNet-50 in bf16 with channels last, SGD, on images of 256 x 256 bytes that live on the GPU, cut or
  resampled to 224. By hand: autocast, fused SGD, normalisation on the device. Then with `aug_transforms`: flip, turn, zoom, tilt,
  brightness, contrast, with draws for each image, on the stream that prepares the next batch while this one trains. Goal: a
  step with augmentation takes at most 1.05 of one without.
- "gpt": a transformer of 124 million weights on 1,024 tokens, AdamW, in bf16.
- "small": a model so small that the loop around it is all: what the host does for a step.
- "photographs": a folder of JPEGs to trained batches of the same ResNet-50, and what the loader gives by itself.

MFU is what the model's own operations (those of the forward pass three times) would take at the most that the maker's data sheet
has for dense bf16, as a share of the time they took.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Contender, Report, Result, median_ratio, take_turns, terminal, versions
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from dist_ai.callbacks import Callback, ChannelsLast, Compile
from dist_ai.callbacks.throughput import peak_flops
from dist_ai.core.transform import Transform
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.optimizer import SGD, Adam
from dist_ai.text.models import LanguageModel
from dist_ai.text.transformer import Transformer
from dist_ai.vision import ImageDataLoaders, Normalize, Resize, aug_transforms
from dist_ai.vision.transforms import ImageToFloat

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BY_HAND, OURS, AUGMENTED = "by hand", "dist_ai", "dist_ai, augmented"
ALONE, LOADER = "augmentation alone", "loader alone"  # without training


class Clock(Callback):
    """Times the training part of an epoch, up to when the device has done it."""

    seconds = 0.0

    def before_train(self) -> None:
        """Starts."""
        self._began = now(self.learn.dls.device)

    def after_train(self) -> None:
        """Stops."""
        self.seconds = now(self.learn.dls.device) - self._began


@dataclass
class Measured:
    """What takes turns.

    Attributes:
        contenders: by name; each says how long a step took, in "ms".
        per_step: samples, or tokens, of a step.
        unit: of how many come in a second.
        num_flops: operations of a step; 0 where nobody asks.
    """

    contenders: dict[str, Contender]
    per_step: int
    unit: str
    num_flops: float = 0


def now(device: torch.device) -> float:
    """Returns the time when the device has done what it was given, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def trained(dls: DataLoaders, model: nn.Module, num_steps: int, *, axis: int = 1, **options: Any) -> Contender:
    """Returns what trains an epoch, in milliseconds a step."""
    clock = Clock()
    learn = Learner(dls, model, CrossEntropyLoss(axis=axis), precision="bf16", run_dir=None, **options)

    def run() -> dict[str, float]:
        learn.fit(1, cbs=clock)
        return {"ms": clock.seconds / num_steps * 1e3}

    return run


def by_hand(step: Callable[[torch.Tensor], None], num_samples: int, bs: int, device: torch.device) -> Contender:
    """Returns what calls `step` with the indices of each batch of an epoch, in milliseconds a step."""

    def run() -> dict[str, float]:
        began = now(device)
        for indices in torch.randperm(num_samples, device=device).split(bs):
            step(indices)
        return {"ms": (now(device) - began) / (num_samples // bs) * 1e3}

    return run


def flops(model: nn.Module, x: torch.Tensor) -> int:
    """Returns the operations of a training step on `x`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return 3 * counter.get_total_flops()


# ------------------------------------------------------------------------------------------------ images


class Middle(Transform):
    """Cuts the middle out of images, which costs nothing: what is beside `aug_transforms` ends at the same size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def encodes(self, x: TensorImage) -> Any:
        """Returns the middle."""
        near = (x.shape[-1] - self.size) // 2
        return x[..., near : near + self.size, near : near + self.size]


def network(device: torch.device) -> nn.Module:
    """Returns the same ResNet-50 each time."""
    torch.manual_seed(0)
    return resnet50().to(device)


def on_images(device: torch.device, *, bs: int, num_steps: int, side: int, compiled: bool) -> Measured:
    """Measures steps on images that live on the device."""
    cut = side * 7 // 8
    x = torch.randint(0, 256, (bs * num_steps, 3, side, side), dtype=torch.uint8, device=device)
    y = torch.randint(0, 1000, (len(x),), device=device)
    mean, std = (torch.tensor(each, device=device)[:, None, None] * 255 for each in (MEAN, STD))
    model = network(device).to(memory_format=torch.channels_last)
    num_flops = bs * flops(model, x[:1, :, :cut, :cut].float())
    if compiled:
        model.compile()
    opt = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    middle = slice((side - cut) // 2, (side - cut) // 2 + cut)

    def step(indices: torch.Tensor) -> None:
        xb = x[indices][..., middle, middle].float().sub_(mean).div_(std)
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(xb.contiguous(memory_format=torch.channels_last)), y[indices])
        loss.backward()
        opt.step()
        opt.zero_grad()

    def loader(tfms: Sequence[Any]) -> DataLoader:
        batch_tfms = [ImageToFloat(), *tfms, Normalize(MEAN, STD)]
        return DataLoader(TensorData(TensorImage(x), y), bs, shuffle=True, device=device, batch_tfms=batch_tfms)

    def ours(tfms: Sequence[Any]) -> Contender:
        cbs = [ChannelsLast(), *([Compile()] if compiled else [])]
        loaders = DataLoaders(loader(tfms), None)
        return trained(loaders, network(device), num_steps, opt_func=SGD, lr=0.01, cbs=cbs)

    alone = loader(aug_transforms(size=cut))

    def augment() -> dict[str, float]:
        began = now(device)
        for _ in alone:
            pass
        return {"ms": (now(device) - began) / num_steps * 1e3}

    contenders = {
        BY_HAND: by_hand(step, len(x), bs, device),
        OURS: ours([Middle(cut)]),
        AUGMENTED: ours(aug_transforms(size=cut)),
        ALONE: augment,
    }
    return Measured(contenders, bs, "images/s", num_flops)


def photograph(file: Path) -> None:
    """Writes a JPEG of 500 x 375 with the detail of a photograph."""
    random = np.random.default_rng(int(file.stem))
    pixels = np.zeros((375, 500, 3), np.float32)
    for scale in (4, 16, 64):
        coarse = random.normal(0, 1, (375 // scale + 2, 500 // scale + 2, 3)).astype(np.float32)
        grown = coarse.repeat(scale, 0).repeat(scale, 1)
        pixels += grown[:375, :500] * scale
    Image.fromarray((128 + pixels).clip(0, 255).astype(np.uint8)).save(file, quality=88)


def on_photographs(device: torch.device, *, bs: int, num_steps: int, num_workers: int, size: int) -> Measured:
    """Measures steps from a folder of JPEGs, and what the loader gives by itself."""
    folder = Path(tempfile.mkdtemp())
    for each in range(4):
        (folder / str(each)).mkdir()
    files = [folder / str(n % 4) / f"{n}.jpg" for n in range(bs * num_steps + 8)]
    with ProcessPoolExecutor(num_workers) as pool:
        list(pool.map(photograph, files, chunksize=16))

    dls = ImageDataLoaders.from_folder(
        folder, valid_pct=8 / len(files), item_tfms=Resize(size * 8 // 7), bs=bs, num_workers=num_workers,
        batch_tfms=[*aug_transforms(size=size), Normalize(MEAN, STD)],
    )  # fmt: skip
    model = network(device)
    num_flops = bs * flops(model, torch.zeros(1, 3, size, size, device=device))

    def load() -> dict[str, float]:
        began = now(device)
        for _ in dls.train:
            pass
        return {"ms": (now(device) - began) / num_steps * 1e3}

    ours = trained(dls, model, num_steps, opt_func=SGD, lr=0.01, cbs=ChannelsLast())
    return Measured({OURS: ours, LOADER: load}, bs, "images/s", num_flops)


# ------------------------------------------------------------------------------------------------ others


def on_tokens(device: torch.device, *, bs: int, num_steps: int, length: int, layers: int, compiled: bool) -> Measured:
    """Measures steps of a language model."""
    vocab_sz = 50_304

    def make() -> nn.Module:
        torch.manual_seed(0)
        encoder = Transformer(vocab_sz, emb_sz=64 * layers, n_heads=layers, n_layers=layers, p=0.0)
        return LanguageModel(encoder, vocab_sz, output_p=0.0).to(device)

    ids = torch.randint(2, vocab_sz, (bs * num_steps, length + 1), device=device)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    model = make()
    num_flops = bs * flops(model, x[:1])
    if compiled:
        model.compile()
    opt = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step(indices: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(x[indices]).flatten(0, 1), y[indices].flatten())
        loss.backward()
        opt.step()
        opt.zero_grad()

    dls = DataLoaders(DataLoader(TensorData(x, y), bs, shuffle=True, device=device), None)
    ours = trained(dls, make(), num_steps, axis=-1, opt_func=Adam, lr=1e-4, cbs=[Compile()] if compiled else [])
    contenders = {BY_HAND: by_hand(step, len(x), bs, device), OURS: ours}
    return Measured(contenders, bs * length, "tokens/s", num_flops)


def on_little(device: torch.device, *, num_steps: int) -> Measured:
    """Measures what the host does for a step."""
    bs = 64

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).to(device)

    x = torch.randn(bs * num_steps, 20, device=device)
    y = x[:, :5].argmax(1)
    model = make()
    opt = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step(indices: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(x[indices]), y[indices])
        loss.backward()
        opt.step()
        opt.zero_grad()

    dls = DataLoaders(DataLoader(TensorData(x, y), bs, shuffle=True, device=device), None)
    contenders = {
        BY_HAND: by_hand(step, len(x), bs, device),
        OURS: trained(dls, make(), num_steps, opt_func=Adam, lr=1e-3, progress=False),
    }
    return Measured(contenders, bs, "samples/s")


# ------------------------------------------------------------------------------------------------ all


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quick, num_workers = {"num_steps": 3}, min(14, os.cpu_count() or 1)
    tasks: dict[str, tuple[Callable[..., Measured], dict[str, Any], dict[str, Any]]] = {
        "resnet50": (on_images, {"bs": 256, "num_steps": 16, "side": 256}, {"bs": 4, "side": 64}),
        "gpt": (on_tokens, {"bs": 16, "num_steps": 16, "length": 1024, "layers": 12}, {"length": 32, "layers": 2}),
        "small": (on_little, {"num_steps": 500}, {}),
        "photographs": (
            on_photographs,
            {"bs": 256, "num_steps": 12, "num_workers": num_workers, "size": 224},
            {"bs": 8, "num_workers": 1, "size": 56},
        ),
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few and small steps, also without a GPU")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--only", choices=tasks, action="append", help="measure one of them; may be given again")
    parser.add_argument("--compiled", action="store_true", help="compile the models, by hand and here")
    parser.add_argument("--profile", type=Path, help="write here where the time of each contender goes")
    args = parser.parse_args()
    if device.type == "cpu" and not args.quick:
        parser.error("torch sees no GPU here; --quick runs without one")
    rounds = 2 if args.quick else 7
    report = Report(
        name="gpu-compiled" if args.compiled else "gpu",
        about=f"Times of a step in bf16, medians of {rounds} interleaved rounds"
        + (", compiled." if args.compiled else "."),
        versions=versions("dist_ai", "torch", "torchvision", "pillow"),
        results=[],
        only="-".join(args.only) if args.only else None,
    )
    for name in args.only or tasks:
        make, options, small = tasks[name]
        if args.quick:
            options = {**options, **quick, **small}
        if make in (on_images, on_tokens):
            options["compiled"] = args.compiled
        measured = make(device, **options)
        with terminal():
            times = take_turns(measured.contenders, rounds=rounds)
        report.results += lines(name, measured, times, device)
        if args.save:
            report.keep()
        if args.profile:
            profile(name, measured, args.profile)
        del measured
        torch.cuda.empty_cache()
    report.publish(save=args.save)


def lines(
    task: str, measured: Measured, times: dict[str, dict[str, list[float]]], device: torch.device
) -> list[Result]:
    """Returns the lines of a task: of each contender the time of a step, and how much that is a second."""
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    results = []
    for name, each in times.items():
        ms = statistics.median(each["ms"])
        note = f"{measured.per_step / ms * 1e3:,.0f} {measured.unit}"
        if peak and measured.num_flops and name not in (ALONE, LOADER):
            note += f", MFU {measured.num_flops / ms * 1e3 / peak:.3f}"
        other, goal = (OURS, 1.05) if name == AUGMENTED else (BY_HAND, None)
        if name == other or other not in times:
            results.append(Result(what=f"{task}: {name}", value=ms, unit="ms", note=note))
            continue
        ratio = median_ratio(each["ms"], times[other]["ms"])
        results.append(
            Result(
                what=f"{task}: {name}",
                value=ms,
                unit="ms",
                against=f"{task}: {other}",
                ratio=ratio,
                goal=goal,
                note=note,
            )
        )
    return results


def profile(task: str, measured: Measured, file: Path) -> None:
    """Adds to `file` what took the device's time in an epoch of each contender, and what the host waited for."""
    with file.open("a") as out:
        for name, run in measured.contenders.items():
            with torch.profiler.profile() as profiler, terminal():
                run()
            table = profiler.key_averages().table(
                sort_by="self_device_time_total", row_limit=25, max_name_column_width=70
            )
            waits = [
                event for event in profiler.key_averages() if "Synchronize" in event.key or event.key == "aten::item"
            ]
            print(
                f"== {task}: {name}",
                *(f"{event.key}: {event.count} times" for event in waits),
                table,
                sep="\n",
                file=out,
            )


if __name__ == "__main__":
    main()
