r"""The data block: what a data set is made of, said once, applied to any source.

```python
pets = DataBlock(
    blocks=(ImageBlock, CategoryBlock),
    get_items=get_image_files,
    splitter=RandomSplitter(seed=42),
    get_y=RegexLabeller(r"/([^/]+)_\d+.jpg$"),
    item_tfms=Resize(224),
)
pets.summary("images")  # every step on one sample, and what does not fit
dls = pets.dataloaders("images", bs=64)
```

A block says how one element of a sample is made. A `DataBlock` is a value: applying it to a source does not change it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch

from dist_ai.core.names import known_arguments
from dist_ai.core.transform import TRAIN, VALID, Pipeline, Transform
from dist_ai.data.collate import ByElement, Collate
from dist_ai.data.collate import collate as stack
from dist_ai.data.datasets import Datasets, Subset
from dist_ai.data.getters import Getter, ItemGetter
from dist_ai.data.iterables import IterableLoader, first_of
from dist_ai.data.loaders import DataLoaders, LoaderOptions, Weights
from dist_ai.data.plan import Order
from dist_ai.data.recipe import SampleRecipe
from dist_ai.data.splitters import RandomSplitter, Splitter, check_split
from dist_ai.data.summary import Report
from dist_ai.data.table import as_items
from dist_ai.data.transforms import Categorize, EncodedMultiCategorize, MultiCategorize, OneHotEncode, RegressionSetup
from dist_ai.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CategoryBlock", "DataBlock", "MultiCategoryBlock", "RegressionBlock", "TransformBlock"]

Tfm = Transform | type[Transform] | Callable[[Any], Any]


@dataclass(frozen=True)
class TransformBlock:
    """How one element of a sample is made.

    Args:
        type_tfms: from what a getter gives to the element; they learn from the training items.
        item_tfms: transforms of a whole sample that this element needs.
        batch_tfms: transforms of a batch that it needs, on the device.
        collate: makes this element of a batch of those of the samples: `Pad()` of texts of different lengths, ``list`` of
            boxes. By default they are stacked; where `item_tfms` change how many elements a sample has, none can be given.
        order: of the training part's elements, the order in which training sees them:
            ``lambda texts: LengthOrder([len(text) for text in texts])``.
        dataset: of a part of the items, the place of this element in a sample and the batch size, what is loaded instead of
            the part: one that has read this element of all items at once, or the windows of a text, which are the samples
            of a language model (then (input, target) is the whole sample, and this the only block).

    Without any, the element is what the getter gives.
    """

    type_tfms: Sequence[Tfm] = ()
    item_tfms: Sequence[Tfm] = ()
    batch_tfms: Sequence[Tfm] = ()
    collate: Collate | None = None
    order: Callable[[Subset], Order] | None = None
    dataset: Callable[[Subset, int, int], Any] | None = None


def CategoryBlock(vocab: Iterable[Any] | None = None, *, sort: bool = True, add_na: bool = False) -> TransformBlock:
    """Returns the block of one label; see `Categorize`.

    >>> CategoryBlock(["cat", "dog"]).type_tfms
    [Categorize(vocab=['cat', 'dog'], sort=True, add_na=False)]
    """
    return TransformBlock(type_tfms=[Categorize([] if vocab is None else vocab, sort, add_na)])  # type: ignore[arg-type]


def MultiCategoryBlock(
    *, encoded: bool = False, vocab: Iterable[Any] | None = None, add_na: bool = False
) -> TransformBlock:
    """Returns the block of any number of labels, as a yes or no for each class.

    Args:
        encoded: the targets are such yes and no (1 and 0) already; needs `vocab`.
        vocab: the classes in order; by default the sorted labels of the training items.
        add_na: a class for labels that training did not see.

    Raises:
        ConfigError: `encoded` without `vocab`.
    """
    if not encoded:
        return TransformBlock(type_tfms=[MultiCategorize(list(vocab or ()), add_na), OneHotEncode()])
    if vocab is None:
        raise ConfigError(
            "MultiCategoryBlock(encoded=True): give vocab, the names of the classes in the targets' order"
        )
    return TransformBlock(type_tfms=[EncodedMultiCategorize(list(vocab))])


def RegressionBlock(n_out: int | None = None) -> TransformBlock:
    """Returns the block of a number, or of `n_out` numbers; by default as many as the first training item has."""
    return TransformBlock(type_tfms=[RegressionSetup(n_out)])


@dataclass(frozen=True)
class DataBlock:
    """What a data set is made of.

    Args:
        blocks: one for each element of a sample: a `TransformBlock`, or a function that returns one.
        get_items: from a source to its items: `get_image_files`, `Table.from_csv`; by default the source is the items.
        splitter: from the items to the parts; by default `RandomSplitter()`, 20 % for validation.
        get_x, get_y: from an item to what an input, a target is made from; by default the item. Several are a list.
        getters: one for each element, instead of `get_x` and `get_y`; None takes the item.
        n_inp: how many elements are the model's inputs; by default all but the last.
        item_tfms: transforms of one sample, in the loader's workers.
        batch_tfms: transforms of a batch, on the device.

    A getter is a function, a transform such as `ColReader`, or a `Pipeline` of them.

    Raises:
        ConfigError: the numbers of blocks, inputs and getters do not go together.

    >>> block = DataBlock((TransformBlock, CategoryBlock), get_x=str.upper, get_y=lambda item: item[0])
    >>> block.datasets(["a1", "b2", "a3", "b4", "a5"]).valid[0]
    ('A1', TensorCategory(0))
    """

    blocks: Any = (TransformBlock, TransformBlock)
    _: KW_ONLY
    get_items: Callable[[Any], Any] | None = None
    splitter: Splitter = dataclasses.field(default_factory=RandomSplitter)
    get_x: Any = None
    get_y: Any = None
    getters: Sequence[Any] | None = None
    n_inp: int | None = None
    item_tfms: Any = ()
    batch_tfms: Any = ()

    def __post_init__(self) -> None:
        blocks = self.blocks if isinstance(self.blocks, tuple | list) else [self.blocks]
        object.__setattr__(self, "blocks", tuple(map(_block, blocks)))
        if not self.blocks:
            raise ConfigError(
                "a DataBlock without blocks makes no samples; give (ImageBlock, CategoryBlock), or others"
            )
        if not 1 <= self.num_inputs <= len(self.blocks):
            raise ConfigError(f"n_inp={self.n_inp} of {len(self.blocks)} block(s); expected 1 to {len(self.blocks)}")
        self._getters()
        if sum(block.order is not None for block in self.blocks) > 1:
            raise ConfigError("several blocks say in which order training sees the samples; only one can")

    @property
    def num_inputs(self) -> int:
        """How many elements of a sample are the model's inputs."""
        return max(1, len(self.blocks) - 1) if self.n_inp is None else self.n_inp

    @property
    def all_item_tfms(self) -> list[Tfm]:
        """The item transforms of the blocks and of the user, each once."""
        return _merged([tfm for block in self.blocks for tfm in block.item_tfms], _listed(self.item_tfms))

    @property
    def all_batch_tfms(self) -> list[Tfm]:
        """The batch transforms of the blocks and of the user, each once."""
        return _merged([tfm for block in self.blocks for tfm in block.batch_tfms], _listed(self.batch_tfms))

    @property
    def collate(self) -> Collate | None:
        """What makes batches of samples, where a block says how its element is collated."""
        if all(block.collate is None for block in self.blocks):
            return None
        return ByElement(tuple(block.collate or stack for block in self.blocks))

    def order(self, datasets: Datasets) -> Order | None:
        """Returns the order in which training sees the samples of these, where a block says which."""
        for place, block in enumerate(self.blocks):
            if block.order is not None:
                return block.order(datasets.train.element(place))
        return None

    def dataset_of(self, part: Subset, bs: int) -> Any:
        """Returns what is loaded for a part of the items: the part, unless a block says otherwise."""
        loaded: Any = part
        for place, block in enumerate(self.blocks):
            if block.dataset is not None:
                loaded = block.dataset(loaded, place, bs)
        return loaded

    def stream_recipe(self, datasets: Datasets, loaded: Any) -> SampleRecipe | None:
        """Returns how an item becomes part of a batch where `loaded` is no part of `datasets`; None where it tells itself."""
        if isinstance(loaded, Subset):
            return None
        pipelines = datasets.pipelines
        targets = pipelines[self.num_inputs :] or pipelines[-1:]  # a language model's target is what its input is
        return SampleRecipe(
            pipelines[: self.num_inputs],
            targets,
            Pipeline(self.all_item_tfms),
            Pipeline(self.all_batch_tfms),
            labels_items=False,
            collate=self.blocks[0].collate or stack,
        )

    @classmethod
    def from_columns(cls, blocks: Any = (TransformBlock, TransformBlock), **options: Any) -> DataBlock:
        """Returns a block whose source is a tuple of columns, one for each element: (files, labels).

        Args:
            blocks: as of a `DataBlock`.
            options: its other arguments, but `get_items` and `getters`.

        >>> block = DataBlock.from_columns((TransformBlock, CategoryBlock), splitter=RandomSplitter(0.34))
        >>> block.datasets((["1.jpg", "2.jpg", "3.jpg"], ["a", "b", "a"])).valid[0]
        ('3.jpg', TensorCategory(0))
        """
        num = len(blocks) if isinstance(blocks, tuple | list) else 1
        return cls(blocks, get_items=_zipped, getters=[ItemGetter(i) for i in range(num)], **options)

    def new(self, **changes: Any) -> DataBlock:
        """Returns this block with some of its arguments changed; this one stays as it is.

        Raises:
            ConfigError: there is no such argument.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise ConfigError(f"a DataBlock has no {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}")
        return dataclasses.replace(self, **changes)

    def items(self, source: Any) -> Any:
        """Returns the items of a source as the splitter sees them.

        Raises:
            DataError: there are none.
        """
        items = source if self.get_items is None else self.get_items(source)
        if not len(as_items(items)):
            raise DataError(f"no items in {source!r:.200}; there is nothing to learn from")
        return items

    def datasets(self, source: Any) -> Datasets:
        """Returns the training part, the validation part and further ones of a source, with their transforms set up.

        Raises:
            DataError: the source has no items; the split is none; a label or number cannot be made, or is of a class that
                only validation items have; there is one class only.
        """
        items = self.items(source)
        tfms = self._type_tfms()
        learned = [any(map(_learns_classes, each)) for each in tfms]
        made = Datasets(items, tfms, check_split(self.splitter(items), len(as_items(items))))
        for pipeline, is_learned in zip(made.pipelines[self.num_inputs :], learned[self.num_inputs :], strict=True):
            _check_number_of_classes(pipeline)
            if is_learned:
                _check_classes(made, pipeline)
        return made

    @known_arguments(LoaderOptions)
    def dataloaders(
        self, source: Any, *, seed: int | None = 0, path: Any = None, **options: Unpack[LoaderOptions]
    ) -> DataLoaders:
        """Returns loaders of the training and the validation part of a source; see `DataLoaders.from_dblock`.

        Args:
            source: as for `datasets`.
            seed: of the order and of all random draws.
            options: ``bs=64``, ``num_workers=``, ``weights="balanced"``, ``collate=`` and more; see `LoaderOptions`.

        Raises:
            ConfigError: `path`, which is not taken: where a run's files go is the Learner's business.
        """
        if path is not None:
            raise ConfigError("loaders have no path; a run's files go where Learner(run_dir=...) says")
        return DataLoaders.from_dblock(self, source, seed=seed, **options)

    def weighted_dataloaders(self, source: Any, wgts: Weights, bs: int = 64) -> DataLoaders:
        """Returns `dataloaders` with `weights`, under the name that fastai has for it."""
        return self.dataloaders(source, bs=bs, weights=wgts)

    def stream_dataloaders(
        self,
        train: Any,
        valid: Any,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle_buffer: int = 1000,
        num_samples: int | None = None,
        drop_last: bool = False,
        num_workers: int | None = None,
        bad_samples: Literal["raise", "skip"] = "raise",
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> DataLoaders:
        """Returns loaders of items that are only iterated over, such as a streamed Hugging Face data set.

        Args:
            train, valid: the items for training and for validation; see `IterableLoader`. `get_items` and `splitter` are not
                asked.
            bs, val_bs: samples in a global batch, in training and in validation.
            shuffle_buffer, num_samples, drop_last: of the training loader; see `IterableLoader`.
            num_workers, bad_samples, seed, device: see `DataLoader`.

        Transforms are set up on the first 64 training items, so what must see all of them must be told.

        Raises:
            ConfigError: a block learns its classes from the training items; give it its vocab.
            DataError: there is one class only.

        >>> block = DataBlock((TransformBlock, CategoryBlock(["a", "b"])), get_x=str.upper)
        >>> dls = block.stream_dataloaders(lambda: iter(["a", "b"]), lambda: iter("b"), bs=2, num_workers=0)
        >>> next(iter(dls.valid))
        (['B'], TensorCategory([1]))
        """
        pipelines = [Pipeline(each) for each in self._type_tfms()]
        if any(_learns_classes(tfm) for pipeline in pipelines for tfm in pipeline.tfms):
            raise ConfigError(
                "a block learns its classes from the training items, and only the end of a stream tells which there are; give "
                "them: CategoryBlock(vocab=[...])"
            )
        few = first_of(train, 64)
        for pipeline in pipelines:
            pipeline.setup(few)
        for pipeline in pipelines[self.num_inputs :]:
            _check_number_of_classes(pipeline)
        recipe = SampleRecipe(
            inputs=pipelines[: self.num_inputs],
            targets=pipelines[self.num_inputs :],
            item_tfms=Pipeline(self.all_item_tfms),
            batch_tfms=Pipeline(self.all_batch_tfms),
            collate=self.collate or stack,
        )
        loaders = (
            IterableLoader(
                source,
                size,
                shuffle_buffer=0 if split_idx else shuffle_buffer,
                num_samples=None if split_idx else num_samples,
                drop_last=drop_last and not split_idx,
                num_workers=num_workers,
                pipelines=pipelines,
                item_tfms=recipe.item_tfms.tfms,
                batch_tfms=recipe.batch_tfms.tfms,
                collate=self.collate or stack,
                bad_samples=bad_samples,
                seed=seed,
                split_idx=split_idx,
                device=device,
            )
            for source, size, split_idx in ((train, bs, TRAIN), (valid, val_bs or bs, VALID))
        )
        return DataLoaders(*loaders, recipe=recipe, n_inp=self.num_inputs)

    def summary(self, source: Any, *, bs: int = 4, show_batch: bool = False) -> Figure | None:
        """Prints what each step makes of one training sample, and of a batch; where one fails, what it was given and why.

        Args:
            source: as for `datasets`.
            bs: samples in the batch.
            show_batch: return a figure of a batch too, if no step failed.
        """
        report = Report(self, source, bs)
        print(report)
        return self.dataloaders(source, bs=bs, num_workers=0).show_batch() if show_batch and not report.failed else None

    def _getters(self) -> list[list[Tfm]]:
        num_targets = len(self.blocks) - self.num_inputs
        if self.getters is not None:
            if self.get_x is not None or self.get_y is not None:
                raise ConfigError("getters and get_x or get_y were given; getters alone say all of it")
            if len(self.getters) != len(self.blocks):
                raise ConfigError(f"{len(self.getters)} getters for {len(self.blocks)} blocks; expected one for each")
            return [_getter(each) for each in self.getters]
        of_inputs = _one_for_each("get_x", self.get_x, self.num_inputs, "input")
        return [_getter(each) for each in of_inputs + _one_for_each("get_y", self.get_y, num_targets, "target")]

    def _type_tfms(self) -> list[list[Tfm]]:
        # Copies: what they learn from one source must not be what another is seen with.
        memo: dict[int, Any] = {}
        return [
            [*getters, *(copy.deepcopy(tfm, memo) if isinstance(tfm, Transform) else tfm for tfm in block.type_tfms)]
            for getters, block in zip(self._getters(), self.blocks, strict=True)
        ]


def _block(block: Any) -> TransformBlock:
    made = block() if callable(block) and not isinstance(block, TransformBlock) else block
    if not isinstance(made, TransformBlock):
        raise ConfigError(f"{block!r} is no block: expected a TransformBlock, or a function that returns one")
    return made


def _getter(getter: Any) -> list[Tfm]:
    if getter is None:
        return []
    if isinstance(getter, Pipeline):
        return list(getter.tfms)
    if isinstance(getter, Transform) or (isinstance(getter, type) and issubclass(getter, Transform)):
        return [copy.deepcopy(getter)]
    if callable(getter):
        return [Getter(getter)]
    raise ConfigError(
        f"{getter!r} is no getter: expected a function, a Transform such as ColReader('name'), or a Pipeline"
    )


def _one_for_each(name: str, given: Any, num: int, what: str) -> list[Any]:
    if given is None:
        return [None] * num
    several = list(given) if isinstance(given, tuple | list) else [given]
    if len(several) != num:
        raise ConfigError(
            f"{name} gives {len(several)} for {num} {what}(s); expected a function for each, and n_inp to say how many of the "
            "blocks are inputs. What runs one after the other is a Pipeline"
        )
    return several


def _merged(of_blocks: Sequence[Tfm], of_user: Sequence[Tfm]) -> list[Tfm]:
    """Returns the transforms; one that several blocks need once."""
    merged: list[Tfm] = []
    for tfm in of_blocks:
        if not any(type(tfm) is type(other) and tfm == other for other in merged):
            merged.append(tfm)
    return [copy.deepcopy(tfm) if isinstance(tfm, Transform) else tfm for tfm in [*merged, *of_user]]


def _listed(tfms: Any) -> list[Tfm]:
    if tfms is None:
        return []
    return [tfms] if isinstance(tfms, Transform) or callable(tfms) else list(tfms)


def _zipped(columns: Any) -> list[tuple[Any, ...]]:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1:
        raise DataError(f"columns of {', '.join(map(str, lengths))} items; expected as many in each")
    return list(zip(*columns, strict=True))


def _learns_classes(tfm: Any) -> bool:
    """Returns whether a transform learns its classes at set-up, as it says by `learns_classes`."""
    return bool(getattr(tfm, "learns_classes", False))


def _check_number_of_classes(pipeline: Pipeline) -> None:
    """Raises `DataError` for a single class, to which a model has nothing to learn: often a labeller that does not fit."""
    for tfm in pipeline.tfms:
        if isinstance(tfm, Categorize) and len(tfm.vocab) == 1:
            raise DataError(
                f"one class only ({tfm.vocab[0]!r}); a classifier needs at least 2: see what get_y makes of an item, how "
                "the items were split, or give the block its vocab"
            )


def _check_classes(datasets: Datasets, pipeline: Pipeline) -> None:
    """Raises `DataError` for a label that only items behind the training part have, before an epoch is lost to it."""
    for subset in datasets.subsets[1:]:
        for i in range(len(subset)):
            item = subset.item(i)
            try:
                pipeline(item)
            except Exception as error:
                what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
                raise DataError(
                    f"validation item {i} ({item!r:.200}): {what}. For a rare class, give the block its vocab, or split so that "
                    "each class is trained on: TrainTestSplitter(stratify=...)"
                ) from error
