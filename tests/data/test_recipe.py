"""The sample recipe: how an item becomes part of a batch, written to a file and read back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from dist_ai.core.transform import ItemTransform, Pipeline, Transform
from dist_ai.core.types import TensorCategory, TensorRegression, TensorSeries
from dist_ai.data import Categorize, Datasets, Getter, ItemGetter, OneHotEncode, RegressionSetup, collate
from dist_ai.data.recipe import SampleRecipe
from dist_ai.errors import ArtifactError, ConfigError, DataError


@dataclass
class TextToNumber(Transform):
    def encodes(self, x: str):
        return TensorRegression(float(x))

    def decodes(self, x: torch.Tensor):
        return f"{x.item():g}"


@dataclass
class TimesInBatch(Transform):
    by: float = 1.0
    order: ClassVar[int] = 5

    def encodes(self, x: TensorRegression):
        return x * self.by

    def decodes(self, x: TensorRegression):
        return x / self.by


@dataclass
class OnlyInTraining(Transform):
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: str):
        raise AssertionError("new items are not augmented")


@pytest.fixture
def recipe() -> SampleRecipe:
    return SampleRecipe(
        inputs=[Pipeline([OnlyInTraining, TextToNumber])],
        targets=[Pipeline([lambda item: item[-1], Categorize(["0", "1"])])],
        item_tfms=Pipeline([TimesInBatch(2.0)]),
        batch_tfms=Pipeline([TimesInBatch(10.0)]),
    )


def test_new_items_are_seen_through_the_validation_transforms_without_targets(recipe: SampleRecipe):
    samples = recipe.samples(["3", "4"])
    assert [sample[0].item() for sample in samples] == [3.0, 4.0]
    assert (samples.split_idx, samples.item(1), len(samples[0])) == (1, "4", 1)


def test_inputs_are_undone_from_the_batch_back_to_the_item(recipe: SampleRecipe):
    assert recipe.decode_batch((TensorRegression([60.0, 80.0]),)) == [("3",), ("4",)]


class WordsToLetters(Transform):
    """A type transform whose `decodes` is for one sample."""

    def encodes(self, x: str):
        return TensorRegression([float(ord(letter)) for letter in x])

    def decodes(self, x: TensorRegression):
        assert x.dim() == 1
        return "".join(chr(round(number)) for number in x.tolist())


class SwapElements(ItemTransform):
    """An item transform that sees a sample whole, which no batch looks like."""

    def encodes(self, x: tuple):
        return tuple(reversed(x))

    def decodes(self, x: tuple):
        assert all(each.dim() == 1 for each in x)
        return tuple(reversed(x))


def test_item_and_type_transforms_undo_one_sample_as_they_made_it():
    made = Datasets(
        [("ab", "cd"), ("ef", "gh")], [[ItemGetter(0), WordsToLetters], [ItemGetter(1), WordsToLetters]], ([0, 1], [0])
    )
    recipe = SampleRecipe(
        made.pipelines[:1], made.pipelines[1:], Pipeline([SwapElements]), Pipeline([TimesInBatch(10.0)])
    )
    batch = recipe.batch_tfms(collate([recipe.item_tfms(sample) for sample in made.train]))
    assert recipe.decode_batch(batch) == [("ab", "cd"), ("ef", "gh")]
    assert recipe.decode_targets(batch) == [("cd",), ("gh",)]
    assert recipe.decode_batch(batch) == [made.decode(sample) for sample in made.train]


class ReadSeries(Transform):
    def encodes(self, x: str):
        return TensorSeries([[float(x)]])

    def decodes(self, x: TensorSeries):
        return "the name of a file"


class CentredSeries(Transform):
    order: ClassVar[int] = 1

    def encodes(self, x: TensorSeries):
        return x - 1

    def decodes(self, x: TensorSeries):
        return x + 1


def test_what_can_be_drawn_is_undone_as_long_as_it_still_can():
    pipeline = Pipeline([ReadSeries, CentredSeries])
    ((series,),) = SampleRecipe(inputs=[pipeline]).decode_batch((torch.stack([pipeline("7")]),))
    assert (type(series), series.tolist()) == (TensorSeries, [[7.0]])


def test_targets_are_decoded_to_labels(recipe: SampleRecipe):
    assert recipe.decode_targets((TensorRegression([60.0, 80.0]), TensorCategory([1, 0]))) == [("1",), ("0",)]
    assert recipe.vocab == ["0", "1"]


def test_it_comes_back_through_json_with_of_the_targets_what_decodes_them(recipe: SampleRecipe):
    written = recipe.to_plain()
    assert written == {
        "inputs": [[{"transform": "OnlyInTraining"}, {"transform": "TextToNumber"}]],
        "targets": [
            [{"transform": "Categorize", "vocab": ["0", "1"], "sort": True, "add_na": False}]
        ],  # not the labeller: files hold no code
        "labels_items": False,
        "item_tfms": [{"transform": "TimesInBatch", "by": 2.0}],
        "batch_tfms": [{"transform": "TimesInBatch", "by": 10.0}],
        "collate": None,
    }
    again = SampleRecipe.from_plain(json.loads(json.dumps(written)))
    assert again.to_plain() == written
    assert again.samples(["3"])[0] == recipe.samples(["3"])[0]
    assert again.decode_batch((TensorRegression([60.0]), TensorCategory([1]))) == [("3", "1")]


def test_a_function_among_the_inputs_cannot_be_written():
    for place in ("inputs", "item_tfms", "batch_tfms"):
        pipeline = Pipeline([str.strip])
        recipe = SampleRecipe(**{place: [pipeline] if place == "inputs" else pipeline})
        with pytest.raises(
            ConfigError, match=re.escape("str.strip cannot be written to a file, because files hold no code")
        ):
            recipe.to_plain()


def test_a_function_that_takes_paths_from_rows_is_left_out_and_the_model_takes_paths():
    dsets = Datasets([{"n": "3"}], [[Getter(lambda row: row["n"]), TextToNumber]], ([0], [0]))
    recipe = SampleRecipe(inputs=dsets.pipelines)
    assert recipe.samples([{"n": "3"}])[0] == recipe.samples(["3"])[0]
    again = SampleRecipe.from_plain(recipe.to_plain())
    assert again.samples(["3"])[0] == recipe.samples(["3"])[0]


def test_the_number_of_outputs_comes_from_the_targets():
    for tfm, num in ((Categorize(["a", "b"]), 2), (RegressionSetup(3), 3), (OneHotEncode(5), 5)):
        assert SampleRecipe(targets=[Pipeline([str.strip, tfm])]).num_outputs == num
    with pytest.raises(DataError, match=r"no transform of the target has a vocabulary; say how many \(n_out\)"):
        SampleRecipe(targets=[Pipeline([RegressionSetup])]).num_outputs  # noqa: B018


def test_a_file_that_names_an_unknown_transform_is_refused(recipe: SampleRecipe):
    written = recipe.to_plain()
    written["item_tfms"] = [{"transform": "TimesInBach", "by": 2.0}]
    with pytest.raises(ArtifactError, match="'TimesInBach' is not known in this program; did you mean 'TimesInBatch'"):
        SampleRecipe.from_plain(written)


def test_without_classes_the_vocabulary_says_so():
    with pytest.raises(
        DataError,
        match=r"this data has no classes: no transform of the target has a vocabulary; say how many \(n_out\), or name them: "
        "codes= of masks, vocab= of a CategoryBlock",
    ):
        SampleRecipe(targets=[Pipeline([str.strip])]).vocab  # noqa: B018
