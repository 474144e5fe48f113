"""Looking at data: a few samples of a loader, as the model sees them and decoded as far as can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from dist_ai.core.nested import parts
from dist_ai.core.show import show_batch
from dist_ai.core.types import SemanticTensor, plain
from dist_ai.data.collate import samples_of
from dist_ai.data.iterables import IterableLoader
from dist_ai.data.loader import DataLoader
from dist_ai.data.recipe import SampleRecipe
from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "AnyLoader",
    "as_target",
    "chosen_samples",
    "decoded_samples",
    "figure_of",
    "first_samples",
    "one_or_several",
    "same_sample",
    "sized",
    "spread_samples",
]

AnyLoader = DataLoader | IterableLoader


def first_samples(loader: AnyLoader, n: int) -> Any:
    """Returns a batch of the first `n` samples, at most, of the loader's first batch; only these are loaded."""
    if isinstance(loader, IterableLoader):
        return _begin(loader, n).one_batch()
    share = loader.plan(0).share(0)
    num_local = min(share.num_local, n)
    few = share._replace(
        indices=share.indices[:n], positions=share.positions[:n], keys=share.keys[:n], num_local=num_local
    )
    return loader.load(few)[1]


def same_sample(loader: AnyLoader, n: int) -> list[Any]:
    """Returns `n` batches of the loader's first sample alone, as `n` epochs draw it."""
    if isinstance(loader, IterableLoader):
        one_each = _begin(loader, 1, shuffle_buffer=0, num_samples=None)
        return [next(one_each.batches(epoch))[1] for epoch in range(n)]
    share = loader.plan(0).share(0)
    one = share._replace(indices=share.indices[:1], positions=share.positions[:1], keys=share.keys[:1], num_local=1)
    return [loader.load(one._replace(epoch=epoch))[1] for epoch in range(n)]


def spread_samples(loader: AnyLoader, n: int) -> Any:
    """Returns a batch of `n` samples, at most, from all over the data set: its first ones are often of one class."""
    if isinstance(loader, IterableLoader):
        return _begin(loader, n).one_batch()  # it has no middle that could be reached
    num_samples = getattr(loader.dataset, "num_alike", len(loader.dataset))
    n = min(n, num_samples)
    return chosen_samples(loader, np.arange(n, dtype=np.int64) * num_samples // n)


def chosen_samples(loader: DataLoader, indices: npt.NDArray[np.int64]) -> Any:
    """Returns a batch of the samples of these indices in the data set, on this rank alone."""
    n = len(indices)
    share = (
        loader.plan(0).share(0)._replace(indices=indices, positions=indices, keys=indices, num_local=n, num_global=n)
    )
    return loader.load(share)[1]


def one_or_several(elements: tuple[Any, ...]) -> Any:
    """Returns the element, a tuple of several, or None where there is none: what showing is chosen by."""
    return elements if len(elements) > 1 else next(iter(elements), None)


def decoded_samples(elements: tuple[Any, ...], recipe: SampleRecipe | None) -> list[tuple[Any, ...]]:
    """Returns a batch's samples one by one, with what can be undone undone; without a recipe that is nothing."""
    return samples_of(elements) if recipe is None else recipe.decode_batch(elements)


def as_target(decoded: Any, target: Any) -> Any:
    """Returns a decoded prediction as what the target is: mask, points, a series; that it may be shown like it."""
    if not isinstance(target, SemanticTensor) or not isinstance(decoded, torch.Tensor):
        return decoded
    values = plain(decoded)
    if values.numel() == target.numel():  # the six numbers of three points
        values = values.reshape(target.shape)
    return target.give_type_to(values)


def sized(figure: Figure, figsize: tuple[float, float] | None) -> Figure:
    """Returns the figure, of this width and height in inches if they are given."""
    if figsize is not None:
        figure.set_size_inches(*figsize)
    return figure


def figure_of(
    loader: AnyLoader,
    recipe: SampleRecipe | None,
    n_inp: int,
    max_n: int,
    *,
    unique: bool,
    nrows: int | None,
    ncols: int | None,
    figsize: tuple[float, float] | None,
) -> Figure:
    """Returns a figure of a loader's first samples; see `DataLoaders.show_batch`.

    Raises:
        ConfigError: `max_n`, `nrows` or `ncols` is below 1.
    """
    if max_n < 1:
        raise ConfigError(f"show_batch(max_n={max_n}): expected at least 1 sample to show")
    for name, number in (("nrows", nrows), ("ncols", ncols)):
        if number is not None and number < 1:
            raise ConfigError(f"show_batch({name}={number}): expected at least 1")
    if nrows is not None and ncols is not None:
        max_n = min(max_n, nrows * ncols)
    batches = [parts(b) for b in (same_sample(loader, max_n) if unique else [first_samples(loader, max_n)])]
    samples = [sample for batch in batches for sample in decoded_samples(batch, recipe)]
    x, y = one_or_several(batches[0][:n_inp]), one_or_several(batches[0][n_inp:])
    figure = show_batch(x, y, samples)
    if nrows is not None or ncols is not None:
        _rearrange(figure, len(samples), nrows, ncols)
    return sized(figure, figsize)


def _rearrange(figure: Figure, num_samples: int, nrows: int | None, ncols: int | None) -> None:
    """Puts the pictures of a figure, as many for each sample, into so many rows or columns of samples."""
    pictures = [(axes, spec) for axes in figure.axes if (spec := axes.get_subplotspec()) is not None]
    per_sample, rest = divmod(len(pictures), num_samples)
    if rest or not per_sample:
        return  # a table, whose rows are the samples
    columns = -(-num_samples // nrows) if ncols is None and nrows is not None else ncols or num_samples
    rows = -(-num_samples // columns)
    before = pictures[0][1].get_gridspec()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width * columns * per_sample / before.ncols, height * rows / before.nrows)
    places = figure.add_gridspec(rows, columns * per_sample)
    for i, (axes, _) in enumerate(pictures):
        axes.set_subplotspec(places[i])


def _begin(loader: IterableLoader, bs: int, **changes: Any) -> IterableLoader:
    """Returns a loader of a stream's begin that reads no more than it gives, with the same transforms."""
    return loader.new(bs=bs, drop_last=False, num_workers=0, split_idx=loader.split_idx, **changes)
