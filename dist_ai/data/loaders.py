"""The loaders of a training run: training and validation data, and how new items become part of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset

from dist_ai.core.show import show_batch
from dist_ai.core.transform import TRAIN, VALID, Pipeline
from dist_ai.data.collate import elements
from dist_ai.data.datasets import Datasets
from dist_ai.data.fetcher import BadSamples
from dist_ai.data.iterables import IterableLoader
from dist_ai.data.loader import DataLoader, Tfms, as_list, known_length
from dist_ai.data.looking import AnyLoader, decoded_samples, first_samples, one_or_several, same_sample, sized
from dist_ai.data.orders import PartialEpochs, ShuffledOrder, WeightedOrder, balanced_weights
from dist_ai.data.plan import Order
from dist_ai.data.recipe import SampleRecipe
from dist_ai.data.statistics import DatasetStats, dataset_stats
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dist_ai.data.block import DataBlock

__all__ = ["AnyLoader", "DataLoaders", "Weights", "as_loader"]

Weights = npt.ArrayLike | Literal["balanced"] | None


class DataLoaders:
    """The loaders of a training run.

    Args:
        train, valid: the loaders; `torch.utils.data.DataLoader`s are taken over by `DataLoader.from_torch`, those of what is
            only iterated over by `IterableLoader.from_torch`. Without `valid` nothing is validated.
        recipe: how an item becomes part of a batch; with it new items can be loaded and results shown and exported.
        n_inp: how many elements of a batch are the model's inputs; the rest are targets.
    """

    def __init__(
        self,
        train: AnyLoader | TorchDataLoader[Any],
        valid: AnyLoader | TorchDataLoader[Any] | None = None,
        *,
        recipe: SampleRecipe | None = None,
        n_inp: int = 1,
    ) -> None:
        self.train = as_loader(train, split_idx=TRAIN)
        self.valid = None if valid is None else as_loader(valid, split_idx=VALID)
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
        weights: Weights = None,
        num_samples: int | None = None,
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
            weights: how often each training sample comes, by drawing with replacement; a number for each of them, or for each
                item, or ``"balanced"``: every class of the first target equally often.
            num_samples: training samples in an epoch. Without weights, epochs go through all samples bit by bit.

        >>> from dist_ai.data.transforms import Categorize
        >>> dsets = Datasets(["a"] * 9 + ["b"], [[len], [Categorize]], splits=(range(10), [0]))
        >>> dls = DataLoaders.from_datasets(dsets, bs=1000, weights="balanced", num_samples=1000, num_workers=0)
        >>> round(dls.one_batch()[1].float().mean().item(), 1)
        0.5
        """
        recipe = SampleRecipe(
            inputs=datasets.pipelines[:n_inp],
            targets=datasets.pipelines[n_inp:],
            item_tfms=Pipeline(as_list(item_tfms)),
            batch_tfms=Pipeline(as_list(batch_tfms)),
        )
        order = _order(datasets, n_inp, weights, num_samples)
        if drop_last is None:
            num_train = len(datasets.train) if order is None else len(order)
            drop_last = bs > 1 and num_train % bs == 1 and num_train > bs
        train, valid = (
            DataLoader(
                subset,
                size,
                shuffle=is_train and order is None,
                order=order if is_train else None,
                drop_last=drop_last and is_train,
                num_workers=num_workers,
                item_tfms=recipe.item_tfms.tfms,
                batch_tfms=recipe.batch_tfms.tfms,
                bad_samples=bad_samples,
                seed=seed,
                device=device,
            )
            for subset, size, is_train in ((datasets.train, bs, True), (datasets.valid, val_bs or bs, False))
        )
        return cls(train, valid, recipe=recipe, n_inp=n_inp)

    @classmethod
    def from_dsets(
        cls,
        train: Any,
        valid: Any,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        num_workers: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        n_inp: int = 1,
    ) -> Self:
        """Returns loaders of any two data sets whose samples are ready, such as torch's or the parts of a `TfmdLists`.

        Args:
            train, valid: map-style data sets.
            bs, val_bs, item_tfms, batch_tfms, num_workers, seed, device, n_inp: see `from_datasets`.
            shuffle, drop_last: of the training loader; see `DataLoader`.

        What is only iterated over gets an `IterableLoader`, and `DataLoaders(train, valid)` takes the two.

        >>> dls = DataLoaders.from_dsets([(1.0, 2)] * 4, [(3.0, 4)], bs=2, num_workers=0)
        >>> next(iter(dls.valid))
        (tensor([3.]), tensor([4]))
        """
        loaders = (
            DataLoader(
                dataset,
                size,
                shuffle=shuffle and split_idx == TRAIN,
                drop_last=drop_last and split_idx == TRAIN,
                num_workers=num_workers,
                item_tfms=as_list(item_tfms),
                batch_tfms=as_list(batch_tfms),
                seed=seed,
                split_idx=split_idx,
                device=device,
            )
            for dataset, size, split_idx in ((train, bs, TRAIN), (valid, val_bs or bs, VALID))
        )
        return cls(*loaders, n_inp=n_inp)

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
        weights: Weights = None,
        num_samples: int | None = None,
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
            weights=weights,
            num_samples=num_samples,
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

    def facts(self) -> dict[str, Any]:
        """Returns what must be the same on every rank, as plain data by name: sizes, seeds and classes."""
        if not self.has_data:
            return {}
        facts: dict[str, Any] = {"the number of inputs": self.n_inp}
        for name, loader in (("training", self.train), ("validation", self.valid)):
            if loader is None:
                continue
            facts[f"the number of {name} samples"] = loader.num_samples
            facts[f"the {name} batch size"] = loader.bs
            facts[f"the {name} seed"] = loader.seed
        if self._recipe is not None:
            with contextlib.suppress(DataError):  # it has no classes
                vocab = self._recipe.vocab
                facts["the number of classes"] = len(vocab)
                facts.update({f"class {number}": label for number, label in enumerate(vocab)})
        return facts

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.train.device

    @property
    def seed(self) -> int:
        """The seed of the order and the draws."""
        return self.train.seed

    @property
    def train_ds(self) -> Any:
        """The data set of the training loader, or what it iterates over."""
        return _data_of(self.train)

    @property
    def valid_ds(self) -> Any:
        """The data set of the validation loader, or what it iterates over."""
        return None if self.valid is None else _data_of(self.valid)

    def __repr__(self) -> str:
        lines = [type(self).__name__]
        if not self.has_data:
            lines.append("no data: loaded from an export")
        else:
            lines.append(f"train: {_in_short(self.train)}")
            lines.append("valid: none" if self.valid is None else f"valid: {_in_short(self.valid)}")
        if self._recipe is not None:
            with contextlib.suppress(DataError):  # it has no classes
                vocab = self._recipe.vocab
                lines.append(f"classes: {len(vocab):,} ({_listed(vocab)})")
        return "\n  ".join(lines)

    def __getitem__(self, index: int) -> AnyLoader:
        return list(self)[index]

    def __len__(self) -> int:
        return 1 if self.valid is None else 2

    def one_batch(self) -> Any:
        """Returns the first training batch."""
        return self.train.one_batch()

    def show_batch(
        self,
        max_n: int = 9,
        *,
        dl: AnyLoader | None = None,
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
        batches = [elements(b) for b in (same_sample(loader, max_n) if unique else [first_samples(loader, max_n)])]
        samples = [sample for batch in batches for sample in decoded_samples(batch, self._recipe)]
        x, y = one_or_several(batches[0][: self.n_inp]), one_or_several(batches[0][self.n_inp :])
        return sized(show_batch(x, y, samples), figsize)

    def describe(self, *, max_samples: int = 1000, seed: int = 0) -> DatasetStats:
        """Returns what the samples of both parts look like; its `repr` is a table. See `dataset_stats`."""
        return dataset_stats(self, max_samples=max_samples, seed=seed)

    def test_dl(
        self,
        items: Any,
        *,
        with_labels: bool = False,
        bs: int = 64,
        num_workers: int | None = None,
        world: World | None = None,
    ) -> DataLoader:
        """Returns a loader of new items, transformed as the validation samples are.

        Args:
            items: what the items of the training data were: files, rows, a table.
            with_labels: whether they have targets, to validate on them; else there are only inputs.
            bs, num_workers, world: see `DataLoader`.
        """
        recipe = self.recipe
        return DataLoader(
            recipe.samples(items, with_labels=with_labels),
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

    def __iter__(self) -> Iterator[AnyLoader]:
        return iter([self.train, self.valid] if self.valid is not None else [self.train])


def as_loader(loader: AnyLoader | TorchDataLoader[Any], *, split_idx: int) -> AnyLoader:
    """Returns a loader of ours for one of torch's, which has transforms of training (0) or validation (1)."""
    if not isinstance(loader, TorchDataLoader):
        return loader
    if isinstance(loader.dataset, IterableDataset):
        return IterableLoader.from_torch(loader).new(split_idx=split_idx)
    return DataLoader.from_torch(loader)


def _in_short(loader: AnyLoader) -> str:
    """Returns what a loader gives in an epoch, in words."""
    num_batches = known_length(loader)
    if num_batches is None:
        return f"samples of a stream, in batches of {loader.bs:,}"
    batches = "1 batch" if num_batches == 1 else f"{num_batches:,} batches"
    shuffled = ", shuffled" if isinstance(loader, DataLoader) and loader.shuffle else ""
    return f"{loader.num_samples:,} samples in {batches} of {loader.bs:,}{shuffled}"


def _listed(vocab: Sequence[Any]) -> str:
    return ", ".join(map(str, vocab[:_SHOWN])) + (", ..." if len(vocab) > _SHOWN else "")


_SHOWN = 10  # classes


def _data_of(loader: AnyLoader) -> Any:
    return loader.source if isinstance(loader, IterableLoader) else loader.dataset


def _order(datasets: Datasets, n_inp: int, weights: Weights, num_samples: int | None) -> Order | None:
    """Returns the order of the training samples; None for a new random one each epoch."""
    if weights is not None:
        return WeightedOrder(_weights_of_training(datasets, n_inp, weights), num_samples)
    if num_samples is not None:
        return PartialEpochs(ShuffledOrder(len(datasets.train)), num_samples)
    return None


def _weights_of_training(datasets: Datasets, n_inp: int, weights: Weights) -> npt.ArrayLike:
    train = datasets.train
    if isinstance(weights, str):
        if weights != "balanced":
            raise ConfigError(f"weights={weights!r}: expected a number for each training sample, or 'balanced'")
        if len(datasets.pipelines) <= n_inp:
            raise ConfigError("weights='balanced' balances the classes of the first target, and there is no target")
        labels = (datasets.pipelines[n_inp](train.item(i), split_idx=TRAIN) for i in range(len(train)))
        return balanced_weights(map(_class, labels))
    given = np.asarray(weights, dtype=np.float64)
    if given.shape == (len(train),):
        return given
    if given.shape == (len(datasets.items),):
        return given[np.asarray(datasets.splits[0])]
    raise ConfigError(
        f"weights of shape {given.shape} for {len(train)} training samples, of {len(datasets.items)} items; expected one "
        "number for each of the one or the other"
    )


def _class(label: Any) -> Hashable:
    if isinstance(label, torch.Tensor) and label.ndim == 0 and not label.is_floating_point():
        return int(label)
    if isinstance(label, str | int):
        return label
    raise ConfigError(
        f"weights='balanced' needs targets of one class each, and there is {label!r:.100}; give a weight for each training sample"
    )
