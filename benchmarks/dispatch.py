"""What types cost: a look-up by type, a transform on a value, an operation on a semantic tensor.

```
python benchmarks/dispatch.py            # about half a minute
python benchmarks/dispatch.py --quick    # a few seconds
```

Each is called in a loop of its own, in turns, and the loop's own cost (a call of a function that does nothing) is taken
off. Goal: a look-up by type takes less than a microsecond.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from harness import Contender, Report, Result, median_ratio, take_turns, versions

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.transform import Pipeline, Transform
from dist_ai.core.types import TensorCategory

EMPTY, LIMIT = "a call that does nothing", "1 us"
TENSOR, BARE, TYPED = "plain tensor + 1", "bare subclass + 1", "TensorCategory + 1"


class Animal:
    """What there is an implementation for."""


class Dog(Animal):
    """A kind of it, which has one of its own."""


class Puppy(Dog):
    """What is given: it has none of its own."""


@dataclass
class Pass(Transform):
    """A transform that does nothing."""

    def encodes(self, x: Animal) -> Any:
        """Returns `x`."""
        return x


class Bare(torch.Tensor):
    """A subclass of torch's tensor as torch itself keeps it, without metadata."""


def nothing(*values: Any) -> None: ...


def contenders() -> dict[str, tuple[Callable[[], Any], str]]:
    """Returns what is called, by name, with how it is set up."""
    one, two, single = Dispatch("one"), Dispatch("two", arity=2), functools.singledispatch(nothing)
    for on in (object, int, str, Animal, Dog):
        one.register(on)(nothing)
        two.register(on, object)(nothing)
        single.register(on)(nothing)
    puppy, tfm, pipeline = Puppy(), Pass(), Pipeline([Pass(), Pass(), Pass()])
    plain, category = torch.zeros(3, dtype=torch.int64), TensorCategory([1, 2, 3], vocab="abc")
    bare = plain.as_subclass(Bare)
    return {
        EMPTY: (lambda: nothing(puppy), "taken off all others"),
        "dispatch by one type": (lambda: one(puppy), "5 implementations, a base's is the nearest"),
        "dispatch by two types": (lambda: two(puppy, 1), "5 implementations"),
        "functools.singledispatch": (lambda: single(puppy), "5 implementations"),
        "transform": (lambda: tfm(puppy), "encodes returns its value"),
        "transform that passes": (lambda: tfm("text"), "no encodes for the type"),
        "transform of a pair": (lambda: tfm((puppy, "text")), "element by element"),
        "pipeline of three": (lambda: pipeline(puppy), ""),
        TENSOR: (lambda: plain + 1, "3 numbers"),
        BARE: (lambda: bare + 1, "3 numbers; type kept by torch, no metadata"),
        TYPED: (lambda: category + 1, "3 numbers; type and metadata kept"),
    }


def timed(call: Callable[[], Any], num_calls: int) -> Contender:
    """Returns what times `num_calls` calls, in microseconds each."""

    def run() -> dict[str, float]:
        began = time.perf_counter()
        for _ in range(num_calls):
            call()
        return {"us": (time.perf_counter() - began) / num_calls * 1e6}

    return run


def main() -> None:
    """Measures, prints, and with --save keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer calls")
    parser.add_argument("--save", action="store_true", help="keep the table in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    num_calls, rounds = (5_000, 7) if args.quick else (50_000, 25)
    calls = contenders()
    measured = take_turns({name: timed(call, num_calls) for name, (call, _) in calls.items()}, rounds=rounds)
    empty = measured[EMPTY]["us"]
    times = {name: [a - b for a, b in zip(each["us"], empty, strict=True)] for name, each in measured.items()}
    times[EMPTY] = empty
    Report(
        name="dispatch",
        about=f"Time per call, medians of {rounds} interleaved rounds of {num_calls:,} calls.",
        versions=versions("dist_ai", "torch"),
        results=[result(name, how, times) for name, (_, how) in calls.items()],
    ).publish(save=args.save)


def result(name: str, how: str, times: dict[str, list[float]]) -> Result:
    """Returns one line."""
    against = ratio = None
    if name in (BARE, TYPED):
        against = TENSOR if name == BARE else BARE
        ratio = median_ratio(times[name], times[against])
    elif name.startswith("dispatch"):
        against, ratio = LIMIT, statistics.median(times[name])
    return Result(
        what=name,
        value=statistics.median(times[name]),
        unit="us",
        against=against,
        ratio=ratio,
        goal=1.0 if against == LIMIT else None,
        note=how,
    )


if __name__ == "__main__":
    main()
