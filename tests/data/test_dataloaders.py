"""The loaders of a run: from which data, in what order, of new items; batches of any shape through a fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from toy import BS, NUM_TRAIN, make_data, make_dls, make_learner, make_model, weights_of

from dist_ai.core.transform import Transform
from dist_ai.core.types import TensorCategory
from dist_ai.data import (
    Categorize,
    CategoryBlock,
    DataBlock,
    DataLoader,
    DataLoaders,
    Datasets,
    IndexSplitter,
    IterableLoader,
    LengthOrder,
    MultiCategorize,
    Pad,
    PartialEpochs,
    ShuffledOrder,
    TfmdLists,
    TransformBlock,
    collate,
)
from dist_ai.data.recipe import SampleRecipe
from dist_ai.errors import ConfigError, DataError

ITEMS = ["a"] * 12 + ["b"] * 4 + ["c"] * 2  # 18, of which the last of each class are for validation
VALID = [11, 15, 17]


def number(item: str) -> float:
    return float(ord(item))


def block(**facts: Any) -> DataBlock:
    return DataBlock((TransformBlock, CategoryBlock), get_x=number, splitter=IndexSplitter(VALID), **facts)


@dataclass
class LabelToClass(Transform):
    """The label in a sample to its class."""

    vocab: ClassVar[list[str]] = ["a", "b", "c"]

    def encodes(self, x: str):
        return TensorCategory(self.vocab.index(x))

    def decodes(self, x: TensorCategory):
        return self.vocab[int(x)]


def trained_on(dls: DataLoaders, epochs: int = 1) -> Counter[str]:
    counts: Counter[str] = Counter()
    for epoch in range(epochs):
        for share, (_, y) in dls.train.batches(epoch):
            counts.update(dls.vocab[i] for i in y[: share.num_local].tolist())
    return counts


# ------------------------------------------------------------------------------------ which samples, how often


def test_balanced_classes_come_equally_often_and_validation_stays_as_it_is():
    dls = block().dataloaders(ITEMS, bs=50, weights="balanced", num_samples=3000, num_workers=0)
    counts = trained_on(dls)
    assert sum(counts.values()) == 3000
    assert all(abs(count - 1000) < 120 for count in counts.values())
    assert [y.tolist() for _, y in dls.valid] == [[0, 1, 2]]


def test_weights_are_of_the_training_samples_or_of_all_items():
    of_items = np.array([0.0] * 12 + [1.0] * 4 + [1e-9] * 2)
    of_training = np.delete(of_items, VALID)
    seen = [
        trained_on(block().dataloaders(ITEMS, bs=4, weights=weights, num_workers=0))
        for weights in (of_items, of_training.tolist())
    ]
    assert seen[0] == seen[1] == {"b": 15}


def test_epochs_of_a_part_go_through_all_samples():
    dls = block().dataloaders(ITEMS, bs=4, num_samples=5, num_workers=0)
    assert (dls.train.num_samples, len(dls.train)) == (4, 1)  # a last batch of one is left out, as always
    dls = block().dataloaders(ITEMS, bs=4, num_samples=5, drop_last=False, num_workers=0)
    assert (dls.train.num_samples, len(dls.train)) == (5, 2)
    assert trained_on(dls, 3) == {"a": 11, "b": 3, "c": 1}


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (
            [1.0, 2.0],
            "weights of shape (2,) for 15 training samples, of 18 items; expected one number for each of the one or",
        ),
        ("balance", "weights='balance': expected a number for each training sample, or 'balanced'"),
        ([-1.0] * 18, "weights: -1.0; expected one finite number a sample"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: Any, text: str):
    with pytest.raises(ConfigError, match=re.escape(text)):
        block().dataloaders(ITEMS, weights=weights)


def test_only_single_classes_can_be_balanced():
    several = Datasets([["a"], ["b"]], [[len], [MultiCategorize]], ([0, 1], [0]))
    with pytest.raises(
        ConfigError, match=r"needs targets of one class each, and there is TensorCategory\(\[0\], num_classes=2\); give"
    ):
        DataLoaders.from_datasets(several, weights="balanced")
    with pytest.raises(ConfigError, match="balances the classes of the first target, and there is no target"):
        DataLoaders.from_datasets(Datasets(ITEMS, [[number]], (range(4), [5])), weights="balanced")


def train_weighted() -> Any:
    x, y = make_data()
    items = list(range(len(x)))
    dsets = Datasets(items, [[x.__getitem__], [y.__getitem__, TensorCategory]], (items[:NUM_TRAIN], items[NUM_TRAIN:]))
    dls = DataLoaders.from_datasets(dsets, bs=BS, weights="balanced", num_samples=20, num_workers=0)
    learn = make_learner(dls=dls)
    learn.fit(2)
    return weights_of(learn.model).numpy(), learn.recorder.losses


def test_three_ranks_draw_what_one_draws(spawn: Callable[..., list[Any]]):
    weights, losses = train_weighted()
    for other, other_losses in spawn(3, train_weighted):
        assert np.allclose(other, weights, rtol=0, atol=1e-12)
        assert other_losses == pytest.approx(losses, abs=1e-12)


# ------------------------------------------------------------------------------------ from which data


def test_any_two_data_sets_make_loaders():
    lists = TfmdLists(ITEMS, [lambda item: (number(item), item == "a")], (range(12), range(12, 18)))
    dls = DataLoaders.from_dsets(lists.train, lists.valid, bs=5, val_bs=4, num_workers=0, item_tfms=[])
    assert (len(dls.train), len(dls.valid), dls.train.shuffle, dls.valid.shuffle) == (3, 2, True, False)
    assert (dls.train_ds, dls.valid_ds) == (lists.train, lists.valid)
    assert (dls[0], dls[1], len(dls), [*dls]) == (dls.train, dls.valid, 2, [dls.train, dls.valid])
    x, y = dls.one_batch()
    assert (x.tolist(), y.tolist()) == ([97.0] * 5, [True] * 5)
    assert not DataLoaders.from_dsets(lists.train, lists.valid, shuffle=False).train.shuffle


def test_parts_of_one_pipeline_keep_classes_and_how_they_are_decoded():
    whole = TfmdLists(ITEMS, [lambda item: (number(item), item), LabelToClass], (range(17), range(17)))
    dls = DataLoaders.from_dsets(whole.train, whole.valid, bs=4, num_workers=0)
    assert dls.vocab == ["a", "b", "c"]
    assert [label for _, label in dls.recipe.decode_batch(next(iter(dls.valid)))] == ["a"] * 4
    assert next(iter(dls.test_dl(["b"], num_workers=0)))[0].tolist() == [98.0]
    dsets = Datasets(ITEMS, [[number], [Categorize]], (range(17), range(17)))
    assert DataLoaders.from_dsets(dsets.train, dsets.valid).vocab == ["a", "b", "c"]
    assert not DataLoaders.from_dsets([(1.0, 2)] * 4, [(3.0, 4)]).has_recipe


def test_any_two_data_sets_take_weights_and_skip_bad_samples():
    samples = [(number(item), ITEMS.index(item)) for item in ITEMS]
    lists = TfmdLists(ITEMS, [lambda item: (number(item), item == "a")], (range(18), range(18)))
    for train in (samples, lists.train):
        dls = DataLoaders.from_dsets(
            train, samples, bs=50, weights="balanced", num_samples=1000, bad_samples="skip", num_workers=0
        )
        counts = Counter(x for batch in dls.train for x in batch[0].tolist())
        assert sum(counts.values()) == 1000
        assert counts[ord("a")] == pytest.approx(1000 / (3 if train is samples else 2), abs=80)
        assert dls.train.bad_samples == "skip"
    with pytest.raises(
        ConfigError, match=re.escape("weights of shape (2,) for 18 training samples; expected one number")
    ):
        DataLoaders.from_dsets(samples, samples, weights=[1, 2])
    with pytest.raises(TypeError, match="loaders have no option 'num_sample'; did you mean 'num_samples'"):
        DataLoaders.from_dsets(samples, samples, num_sample=3)
    for name, said in (
        ("batch_size", "here it is bs"),
        ("after_item", "here it is item_tfms"),
        ("dl_type", "an order= of"),
        ("tfms", "here they are item_tfms"),
    ):
        with pytest.raises(TypeError, match=f"loaders have no option '{name}'; {said}"):
            DataLoaders.from_dsets(samples, samples, **{name: 4})
    with pytest.raises(ConfigError, match=re.escape("bs=[16, 32]: expected one number, of the training batches")):
        DataLoaders.from_dsets(samples, samples, bs=[16, 32])
    for bs in (32.0, "32", True):
        with pytest.raises(ConfigError, match=re.escape(f"bs={bs!r}: expected a whole number")):
            DataLoaders.from_dsets(samples, samples, bs=bs)


# ------------------------------------------------------------------------------------ of different lengths


TEXTS = ["a", "bbbb", "cc", "ddd", "e", "ffffff", "gg", "hhhhh", "a", "bb", "bbbb", "dd"]


def text_block(**options: Any) -> DataBlock:
    text = TransformBlock(type_tfms=[lambda text: torch.tensor(list(map(ord, text)))], **options)
    return DataBlock((text, CategoryBlock), get_y=len, splitter=lambda items: (range(8), range(8, 12)))


def test_texts_of_different_lengths_come_from_blocks_padded_and_by_length():
    block = text_block(collate=Pad(), order=lambda texts: LengthOrder([len(text) for text in texts], shuffle=False))
    dls = block.dataloaders(TEXTS, bs=4, num_workers=0)
    shapes = [tuple(x.shape) for x, _ in dls.train]
    assert shapes == [(4, 6), (4, 2)]
    assert dls.one_batch()[0][3].tolist() == [100, 100, 100, 0, 0, 0]
    assert [tuple(x.shape) for x, _ in dls.valid] == [(4, 4)]
    assert next(iter(dls.test_dl(["a", "bb"], num_workers=0)))[0].tolist() == [[97, 0], [98, 98]]
    assert [len(dls.vocab), type(dls.one_batch()[1])] == [6, TensorCategory]
    drawn = block.dataloaders(TEXTS, bs=4, weights="balanced", num_workers=0)
    assert drawn.train.order.repeats
    assert isinstance(block.dataloaders(TEXTS, bs=4, num_samples=4, num_workers=0).train.order, PartialEpochs)
    workers = block.dataloaders(TEXTS, bs=4, num_workers=1)
    assert [tuple(x.shape) for x, _ in workers.train] == shapes


def test_collate_and_order_of_the_whole_samples_go_before_those_of_blocks():
    def longest(part: Any) -> LengthOrder:
        return LengthOrder([len(text) for text, _ in part], shuffle=False)

    block = text_block(collate=Pad())
    dls = block.dataloaders(TEXTS, bs=2, num_workers=0, order=longest, collate=list)
    assert [len(text) for text, _ in dls.one_batch()] == [6, 5]
    dls = block.dataloaders(TEXTS, bs=2, num_workers=0, order=longest(block.datasets(TEXTS).train))
    assert dls.one_batch()[0].shape == (2, 6)
    with pytest.raises(
        ConfigError, match="expected an order such as LengthOrder, or a function of the training samples"
    ):
        block.dataloaders(TEXTS, order=lambda part: [0, 1])
    with pytest.raises(ConfigError, match="weights beside order: weights draw the samples"):
        block.dataloaders(TEXTS, order=longest, weights="balanced")
    by_length = TransformBlock(order=lambda texts: LengthOrder([len(text) for text in texts]))
    with pytest.raises(ConfigError, match="several blocks say in which order training sees the samples; only one can"):
        DataBlock((by_length, by_length))


def test_any_number_of_boxes_is_a_list_and_lengths_are_kept_where_asked_for():
    boxes = TransformBlock(type_tfms=[lambda text: torch.zeros(len(text), 4)], collate=list)
    block = text_block(collate=Pad(value=-1, lengths=True)).new(
        blocks=(text_block(collate=Pad(value=-1, lengths=True)).blocks[0], boxes), get_y=None
    )
    x, y = block.dataloaders(TEXTS, bs=4, num_workers=0, order=ShuffledOrder(8)).one_batch()
    assert x.lengths.tolist() == [len(each) for each in y]
    assert (x.values == -1).sum(1).tolist() == [x.values.shape[1] - len(each) for each in y]
    assert {tuple(each.shape[1:]) for each in y} == {(4,)}


# ------------------------------------------------------------------------------------ what they say


def test_loaders_say_what_they_give():
    block = DataBlock((TransformBlock(type_tfms=[len]), CategoryBlock), get_y=str, splitter=IndexSplitter(VALID))
    dls = block.dataloaders(ITEMS, bs=4, num_workers=0)
    assert repr(dls).splitlines() == [
        "DataLoaders",
        "  train: 15 samples in 4 batches of 4, shuffled",
        "  valid: 3 samples in 1 batch of 4",
        "  classes: 3 (a, b, c)",
    ]
    many = block.new(splitter=IndexSplitter([12])).dataloaders([*map("{:02}".format, range(12)), "00"], num_workers=0)
    assert repr(many).endswith("classes: 12 (00, 01, 02, 03, 04, 05, 06, 07, 08, 09, ...)")
    stream = IterableLoader(lambda: iter([(1.0, 2)]), 4, num_workers=0)
    assert repr(stream) == "IterableLoader(samples of a stream, in batches of 4)"
    assert repr(dls.train) == f"DataLoader({repr(dls).splitlines()[1].removeprefix('  train: ')})"
    with pytest.raises(
        AttributeError, match="a DataLoader has no attribute 'batch_size'; here it is bs, counted over all"
    ):
        _ = dls.train.batch_size  # type: ignore[attr-defined]  # wrong on purpose
    assert repr(DataLoaders(stream)) == "DataLoaders\n  train: samples of a stream, in batches of 4\n  valid: none"
    exported = DataLoaders.without_data(dls.recipe)
    assert repr(exported) == "DataLoaders\n  no data: loaded from an export\n  classes: 3 (a, b, c)"


@pytest.mark.parametrize("kind", [DataLoader, IterableLoader])
def test_a_loader_made_from_another_has_the_batch_transforms_that_were_added_to_it(kind: Any):
    loader = kind([1.0] * 4, 2, num_workers=0, batch_tfms=lambda x: x + 1)
    DataLoaders(loader).add_batch_tfms(lambda x: 3 * x)
    assert loader.new(bs=4).one_batch().tolist() == [6.0] * 4
    assert loader.new(bs=4).new(drop_last=True).one_batch().tolist() == [6.0] * 4  # once, not again each time
    assert loader.new(batch_tfms=()).one_batch().tolist() == [1.0] * 2


def test_new_items_are_loaded_with_or_without_labels():
    dls = block().dataloaders(ITEMS, bs=4, num_workers=0)
    assert [len(batch) for batch in dls.test_dl(["b", "c"], num_workers=0)] == [1]
    ((x, y),) = list(dls.test_dl(["b", "c"], with_labels=True, num_workers=0))
    assert (x.tolist(), y.tolist()) == ([98.0, 99.0], [1, 2])
    after_export = SampleRecipe.from_plain(
        SampleRecipe(targets=[Datasets(ITEMS, [[Categorize]], ([0], [1])).pipelines[0]]).to_plain()
    )
    with pytest.raises(
        DataError, match="how an item gets its label is not part of an export; give items without with_labels"
    ):
        DataLoaders.without_data(after_export).test_dl(["b"], with_labels=True)


def test_new_items_with_labels_are_validated_on():
    x, y = make_data()
    items = list(range(len(x)))
    dsets = Datasets(items, [[x.__getitem__], [y.__getitem__, TensorCategory]], (items[:NUM_TRAIN], items[NUM_TRAIN:]))
    learn = make_learner(dls=DataLoaders.from_datasets(dsets, bs=BS, num_workers=0))
    again = learn.dls.test_dl(items[NUM_TRAIN:], with_labels=True, num_workers=0)
    assert learn.validate(again) == learn.validate()


# ------------------------------------------------------------------------------------ batches of any shape


@dataclass
class Sample:
    x: Any
    label: Any


class Shaped(torch.utils.data.Dataset[Any]):
    """The toy's samples in a shape of their own."""

    def __init__(self, make: Callable[[Any, Any], Any], part: slice) -> None:
        x, y = make_data()
        self.x, self.y, self.make = x[part], y[part], make

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.x[index], TensorCategory(self.y[index]))


SHAPES: dict[str, Callable[[Any, Any], Any]] = {
    "tuple": lambda x, y: (x, y),
    "dict": lambda x, y: {"x": x, "label": y},
    "dataclass": Sample,
}


def train_on_shapes(shape: str) -> Any:
    sets = [Shaped(SHAPES[shape], part) for part in (slice(0, NUM_TRAIN), slice(NUM_TRAIN, None))]
    dls = DataLoaders.from_dsets(*sets, bs=BS, val_bs=5, shuffle=False, drop_last=False, num_workers=0)
    learn = make_learner(dls=dls, loss_func=None)
    learn.fit(2)
    return weights_of(learn.model).numpy(), learn.validate(), learn.get_preds()[0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fit_takes_batches_of_every_shape(shape: str, spawn: Callable[..., list[Any]]):
    learn = make_learner(dls=make_dls(shuffle=False))
    learn.fit(2)
    for weights, final, preds in [train_on_shapes(shape), *(spawn(2, train_on_shapes, shape=shape))]:
        assert np.allclose(weights, weights_of(learn.model), rtol=0, atol=1e-12)
        assert final == pytest.approx(learn.validate(), abs=1e-12)
        assert np.allclose(preds, learn.get_preds()[0], atol=1e-12)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.model(x * scale[:, None])


def test_the_first_values_of_a_dict_are_the_inputs():
    def make(x: Any, y: Any) -> Any:
        return {"x": x / 2, "scale": torch.tensor(2.0, dtype=torch.float64), "label": y}

    sets = [Shaped(make, part) for part in (slice(0, NUM_TRAIN), slice(NUM_TRAIN, None))]
    dls = DataLoaders.from_dsets(*sets, bs=BS, val_bs=5, shuffle=False, drop_last=False, num_workers=0, n_inp=2)
    learn, same = make_learner(dls=dls, model=TwoInputs()), make_learner(dls=make_dls(shuffle=False))
    learn.fit(1)
    same.fit(1)
    assert torch.allclose(weights_of(learn.model), weights_of(same.model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_dataclasses_are_collated_field_by_field(num_workers: int):
    samples = [Sample(torch.tensor([1.0, i]), i) for i in range(4)]
    (batch,) = list(DataLoader(samples, bs=4, num_workers=num_workers))
    assert isinstance(batch, Sample)
    assert (batch.x.shape, batch.label.tolist()) == ((4, 2), [0, 1, 2, 3])
    with pytest.raises(DataError, match="samples of different types do not stack into a batch: Sample, tuple"):
        collate([samples[0], (1, 2)])


def test_new_items_go_where_the_training_batches_go():
    dls = block().dataloaders(ITEMS, bs=4, num_workers=0, device="meta")
    assert dls.test_dl(["a"], num_workers=0).device.type == "meta"
    assert dls.test_dl(["a"], num_workers=0, device="cpu").device.type == "cpu"


def test_without_validation_data_the_training_part_is_described_and_none_is_not_shown_as_another():
    dls = DataLoaders(block().dataloaders(ITEMS, bs=4, num_workers=0).train)
    assert [part.name for part in dls.describe().parts] == ["train"]
    with pytest.raises(
        DataError, match=r"show_batch\(dl=None\): there is no such loader; these loaders have no validation"
    ):
        dls.show_batch(dl=dls.valid)


def test_training_samples_come_in_their_own_order_if_that_is_asked_for():
    dls = block().dataloaders(ITEMS, shuffle=False, bs=4, num_workers=0)
    assert [i for share, _ in dls.train.batches() for i in share.indices.tolist()] == list(range(15))
    assert block().dataloaders(ITEMS, num_workers=0).train.shuffle
    with pytest.raises(
        ConfigError, match="shuffle=False beside weights or num_samples, which draw the order; leave one"
    ):
        block().dataloaders(ITEMS, shuffle=False, num_samples=3)
    with pytest.raises(ConfigError, match=r"loaders have no path; a run's files go where Learner\(run_dir=...\) says"):
        block().dataloaders(ITEMS, path=".")


def test_weighted_loaders_have_the_name_that_fastai_gives_them():
    weights = [float(item == "c") for item in ITEMS]
    dsets = block().datasets(ITEMS)
    for dls in (block().weighted_dataloaders(ITEMS, weights, bs=5), dsets.weighted_dataloaders(weights, bs=5)):
        assert dls.train.new(num_workers=0).one_batch()[0].tolist() == [number("c")] * 5


@pytest.mark.parametrize("given", [[(torch.ones(4, 2), torch.ones(4))], iter([])], ids=["list", "list_iterator"])
def test_what_is_no_loader_is_refused_by_what_it_is(given: Any):
    with pytest.raises(ConfigError) as refused:
        DataLoaders(given)
    assert str(refused.value) == (
        f"a {type(given).__name__} is no loader; give DataLoader(samples, bs), IterableLoader for what is only iterated over, or "
        "one of torch's"
    )
