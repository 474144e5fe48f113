"""The loaders of a training run: training and validation data, and how new items become part of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.core.show import show_batch
from dist_ai.core.transform import Pipeline
from dist_ai.data.datasets import Datasets
from dist_ai.data.fetcher import BadSamples
from dist_ai.data.loader import DataLoader, Tfms, as_list
from dist_ai.data.looking import decoded_samples, elements_of, first_samples, one_or_several, same_sample, sized
from dist_ai.data.recipe import SampleRecipe
from dist_ai.data.statistics import DatasetStats, dataset_stats
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dist_ai.data.block import DataBlock

__all__ = ["DataLoaders"]


class DataLoaders:
    """The loaders of a training run.

    Args:
        train, valid: the loaders; `torch.utils.data.DataLoader`s are taken over by `DataLoader.from_torch`. Without `valid`
            nothing is validated.
        recipe: how an item becomes part of a batch; with it new items can be loaded and results shown and exported.
        n_inp: how many elements of a batch are the model's inputs; the rest are targets.
    """

    def __init__(
        self,
        train: DataLoader | TorchDataLoader[Any],
        valid: DataLoader | TorchDataLoader[Any] | None = None,
        *,
        recipe: SampleRecipe | None = None,
        n_inp: int = 1,
    ) -> None:
        self.train = DataLoader.from_torch(train) if isinstance(train, TorchDataLoader) else train
        self.valid = DataLoader.from_torch(valid) if isinstance(valid, TorchDataLoader) else valid
        self._recipe = recipe
        self.n_inp = n_inp

    @classmethod
    def from_datasets(
        cls,
        datasets: Datasets,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        drop_last: bool | None = None,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        num_workers: int | None = None,
        bad_samples: BadSamples = "raise",
        seed: int = 0,
        device: torch.device | str | None = None,
        n_inp: int = 1,
    ) -> Self:
        """Returns loaders of the training part (shuffled) and the validation part (in order) of `datasets`.

        Args:
            datasets: the two parts.
            bs: samples in a global batch.
            val_bs: the same for validation; by default `bs`.
            drop_last: leave out the last training batch when it is not full; by default only when it has a single
                sample, which BatchNorm cannot normalise.
            item_tfms, batch_tfms, num_workers, bad_samples, seed, device: see `DataLoader`.
            n_inp: how many elements of a sample are inputs.
        """
        recipe = SampleRecipe(
            inputs=datasets.pipelines[:n_inp],
            targets=datasets.pipelines[n_inp:],
            item_tfms=Pipeline(as_list(item_tfms)),
            batch_tfms=Pipeline(as_list(batch_tfms)),
        )
        if drop_last is None:
            drop_last = bs > 1 and len(datasets.train) % bs == 1 and len(datasets.train) > bs
        train, valid = (
            DataLoader(
                subset,
                size,
                shuffle=subset.split_idx == 0,
                drop_last=drop_last and subset.split_idx == 0,
                num_workers=num_workers,
                item_tfms=recipe.item_tfms.tfms,
                batch_tfms=recipe.batch_tfms.tfms,
                bad_samples=bad_samples,
                seed=seed,
                device=device,
            )
            for subset, size in ((datasets.train, bs), (datasets.valid, val_bs or bs))
        )
        return cls(train, valid, recipe=recipe, n_inp=n_inp)

    @classmethod
    def from_dblock(
        cls,
        dblock: DataBlock,
        source: Any,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        drop_last: bool | None = None,
        num_workers: int | None = None,
        bad_samples: BadSamples = "raise",
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> Self:
        """Returns loaders of what a data block makes of a source; see `from_datasets`."""
        return cls.from_datasets(
            dblock.datasets(source),
            bs=bs,
            val_bs=val_bs,
            drop_last=drop_last,
            item_tfms=dblock.all_item_tfms,
            batch_tfms=dblock.all_batch_tfms,
            num_workers=num_workers,
            bad_samples=bad_samples,
            seed=seed,
            device=device,
            n_inp=dblock.num_inputs,
        )

    @classmethod
    def without_data(cls, recipe: SampleRecipe) -> DataLoaders:
        """Returns loaders that only know how to load new items: those of a learner that was loaded from an export."""
        loaders = cls.__new__(cls)
        loaders._recipe, loaders.n_inp = recipe, len(recipe.inputs)
        return loaders

    def __getattr__(self, name: str) -> Any:
        if name in ("train", "valid"):
            raise DataError(
                f"there is no {name} loader: this was loaded from an export; set learn.dls to train on data"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def has_data(self) -> bool:
        """Whether there are loaders to train with."""
        return "train" in vars(self)

    @property
    def has_recipe(self) -> bool:
        """Whether it is known how an item becomes part of a batch."""
        return self._recipe is not None

    @property
    def recipe(self) -> SampleRecipe:
        """How an item becomes part of a batch.

        Raises:
            DataError: these loaders were made from ready samples.
        """
        if self._recipe is None:
            raise DataError(
                "these loaders were made from ready samples, so it is not known how an item becomes one; "
                "give new samples a DataLoader of their own, or make the loaders with DataLoaders.from_datasets"
            )
        return self._recipe

    @property
    def vocab(self) -> list[str]:
        """The classes; see `SampleRecipe.vocab`."""
        return self.recipe.vocab

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.train.device

    @property
    def seed(self) -> int:
        """The seed of the order and the draws."""
        return self.train.seed

    def one_batch(self) -> Any:
        """Returns the first training batch."""
        return self.train.one_batch()

    def show_batch(
        self,
        max_n: int = 9,
        *,
        dl: DataLoader | None = None,
        unique: bool = False,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Returns a figure of the first training samples, augmented, with all that can be undone undone.

        A notebook shows it by itself; in a script, ``dls.show_batch().savefig("batch.png")`` writes it, and TensorBoard
        takes it: ``writer.add_figure("batch", dls.show_batch())``. How a type is shown: `dist_ai.core.show`.

        Args:
            max_n: how many samples, at most; only these are loaded. Each rank shows its own.
            dl: another loader, such as ``dls.valid``; by default that of training.
            unique: show one sample `max_n` times, as so many epochs draw it, to see what augmentation does.
            figsize: (width, height) in inches; by default what the pictures need.

        Raises:
            ConfigError: `max_n` is below 1.
        """
        if max_n < 1:
            raise ConfigError(f"show_batch(max_n={max_n}): expected at least 1 sample to show")
        loader = self.train if dl is None else dl
        batches = [elements_of(b) for b in (same_sample(loader, max_n) if unique else [first_samples(loader, max_n)])]
        samples = [sample for batch in batches for sample in decoded_samples(batch, self._recipe)]
        x, y = one_or_several(batches[0][: self.n_inp]), one_or_several(batches[0][self.n_inp :])
        return sized(show_batch(x, y, samples), figsize)

    def describe(self, *, max_samples: int = 1000, seed: int = 0) -> DatasetStats:
        """Returns what the samples of both parts look like; its `repr` is a table. See `dataset_stats`."""
        return dataset_stats(self, max_samples=max_samples, seed=seed)

    def test_dl(
        self, items: Sequence[Any], *, bs: int = 64, num_workers: int | None = None, world: World | None = None
    ) -> DataLoader:
        """Returns a loader of new items without targets, transformed as the validation samples are.

        Args:
            items: what the items of the training data were: files, rows.
            bs, num_workers, world: see `DataLoader`.
        """
        recipe = self.recipe
        return DataLoader(
            recipe.samples(items),
            bs,
            num_workers=num_workers,
            item_tfms=recipe.item_tfms.tfms,
            batch_tfms=recipe.batch_tfms.tfms,
            world=world,
        )

    def add_batch_tfms(self, tfms: Tfms) -> None:
        """Adds batch transforms to both loaders and the recipe, in their order among those there are."""
        added = Pipeline(as_list(tfms))
        for loader in self:
            loader.stage.pipeline = loader.stage.pipeline + added
        if self._recipe is not None:
            self._recipe.batch_tfms = self._recipe.batch_tfms + added

    def __iter__(self) -> Iterator[DataLoader]:
        return iter([self.train, self.valid] if self.valid is not None else [self.train])
