"""What a trained model says: of a validation, of samples, of their augmented versions, of one item, in a picture."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.core.nested import map_tensors, parts
from dist_ai.core.show import show_results
from dist_ai.core.transform import Transform
from dist_ai.core.types import plain
from dist_ai.data.loaders import AnyLoader, DataLoaders, as_loader
from dist_ai.data.looking import as_target, decoded_samples, first_samples, one_or_several, sized, spread_samples
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError
from dist_ai.learner.fits import Fits
from dist_ai.learner.gather import GatherPreds, Predictions
from dist_ai.learner.parts import LearnerParts
from dist_ai.losses import activation, decodes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Evaluation", "device_of", "loader_of"]


def loader_of(dls: DataLoaders, dl: AnyLoader | TorchDataLoader[Any] | None, ds_idx: int) -> AnyLoader:
    """Returns the loader that is given, or that of a part of the data; see `Learner.evaluation_loader`."""
    if dl is not None:
        if not isinstance(dl, TorchDataLoader) and not hasattr(dl, "batches"):
            hint = f"; the parts of the data are ds_idx={dl}" if isinstance(dl, int) else ""
            raise ConfigError(
                f"dl: a {type(dl).__name__} is no loader{hint}; of new items dls.test_dl(items) makes one"
            )
        return as_loader(dl, split_idx=1)
    if ds_idx not in (0, 1):
        raise ConfigError(f"ds_idx={ds_idx!r}: expected 0 for the training data or 1 for the validation data")
    if ds_idx == 0:
        return dls.train.in_order()
    if dls.valid is None:
        raise ConfigError("there is no validation data; give DataLoaders(train, valid), or a loader to this method")
    return dls.valid


def device_of(model: nn.Module) -> torch.device:
    """Returns where a model is."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


class Evaluation:
    """Runs a Learner's model without training it.

    Args:
        learn: the Learner.
        fits: its fits, one of which may be under way.
    """

    def __init__(self, learn: LearnerParts, fits: Fits) -> None:
        self.learn, self.fits = learn, fits

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """Lends the model, in evaluation mode and without gradients; in the middle of a fit puts everything back."""
        with self.fits.set_aside(), torch.inference_mode():
            self.learn.model.eval()
            yield

    def validate(self, loader: AnyLoader) -> list[float]:
        """Returns [loss, *metrics] over a loader; see `Learner.validate`. Collective."""
        learn = self.learn
        with self.fits.set_aside():
            self.fits.loop().validate(loader)
        final = list(learn.recorder.final)  # empty where a callback cancelled
        # Looked at only when no loss came out: it reads a sample.
        if final and math.isnan(final[0]) and not parts(first_samples(loader, 1))[learn.dls.n_inp :]:
            raise DataError(
                "there are no targets to hold predictions against; of new items with their labels the loader is "
                "dls.test_dl(items, with_labels=True), and get_preds(dl) predicts without"
            )
        return final

    def predictions(
        self, loader: AnyLoader, *, with_loss: bool = False, with_input: bool = False, epoch: int = 0
    ) -> Predictions:
        """Returns what the model makes of the samples of `loader`, in order. Collective.

        Args:
            loader: of the samples; not shuffled.
            with_loss, with_input: what is wanted beside raw predictions and targets.
            epoch: whose draws augmentations make.
        """
        if getattr(loader, "shuffle", False):  # a loader of the user's own need not have it
            raise ConfigError(
                "get_preds keeps the order of the data, and this loader shuffles it; give one with shuffle=False"
            )
        gather = GatherPreds(self.learn.loss_func, with_loss=with_loss, with_input=with_input)
        with self.fits.set_aside(), self.learn.added_cbs(gather):
            self.fits.loop().validate(loader, epoch)
        return gather.result()

    def averaged(
        self, loader: AnyLoader, *, n: int, beta: float, use_max: bool, views: Iterable[Transform] | None
    ) -> tuple[torch.Tensor, Any]:
        """Returns predictions averaged over augmented versions of each sample, and targets; see `Learner.tta`. Collective."""
        if n < 1:
            raise ConfigError(f"tta(n={n}): expected 1 or more")
        found, loss_func = self.predictions(loader), self.learn.loss_func
        if not isinstance(found.raw, torch.Tensor):
            raise ConfigError(f"tta: the model returns a {type(found.raw).__name__}; expected one tensor, to average")
        itself = activation(loss_func, found.raw)
        if views is None:
            augmented = loader.new(split_idx=0, drop_last=False)
            versions = [(augmented, epoch) for epoch in range(n)]  # each with draws of its own
        else:
            versions = [(loader.new(batch_tfms=[view, *loader.stage.pipeline.tfms]), 0) for view in views]
        if not versions:
            raise ConfigError("tta(views=[]): expected at least one transform")
        total = torch.zeros_like(itself)
        for version, epoch in versions:
            total += activation(loss_func, self.predictions(version, epoch=epoch).raw)
        mean = total / len(versions)
        return (torch.maximum(mean, itself) if use_max else torch.lerp(mean, itself, beta)), found.targets

    def of_item(self, item: Any) -> tuple[Any, Any, Any]:
        """Returns (label, decoded output, output after activation) for one item; see `Learner.predict`."""
        learn = self.learn
        loader = learn.dls.test_dl([item], bs=1, num_workers=0, world=World(device=device_of(learn.model)))
        with self.mode():
            batch = parts(loader.one_batch())
            raw = learn.precision.forward(learn.model, tuple(map(plain, batch)))
        decoded = decodes(learn.loss_func, raw)
        recipe = learn.dls.recipe
        labels = recipe.decode_targets((*batch, *recipe.as_targets(decoded, batch)))[0]
        first = partial(map_tensors, lambda tensor: tensor[0].cpu())
        return one_or_several(labels), first(plain(decoded)), first(activation(learn.loss_func, raw))

    def picture(self, loader: AnyLoader, max_n: int, figsize: tuple[float, float] | None) -> Figure:
        """Returns a figure of samples, each with its target and its prediction; see `Learner.show_results`."""
        learn, dls = self.learn, self.learn.dls
        if max_n < 1:
            raise ConfigError(f"show_results(max_n={max_n}): expected at least 1 sample to show")
        batch = parts(spread_samples(loader, max_n))
        inputs, targets = batch[: dls.n_inp], batch[dls.n_inp :]
        if not targets:
            raise DataError(
                "show_results compares predictions with targets, and this loader has none; learn.predict does"
            )
        with self.mode():
            decoded = decodes(learn.loss_func, learn.precision.forward(learn.model, plain(inputs)))
        recipe = dls.recipe if dls.has_recipe else None
        samples = decoded_samples(batch, recipe)
        predicted = decoded if isinstance(decoded, tuple) and len(decoded) == len(targets) else (decoded,)
        typed = [as_target(each, target) for each, target in zip(predicted, targets, strict=False)]
        guesses = decoded_samples((*inputs, *typed), recipe)
        shown = [one_or_several(guess[dls.n_inp :]) for guess in guesses]
        return sized(show_results(one_or_several(inputs), one_or_several(targets), samples, shown), figsize)
