"""Mixes each sample of a training batch with another one: inputs, and targets in the same proportion.

Both samples must be on one rank, and who mixes with whom must not depend on how many ranks there are. So neighbours in the
global batch are partners, which in a shuffled order are strangers, and for the fit the loader deals batches out in pairs
(`EpochPlan.in_pairs`): nothing is exchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.callbacks.callback import Trainer
from dist_ai.core.nested import map_tensors, tensors_in
from dist_ai.core.randomness import Draw
from dist_ai.data.loader import DataLoader
from dist_ai.errors import ConfigError, DataError
from dist_ai.losses import CrossEntropyLoss, sample_losses
from dist_ai.losses.weighted import loss_weights

__all__ = ["Mixing", "deal_in_pairs", "draws_of_batch", "partners", "require_floats"]


def partners(n: int, *, device: torch.device | str | None = None) -> torch.Tensor:
    """Returns the partner of each of `n` rows: its neighbour, and of an odd last one itself; int64 (n,).

    >>> partners(5)
    tensor([1, 0, 3, 2, 4])
    """
    return (torch.arange(n, device=device) ^ 1).clamp(max=n - 1)


@contextlib.contextmanager
def deal_in_pairs(learn: Trainer, name: str) -> Iterator[None]:
    """Lets the training loader deal pairs to one rank, for the block.

    Raises:
        ConfigError: there are several ranks and it cannot.
    """
    loader = learn.dls.train
    if not isinstance(loader, DataLoader):
        if learn.data_collectives.world.world_size > 1:
            raise ConfigError(
                f"{name} mixes samples that must be on the same rank, and among {learn.data_collectives.world.world_size} ranks "
                f"{type(loader).__name__} deals them out one by one; give a DataLoader over a map-style data set"
            )
        yield
        return
    before, loader.in_pairs = loader.in_pairs, True
    try:
        yield
    finally:
        loader.in_pairs = before


def draws_of_batch(learn: Trainer, name: str) -> Draw:
    """Returns the draws of a callback for the samples of the batch under way; one a sample, whichever rank it is on."""
    share = learn.state.share
    assert share is not None
    return Draw(seed=learn.dls.seed, epoch=share.epoch, samples=share.keys).at(name)


class Mixing:
    """The targets of a batch whose samples were mixed with their partners.

    Args:
        share: of each sample itself in the mixture, 0 to 1, float (n,).
        loss_func: the Learner's.

    Of floating-point targets (numbers, probabilities, several labels) the mixture is the target. With classes and
    cross-entropy the loss is that of the classes' probabilities, which is the mixture of the losses. With any other loss
    the samples' losses are mixed.
    """

    def __init__(self, share: torch.Tensor, loss_func: Callable[..., torch.Tensor]) -> None:
        self.share, self.loss_func = share, loss_func
        self.partners = partners(len(share), device=share.device)

    def mixed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns ``share * tensor + (1 - share) * partner's``, row by row."""
        share = self.share.view(-1, *[1] * (tensor.dim() - 1)).to(tensor.dtype)
        return tensor * share + tensor[self.partners] * (1 - share)

    def targets(self, yb: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the targets to compute the loss with: mixtures, or the samples' own if `loss` is to mix the losses."""
        return map_tensors(self.mixed, yb) if _all_floats(yb) else yb

    def loss(self, pred: Any, yb: tuple[Any, ...], loss: torch.Tensor) -> torch.Tensor:
        """Returns the mixtures' loss, a mean over the samples.

        Args:
            pred: what the model returned.
            yb: the targets.
            loss: the loss for these targets.

        Raises:
            ConfigError: the loss leaves out targets, or is a weighted mean and no cross-entropy.
        """
        if _all_floats(yb):
            return loss
        # Targets stay as they are: all ranks must find the same in them, also one that cancels before it has mixed.
        axis = _class_axis(self.loss_func)
        if axis is not None and len(yb) == 1:
            if getattr(self.loss_func, "ignore_index", None) not in (None, _TORCHS_IGNORED):
                raise ConfigError(f"{self.loss_func!r} leaves out targets, and a mixture cannot be left out in part")
            one_hot = F.one_hot(yb[0], pred.shape[axis]).movedim(-1, axis)
            return self.loss_func(pred, self.mixed(one_hot.to(pred.dtype)))
        if loss_weights(self.loss_func, yb) is not None:
            raise ConfigError(
                f"{self.loss_func!r} is a weighted mean, which cannot be mixed by samples; mix with CrossEntropyLoss, or with a "
                "loss that is a mean over samples"
            )
        theirs = map_tensors(lambda tensor: tensor[self.partners], yb)
        own = sample_losses(self.loss_func, pred, *yb)
        other = sample_losses(self.loss_func, pred, *theirs)
        return (own * self.share + other * (1 - self.share)).mean()


def require_floats(xb: tuple[Any, ...], name: str) -> None:
    """Checks that inputs can be mixed.

    Raises:
        DataError: a tensor among them is not of a floating-point type.
    """
    tensors = tensors_in(xb)
    if wrong := [tensor for tensor in tensors if not tensor.is_floating_point()]:
        raise DataError(
            f"{name} mixes inputs that are numbers, such as pixels, and one here is {wrong[0].dtype} of shape "
            f"{tuple(wrong[0].shape)}; mix after an embedding, in the model, or turn it into floats in a transform"
        )


def _all_floats(values: tuple[Any, ...]) -> bool:
    tensors = tensors_in(values)
    return all(tensor.is_floating_point() for tensor in tensors)


_TORCHS_IGNORED = -100  # torch's cross-entropy always has one; no class has this number


def _class_axis(loss_func: Callable[..., torch.Tensor]) -> int | None:
    """Returns the dimension of the classes in what a cross-entropy takes; None if it is another loss."""
    if isinstance(loss_func, CrossEntropyLoss):
        return loss_func.axis
    function = loss_func.func if isinstance(loss_func, partial) else loss_func
    return 1 if isinstance(loss_func, nn.CrossEntropyLoss) or function is F.cross_entropy else None
