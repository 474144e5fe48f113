"""Data blocks: what a data set is made of, said once, applied to any source."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from dist_ai.core.transform import Pipeline, Transform
from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.data import (
    AttrGetter,
    Categorize,
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    EndSplitter,
    FuncSplitter,
    IndexSplitter,
    ItemGetter,
    MultiCategoryBlock,
    RandomSplitter,
    RegexLabeller,
    RegressionBlock,
    Table,
    TransformBlock,
    get_text_files,
)
from dist_ai.errors import ConfigError, DataError

FRAME = pd.DataFrame(
    {
        "file": [f"{i}.jpg" for i in range(6)],
        "kind": ["cat", "dog", "cat", "emu", "dog", "emu"],
        "tags": ["sea sky", "sky", "", "sea", "sea", "sky"],
        "age": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "wet": [1, 0, 0, 1, 1, 0],
        "far": [0, 0, 1, 0, 1, 1],
        "is_valid": [False, False, False, False, True, True],
    }
)


@dataclass
class Length(Transform):
    """A text to its length and a column of ones, as a tensor."""

    times: int = 1

    order: ClassVar[int] = 3

    def encodes(self, x: str):
        return torch.tensor([len(x) * self.times, 1])


def text_block(**options: Any) -> TransformBlock:
    return TransformBlock(type_tfms=[Length(**options)])


def rows(**options: Any) -> DataBlock:
    defaults: dict[str, Any] = {"splitter": ColSplitter(), "get_x": ColReader("file"), "get_y": ColReader("kind")}
    return DataBlock((text_block, CategoryBlock), **{**defaults, **options})


# ------------------------------------------------------------------------------------ what it makes


def test_rows_of_a_table_become_samples_of_two_elements():
    for source in (FRAME, FRAME.to_dict("records"), Table.from_frame(FRAME)):
        made = rows().datasets(source)
        assert (len(made.train), len(made.valid)) == (4, 2)
        x, y = made.valid[0]
        assert (x.tolist(), y.item(), type(y)) == ([5, 1], 1, TensorCategory)
        dls = rows().dataloaders(source, bs=2, num_workers=0)
        assert dls.vocab == ["cat", "dog", "emu"]
        assert dls.one_batch()[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("block", "get_y", "kind", "target", "shown"),
    [
        (MultiCategoryBlock, ColReader("tags", label_delim=" "), TensorMultiCategory, [1.0, 1.0], ["sea", "sky"]),
        (MultiCategoryBlock, lambda row: row.tags.split(), TensorMultiCategory, [1.0, 1.0], ["sea", "sky"]),
        (
            MultiCategoryBlock(encoded=True, vocab=["wet", "far"]),
            ColReader(["wet", "far"]),
            TensorMultiCategory,
            [1.0, 0.0],
            ["wet"],
        ),
        (RegressionBlock, ColReader("age"), TensorRegression, 1.0, 1.0),
        (RegressionBlock(2), ColReader(["age", "wet"]), TensorRegression, [1.0, 1.0], [1.0, 1.0]),
        (CategoryBlock(["emu", "dog", "cat"]), "kind", TensorCategory, 2, "cat"),
        (CategoryBlock(add_na=True), ItemGetter("kind"), TensorCategory, 1, "cat"),
        (CategoryBlock, Pipeline([ColReader("kind"), str.upper]), TensorCategory, 0, "CAT"),
    ],
)
def test_targets_of_every_kind(block: Any, get_y: Any, kind: type, target: Any, shown: Any):
    data = rows(get_y=ColReader(get_y) if isinstance(get_y, str) else get_y).new(blocks=(text_block, block))
    made = data.datasets(FRAME)
    y = made.train[0][1]
    assert (type(y), y.tolist()) == (kind, target)
    assert made.pipelines[1].decode(y) == shown
    dls = data.dataloaders(FRAME, bs=2, num_workers=0)
    assert type(dls.one_batch()[1]) is kind
    assert dls.recipe.num_outputs == (y.numel() if kind is not TensorCategory else len(dls.vocab))


def test_without_getters_the_item_is_each_element_and_without_a_splitter_a_fifth_is_drawn():
    made = DataBlock((text_block, CategoryBlock(vocab=list("abcdefghij")))).datasets(list("abcdefghij"))
    assert (len(made.train), len(made.valid)) == (8, 2)
    assert made.splits == RandomSplitter()(range(10))


def test_files_are_got_and_labelled_by_a_pattern(tmp_path: Path):
    for name in ("cat_1", "cat_2", "great_dane_1", "great_dane_2"):
        (tmp_path / f"{name}.txt").write_text(name)
    data = DataBlock(
        (text_block, CategoryBlock),
        get_items=get_text_files,
        splitter=FuncSplitter(lambda file: file.stem.endswith("2")),
        get_x=Path.read_text,
        get_y=Pipeline([AttrGetter("name"), RegexLabeller(r"(.+)_\d+.txt$")]),
    )
    made = data.datasets(tmp_path)
    assert [(x[0].item(), made.pipelines[1].decode(y)) for x, y in made.train] == [(5, "cat"), (12, "great_dane")]


def test_several_inputs_and_targets():
    data = DataBlock(
        (text_block, text_block(times=2), CategoryBlock, RegressionBlock),
        n_inp=2,
        get_x=[ColReader("file"), ColReader("kind")],
        get_y=[ColReader("kind"), ColReader("age")],
        splitter=EndSplitter(),
    )
    first, second, kind, age = data.datasets(FRAME).train[1]
    assert (first[0], second[0], kind, age) == (5, 6, 1, 2.0)
    dls = data.dataloaders(FRAME, bs=2, num_workers=0)
    assert (dls.n_inp, len(dls.recipe.inputs), len(dls.recipe.targets)) == (2, 2, 2)


def test_columns_are_a_source_too():
    data = DataBlock.from_columns((text_block, CategoryBlock), splitter=IndexSplitter([0]))
    made = data.datasets((["a.jpg", "bb.jpg", "c.jpg"], np.array(["x", "x", "y"])))
    assert made.train[0][0].tolist() == [6, 1]
    with pytest.raises(DataError, match="columns of 2, 1 items; expected as many in each"):
        data.datasets((["a", "b"], ["x"]))


class Squares(torch.utils.data.Dataset[tuple[str, int]]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[str, int]:
        return "x" * index, index % 2


def test_a_map_style_data_set_of_torch_is_a_source_and_a_stream_is_refused():
    data = DataBlock((text_block, CategoryBlock), getters=[ItemGetter(0), ItemGetter(1)], splitter=EndSplitter(0.4))
    assert [x[0].item() for x, _ in data.datasets(Squares()).train] == [0, 1, 2]
    with pytest.raises(DataError, match="list_iterator has no length or no items by number, so it cannot be split"):
        data.datasets(iter([("a", 1)]))


def test_three_parts_have_three_subsets():
    made = (
        rows(splitter=RandomSplitter((0.34, 0.17)), get_y=len).new(blocks=(text_block, TransformBlock)).datasets(FRAME)
    )
    assert [len(part) for part in made.subsets] == [3, 2, 1]


def test_new_items_are_predicted_from_a_row_or_from_what_the_getter_gives():
    for get_x in (ColReader("file"), lambda row: row["file"]):
        recipe = rows(get_x=get_x).dataloaders(FRAME, bs=2, num_workers=0).recipe
        for items in (FRAME[:2], FRAME[:2].to_dict("records"), ["0.jpg", "1.jpg"]):
            assert [sample[0].tolist() for sample in recipe.samples(items)] == [[5, 1], [5, 1]]


# ------------------------------------------------------------------------------------ a value


def test_what_one_source_teaches_is_not_what_another_is_seen_with():
    data = rows(splitter=IndexSplitter([0]))
    assert data.dataloaders(FRAME, num_workers=0).vocab == ["cat", "dog", "emu"]
    assert data.dataloaders(FRAME[:3], num_workers=0).vocab == ["cat", "dog"]
    assert data.blocks[1].type_tfms[0].vocab == []


def test_a_changed_block_is_a_new_one():
    data = rows()
    other = data.new(item_tfms=[str], splitter=EndSplitter(0.5))
    assert data.item_tfms == ()
    assert (other.splitter, other.get_x) == (EndSplitter(0.5), data.get_x)
    with pytest.raises(ConfigError, match="a DataBlock has no 'spliter'; did you mean 'splitter'"):
        data.new(spliter=EndSplitter())


def test_a_block_can_be_sent_to_another_process():
    again = pickle.loads(pickle.dumps(rows()))
    assert [y.item() for _, y in again.datasets(FRAME).train] == [y.item() for _, y in rows().datasets(FRAME).train]


def test_what_two_blocks_need_alike_is_done_once_and_what_the_user_gives_is_all_done():
    block = TransformBlock(item_tfms=[Length(2)], batch_tfms=[Length(3)])
    data = DataBlock((block, block, CategoryBlock), item_tfms=[Length(2), Length()], batch_tfms=Length(3))
    assert data.all_item_tfms == [Length(2), Length(2), Length()]
    assert data.all_batch_tfms == [Length(3), Length(3)]


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DataBlock(()), "a DataBlock without blocks makes no samples; give (ImageBlock, CategoryBlock)"),
        (lambda: DataBlock((Categorize, CategoryBlock)), "is no block: expected a TransformBlock, or a function that"),
        (lambda: rows(n_inp=3), "n_inp=3 of 2 block(s); expected 1 to 2"),
        (
            lambda: rows(get_x=[str, str]),
            "get_x gives 2 for 1 input(s); expected a function for each, and n_inp to say",
        ),
        (lambda: rows(get_y=[]), "get_y gives 0 for 1 target(s)"),
        (lambda: rows(getters=[str, str]), "getters and get_x or get_y were given; getters alone say all of it"),
        (lambda: DataBlock(getters=[str]), "1 getters for 2 blocks; expected one for each"),
        (lambda: DataBlock(get_x="file"), "'file' is no getter: expected a function, a Transform such as ColReader"),
        (lambda: MultiCategoryBlock(encoded=True), "MultiCategoryBlock(encoded=True): give vocab"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_at_once(make: Callable[[], Any], text: str):
    with pytest.raises(ConfigError, match=re.escape(text)):
        make()


def test_a_source_without_items_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=re.escape("no items in []; there is nothing to learn from")):
        rows().datasets([])
    with pytest.raises(DataError, match=r"is one PosixPath and not a collection of items; give get_items, such as"):
        rows().datasets(tmp_path)


def test_a_splitter_that_gives_no_split_is_refused():
    with pytest.raises(DataError, match="are both in the training and the validation part of the split"):
        rows(splitter=lambda items: ([0, 1, 2], [2, 3])).datasets(FRAME)


def test_a_class_that_only_validation_items_have_is_found_before_training():
    message = (
        "label 'emu' is not one of the 2 classes of the training items. For a rare class, give the block its vocab, or "
        "split so that each class is trained on: TrainTestSplitter(stratify=...)"
    )
    data = rows(splitter=IndexSplitter([3, 5]))
    with pytest.raises(DataError, match=re.escape(message)) as error:
        data.datasets(FRAME)
    assert str(error.value).startswith("validation item 0 (Row(file='3.jpg', kind='emu'")
    assert len(data.new(blocks=(text_block, CategoryBlock(add_na=True))).datasets(FRAME).valid) == 2


@dataclass
class NamedPixels(Transform):
    """A target with names for some of its values, or none, which it does not learn."""

    vocab: list[str] = field(default_factory=list)
    seen: ClassVar[list[Any]] = []

    def encodes(self, x: object):
        self.seen.append(x)
        return torch.tensor([1.0])


def test_only_what_learns_its_classes_is_looked_at_in_all_validation_items():
    data = rows().new(blocks=(text_block, TransformBlock([NamedPixels()])))
    data.datasets(FRAME)
    assert NamedPixels.seen == []
    dls = data.stream_dataloaders(FRAME.to_dict("records"), FRAME.to_dict("records"), bs=2, num_workers=0)
    assert dls.one_batch()[1].shape == (2, 1)
    for block in (CategoryBlock, CategoryBlock(add_na=True), MultiCategoryBlock):
        with pytest.raises(
            ConfigError, match="a block learns its classes from the training items, and only the end of a"
        ):
            data.new(blocks=(text_block, block)).stream_dataloaders([], [])


@pytest.mark.parametrize("block", [CategoryBlock, CategoryBlock(["same"])])
def test_a_single_class_is_refused(block: Any):
    data = rows(get_y=lambda row: "same").new(blocks=(text_block, block))
    message = (
        "one class only ('same'); a classifier needs at least 2: see what get_y makes of an item, how the items were"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        data.datasets(FRAME)
    if isinstance(block, TransformBlock):
        with pytest.raises(DataError, match=re.escape(message)):
            data.stream_dataloaders(FRAME.to_dict("records"), FRAME.to_dict("records"), bs=2, num_workers=0)


# ------------------------------------------------------------------------------------ the summary


def summary_of(block: DataBlock, source: Any, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    block.summary(source, **options)
    return capsys.readouterr().out


def test_a_summary_shows_every_step_on_one_sample_and_a_batch(capsys: pytest.CaptureFixture[str]):
    text = summary_of(rows(batch_tfms=[lambda batch: batch]), FRAME, capsys, bs=2)
    for line in (
        "Items -> 6 items",
        "Split by ColSplitter(col='is_valid', on=None), set up on the training part -> 4 for training, 2 for validation",
        "One training sample, made from Row(file='0.jpg', kind='cat'",
        "    Length(times=1) -> Tensor int64 (2,)",
        "    ColReader(cols='kind', pref='', suff='', label_delim=None) -> 'cat'",
        "    Categorize(vocab=['cat', 'dog', 'emu'], sort=True, add_na=False) -> TensorCategory 0",
        "A batch of 2 training samples",
        "  collate -> (Tensor int64 (2, 2), TensorCategory int64 (2,))",
    ):
        assert line in text
    assert "FAILED" not in text


def test_a_summary_names_the_samples_that_do_not_stack(capsys: pytest.CaptureFixture[str]):
    data = rows(get_x=lambda row: torch.zeros(len(row.kind) + row.name_length)).new(
        blocks=(TransformBlock, CategoryBlock)
    )
    frame = FRAME.assign(name_length=[0, 2, 0, 0, 0, 0])
    text = summary_of(data, frame, capsys)
    assert "  collate -> FAILED: samples of different shapes do not stack into a batch: (3,), (5,)" in text
    assert "    (Tensor float32 (5,), TensorCategory 1) from Row(file='1.jpg', kind='dog'" in text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"get_items": get_text_files}, "Items by get_text_files -> FAILED: "),
        ({"splitter": IndexSplitter([9])}, "set up on the training part -> FAILED: index 9 in the validation part"),
        (
            {"get_x": ColReader("flie")},
            "    ColReader(cols='flie', pref='', suff='', label_delim=None) -> FAILED: no column",
        ),
        ({"item_tfms": [lambda sample: sample.x]}, " -> FAILED: AttributeError: 'tuple' object has no attribute 'x'"),
    ],
)
def test_a_summary_says_which_step_failed_and_why(options: Any, line: str, capsys: pytest.CaptureFixture[str]):
    source = "nowhere" if "get_items" in options else FRAME
    assert line in summary_of(rows(**options), source, capsys).splitlines()[-1]
