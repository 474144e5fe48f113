"""Predictions of a batch, drawn beside its targets as their types say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dist_ai.core.show import show_results
from dist_ai.core.types import SemanticTensor, plain
from dist_ai.data.loaders import DataLoaders
from dist_ai.data.looking import decoded_samples, one_or_several, sized
from dist_ai.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_results"]


def draw_results(
    dls: DataLoaders, batch: tuple[Any, ...], decoded: Any, figsize: tuple[float, float] | None = None
) -> Figure:
    """Returns a figure of a batch's samples, each with its target and its prediction.

    Args:
        dls: where the batch is from: which of its elements are inputs, and how they are undone.
        batch: inputs and targets, as a loader gives them.
        decoded: the predictions, decoded as the loss says.
        figsize: (width, height) in inches; by default what the pictures need.

    Raises:
        DataError: the batch has no targets.
    """
    inputs, targets = batch[: dls.n_inp], batch[dls.n_inp :]
    if not targets:
        raise DataError("show_results compares predictions with targets, and this loader has none; learn.predict does")
    recipe = dls.recipe if dls.has_recipe else None
    samples = decoded_samples(batch, recipe)
    guesses = decoded_samples((*inputs, _as_target(decoded, targets[0])), recipe)
    shown = [guess[dls.n_inp] for guess in guesses]
    return sized(show_results(one_or_several(inputs), one_or_several(targets), samples, shown), figsize)


def _as_target(decoded: Any, target: Any) -> Any:
    """Returns a decoded prediction as what the target is: mask, points, a series; that it may be shown like it."""
    if not isinstance(target, SemanticTensor) or not isinstance(decoded, torch.Tensor):
        return decoded
    values = plain(decoded)
    if values.numel() == target.numel():  # the six numbers of three points
        values = values.reshape(target.shape)
    return target.give_type_to(values)
