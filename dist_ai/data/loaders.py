"""The loaders of a training run: training and validation data, and how new items become part of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset

from dist_ai.core.names import missing_attribute, refuse_unknown
from dist_ai.core.nested import parts
from dist_ai.core.transform import TRAIN, VALID, Pipeline
from dist_ai.data.base_loader import Tfms, as_list, check_batch_size
from dist_ai.data.collate import Collate
from dist_ai.data.collate import collate as stack
from dist_ai.data.datasets import Datasets, Subset
from dist_ai.data.fetcher import BadSamples
from dist_ai.data.getters import ElementOf
from dist_ai.data.iterables import IterableLoader
from dist_ai.data.loader import DataLoader
from dist_ai.data.looking import AnyLoader, decoded_samples, figure_of
from dist_ai.data.orders import PartialEpochs, ShuffledOrder, WeightedOrder, balanced_weights
from dist_ai.data.plan import Order
from dist_ai.data.recipe import SampleRecipe
from dist_ai.data.sameness import facts_of_loader
from dist_ai.data.statistics import DatasetStats, dataset_stats
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dist_ai.data.block import DataBlock

__all__ = ["AnyLoader", "DataLoaders", "LoaderOptions", "Weights", "as_loader"]

Weights = npt.ArrayLike | Literal["balanced"] | None


class LoaderOptions(TypedDict, total=False):
    """What all ways to make `DataLoaders` of a training and a validation part take, besides the data and its transforms.

    Attributes:
        bs: samples in a global batch; 64 by default.
        val_bs: the same for validation; by default `bs`.
        shuffle: training samples come in a new random order each epoch, where no option says in which; else in that of the
            data set.
        drop_last: leave out the last training batch when it is not full; by default only when it has a single sample, which
            BatchNorm cannot normalise.
        num_workers, bad_samples, device: see `DataLoader`.
        weights: how often each training sample comes, by drawing with replacement; a number for each of them, or for each
            item, or ``"balanced"``: every class of the first target equally often.
        num_samples: training samples in an epoch. Without weights, epochs go through all samples bit by bit.
        collate: makes a batch of a list of samples, of new items too, whose samples have no targets; see `Pad`.
        order: which training sample comes when; or a function of the training part that says so, such as
            ``lambda part: LengthOrder([len(text) for text, label in part])``. By default a new random order each epoch.
    """

    bs: int
    val_bs: int | None
    shuffle: bool
    drop_last: bool | None
    num_workers: int | None
    bad_samples: BadSamples
    device: torch.device | str | None
    weights: Weights
    num_samples: int | None
    collate: Collate | None
    order: Order | Callable[[Any], Order] | None


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
        for loader in self:
            loader.recipe, loader.n_inp = recipe, n_inp

    @classmethod
    def from_datasets(
        cls,
        datasets: Datasets,
        *,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        n_inp: int = 1,
        seed: int | None = 0,
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of the training part (shuffled) and the validation part (in order) of `datasets`.

        Args:
            datasets: the two parts, or the training part alone.
            item_tfms, batch_tfms, seed: see `DataLoader`.
            n_inp: how many elements of a sample are inputs.
            options: see `LoaderOptions`.

        >>> from dist_ai.data.transforms import Categorize
        >>> dsets = Datasets(["a"] * 9 + ["b"], [[len], [Categorize]], splits=(range(10), [0]))
        >>> dls = DataLoaders.from_datasets(dsets, bs=1000, weights="balanced", num_samples=1000, num_workers=0)
        >>> round(dls.one_batch()[1].float().mean().item(), 1)
        0.5
        """
        return cls.from_dsets(
            datasets.train,
            datasets.subsets[1] if len(datasets.subsets) > 1 else None,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            n_inp=n_inp,
            seed=seed,
            **options,
        )

    @classmethod
    def from_dsets(
        cls,
        train: Any,
        valid: Any,
        *,
        item_tfms: Tfms = (),
        batch_tfms: Tfms = (),
        n_inp: int = 1,
        seed: int | None = 0,
        recipe: SampleRecipe | None = None,
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of any two data sets, such as torch's or the parts of a `TfmdLists`.

        Args:
            train, valid: map-style data sets. Of parts of `Datasets` or `TfmdLists` it is known how an item becomes a sample,
                so new items can be loaded and results decoded; of others not. Without `valid` nothing is validated.
            item_tfms, batch_tfms, seed: see `DataLoader`.
            n_inp: how many elements of a sample are inputs.
            recipe: how an item becomes part of a batch, where the data sets are no such parts.
            options: see `LoaderOptions`.

        What is only iterated over gets an `IterableLoader`, and `DataLoaders(train, valid)` takes the two.

        >>> dls = DataLoaders.from_dsets([(1.0, 2)] * 4, [(3.0, 4)], bs=2, num_workers=0)
        >>> next(iter(dls.valid))
        (tensor([3.]), tensor([4]))
        """
        check_options(options)
        bs, val_bs = options.get("bs", 64), options.get("val_bs")
        if isinstance(bs, list | tuple):
            raise ConfigError(f"bs={bs!r}: expected one number, of the training batches; that of the others is val_bs")
        check_batch_size("bs", bs)
        if val_bs is not None:
            check_batch_size("val_bs", val_bs)
        item_tfms, batch_tfms = Pipeline(as_list(item_tfms)).tfms, Pipeline(as_list(batch_tfms)).tfms
        order = _order(train, n_inp, options)
        drop_last = options.get("drop_last")
        if drop_last is None:
            num_train = len(train) if order is None else len(order)
            # What is no whole number is refused by the DataLoader.
            drop_last = hasattr(bs, "__index__") and bs > 1 and num_train % bs == 1 and num_train > bs
        loaders = (
            DataLoader(
                dataset,
                size,
                shuffle=options.get("shuffle", True) and is_train and order is None,
                order=order if is_train else None,
                drop_last=drop_last and is_train,
                num_workers=options.get("num_workers"),
                item_tfms=item_tfms,
                batch_tfms=batch_tfms,
                collate=options.get("collate") or stack,
                bad_samples=options.get("bad_samples", "raise"),
                seed=seed,
                split_idx=TRAIN if is_train else VALID,
                device=options.get("device"),
            )
            for dataset, size, is_train in ((train, bs, True), (valid, bs if val_bs is None else val_bs, False))
            if is_train or dataset is not None
        )
        if recipe is None:
            recipe = _recipe_of(train, n_inp, item_tfms, batch_tfms)
            if recipe is not None:
                recipe.collate = options.get("collate") or stack
        return cls(*loaders, recipe=recipe, n_inp=n_inp)

    @classmethod
    def from_dblock(
        cls, dblock: DataBlock, source: Any, *, seed: int | None = 0, **options: Unpack[LoaderOptions]
    ) -> Self:
        """Returns loaders of what a data block makes of a source; see `from_datasets`.

        How its elements are collated and ordered is said by its blocks, unless `options` do.
        """
        datasets = dblock.datasets(source)
        if options.get("order") is None and options.get("weights") is None and options.get("shuffle", True):
            options["order"] = dblock.order(datasets)
        bs, val_bs = options.get("bs", 64), options.get("val_bs")
        parts = [
            dblock.dataset_of(part, size)
            for part, size in zip(datasets.subsets[:2], (bs, bs if val_bs is None else val_bs), strict=False)
        ]
        item_tfms, batch_tfms = dblock.all_item_tfms, dblock.all_batch_tfms
        recipe = dblock.stream_recipe(datasets, parts[0])
        if options.get("collate") is None and recipe is None:
            options["collate"] = dblock.collate
        return cls.from_dsets(
            parts[0],
            parts[1] if len(parts) > 1 else None,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            n_inp=dblock.num_inputs,
            seed=seed,
            recipe=recipe,
            **options,
        )

    @classmethod
    def without_data(cls, recipe: SampleRecipe) -> DataLoaders:
        """Returns loaders that only know how to load new items: those of a learner that was loaded from an export."""
        loaders = cls.__new__(cls)
        loaders._recipe, loaders.n_inp = recipe, len(recipe.inputs)
        return loaders

    if not TYPE_CHECKING:  # for a type checker any name would be there

        def __getattr__(self, name: str) -> Any:
            if name in ("train", "valid"):
                raise DataError(
                    f"there is no {name} loader: this was loaded from an export; set learn.dls to train on data"
                )
            return missing_attribute(self, name)

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
        """How an item becomes part of a batch. Of ready samples with one input, an item is that input as the data set gives it.

        Raises:
            DataError: these loaders were made from ready samples with several inputs, or from a stream.
        """
        if self._recipe is not None:
            return self._recipe
        if self.n_inp != 1 or not isinstance(self.train, DataLoader):
            raise DataError(
                "these loaders were made from ready samples, so it is not known how an item becomes one; "
                "give new samples a DataLoader of their own, or make the loaders with DataLoaders.from_datasets"
            )
        return SampleRecipe(
            inputs=[Pipeline()],
            targets=[Pipeline()],
            item_tfms=self.train.fetcher.item_tfms,
            batch_tfms=self.train.stage.pipeline,
            labels_items=False,
        )

    @property
    def vocab(self) -> list[str]:
        """The classes; see `SampleRecipe.vocab`."""
        return self.recipe.vocab

    def facts(self) -> dict[str, Any]:
        """Returns what must be the same on every rank, as plain data by name: sizes, seeds, orders, samples and classes."""
        if not self.has_data:
            return {}
        facts: dict[str, Any] = {"the number of inputs": self.n_inp}
        for name, loader in (("training", self.train), ("validation", self.valid)):
            if loader is None:
                continue
            facts |= facts_of_loader(loader, name)
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
            lines.append(f"train: {self.train.in_words()}")
            lines.append("valid: none" if self.valid is None else f"valid: {self.valid.in_words()}")
        if self._recipe is not None:
            with contextlib.suppress(DataError):  # it has no classes
                vocab = self._recipe.vocab
                are = "tokens" if self._recipe.writes_text else "classes"
                lines.append(f"{are}: {len(vocab):,} ({_listed(vocab)})")
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
        dl: AnyLoader | Literal["train"] | None = "train",
        unique: bool = False,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Returns a figure of the first training samples, augmented, with all that can be undone undone.

        A notebook shows it by itself; in a script, ``dls.show_batch().savefig("batch.png")`` writes it, and TensorBoard
        takes it: ``writer.add_figure("batch", dls.show_batch())``. One of rows and words alone is a table, and
        ``print(dls.show_batch())`` shows that in a terminal. How a type is shown: `dist_ai.core.show`.

        Args:
            max_n: how many samples, at most; only these are loaded. Each rank shows its own.
            dl: another loader, such as ``dls.valid``; by default that of training.
            unique: show one sample `max_n` times, as so many epochs draw it, to see what augmentation does.
            nrows, ncols: rows and columns of samples; by default a square. Both say how many there are at most.
            figsize: (width, height) in inches; by default what the pictures need.

        Raises:
            ConfigError: `max_n`, `nrows` or `ncols` is below 1.
            DataError: `dl` is None, as ``dls.valid`` is where nothing is validated.
        """
        if dl is None:
            raise DataError("show_batch(dl=None): there is no such loader; these loaders have no validation data")
        loader = self.train if dl == "train" else dl
        return figure_of(
            loader, self._recipe, self.n_inp, max_n, unique=unique, nrows=nrows, ncols=ncols, figsize=figsize
        )

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
        device: torch.device | str | None = None,
        world: World | None = None,
    ) -> DataLoader:
        """Returns a loader of new items, transformed and collated as the validation samples are.

        Args:
            items: what the items of the training data were: files, rows, a table.
            with_labels: whether they have targets, to validate on them; else there are only inputs.
            bs, num_workers, world: see `DataLoader`.
            device: where batches go; by default where those of training go, or to the device of a `world` that is given.
        """
        recipe = self.recipe
        if recipe.writes_text:
            raise DataError(
                "a language model reads streams and not one text after the other; make loaders of the new texts: "
                "TextDataLoaders.from_df(df, is_lm=True, text_vocab=dls.tokenize, ...), and learn.validate(those.valid)"
            )
        if device is None and world is None and self.has_data:
            device = self.device
        return DataLoader(
            recipe.samples(items, with_labels=with_labels),
            bs,
            num_workers=num_workers,
            item_tfms=recipe.item_tfms.tfms,
            batch_tfms=recipe.batch_tfms.tfms,
            collate=self.train.fetcher.collate if self.has_data and recipe.collate is stack else recipe.collate,
            device=device,
            world=world,
        )

    def add_batch_tfms(self, tfms: Tfms) -> None:
        """Adds batch transforms to both loaders and the recipe, in their order among those there are."""
        added = Pipeline(as_list(tfms))
        for loader in self:
            loader.stage.pipeline = loader.stage.pipeline + added
        if self._recipe is not None:
            self._recipe.batch_tfms = self._recipe.batch_tfms + added

    @property
    def c(self) -> int:
        """How many numbers a model gives for a sample: the number of classes, or of a regression's numbers."""
        return self.recipe.num_outputs

    def decode_batch(self, batch: Any, max_n: int = 9) -> list[tuple[Any, ...]]:
        """Returns the first `max_n` samples of a batch, each with all that can be undone undone.

        >>> from dist_ai.data.transforms import Categorize
        >>> dls = Datasets(["a", "b"], [[len], [Categorize]]).dataloaders(bs=2, num_workers=0)
        >>> sorted(dls.decode_batch(dls.one_batch()))
        [(tensor(1), 'a'), (tensor(1), 'b')]
        """
        return decoded_samples(parts(batch), self._recipe)[:max_n]

    def to(self, device: torch.device | str) -> Self:
        """Has the batches of all loaders from now on be on another device, before a Learner is made; returns these loaders."""
        for loader in self:
            loader.to(device)
        return self

    def __iter__(self) -> Iterator[AnyLoader]:
        return iter([self.train, self.valid] if self.valid is not None else [self.train])


def as_loader(loader: AnyLoader | TorchDataLoader[Any], *, split_idx: int) -> AnyLoader:
    """Returns a loader of ours for one of torch's, which has transforms of training (0) or validation (1)."""
    if not isinstance(loader, TorchDataLoader):
        if not hasattr(loader, "batches"):
            raise ConfigError(
                f"a {type(loader).__name__} is no loader; give DataLoader(samples, bs), IterableLoader for what is only "
                "iterated over, or one of torch's"
            )
        return loader
    if isinstance(loader.dataset, IterableDataset):
        return IterableLoader.from_torch(loader).new(split_idx=split_idx)
    return DataLoader.from_torch(loader)


def _listed(vocab: Sequence[Any]) -> str:
    return ", ".join(map(str, vocab[:_SHOWN])) + (", ..." if len(vocab) > _SHOWN else "")


_SHOWN = 10  # classes


def _data_of(loader: AnyLoader) -> Any:
    return loader.source if isinstance(loader, IterableLoader) else loader.dataset


def check_options(options: Mapping[str, Any], kind: type[Any] = LoaderOptions) -> None:
    """Raises `TypeError`, as Python does, for an option that there is not.

    Args:
        options: what was given.
        kind: a `TypedDict` of what there is, such as an application's `LoaderOptions` with options of its own.
    """
    refuse_unknown("loaders have no option", options, kind.__annotations__, kind.__name__, "LoaderOptions")


def _recipe_of(train: Any, n_inp: int, item_tfms: list[Any], batch_tfms: list[Any]) -> SampleRecipe | None:
    """Returns how an item becomes a sample of this training part; None if that is not known."""
    if not isinstance(train, Subset) and not getattr(train, "pipelines", None):
        return None
    pipelines = list(train.pipelines) if train.by_element else _pipelines_by_element(train)
    if not pipelines:
        return None
    return SampleRecipe(pipelines[:n_inp], pipelines[n_inp:], Pipeline(item_tfms), Pipeline(batch_tfms))


def _pipelines_by_element(part: Subset) -> list[Pipeline]:
    """Returns for each element of samples made by one pipeline one that makes it alone; none if no sample can be made."""
    for i in range(min(len(part), _TRIED)):
        with contextlib.suppress(
            Exception
        ):  # whether a bad sample is an error is decided, and it is named, when it is loaded
            sample = part[i]
            num = len(sample) if type(sample) in (tuple, list) else 0
            return [Pipeline([*part.pipelines[0].tfms, ElementOf(k)]) for k in range(num)] or list(part.pipelines)
    return []


_TRIED = 5  # samples


def _order(train: Any, n_inp: int, options: LoaderOptions) -> Order | None:
    """Returns the order of the training samples; None for the usual one."""
    order, weights, num_samples = options.get("order"), options.get("weights"), options.get("num_samples")
    if not options.get("shuffle", True) and (weights is not None or num_samples is not None):
        raise ConfigError("shuffle=False beside weights or num_samples, which draw the order; leave one of them out")
    if weights is not None:
        if order is not None:
            raise ConfigError(
                "weights beside order: weights draw the samples, so there is no other order; give one of them"
            )
        return WeightedOrder(_weights_of_training(train, n_inp, weights), num_samples)
    made: Order | None = order(train) if callable(order) else order
    if not (made is None or hasattr(made, "of_epoch")):
        raise ConfigError(
            f"order={order!r:.100} gives {made!r:.100}: expected an order such as LengthOrder, or a function of the training "
            "samples that returns one"
        )
    if num_samples is not None:
        return PartialEpochs(ShuffledOrder(len(train)) if made is None else made, num_samples)
    return made


def _weights_of_training(train: Any, n_inp: int, weights: npt.ArrayLike | str) -> npt.ArrayLike:
    if isinstance(weights, str):
        if weights != "balanced":
            raise ConfigError(f"weights={weights!r}: expected a number for each training sample, or 'balanced'")
        return balanced_weights(map(_class, _first_targets(train, n_inp)))
    given = np.asarray(weights, dtype=np.float64)
    if given.shape == (len(train),):
        return given
    if not isinstance(train, Subset):
        raise ConfigError(
            f"weights of shape {given.shape} for {len(train)} training samples; expected one number for each"
        )
    if given.shape == (len(train.source),):
        return given[np.asarray(train.indices)]
    raise ConfigError(
        f"weights of shape {given.shape} for {len(train)} training samples, of {len(train.source)} items; expected one "
        "number for each of the one or the other"
    )


def _first_targets(train: Any, n_inp: int) -> Iterator[Any]:
    """Yields the first target of each sample, made alone where that can be."""
    by_element = isinstance(train, Subset) and train.by_element
    if (len(train.pipelines) if by_element else len(parts(train[0]))) <= n_inp:
        raise ConfigError("weights='balanced' balances the classes of the first target, and there is no target")
    if by_element:
        yield from train.element(n_inp)
    else:
        yield from (parts(train[i])[n_inp] for i in range(len(train)))


def _class(label: Any) -> Hashable:
    if isinstance(label, torch.Tensor) and label.ndim == 0 and not label.is_floating_point():
        return int(label)
    if isinstance(label, str | int):
        return label
    raise ConfigError(
        f"weights='balanced' needs targets of one class each, and there is {label!r:.100}; give a weight for each training sample"
    )
