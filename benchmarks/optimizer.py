"""What an optimizer's step costs: ours beside `torch.optim`'s multi-tensor and fused versions.

```
python benchmarks/optimizer.py            # about two minutes
python benchmarks/optimizer.py --quick    # a few seconds
```

500 tensors of 10 x 10, where the calls are most of the time, and 50 of 1000 x 1000, where memory is. Everybody steps
the same parameters with the same gradients, in turns, on one thread. Goal: at most 1.1 of `torch.optim`'s `foreach`
version.

"as written" runs our steps as `steps.py` has them; otherwise torch's fused kernels do what they can (`fused.py`).

Predicted from an earlier measurement on a tiny model (52 to 17 us): fused a third of multi-tensor. Came in: less than a
tenth on small tensors, where torch's own fused version spends three quarters of its time outside of its kernel, and an
eighth on large ones, where the multi-tensor step passes over memory seven times, and a third of it goes into the root of
the second moment, half of that into getting 200 MB for it. As written, predicted 1.0 on large tensors and less on
small ones, for torch keeps a step counter for each parameter and sorts parameters by device and dtype: 1.0, and 0.5 for AdamW.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from harness import Contender, Report, Result, median_ratio, take_turns, versions

from dist_ai.optimizer import SGD, Adam, Optimizer

SIZES = {"500 of 10 x 10": (500, 10), "50 of 1000 x 1000": (50, 1000)}
LR, WD = 1e-6, 0.01  # the parameters must not run away over thousands of steps

Params = list[torch.nn.Parameter]


def as_written(params: Params, make: Callable[..., Optimizer]) -> Optimizer:
    opt = make(params)
    opt.fused = False
    return opt


TORCH_ADAM = partial(torch.optim.AdamW, lr=LR, betas=(0.9, 0.99), eps=1e-5, weight_decay=WD)
TORCH_SGD = partial(torch.optim.SGD, lr=LR, momentum=0.9, weight_decay=WD)
OUR_ADAM = partial(Adam, lr=LR, wd=WD)
OUR_SGD = partial(SGD, lr=LR, mom=0.9, wd=WD, decouple_wd=False)

FAMILIES: dict[str, dict[str, Callable[[Params], Optimizer | torch.optim.Optimizer]]] = {
    "AdamW": {
        "torch foreach": partial(TORCH_ADAM, foreach=True),
        "torch fused": partial(TORCH_ADAM, fused=True),
        "ours": OUR_ADAM,
        "ours as written": partial(as_written, make=OUR_ADAM),
    },
    "SGD with momentum": {
        "torch foreach": partial(TORCH_SGD, foreach=True),
        "torch fused": partial(TORCH_SGD, fused=True),
        "ours": OUR_SGD,
        "ours as written": partial(as_written, make=OUR_SGD),
    },
}


def make_params(count: int, side: int) -> Params:
    """Returns parameters with gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(side, side, generator=generator)) for _ in range(count)]
    for p in params:
        p.grad = torch.randn(side, side, generator=generator)
    return params


def timed(opt: Optimizer | torch.optim.Optimizer, num_steps: int) -> Contender:
    """Returns what times `num_steps` steps, in milliseconds each."""

    def run() -> dict[str, float]:
        began = time.perf_counter()
        for _ in range(num_steps):
            opt.step()
        return {"ms": (time.perf_counter() - began) / num_steps * 1e3}

    return run


def measure(family: str, size: str, *, rounds: int, num_steps: int) -> list[Result]:
    """Returns the results of one kind of optimizer on parameters of one size."""
    params = make_params(*SIZES[size])
    contenders = {name: timed(make(params), num_steps) for name, make in FAMILIES[family].items()}
    times = {name: each["ms"] for name, each in take_turns(contenders, rounds=rounds).items()}
    reference = "torch foreach"
    return [
        Result(
            what=f"{family}, {size}: {name}",
            value=statistics.median(values),
            unit="ms",
            against=None if name == reference else f"{family}, {size}: {reference}",
            ratio=None if name == reference else median_ratio(values, times[reference]),
            goal=1.1 if name.startswith("ours") else None,
        )
        for name, values in times.items()
    ]


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 5 if args.quick else 21
    results = [
        result
        for family in FAMILIES
        for size, (count, _) in SIZES.items()
        for result in measure(family, size, rounds=rounds, num_steps=20 if count > 100 else 1)
    ]
    Report(
        name="optimizer",
        about=f"Time per step in float32 on one thread, medians of {rounds} interleaved rounds.",
        versions=versions("dist_ai", "torch"),
        results=results,
    ).publish(save=args.save)


if __name__ == "__main__":
    main()
