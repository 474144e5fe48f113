"""What the learners of the applications have in common: first weights by seed, and options that they hand on to `Learner`.

```python
@known_arguments(LearnerOptions)
def my_learner(dls, width=64, **options: Unpack[LearnerOptions]) -> Learner:
    arguments = {"width": width, "n_out": dls.c}
    with first_weights(dls):
        model = my_model(**arguments)
    given = with_defaults(options, metrics=accuracy)
    return Learner(dls, model, spec=ModelSpec("my_model", arguments), **given)
```
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypedDict

import torch

from dist_ai.callbacks import Callback
from dist_ai.checkpoint import KeepBest
from dist_ai.data.loaders import DataLoaders
from dist_ai.distributed.strategies import AnyConfig, PrecisionName
from dist_ai.learner.arguments import Cbs, listed
from dist_ai.learner.run_places import RunDir

__all__ = ["LearnerOptions", "first_weights", "with_defaults"]


class LearnerOptions(TypedDict, total=False):
    """What an application's learner takes beside the data and the model; see `Learner` for each."""

    loss_func: Callable[..., torch.Tensor] | None
    metrics: Any
    opt_func: Callable[..., Any]
    lr: float
    wd: float | None
    moms: tuple[float, float, float]
    wd_bn_bias: bool
    cbs: Cbs
    train_bn: bool
    sync_bn: bool
    strategy: AnyConfig
    run_dir: RunDir
    checkpoint_every_s: float | None
    checkpoint_every_steps: int | None
    keep_last: int
    keep_best: KeepBest | None
    fresh: bool
    precision: PrecisionName
    progress: bool


@contextlib.contextmanager
def first_weights(dls: DataLoaders) -> Iterator[None]:
    """Lets the weights of a model that is made in the block depend on the seed of the loaders only.

    They are the same on every rank and in every run, and the program's own randomness is as it was before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dls.seed)
        yield


def with_defaults(options: LearnerOptions, *cbs: Callback, **defaults: Any) -> LearnerOptions:
    """Returns options with what an application has where nothing is said, and its own callbacks before the given ones.

    >>> with_defaults({"lr": 0.1}, lr=1e-3, wd=0.0)
    {'lr': 0.1, 'wd': 0.0}
    """
    given: LearnerOptions = {**defaults, **options}  # type: ignore[typeddict-item]  # defaults are such, too
    if cbs:
        given["cbs"] = [*cbs, *listed(given.get("cbs", ()))]
    return given
